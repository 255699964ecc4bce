"""What keeps a session awake although no turn runs?

Something of its user's that would break off if its process went: a transfer that is under way, an open preview, a
program that a tool call has left running. Who has such a thing holds the session awake through `Awake` for as long as
it lasts. Programs are looked for when a session is about to be put to sleep; they keep it awake for a limited time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from hostler.engine.sandbox_port import Sandbox

_ASK_SECONDS: Final = 5.0
_MOST_SAID: Final = 1 << 18
_LIST: Final = "cat /proc/[0-9]*/stat"
_HARNESS: Final = "claude"
_SHOWN: Final = 10


class Awake:
    """The reasons of all sessions of this process. Use from one event loop."""

    def __init__(self) -> None:
        self._reasons: dict[str, Counter[str]] = {}

    @contextmanager
    def hold(self, session_id: str, reason: str) -> Iterator[None]:
        """Inside the block the session's process is not ended for being idle, and not to make room for others.

        `reason`: a word or two for a person, such as `transfer`. Blocks may overlap.
        """
        held = self._reasons.setdefault(session_id, Counter())
        held[reason] += 1
        try:
            yield
        finally:
            held[reason] -= 1
            if not +held:
                self._reasons.pop(session_id, None)

    def reasons(self, session_id: str) -> tuple[str, ...]:
        """Sorted; empty when the session may sleep."""
        return tuple(sorted(+self._reasons.get(session_id, Counter())))


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    name: str
    state: str
    parent: int
    session: int


async def left_running(sandbox: Sandbox) -> tuple[str, ...]:
    """Names of the programs that tool calls have left running in a sandbox whose `claude` lives. At most ten.

    What is said comes from inside, and from a person who may be hostile: it is good for nothing but waiting a little.
    Empty also when the sandbox doesn't answer.
    """
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            asking = await asyncio.create_subprocess_exec(
                sandbox.entrance,
                "/bin/sh",
                "-c",
                _LIST,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                assert asking.stdout is not None
                said = bytearray()
                while len(said) < _MOST_SAID and (more := await asking.stdout.read(1 << 16)):
                    said += more
            finally:
                with suppress(ProcessLookupError):
                    asking.kill()
                await asking.wait()
    except (OSError, TimeoutError):
        return ()
    return programs(said.decode(errors="replace"))


def programs(listing: str) -> tuple[str, ...]:
    """The names of what was left running, of all processes' `/proc/<pid>/stat`.

    A shell that a tool call was run with is gone when the call has ended, so what it has left belongs to the first
    process of the sandbox; and every call has a session of processes of its own, unlike what came with the harness.
    """
    found = [process for line in listing.splitlines() if (process := _read(line)) is not None]
    own = next((process.session for process in sorted(found, key=_pid) if process.name == _HARNESS), None)
    if own is None:
        return ()
    left = (p for p in found if p.parent == 1 and p.session != own and p.state != "Z" and p.name != _HARNESS)
    return tuple(sorted({process.name for process in left}))[:_SHOWN]


def _pid(process: _Process) -> int:
    return process.pid


def _read(line: str) -> _Process | None:
    pid, opened, rest = line.partition(" (")
    name, closed, fields = rest.rpartition(") ")
    parts = fields.split()
    if not (opened and closed and len(parts) > 4):
        return None
    try:
        return _Process(int(pid), name, parts[0], int(parts[1]), int(parts[3]))
    except ValueError:
        return None
