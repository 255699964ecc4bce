"""Which of the files that installers wrote become part of a layer, and as what?

What a program of somebody else's left in a tree is taken over name by name: folders, files, links and the marks of the
overlay file system for what was removed. Nothing that gives rights, nothing of the installers' own. No link is
followed. For the time after every process that could change the tree has ended.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

OPAQUE: Final = "trusted.overlay.opaque"
"""Attribute of a folder that hides what the folder of this name below it holds."""

LEFT_OUT: Final = frozenset(
    {
        *(
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "root",
            "home",
            "workspace",
            "mnt",
            "media",
            "boot",
            "var/tmp",
            "var/log",
        ),
        *("var/cache", "var/lib/apt/lists", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/machine-id"),
    }
)
"""Of the upper folder: caches and logs of installers, and places that belong to sandboxes."""


class TreeTooLarge(Exception):
    """The files of the tree have more bytes than allowed: holes in them count, for whoever copies them fills them."""


class LayerTree:
    """Copies one tree. `bytes` and `entries` count what was copied."""

    def __init__(self, source: Path, target: Path, first_id: int, ids: int, most_bytes: int) -> None:
        """Owners on disk are counted from `first_id`, as a user namespace gave them; in the copy they are from 0."""
        self._source, self._target = source, target
        self._first, self._ids = first_id, ids
        self._most_bytes = most_bytes
        self._links: dict[int, Path] = {}
        self.bytes = 0
        self.entries = 0

    def copy(self) -> None:
        """`target` must not exist. Raises OSError and TreeTooLarge."""
        self._folder(self._source, self._target, "")

    def _folder(self, source: Path, target: Path, name: str) -> None:
        info = source.lstat()
        target.mkdir(mode=0o700)
        with os.scandir(source) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                inside = f"{name}/{entry.name}" if name else entry.name
                if inside not in LEFT_OUT:
                    self._entry(Path(entry.path), target / entry.name, inside)
        self._own(target, info)
        with suppress(OSError):
            os.setxattr(target, OPAQUE, os.getxattr(source, OPAQUE, follow_symlinks=False), follow_symlinks=False)
        self._finish(target, info)

    def _entry(self, source: Path, target: Path, inside: str) -> None:
        info = source.lstat()
        kind = stat.S_IFMT(info.st_mode)
        self.entries += 1
        if kind == stat.S_IFDIR:
            self._folder(source, target, inside)
        elif kind == stat.S_IFLNK:
            target.symlink_to(os.readlink(source))
            self._own(target, info)
        elif kind == stat.S_IFREG:
            self._file(source, target, info)
        elif kind == stat.S_IFCHR and info.st_rdev == 0:  # something of the image that is not in the layer
            os.mknod(target, stat.S_IFCHR, 0)
        # Sockets, pipes and devices mean nothing in a tree that nobody writes to.

    def _file(self, source: Path, target: Path, info: os.stat_result) -> None:
        known = self._links.get(info.st_ino)
        if known is not None:
            os.link(known, target, follow_symlinks=False)
            return
        self.bytes += info.st_size
        if self.bytes > self._most_bytes:
            raise TreeTooLarge
        with open(source, "rb", opener=_no_link) as old, open(target, "xb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
        if info.st_nlink > 1:
            self._links[info.st_ino] = target
        self._own(target, info)
        self._finish(target, info)

    def _own(self, target: Path, info: os.stat_result) -> None:
        os.chown(target, self._id(info.st_uid), self._id(info.st_gid), follow_symlinks=False)

    def _id(self, number: int) -> int:
        return number - self._first if 0 <= number - self._first < self._ids else 0

    def _finish(self, target: Path, info: os.stat_result) -> None:
        target.chmod(stat.S_IMODE(info.st_mode) & 0o1777)  # set-uid and set-gid bits are not taken over
        os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
