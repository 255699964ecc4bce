"""Which host user is a sandbox, and which files are that user's?

A worker that runs as root gives each live sandbox a uid of its own (gid: the same number) from a range in which nobody
else lives. What one sandbox leaves readable on the host, another still can't read; a signal or a trace from one to the
other is refused by the kernel before any namespace is asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.sandbox_port import SandboxUnavailable

DEFAULT_RANGE = range(300_000, 365_536)
LOCK_FILE = Path("/run/hostler-uids.lock")


class UidPool:
    """Host uids of live sandboxes, each held by at most one sandbox of this host.

    The hold is a lock on one byte (offset = uid) of a file that every provider of the host opens, so two workers never
    share a uid, and a worker that is killed holds nothing. Thread-safe.
    """

    def __init__(self, uids: range, lock_file: Path = LOCK_FILE, *, start: int = 0) -> None:
        """`start`: where to begin looking, any number; different ones keep two workers' files apart for longer."""
        if not uids or uids.step != 1 or uids.start < 1:
            raise ValueError("uid_range must be a non-empty range of consecutive uids above 0")
        self._uids = uids
        self._next = start % len(uids)
        self._held: set[int] = set()
        self._mutex = threading.Lock()
        self._file = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def acquire(self, preferred: int | None = None) -> int:
        """A uid that no sandbox holds and no process has; `preferred` if possible. SandboxUnavailable: all taken."""
        with self._mutex:
            busy = uids_with_processes()
            if preferred is not None and preferred in self._uids and self._take(preferred, busy):
                return preferred
            for _ in range(len(self._uids)):
                uid = self._uids[self._next]
                self._next = (self._next + 1) % len(self._uids)
                if self._take(uid, busy):
                    return uid
        raise SandboxUnavailable(
            f"all {len(self._uids)} host uids of the configured range are in use; widen the range or end sessions"
        )

    def claim(self, uid: int) -> bool:
        """Holds exactly this uid, processes or not; false when another sandbox holds it. For sweeping."""
        with self._mutex:
            return uid in self._uids and self._take(uid, ())

    def release(self, uid: int) -> None:
        """Gives a uid back. Nothing happens when it isn't held."""
        with self._mutex:
            if uid in self._held:
                self._held.remove(uid)
                self._lock(uid, fcntl.F_UNLCK)

    def close(self) -> None:
        with self._mutex:
            self._held.clear()
            os.close(self._file)

    def _take(self, uid: int, busy: Collection[int]) -> bool:
        if uid in self._held or uid in busy or not self._lock(uid, fcntl.F_WRLCK):
            return False
        self._held.add(uid)
        return True

    def _lock(self, uid: int, kind: int) -> bool:
        # Locks of the open file description: two pools in one process exclude each other as well.
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, uid, 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


def uids_with_processes() -> frozenset[int]:
    """Owners of all processes on this host, as `/proc` shows them."""
    owners = set()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                try:
                    owners.add(entry.stat(follow_symlinks=False).st_uid)
                except OSError:  # gone between the listing and the look
                    continue
    return frozenset(owners)


@dataclass(slots=True)
class _Level:
    """One directory on the way down: who it is, and which of its directories are still to be visited."""

    identity: tuple[int, int]
    left: list[str]


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def hand_over(top: Path, uid: int, *, always_walk: bool, own_range: range = DEFAULT_RANGE) -> None:
    """Makes a tree belong to `uid` alone: owner and group changed, `top` itself 0700.

    Walks the tree when `top` had another owner, or `always_walk`. The tree may be hostile: links are never followed,
    other file systems never entered, device nodes left alone, and a file with several names is taken only from another
    sandbox's user (`own_range`), because its other name may be anywhere on the host. Any depth, two descriptors.

    Raises OSError (ELOOP, ENOTDIR) when `top` is not a directory itself.
    """
    fd = os.open(top, _DIRECTORY)
    try:
        before = os.fstat(fd)
        os.fchmod(fd, 0o700)
        if before.st_uid != uid or before.st_gid != uid:
            os.fchown(fd, uid, uid)
        elif not always_walk:
            return
        device = before.st_dev
        levels = [_Level((before.st_dev, before.st_ino), _hand_over_entries(fd, uid, device, own_range))]
        while levels:
            if levels[-1].left:
                fd = _descend(fd, levels, uid, device, own_range)
            else:
                levels.pop()
                if levels:
                    fd = _ascend(fd, levels[-1])
    finally:
        os.close(fd)


def _descend(fd: int, levels: list[_Level], uid: int, device: int, own_range: range) -> int:
    name = levels[-1].left.pop()
    try:
        child = os.open(name, _DIRECTORY, dir_fd=fd)
    except OSError:
        return fd  # changed under our hands: it is no directory any more
    left = child
    try:
        found = os.fstat(child)
        if found.st_dev == device:
            os.fchown(child, uid, uid)
            levels.append(_Level((found.st_dev, found.st_ino), _hand_over_entries(child, uid, device, own_range)))
            left = fd
    finally:
        os.close(left)  # after an error `fd` is still the caller's
    return child if left == fd else fd


def _ascend(fd: int, parent: _Level) -> int:
    above = os.open("..", _DIRECTORY, dir_fd=fd)
    found = os.fstat(above)
    if (found.st_dev, found.st_ino) != parent.identity:
        os.close(above)
        raise OSError(errno.ESTALE, "the tree was moved while it was handed over")
    os.close(fd)
    return above


def _hand_over_entries(fd: int, uid: int, device: int, own_range: range) -> list[str]:
    """Changes the owner of everything in one directory but its directories, whose names it gives back."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if found.st_dev != device:
                continue
            kind = stat.S_IFMT(found.st_mode)
            if kind == stat.S_IFDIR:
                directories.append(entry.name)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK) or (found.st_uid == uid and found.st_gid == uid):
                continue
            elif found.st_nlink > 1 and found.st_uid not in own_range:
                continue  # attack C1: a second name for somebody else's file
            else:
                os.chown(entry.name, uid, uid, dir_fd=fd, follow_symlinks=False)
    return directories
