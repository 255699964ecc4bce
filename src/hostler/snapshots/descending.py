"""How is something opened below a folder whose tree may be hostile, or very deep?

Name by name from an open folder, no link followed. Two descriptors, whatever the depth.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Folders:
    """Folders below an open one. Remembers the last, because the next is mostly the same or beside it. One thread."""

    def __init__(self, top: int) -> None:
        """`top`: an open folder, which stays the caller's."""
        self._top = top
        self._at = ""
        self._fd = -1

    def open(self, path: str) -> int:
        """The folder at `path` (empty: the top itself); valid until the next call. Raises OSError."""
        if self._fd >= 0 and path == self._at:
            return self._fd
        below = self._at + "/"
        if self._fd >= 0 and self._at and path.startswith(below):
            here, names = os.dup(self._fd), path.removeprefix(below).split("/")
        else:
            here, names = os.dup(self._top), path.split("/") if path else []
        for name in names:
            try:
                inside = os.open(name, FOLDER, dir_fd=here)
            finally:
                os.close(here)
            here = inside
        self.close()
        self._at, self._fd = path, here
        return here

    def parent_of(self, path: str) -> tuple[int, str]:
        """The folder that has the last name of `path`, and that name."""
        above, _, name = path.rpartition("/")
        return self.open(above), name

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_top(folder: Path) -> int:
    """Raises OSError, also when it is a link."""
    return os.open(folder, FOLDER)


def change_mode(name: str, mode: int, *, folder: int, kind: int) -> None:
    """chmod of exactly this kind of thing (`stat.S_IFDIR`, `stat.S_IFREG`), never through a link. Raises OSError."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if stat.S_IFMT(os.fstat(handle).st_mode) != kind:
            raise OSError(22, "it is something else by now", name)
        os.chmod(f"/proc/self/fd/{handle}", mode)
    finally:
        os.close(handle)
