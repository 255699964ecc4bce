"""How does a name become addresses, once and within a deadline?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from hostler.engine.shares import Shares

_PUBLIC: Final = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "mil", "ne", "net", "or", "org"})
"""Labels below which, in the domain of a country, names belong to whoever registers them."""


class Resolver(Protocol):
    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every numeric address of `host`, preferred ones first. Raises OSError when there is none."""
        ...


class SystemResolver:
    """The host's own resolver, in threads of its own, so that a slow name holds up nothing else.

    A question can't be taken back: its thread is gone until the system gives up, which may be long after the deadline.
    So the names of one site, which are all its owner's to delay, get a quarter of the threads at a time.
    """

    def __init__(
        self,
        *,
        threads: int = 64,
        deadline_seconds: float = 10.0,
        ask: Callable[..., Sequence[Any]] = socket.getaddrinfo,
    ) -> None:
        """`ask` is called as `socket.getaddrinfo` is."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="egress-resolve")
        self._shares = Shares(max(1, threads // 4))
        self._deadline = deadline_seconds
        self._ask = ask

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        def look_up() -> list[str]:
            found = self._ask(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        async with asyncio.timeout(self._deadline):  # TimeoutError is an OSError.
            site, loop = _site(host), asyncio.get_running_loop()
            await self._shares.take(site)
            asked = self._threads.submit(look_up)
            asked.add_done_callback(lambda _: _when_running(loop, lambda: self._shares.give_back(site)))
            return await asyncio.wrap_future(asked)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _site(host: str) -> str:
    """Whose name it is, about: its last two labels, or three where the last two are like `co.uk`."""
    labels = host.lower().rstrip(".").split(".")
    if labels[-1].isdigit() or ":" in host:
        return host  # an address is looked up nowhere
    owned = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _PUBLIC else 2
    return ".".join(labels[-owned:])


def _when_running(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # closed: nobody asks any more
        loop.call_soon_threadsafe(call)
