"""How is everything in a sandbox of this host stopped, and let run again?

Version 2 of the control groups can freeze a group. Elsewhere each process gets SIGSTOP, again and again until none
runs: a process that wasn't stopped yet may have made or woken another one meanwhile. (Version 1 can freeze too, but
what is frozen there can't be killed.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

WITHIN_SECONDS = 5.0


class NotSuspended(Exception):
    """Some process still ran after WITHIN_SECONDS; all were let run again."""


def freeze(groups: Iterable[Path], members: Callable[[], Iterable[int]]) -> None:
    """Blocks until nothing of the sandbox runs. Raises NotSuspended."""
    for group in groups:
        if (group / "cgroup.freeze").exists():
            (group / "cgroup.freeze").write_text("1")
            _until(lambda group=group: "frozen 1" in (group / "cgroup.events").read_text(), groups, members)  # type: ignore[misc]
            return
    quiet = 0

    def stopped() -> bool:
        nonlocal quiet
        running = [pid for pid in members() if _runs(pid)]
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        quiet = 0 if running else quiet + 1
        return quiet >= 2

    _until(stopped, groups, members)


def thaw(groups: Iterable[Path], members: Callable[[], Iterable[int]]) -> None:
    for group in groups:
        if (group / "cgroup.freeze").exists():
            (group / "cgroup.freeze").write_text("0")
            return
    for pid in members():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _until(done: Callable[[], bool], groups: Iterable[Path], members: Callable[[], Iterable[int]]) -> None:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not done():
        if time.monotonic() > deadline:
            thaw(groups, members)
            raise NotSuspended(f"processes of a sandbox still ran after {WITHIN_SECONDS:g} s")
        time.sleep(0.001)


def _runs(pid: int) -> bool:
    """Whether the process could still execute an instruction of its program."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    state = fields["State"].split()[0]
    if state == "D":  # waiting for the stopped child of a vfork: it will stop before it comes back from the kernel
        return not int(fields["ShdPnd"], 16) & (1 << (signal.SIGSTOP - 1))
    return state not in ("T", "t", "Z", "X")
