"""How does a connection reach a port inside of a sandbox that has no network?

Through the sandbox's entrance: a small relay is run there, as the session's own user, and its standard streams are the
connection. Whoever opens a port in a sandbox is reached over IPv4 or IPv6, whichever it listens on.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

CONNECT_SECONDS = 15.0
HALF_OPEN_SECONDS = 600
"""How long the other direction may go on when one is at its end, as for the roads out."""
_CONNECTED = b"starting data transfer loop"
_LIMIT = 256 << 10


class NotInside(Exception):
    """Nobody listens on the port, or the sandbox has just gone. The message is for a person."""


@dataclass(frozen=True, slots=True)
class Inside:
    """An open connection. Leave it with `close`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _process: asyncio.subprocess.Process
    _noise: asyncio.Task[None]

    async def close(self) -> None:
        self._noise.cancel()
        await _end(self._process)


async def connect(entrance: Path, port: int) -> Inside:
    """Raises NotInside within `CONNECT_SECONDS` for each of the two families."""
    for address in (f"TCP4:127.0.0.1:{port}", f"TCP6:[::1]:{port}"):
        process = await asyncio.create_subprocess_exec(
            entrance,
            *("socat", "-d", "-d", f"-t{HALF_OPEN_SECONDS}", "STDIO", f"{address},connect-timeout=10"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LIMIT,
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connected = await _connected(process)
        except BaseException as error:
            await _end(process)
            if isinstance(error, TimeoutError):
                raise NotInside(f"port {port} did not answer in {CONNECT_SECONDS:g} s") from None
            raise
        if connected:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            return Inside(process.stdout, process.stdin, process, asyncio.create_task(_drain(process.stderr)))
        await _end(process)
    raise NotInside(f"nobody listens on port {port} of this session")


async def _connected(process: asyncio.subprocess.Process) -> bool:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if _CONNECTED in line:
            return True
    return False


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
