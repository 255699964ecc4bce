"""What has a session put out? Its outputs folder is looked through after each turn; what is new there becomes files.

The folder is the agent's, and its processes may still live: every step goes from an open folder to a name in it, no
link is followed, only regular files are read, and what is read is what was opened. A file that has changed becomes a
new file under a new id, in place of the earlier one: an id never changes its bytes. A file that the agent removes
stays with the client.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection

from hostler.domain.errors import Busy, HostlerError, NotFound, TooLarge
from hostler.domain.events import notice
from hostler.domain.files import MOST_PATH_BYTES, SNIFFED, mime_type, safe_path
from hostler.domain.ids import new_id
from hostler.engine.attachments import Attachment, Complaint
from hostler.engine.files import Admit, admit_all
from hostler.engine.threads import in_thread
from hostler.store import files as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import NewFile, OutputRow
from hostler.store.sessions import SessionRow, lock_session

log = logging.getLogger("hostler.outputs")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_REMEMBERED = 4096
"""Sessions whose complaints are remembered."""
_TRIES = 3
"""How often a file that changes while it is read is read again."""


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What one session may put out. What is over is left out; the session and the log say so."""

    files: int = 1_000
    file_bytes: int = 500 << 20
    total_bytes: int = 2 << 30
    depth: int = 32
    entries: int = 20_000
    """Names looked at, of any kind."""
    failures: int = 100
    """Files that could not be taken (no quota, written to all the time), after which the rest waits for the next turn.
    Each was copied before that was known, so without this bound they could fill the disk and hold up the turn."""
    read_bytes: int = 4 << 30
    """Bytes copied after one turn, with those that could not be kept."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A regular file in the folder."""

    path: str
    size: int
    signature: str


