"""C6: does a better priority, had inside, count on the host?

A kernel that isn't the host's may grant whatever it likes. What counts is how the host's scheduler treats the processes
that the sandbox is made of, and that is looked at from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hostler.attacks.cases import Case
from hostler.attacks.rooms import SandboxGround, told

_BEFORE_OTHERS = {1: "as a real-time process (FIFO)", 2: "as a real-time process (RR)", 6: "by deadlines"}
"""Policies of the host's scheduler, by number."""
_KERNEL_THREAD = 0x00200000
WAIT_SECONDS = 3.0
"""What is still there then is somebody else's."""


def _favoured() -> Mapping[tuple[str, str], str]:
    """Threads of programs that the host's scheduler prefers, by number and time of start, and what they are. Blocks."""
    found = {}
    for thread in _threads():
        with contextlib.suppress(OSError, IndexError, ValueError):
            name, _, rest = Path(thread, "stat").read_text(errors="replace").rpartition(")")
            fields = rest.split()
            flags, nice, started, policy = int(fields[6]), int(fields[16]), fields[19], int(fields[38])
            how = _BEFORE_OTHERS.get(policy) or (f"with priority {nice}" if nice < 0 else "")
            if how and not flags & _KERNEL_THREAD:
                found[thread, started] = f"{name.partition('(')[2]} runs {how}"
    return found


def _threads() -> Iterator[str]:
    for process in os.scandir("/proc"):
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                for thread in os.scandir(f"{process.path}/task"):
                    yield thread.path


async def _on_the_host(ground: SandboxGround) -> Sequence[str]:
    """Of what is preferred now, that which wasn't there before the sandbox, and isn't when it is gone."""
    before = await asyncio.to_thread(_favoured)
    async with ground.room() as room:
        visit = await room.visit(["preferred"], stay=True)
        told(visit, ["preferred"])
        during = await asyncio.to_thread(_favoured)
        await visit.end(ground.seconds)
    new = during.keys() - before.keys()
    until = asyncio.get_running_loop().time() + WAIT_SECONDS
    while left := (await asyncio.to_thread(_favoured)).keys() & new:
        if asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(0.05)
    return sorted(f"on the host, {during[key]}" for key in new - left)


CASES = (Case("C6.40", "a better priority on the host", "high", "limits", sandbox=_on_the_host),)
