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
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hostler.engine.sandbox_port import SandboxUnavailable

WITHIN_SECONDS = 5.0
"""A forked process gets to its exec within milliseconds, unless the host is stuck."""


def write(path: Path, text: str, mode: int = 0o700) -> None:
    """Blocks until `path` can be executed. Replaces what is there."""
    path.write_text(text)
    path.chmod(mode)
    settle(path)


SOURCES = Path(__file__).parents[2]
"""Where this package is."""

_LONGEST_LINE = 250
"""The kernel reads no more of a script's first line, and cuts the rest off without a word."""


def python_line(env: str, mark: str) -> str:
    """First line of a program in Python that forgets its caller's environment; `mark` is all that it has instead.

    Our own Python without its virtual environment: nothing but the standard library is imported, and it starts sooner.
    Raises SandboxUnavailable when its path is too long for the line."""
    path = os.path.realpath(sys.executable)
    if set(path) & set(" \t\"'\\$#"):
        path = "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"
    line = f"#!{env} -S -i {mark} {path} -IS"
    if len(os.fsencode(line)) > _LONGEST_LINE:
        raise SandboxUnavailable(f"the path of {sys.executable} is too long; install Python in a shorter one")
    return line


def write_python(path: Path, env: str, mark: str, module: str, words: Sequence[str]) -> Path:
    """Writes a program that runs `main` of a module of `hostler.sandbox` which needs the standard library only, with
    `words` before its own arguments. Imported, not run as a file: then it need not be compiled each time."""
    lines = [
        python_line(env, mark),
        "import sys",
        f"sys.path.insert(0, {str(SOURCES)!r})",
        f"sys.argv[1:1] = {list(words)!r}",
        f"from hostler.sandbox.{module} import main",
        "sys.exit(main())",
    ]
    write(path, "\n".join(lines) + "\n")
    return path


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
