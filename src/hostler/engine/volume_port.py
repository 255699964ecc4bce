"""What does the engine ask of the place that bounds how much a session may keep?

Independent of what separates a sandbox from its host: every technology is given folders of the host, and those already
lie on a file system of their own.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from hostler.engine.sandbox_port import IsolationLabel

UNLIMITED: Final = "What a session keeps on disk is not limited:"


class VolumeUnavailable(Exception):
    """What is kept of a session can't be reached or made now. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is used of a volume at one moment, for those who may not use its reserve."""

    total_bytes: int
    free_bytes: int
    total_files: int
    """Files, folders and links together."""
    free_files: int


class Volumes(Protocol):
    """One bounded file system for each session. All methods block; safe to call from several threads.

    `home` is the session's folder on this host: the same path always, and empty while nobody has entered it.
    """

    @property
    def missing(self) -> tuple[str, ...]:
        """Why new sessions get no volume, in sentences for a person; empty: they get one."""
        ...

    def enter(self, home: Path, disk_bytes: int | None) -> None:
        """The files are at `home` until as many calls of `leave` have followed. Makes an empty volume at first.

        `disk_bytes`: its size; one that is there grows to it, and never shrinks. None: no volume for a new session.
        Raises VolumeUnavailable.
        """
        ...

    def leave(self, home: Path, *, looked_through: bool) -> None:
        """`looked_through`: nothing is in it that the server should still collect."""
        ...

    def rename(self, home: Path, to: Path) -> None:
        """What was entered as `home` is entered as `to` from now on, of which there is nothing yet.

        Programs that have the files open, or mounted, notice nothing. Raises OSError, FileExistsError among them; then
        everything is as it was.
        """
        ...

    def remove(self, home: Path) -> None:
        """The files are gone, whoever has entered. Idempotent."""
        ...

    def give_up_reserve(self, home: Path) -> None:
        """Frees what `keep_reserve` has set aside, so that the server can write into a volume that is full."""
        ...

    def keep_reserve(self, home: Path) -> None:
        """Before the session's own programs start: they can't have these bytes and files."""
        ...

    def flush(self, home: Path) -> bool:
        """True: what was written there is on the disk. False: it has no volume; all that others have written to the
        host's file system would have to be waited for. Raises OSError."""
        ...

    def room(self, home: Path) -> Room | None:
        """None: not on a volume."""
        ...

    def taken(self, home: Path) -> int:
        """Bytes of the host's disk that the files take, whether somebody has entered or not."""
        ...

    def homes(self) -> Sequence[str]:
        """Names of all homes that there are."""
        ...

    def unfinished(self) -> Sequence[str]:
        """Names of the homes that were entered and not left looked through, in this life or an earlier one."""
        ...

    def close(self) -> None:
        """Nothing is mounted any more. End the sandboxes first. Idempotent."""
        ...


class PlainFolders:
    """No volumes: a session may keep as much as the host's file system takes. Implements `Volumes`."""

    def __init__(self, kept: Path, why: str = "", images: Path | None = None) -> None:
        """`kept`: where all homes are. `images`: where volumes of an earlier time may be, which can't be opened now."""
        self.missing: tuple[str, ...] = (why,) if why else ()
        self._kept = kept
        self._images = images

    def enter(self, home: Path, disk_bytes: int | None) -> None:
        if self._images is not None and image_of(self._images, home).exists():
            raise VolumeUnavailable(
                f"the files of this session are on a volume, and this server can't open volumes now: {self.missing[0]}"
            )
        home.mkdir(parents=True, exist_ok=True, mode=0o711)

    def leave(self, home: Path, *, looked_through: bool) -> None:
        pass

    def rename(self, home: Path, to: Path) -> None:
        if os.path.lexists(to):
            raise FileExistsError(errno.EEXIST, "there are files of it already", str(to))
        home.rename(to)

    def remove(self, home: Path) -> None:
        if self._images is not None:
            image_of(self._images, home).unlink(missing_ok=True)

    def give_up_reserve(self, home: Path) -> None:
        pass

    def keep_reserve(self, home: Path) -> None:
        pass

    def flush(self, home: Path) -> bool:
        return False

    def room(self, home: Path) -> Room | None:
        return None

    def taken(self, home: Path) -> int:
        return tree_bytes(home)

    def homes(self) -> Sequence[str]:
        return sorted(os.listdir(self._kept)) if self._kept.is_dir() else ()

    def close(self) -> None:
        pass

    def unfinished(self) -> Sequence[str]:
        """All of them: nobody remembers which."""
        return self.homes()


def tree_bytes(folder: Path) -> int:
    """What the files of a folder take of the disk. Blocks; whatever an agent has made of it."""
    said = subprocess.run(["du", "-sx", "-B1", "--", str(folder)], capture_output=True, check=False).stdout.split()
    return int(said[0]) if said else 0


def image_of(images: Path, home: Path) -> Path:
    """Where the volume of a home is, as a file."""
    return images / f"{home.name}.img"


def with_disk(label: IsolationLabel, volumes: Volumes, home: Path) -> IsolationLabel:
    """The label of the sandbox that uses `home`, with what is true of its files."""
    if volumes.room(home) is not None:
        return replace(label, disk_by="volume")
    why = volumes.missing or (f"{UNLIMITED} it was made without a volume.",)
    return replace(label, disk_by="none", missing=(*label.missing, *why))
