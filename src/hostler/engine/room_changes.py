"""Who has overwritten a change in a room's common folder without having seen it?

A session has *seen* a file as of its last reading or writing. It *overwrites* a change when it writes a file that
another session has written since. To write on at the end of a file overwrites nothing: what was there is still there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hostler.engine.room_port import Opened

MOST_FILES: Final = 2_000
"""Files that are remembered; those that were written longest ago are forgotten first."""


@dataclass(frozen=True, slots=True)
class Overwritten:
    path: str
    by: str
    of: str
    """Whose change it was."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What a file is since it was last written."""

    number: int
    writer: str
    inode: int
    size: int
    digest: bytes | None


class Changes:
    """Of one room while somebody is in it. Pure but for `inode_at`."""

    def __init__(self, inode_at: Callable[[str], int | None]) -> None:
        """`inode_at`: of the file that is at a path now, links not followed; None: there is none."""
        self._inode_at = inode_at
        self._versions: OrderedDict[str, _Version] = OrderedDict()
        self._seen: dict[tuple[str, str], int] = {}
        """By session and path: the number of the version that it has seen."""
        self._written: OrderedDict[int, tuple[str, int, bytes | None]] = OrderedDict()
        """By inode: who wrote it last, and what it was then. A file that is moved over another one is found by it."""
        self._numbers = 0

    def read(self, who: str, path: str) -> None:
        version = self._versions.get(path)
        if version is not None:
            self._seen[who, path] = version.number

    def wrote(self, who: str, path: str, inode: int, file: Opened) -> Overwritten | None:
        """What `who` has overwritten by that."""
        old, digest = self._versions.get(path), file.digest(file.size)
        self._remember(who, inode, file.size, digest)
        in_place = old is not None and old.inode == inode and old.writer != who and old.digest is not None
        if in_place and old is not None and file.digest(old.size) == old.digest:  # all that was there is still there
            self._seen[who, path] = old.number
        return self._follow(who, path, _Version(0, who, inode, file.size, digest))

    def moved(self) -> list[Overwritten]:
        """What was overwritten by moving a file over another one since this was asked last."""
        found = []
        for path, version in list(self._versions.items()):
            inode = self._inode_at(path)
            if inode is None:
                del self._versions[path]
            elif inode != version.inode and (written := self._written.get(inode)) is not None:
                who, size, digest = written
                found.append(self._follow(who, path, _Version(0, who, inode, size, digest)))
        return [one for one in found if one is not None]

    def unseen(self, who: str, path: str) -> str | None:
        """Whose change of the file `who` has not seen; None: there is no such change."""
        version = self._versions.get(path)
        if version is None or version.writer == who or self._seen.get((who, path), 0) >= version.number:
            return None
        return version.writer

    def forget(self, who: str) -> None:
        """It has left: what it has seen is forgotten; what it has written is not."""
        self._seen = {key: number for key, number in self._seen.items() if key[0] != who}

    # -- inside

    def _follow(self, who: str, path: str, new: _Version) -> Overwritten | None:
        other = self.unseen(who, path)
        self._numbers += 1
        self._versions[path] = _Version(self._numbers, who, new.inode, new.size, new.digest)
        self._versions.move_to_end(path)
        self._seen[who, path] = self._numbers
        if len(self._versions) > MOST_FILES:
            gone, _ = self._versions.popitem(last=False)
            self._seen = {key: number for key, number in self._seen.items() if key[1] != gone}
        return None if other is None else Overwritten(path, who, other)

    def _remember(self, who: str, inode: int, size: int, digest: bytes | None) -> None:
        self._written[inode] = (who, size, digest)
        self._written.move_to_end(inode)
        if len(self._written) > MOST_FILES:
            self._written.popitem(last=False)