@dataclass(slots=True)
class _Left:
    """What was left out, and why."""

    reasons: dict[str, int] = field(default_factory=dict)
    example: str = ""
    failures: int = 0
    """How many of them were tried."""
    read_bytes: int = 0

    def out(self, reason: str, path: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.example = self.example or safe_path(path)[:200]

    def told(self) -> Complaint:
        """For the user."""
        reasons = ", ".join(f"{count} × {reason.replace('_', ' ')}" for reason, count in sorted(self.reasons.items()))
        message = (
            f"Not everything in /mnt/session/outputs became files ({reasons}), such as {self.example}. Delete files of "
            "this session that are not needed any more, have fewer or smaller ones written, or ask the operator for "
            "more (`[files]`, quotas); the folder is looked through again after the next turn."
        )
        details = {"reasons": dict(self.reasons), "example": self.example}
        return lambda at: notice(at, "outputs_left_out", message, details)


class Outputs(Attachment):
    """Takes what sessions put out."""

    def __init__(
        self, database: Database, blobs: Blobs, limits: OutputLimits | None = None, admit: Admit = admit_all
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits or OutputLimits()
        self._admit = admit
        self._busy: dict[str, tuple[asyncio.Lock, int]] = {}
        self._told: OrderedDict[str, frozenset[tuple[str, int]]] = OrderedDict()
        """What each session was last told that it lacks: the same is not told after every turn."""
        self._complaints: OrderedDict[str, Complaint] = OrderedDict()

    async def collect(self, session: SessionRow, home: Path) -> None:
        """Every file that is new or changed since the last time. A session that is deleted meanwhile ends it."""
        left = _Left()
        try:
            folder = os.open(home / "outputs", _FOLDER)
        except OSError:
            return
        try:
            found = await in_thread(lambda: sorted(_walk(folder, self._limits, left), key=lambda s: s.path))
            if found:
                async with self._one_at_a_time(session.id):
                    await self._collect(session, folder, found, left)
        except NotFound:
            return
        finally:
            os.close(folder)
        if left.reasons:
            log.warning(
                "outputs_left_out", extra={"session": session.id, "reasons": left.reasons, "example": left.example}
            )
        self._complain(session.id, left)

    def complaints(self, session_id: str) -> Sequence[Complaint]:
        complaint = self._complaints.pop(session_id, None)
        return () if complaint is None else (complaint,)

    def _complain(self, session_id: str, left: _Left) -> None:
        told, reasons = self._told.pop(session_id, frozenset()), frozenset(left.reasons.items())
        if not reasons:
            return
        self._told[session_id] = reasons
        if reasons != told:
            self._complaints[session_id] = left.told()
        for remembered in (self._told, self._complaints):
            while len(remembered) > _REMEMBERED:
                remembered.popitem(last=False)

    async def catch_up(self, session: SessionRow, home: Path) -> None:
        await self.collect(session, home)

    @asynccontextmanager
    async def _one_at_a_time(self, session_id: str) -> AsyncIterator[None]:
        lock, users = self._busy.get(session_id, (asyncio.Lock(), 0))
        self._busy[session_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy.pop(session_id)
            if users > 1:
                self._busy[session_id] = (lock, users - 1)

    async def _collect(self, session: SessionRow, folder: int, found: Sequence[_Seen], left: _Left) -> None:
        known, kept = await self._database.read(
            lambda c: (rows.session_outputs_of(c, session.id), rows.output_sizes(c, session.id))
        )
        for seen in found:
            if len(safe_key(seen.path).encode()) > MOST_PATH_BYTES:
                left.out("path_too_long", seen.path)
                continue
            before = known.get(safe_key(seen.path))
            if before is None or before.signature != seen.signature:
                reason = self._too_much(seen, before, kept) or self._too_much_now(seen, left)
                if reason is None:
                    await self._take(session, folder, seen, before, kept, left)
                else:
                    left.out(reason, seen.path)
        here = {safe_key(seen.path) for seen in found}
        gone = [row.path for row in known.values() if row.path not in here and row.file_id not in kept]
        if gone:
            await self._database.write(lambda c: rows.drop_outputs(c, session.id, gone))

    def _too_much(self, seen: _Seen, before: OutputRow | None, kept: Mapping[str, int]) -> str | None:
        """Why this file can't be taken: what the session has put out counts until a client deletes it."""
        replaced = before.file_id if before is not None else ""
        if seen.size > self._limits.file_bytes:
            return "file_too_large"
        if len(kept) - (replaced in kept) >= self._limits.files:
            return "too_many_files"
        if sum(kept.values()) - kept.get(replaced, 0) + seen.size > self._limits.total_bytes:
            return "too_much_together"
        return None

    def _too_much_now(self, seen: _Seen, left: _Left) -> str | None:
        """Why this file isn't looked at before the next turn has ended."""
        if left.failures >= self._limits.failures:
            return "too_many_failures"
        return "too_much_at_once" if left.read_bytes + seen.size > self._limits.read_bytes else None

    async def _take(
        self,
        session: SessionRow,
        folder: int,
        seen: _Seen,
        before: OutputRow | None,
        kept: dict[str, int],
        left: _Left,
    ) -> None:
        try:
            taken = await self._read(folder, seen, left)
        except TooLarge:
            left.failures += 1
            left.out("file_too_large", seen.path)
            return
        except OSError as error:  # gone, or something else by now
            left.failures += 1
            left.out(f"not_readable: {error.strerror}", seen.path)
            return
        if taken is None:
            left.failures += 1
            left.out("still_being_written", seen.path)
            return
        blob, beginning, signature = taken
        name = safe_path(seen.path)
        new = NewFile(
            id=new_id("file"),
            workspace_id=session.workspace_id,
            session_id=session.id,
            filename=name,
            mime_type=mime_type(None, name, beginning),
            size_bytes=blob.size,
            sha256=blob.sha256,
            downloadable=True,
        )
        key = safe_key(seen.path)

        def unit(connection: Connection) -> str:
            lock_session(connection, session.workspace_id, session.id)
            if before is not None and before.sha256 == blob.sha256:  # touched, not changed
                rows.put_output(connection, session.id, OutputRow(key, signature, blob.sha256, before.file_id))
                return before.file_id
            if before is not None:
                rows.drop_file(connection, session.workspace_id, before.file_id)
            self._admit(connection, session.workspace_id, blob.size)
            rows.create_file(connection, self._database.now(connection), new)
            rows.put_output(connection, session.id, OutputRow(key, signature, blob.sha256, new.id))
            return new.id

        try:
            made = await self._database.write(unit)
        except (NotFound, Busy):
            raise
        except HostlerError as error:
            left.failures += 1
            left.out(error.code or type(error).__name__, seen.path)
            return
        if made == new.id:
            kept.pop(before.file_id if before is not None else "", None)
            kept[new.id] = blob.size

    async def _read(self, folder: int, seen: _Seen, left: _Left) -> tuple[Blob, bytes, str] | None:
        """The bytes as they were at one moment. None: they changed each time while they were read."""
        for _ in range(_TRIES):
            content = await in_thread(partial(_open_file, folder, seen.path), undo=lambda opened: opened.close())
            with content:
                before = _signature(os.fstat(content.fileno()))
                beginning = await asyncio.to_thread(content.read, SNIFFED)
                content.seek(0)
                left.read_bytes += seen.size
                blob = await self._blobs.put_open(content, most=self._limits.file_bytes)
                if _signature(os.fstat(content.fileno())) == before:
                    return blob, beginning, before
        return None


def safe_key(path: str) -> str:
    """A path as a column of text can hold it; two paths never become the same."""
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def _signature(found: os.stat_result) -> str:
    """Changes whenever the bytes may have changed: the time of the last change of the inode can't be set back."""
    return f"{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}.{found.st_ino}"


def _open_file(folder: int, path: str) -> BinaryIO:
    """The regular file at `path` below an open folder. Raises OSError for a link anywhere on the way, or another kind.

    The kind is looked at before it is opened: opening a device can already do something.
    """
    *parents, last = path.split("/")
    here = os.dup(folder)
    try:
        for name in parents:
            below = os.open(name, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        _check_regular(os.stat(last, dir_fd=here, follow_symlinks=False), path)
        descriptor = os.open(last, _FILE, dir_fd=here)
    finally:
        os.close(here)
    try:
        _check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(22, "is not a regular file", path)


def _walk(folder: int, limits: OutputLimits, left: _Left) -> Iterator[_Seen]:
    """Every regular file below an open folder. Never follows a link, never leaves the file system."""
    device = os.fstat(folder).st_dev
    entries = 0
    waiting: list[str] = [""]
    while waiting:
        path = waiting.pop()
        try:
            here = _descend(folder, path)
        except OSError:
            continue  # it is gone, or no folder any more
        try:
            with os.scandir(here) as listing:
                for entry in listing:
                    entries += 1
                    below = f"{path}/{entry.name}" if path else entry.name
                    if entries > limits.entries:
                        left.out("too_many_names", below)
                        return
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if found.st_dev != device:
                        continue
                    if stat.S_ISREG(found.st_mode):
                        yield _Seen(below, found.st_size, _signature(found))
                    elif not stat.S_ISDIR(found.st_mode):
                        left.out("not_a_regular_file", below)
                    elif below.count("/") + 1 > limits.depth:
                        left.out("too_deep", below)
                    else:
                        waiting.append(below)
        finally:
            os.close(here)


def _descend(folder: int, path: str) -> int:
    here = os.dup(folder)
    for name in path.split("/") if path else ():
        try:
            below = os.open(name, _FOLDER, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


__all__ = ["OutputLimits", "Outputs"]
