"""How do processes of one host take turns at a folder, without one that is stuck keeping all others for ever?

A turn is a lock on a file, which the kernel takes away from whoever dies. Who has it writes into the file how long that
may take; who waits gives up when the same holder is still there after that.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.2


class TurnMissed(Exception):
    """Somebody has the lock for longer than they said. The message is for a person: who, and what to do."""


def lock(locks: ExitStack, file: Path, how: int, *, create: bool = True) -> bool:
    """Locks `file` until `locks` is closed. False: somebody has it, and `how` doesn't wait. Raises OSError."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    descriptor = os.open(file, flags, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except BaseException:
        os.close(descriptor)
        raise
    locks.callback(os.close, descriptor)
    return True


@asynccontextmanager
async def turn(file: Path, seconds: float) -> AsyncIterator[None]:
    """Has the lock alone, for at most `seconds` as others are told. Waits for it in a way that can be cancelled.
    Raises TurnMissed."""
    with ExitStack() as locks:
        wait = _Wait(file, seconds)
        while not wait.over(locks):  # noqa: ASYNC110 - nothing tells when it is free
            await asyncio.sleep(POLL_SECONDS)
        yield


@contextmanager
def blocking_turn(file: Path, seconds: float) -> Iterator[None]:
    """The same for a thread that may block."""
    with ExitStack() as locks:
        wait = _Wait(file, seconds)
        while not wait.over(locks):
            time.sleep(POLL_SECONDS)
        yield


class _Wait:
    """For one turn."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file
        self._seconds = seconds
        self._holder = ""
        self._since = time.monotonic()

    def over(self, locks: ExitStack) -> bool:
        """Whether the lock is ours now."""
        if lock(locks, self._file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            mine = {"id": secrets.token_hex(8), "pid": os.getpid(), "seconds": self._seconds}
            self._file.write_text(json.dumps(mine))
            return True
        now = time.monotonic()
        said = ""
        with suppress(OSError):
            said = self._file.read_text()
        if said != self._holder:  # another one than before: its time begins
            self._holder, self._since = said, now
        pid, allowed = "unknown", self._seconds
        with suppress(ValueError, KeyError, TypeError):
            holder = json.loads(said)
            pid, allowed = str(holder["pid"]), float(holder["seconds"])
        if now - self._since > allowed:
            raise TurnMissed(
                f"process {pid} has had {self._file} locked for longer than the {allowed:g} seconds that it may; "
                "look what it does, end it, and try again"
            )
        return False
