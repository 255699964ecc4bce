"""What does this host remember of the homes that it has? A note for each, beside the home.

The note says which copy the folders are, as of which snapshot, and whether anything may have changed since. The home
has the name of the copy in it, too: a home that was lost, or came back from an old backup, is not what the note means.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

MARK: Final = ".copy"
"""Name of the file in a home that says which copy it is. Nothing of a sandbox reaches it: its parts are mounted."""


_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Note(BaseModel):
    """What is known of one home."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    copy_name: str
    as_of: str | None
    """Id of the session's latest snapshot when the folders were last restored from one or saved as one."""
    dirty: bool
    """True: something may have changed since."""
    unwritten: str | None = None
    """Not all that was restored need be on the disk yet: it is lost with this boot of the host. None: all of it is."""

    untold: bool = False
    """The session's model has not been told yet that these files are older than its conversation."""

    def but(self, *, as_of: str | None, dirty: bool) -> Self:
        return self.model_copy(update={"as_of": as_of, "dirty": dirty})

    def written(self, copy_name: str) -> Self:
        """If it is of that copy: all that was restored is on the disk."""
        return self.model_copy(update={"unwritten": None}) if self.copy_name == copy_name else self


@dataclass(frozen=True, slots=True)
class HomeNotes:
    """Notes in one folder of this host, and the marks in homes. All methods block; from several threads."""

    folder: Path
    boot: str = field(default_factory=lambda: _BOOT_ID.read_text().strip())
    """Which boot of the host this is."""
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def read(self, session_id: str, home: Path) -> Note | None:
        """None: there is no note, or what it means is not there, or not all of it. The home is entered."""
        note = self.glance(session_id)
        if note is None or _mark(home) != note.copy_name or note.unwritten not in (None, self.boot):
            return None
        return note

    def change(self, session_id: str, change: Callable[[Note], Note]) -> None:
        """As `write`, if there is one."""
        with self._changing:
            note = self.glance(session_id)
            if note is not None and (changed := change(note)) != note:
                self.write(session_id, changed)

    def glance(self, session_id: str) -> Note | None:
        """The note alone, whatever is in the home."""
        try:
            return Note.model_validate_json(self._file(session_id).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, session_id: str, note: Note) -> None:
        """Durable when it returns: after a crash of the host a home that was written to still counts as dirty."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.folder / f".{session_id}.new"
        with fresh.open("w") as out:
            out.write(note.model_dump_json(exclude_defaults=True))
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(self._file(session_id))
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def used(self, session_id: str) -> None:
        """The home is used now."""
        with suppress(FileNotFoundError):
            os.utime(self._file(session_id))

    def remove(self, session_id: str) -> None:
        self._file(session_id).unlink(missing_ok=True)

    def mark(self, home: Path, copy_name: str) -> None:
        (home / MARK).unlink(missing_ok=True)
        (home / MARK).write_text(copy_name)

    def unmark(self, home: Path) -> None:
        """What is in the home is nothing any more."""
        (home / MARK).unlink(missing_ok=True)

    def sessions(self) -> Sequence[str]:
        """Whose homes have a note, the one that was used least recently first."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    with suppress(FileNotFoundError):
                        found.append((entry.stat().st_mtime, entry.name.removesuffix(".json")))
        return [session_id for _, session_id in sorted(found)]

    def _file(self, session_id: str) -> Path:
        return self.folder / f"{session_id}.json"


def _mark(home: Path) -> str | None:
    try:
        return (home / MARK).read_text()
    except (OSError, UnicodeDecodeError):
        return None
