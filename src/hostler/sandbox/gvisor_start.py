"""How does gVisor start while others already wait for its sandbox?

They wait for a lock that the start's script holds: its end can be seen by everybody, also when the worker that began it
is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from hostler.sandbox import gvisor_enter, staging

SECONDS = 60.0
"""After that long a start hangs."""


def begin(home: Path, script: Path) -> staging.Begun:
    """Starts gVisor. Whoever finds the file locked finds a start under way, whatever becomes of this process."""
    lock = os.open(home / gvisor_enter.STARTING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return staging.Begun(script, held=(lock,))
    finally:
        os.close(lock)


def failure_of(begun: staging.Begun | None, seconds: float = SECONDS) -> str:
    """Waits for the end of the start. Why the sandbox isn't up; empty: it is. Blocks."""
    if begun is None:
        return ""
    code, said = begun.end(seconds)
    if code is None:
        return f"gVisor did not start in {seconds:g} s"
    return f"gVisor did not start ({code}): {said[-600:]}" if code != 0 else ""


def wait(home: Path) -> None:
    """Until nobody starts the sandbox any more. Blocks, for SECONDS at most."""
    try:
        lock = os.open(home / gvisor_enter.STARTING, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(0.01)
    finally:
        os.close(lock)
