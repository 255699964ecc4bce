"""What is in the parts of a home now?

The tree is the agent's: nothing of it is trusted. Every step goes from an open folder to a name in it, no link is
followed, no other file system is entered, and nothing but regular files is ever opened. Devices, sockets and pipes are
left out. Nothing is read here: that is for `packs`, and only where something changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from hostler.domain.clock import SystemClock
from hostler.engine.snapshot_port import PARTS, SnapshotTooLarge
from hostler.snapshots.descending import Folders, change_mode, open_top
from hostler.snapshots.limits import SnapshotLimits
from hostler.snapshots.manifest import Kind, kept_mode

TOP_MODE: Final = 0o700
"""Of a part itself: whoever makes a sandbox sets it."""


class Signature(NamedTuple):
    """Differs whenever the bytes of a file may differ: nobody can set the change time back."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int


@dataclass(slots=True)
class Found:
    """One name that is to be kept."""

    path: str
    kind: Kind
    mode: int
    mtime_ns: int
    signature: Signature
    sparse: bool = False
    names: int = 1
    target: str | None = None


@dataclass(slots=True)
class Left:
    """What was left out, and why."""

    reasons: dict[str, int] = field(default_factory=dict)
    example: str = ""

    def out(self, reason: str, path: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.example = self.example or path[:200]


@dataclass(slots=True)
class Scan:
    """A tree as it was found. Where a name of it may not be read, its mode is loosened until `tighten`."""

    limits: SnapshotLimits
    home: int = -1
    """The open home, until `close`."""
    began_ns: int = 0
    """When the look began."""
    found: list[Found] = field(default_factory=list)
    """Each folder before what is in it, in an order that depends on the names only."""
    left: Left = field(default_factory=Left)
    _loosened: list[tuple[str, int, int]] = field(default_factory=list)

    def look(self, home: Path) -> None:
        """Once. Raises SnapshotTooLarge, OSError."""
        self.began_ns = int(SystemClock().now().timestamp() * 1e9)
        self.home = open_top(home)
        folders = Folders(self.home)
        try:
            for part in PARTS:
                self._look_through(part, folders)
        finally:
            folders.close()
        self.found.sort(key=lambda found: found.path.split("/"))
        self._name_hard_links()

    def loosen(self, found: Found, folders: Folders, kind: int) -> None:
        """Lets its owner, which is this process, read it for now. Raises OSError."""
        need = 0o700 if kind == stat.S_IFDIR else 0o400
        above, name = folders.parent_of(found.path)
        change_mode(name, found.mode | need, folder=above, kind=kind)
        self._loosened.append((found.path, found.mode, kind))

    @property
    def loosened(self) -> bool:
        return bool(self._loosened)

    def close(self) -> None:
        """Idempotent."""
        if self.home >= 0:
            os.close(self.home)
            self.home = -1

    def tighten(self) -> None:
        """Gives everything the mode back that it had. Before `close`."""
        for path, mode, kind in reversed(self._loosened):
            folders = Folders(self.home)
            try:
                above, name = folders.parent_of(path)
                change_mode(name, mode, folder=above, kind=kind)
            except OSError:
                continue  # it is gone
            finally:
                folders.close()
        self._loosened.clear()

    def _look_through(self, part: str, folders: Folders) -> None:
        try:
            top = os.fstat(folders.open(part))
        except FileNotFoundError:
            return
        before = len(self.found)
        self.found.append(Found(part, "folder", TOP_MODE, top.st_mtime_ns, signature_of(top)))
        waiting = [self.found[-1]]
        while waiting:
            folder = waiting.pop()
            here = self._open(folder, folders)
            if here is None:
                continue
            if os.fstat(here).st_dev != top.st_dev:
                self.left.out("another_file_system", folder.path)
                continue
            waiting += self._list(folder.path, here, top.st_dev)
        if len(self.found) == before + 1:
            self.found.pop()  # an empty part is as good as none

    def _open(self, folder: Found, folders: Folders) -> int | None:
        try:
            return folders.open(folder.path)
        except PermissionError:
            try:
                self.loosen(folder, folders, stat.S_IFDIR)
                return folders.open(folder.path)
            except OSError as error:
                self.left.out(f"not_readable: {error.strerror}", folder.path)
        except OSError:  # gone, or no folder any more
            self.left.out("changed_meanwhile", folder.path)
        return None

    def _list(self, above: str, here: int, device: int) -> Sequence[Found]:
        """Notes what is in an open folder; gives the folders in it."""
        inside = []
        depth = above.count("/") + 1
        with os.scandir(here) as listing:
            for entry in listing:
                path = f"{above}/{entry.name}"
                try:
                    seen = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone
                found = self._find(path, entry.name, seen, here, device)
                if found is None:
                    continue
                self.found.append(found)
                if len(self.found) > self.limits.entries:
                    raise SnapshotTooLarge(
                        f"the session keeps more than {self.limits.entries} files, folders and links: remove some, "
                        "or raise snapshots.max_entries"
                    )
                if depth >= self.limits.depth or len(path) > self.limits.path_bytes:
                    raise SnapshotTooLarge(f"the session keeps folders that are nested more than {depth} times")
                if found.kind == "folder":
                    inside.append(found)
        return inside

    def _find(self, path: str, name: str, seen: os.stat_result, here: int, device: int) -> Found | None:
        kind: Kind
        target = None
        if seen.st_dev != device:
            self.left.out("another_file_system", path)
            return None
        if stat.S_ISREG(seen.st_mode):
            kind = "file"
        elif stat.S_ISDIR(seen.st_mode):
            kind = "folder"
        elif stat.S_ISLNK(seen.st_mode):
            kind = "symlink"
            try:
                target = os.readlink(name, dir_fd=here)
            except OSError:
                self.left.out("changed_meanwhile", path)
                return None
        else:
            self.left.out("no_file_folder_or_link", path)
            return None
        return Found(
            path,
            kind,
            0o777 if kind == "symlink" else kept_mode(seen.st_mode),
            seen.st_mtime_ns,
            signature_of(seen),
            sparse=seen.st_blocks * 512 < seen.st_size,
            names=seen.st_nlink,
            target=target,
        )

    def _name_hard_links(self) -> None:
        first: dict[int, str] = {}
        for found in self.found:
            if found.kind == "file" and found.names > 1:
                path = first.setdefault(found.signature.inode, found.path)
                if path != found.path:
                    found.kind, found.target = "hardlink", path


def signature_of(seen: os.stat_result) -> Signature:
    return Signature(seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_mode)
