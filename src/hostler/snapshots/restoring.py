"""How does a home become what a snapshot holds?

The parts are made beside, in a folder that nobody else reaches, and renamed when all of it is there: a damaged piece
leaves the home as it was. Where the volume has no room for both, the old files go first: they were to go anyway. Of a
folder that is shown to a sandbox already, all that is in it is renamed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.domain.ids import new_id
from hostler.engine.homes import remove_parts, remove_tree
from hostler.engine.object_port import Objects
from hostler.engine.snapshot_port import ALWAYS, PARTS, Shown
from hostler.engine.threads import in_thread, together
from hostler.snapshots.descending import Folders, open_top
from hostler.snapshots.manifest import Entry, Manifest
from hostler.snapshots.segments import Segment, contents, fetch, object_name, segments

_BESIDE: Final = ".restoring-"
_AT_ONCE: Final = 4
"""Requests under way for one restoration."""


@dataclass(frozen=True, slots=True)
class Restoring:
    """One restoration."""

    objects: Objects
    workspace_id: str
    linked_owner: int | None
    """The user to whom files with several names are given. Whoever hands a home to a sandbox's user takes such a file
    only from another sandbox's: its other name may be anywhere, if it is somebody else's."""

    async def fill(self, home: Path, manifest: Manifest | None, shown: Shown | None = None) -> None:
        """Raises ObjectDamaged, ObjectsUnavailable, OSError."""
        try:
            await self._beside(home, manifest, shown)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _any_part(home):
                raise
            if shown is not None:
                await shown()
            await in_thread(lambda: remove_parts(home, shown=shown is not None))
            await self._beside(home, manifest, shown)

    async def _beside(self, home: Path, manifest: Manifest | None, shown: Shown | None) -> None:
        entries = () if manifest is None else manifest.entries
        new = home / f"{_BESIDE}{new_id('r')}"
        top = await in_thread(lambda: _begin(home, new), undo=os.close)
        try:
            await in_thread(lambda: _outline(top, entries))
            if manifest is not None:
                await self._contents(top, manifest)
            owner = None if shown is None else await shown()

            def finish() -> None:
                _complete(top, entries, owner, self.linked_owner)
                _take_the_place(home, new, shown=shown is not None)
                _clear_left(home)

            await in_thread(finish)
        finally:
            os.close(top)
            if new.exists():
                await in_thread(lambda: _clear_left(home))

    async def _contents(self, top: int, manifest: Manifest) -> None:
        targets = _targets(manifest.entries)
        waiting = segments(manifest, targets)

        async def work() -> None:
            for segment in waiting:  # one iterator for all of them: each takes the next
                await self._segment(top, segment, targets)

        async with together() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(work())

    async def _segment(self, top: int, segment: Segment, targets: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        name = object_name(self.workspace_id, "pack", segment.pack)
        data = await fetch(self.objects, name, "pack", segment.pack, segment.start, segment.length)
        await in_thread(lambda: _write(top, segment, data, targets))


def _targets(entries: Sequence[Entry]) -> dict[str, list[tuple[str, int]]]:
    """Where each piece is to be written: paths and offsets."""
    found: dict[str, list[tuple[str, int]]] = {}
    for entry in entries:
        at = 0
        for gap, length, piece in entry.spans:
            at += gap
            found.setdefault(piece, []).append((entry.path, at))
            at += length
    return found


# -- in threads


def _begin(home: Path, new: Path) -> int:
    """An open folder for what is to be, and nothing else beside."""
    _clear_left(home)
    new.mkdir(mode=0o700)
    return open_top(new)


def _outline(top: int, entries: Sequence[Entry]) -> None:
    """Everything but contents, names of hard links, modes and times."""
    folders = Folders(top)
    try:
        for entry in entries:
            above, name = folders.parent_of(entry.path)
            if entry.kind == "folder":
                os.mkdir(name, 0o700, dir_fd=above)
            elif entry.kind == "symlink":
                os.symlink(entry.target or "", name, dir_fd=above)
            elif entry.kind == "file":
                made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=above)
                try:
                    os.ftruncate(made, entry.size)
                finally:
                    os.close(made)
    finally:
        folders.close()


def _write(top: int, segment: Segment, data: bytes, targets: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    folders = Folders(top)
    try:
        for piece, content in contents(segment, data):
            for path, at in targets[piece]:
                above, name = folders.parent_of(path)
                file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=above)
                try:
                    rest, offset = memoryview(content), at
                    while rest:
                        written = os.pwrite(file, rest, offset)
                        rest, offset = rest[written:], offset + written
                finally:
                    os.close(file)
    finally:
        folders.close()


def _complete(top: int, entries: Sequence[Entry], owner: int | None, linked_owner: int | None) -> None:
    """Further names, owners, modes and times: of folders last, and of the inner ones first."""
    folders = Folders(top)
    others = Folders(top)
    try:
        several = set()
        for entry in entries:
            if entry.kind == "hardlink" and entry.target is not None:
                there, known = others.parent_of(entry.target)
                above, name = folders.parent_of(entry.path)
                os.link(known, name, src_dir_fd=there, dst_dir_fd=above, follow_symlinks=False)
                several.add(entry.target)
        for entry in _inner_first(entries):
            above, name = folders.parent_of(entry.path)
            whose = linked_owner if owner is None and entry.path in several else owner
            if whose is not None:
                os.chown(name, whose, whose, dir_fd=above, follow_symlinks=False)
            times = (entry.mtime_ns, entry.mtime_ns)
            if entry.kind == "symlink":
                os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)
                continue
            os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)
            os.chmod(name, entry.mode, dir_fd=above)  # never a link: it was made here a moment ago
    finally:
        folders.close()
        others.close()


def _inner_first(entries: Sequence[Entry]) -> Iterator[Entry]:
    """What is to get a mode and a time; a folder after all that is in it."""
    return (entry for entry in reversed(entries) if entry.kind != "hardlink")


def _take_the_place(home: Path, new: Path, *, shown: bool) -> None:
    for part in PARTS:
        if shown and part in ALWAYS:
            _exchange(home / part, new / part, new / f"old-{part}")
            continue
        if os.path.lexists(home / part):
            os.rename(home / part, new / f"old-{part}")
        if (new / part).is_dir():
            os.rename(new / part, home / part)
        elif part in ALWAYS:
            (home / part).mkdir(mode=0o700)


def _exchange(there: Path, new: Path, old: Path) -> None:
    """What is in the folder `there` goes to `old`; what is in `new`, if there is one, comes in its place."""
    old.mkdir(mode=0o700)
    for name in os.listdir(there):
        (there / name).rename(old / name)
    if new.is_dir():
        changed = new.stat().st_mtime_ns
        for name in os.listdir(new):
            (new / name).rename(there / name)
        os.utime(there, ns=(changed, changed))


def _any_part(home: Path) -> bool:
    return any(os.path.lexists(home / part) for part in PARTS)


def _clear_left(home: Path) -> None:
    """What this or an earlier restoration has left beside."""
    for left in home.glob(f"{_BESIDE}*"):
        try:  # mostly it is empty, or has empty folders: no program has to be started for that
            for inside in os.listdir(left):
                os.rmdir(left / inside)
            os.rmdir(left)
        except OSError:
            remove_tree(left)
