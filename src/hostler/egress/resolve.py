"""How does a name become addresses, once and within a deadline?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Resolver(Protocol):
    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every numeric address of `host`, preferred ones first. Raises OSError when there is none."""
        ...


class SystemResolver:
    """The host's own resolver, in a few threads of its own, so that a slow name holds up nothing else."""

    def __init__(self, *, threads: int = 16, deadline_seconds: float = 10.0) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="egress-resolve")
        self._deadline = deadline_seconds

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        async with asyncio.timeout(self._deadline):  # TimeoutError is an OSError.
            return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
