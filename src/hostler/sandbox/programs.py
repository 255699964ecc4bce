"""How does a script get onto the disk so that it can be executed at once, whatever other threads start meanwhile?

A process that another thread forks between our `open` and `close` holds the writable descriptor until its own exec, and
until then the kernel refuses to execute the file (ETXTBSY). A read lease is only given for a file that nobody can
write to any more, so we wait for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

WITHIN_SECONDS = 5.0
"""A forked process gets to its exec within milliseconds, unless the host is stuck."""


def write(path: Path, text: str, mode: int = 0o700) -> None:
    """Blocks until `path` can be executed. Replaces what is there."""
    path.write_text(text)
    path.chmod(mode)
    settle(path)


def settle(path: Path) -> None:
    """Waits until nobody holds `path` open for writing, where its file system can tell."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return  # this file system gives no leases
                time.sleep(0.0005)
            else:
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                return
    finally:
        os.close(fd)
