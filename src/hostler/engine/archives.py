"""How is a conversation archived before it is compacted, and read and searched afterwards?

Written in chunks of about 1 MiB of JSON lines, each compressed in a thread and committed under the session's lease; an
archive counts when its last transaction says that it is complete. Search looks through the chunks, newest archive
first: there is no index. One request looks through at most `SCAN_BYTES`, and says where the next one goes on.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, NotFound
from hostler.engine.archive_text import Line, excerpt, line_of, may_match
from hostler.engine.profile import transcript_id
from hostler.store import archives as rows
from hostler.store.archives import ArchiveRow, Chunk
from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

CHUNK_BYTES: Final = 1 << 20
"""Of JSON text in one chunk; an entry that is larger has a chunk of its own."""
PAGE_BYTES: Final = 4 << 20
"""Of JSON text in one page of entries; a page has at least one."""
SCAN_BYTES: Final = 32 << 20
"""Of JSON text that one search looks through."""
MOST_ENTRIES: Final = 1 << 32
"""Of one archive: a place in a session's archives is one number, the archive's times this plus the entry's."""

_LEVEL: Final = 1
"""Of zlib. 6 makes archives a quarter smaller, and takes six times as long (measured: 13 instead of 71 MiB a second),
while a conversation waits."""
_MOST_NUMBER: Final = 2**31 - 1

View = dict[str, Any]


class ArchiveFull(HostlerError):
    """There is no room for another archive. The message names the limit."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much is kept, compressed."""

    session_bytes: int = 1 << 30
    workspace_bytes: int = 20 << 30
    session_archives: int = 1_000
    """In number. Compactions are minutes apart; a session that makes more is up to something."""
    when_full: Literal["remove_oldest", "refuse"] = "remove_oldest"
    """refuse: nothing is compacted until there is room."""


class Archives:
    """Of all sessions."""

    def __init__(self, database: Database, limits: ArchiveLimits | None = None) -> None:
        self._database = database
        self.limits = limits or ArchiveLimits()

    # -- writing

    async def write(self, session: SessionRow, lease: Lease) -> ArchiveRow:
        """Everything of the session's transcripts since its last archive. Durable and complete when it returns.

        When nothing was added since, the last one is given again. Raises ArchiveFull, LeaseLost, Busy; then nothing is
        left of the try.
        """
        name = transcript_id(session.id)

        def look(conn: Connection) -> tuple[ArchiveRow | None, dict[str, int], rows.Kept, rows.Kept]:
            return (
                rows.newest(conn, session.id),
                rows.ends(conn, session.id, name),
                rows.kept(conn, session_id=session.id),
                rows.kept(conn, workspace_id=session.workspace_id),
            )

        last, ends, of_session, of_workspace = await self._database.read(look)
        since = {} if last is None else last.upto
        if last is not None and all(end <= since.get(subpath, 0) for subpath, end in ends.items()):
            if last.state == "complete":
                return last
            earlier = await self._database.read(lambda c: rows.newest(c, session.id, before=last.number))
            since = {} if earlier is None else earlier.upto  # where the one that was removed began
        if self.limits.when_full == "refuse":
            self._refuse_when_full(of_session, of_workspace)
        row = await self._database.write(
            lambda conn: rows.begin(conn, self._database.now(conn), lease, session.workspace_id)
        )
        try:
            return await self._fill(row, name, since, ends, lease)
        except BaseException:
            await self._database.write(lambda conn: rows.discard(conn, row.id))
            raise

    def _refuse_when_full(self, of_session: rows.Kept, of_workspace: rows.Kept) -> None:
        if of_session.archives >= self.limits.session_archives:
            raise ArchiveFull(f"this session has {of_session.archives} archives, and no more are kept: begin another")
        for kept, most, what in (
            (of_session, self.limits.session_bytes, "session"),
            (of_workspace, self.limits.workspace_bytes, "workspace"),
        ):
            if kept.stored_bytes >= most:
                raise ArchiveFull(
                    f"the archives of this {what} have {kept.stored_bytes} bytes, and {most} are allowed: raise "
                    f"compaction.{what}_archive_mb, or set compaction.when_full to remove_oldest"
                )

    async def _fill(
        self, row: ArchiveRow, name: str, since: dict[str, int], ends: dict[str, int], lease: Lease
    ) -> ArchiveRow:
        number = entries = logical = stored = 0
        pending: list[tuple[str, int, str]] = []
        size = 0

        async def flush() -> None:
            nonlocal number, entries, stored, pending, size
            if not pending:
                return
            taken, pending, size = pending, [], 0
            body = await asyncio.to_thread(_packed, taken)
            stored += len(body)
            if stored > self.limits.session_bytes:
                raise ArchiveFull(
                    f"this archive alone is larger than the {self.limits.session_bytes} bytes that the archives of a "
                    "session may have: raise compaction.session_archive_mb"
                )
            chunk = Chunk(number, entries, len(taken), body)
            await self._database.write(
                lambda conn: rows.add_chunk(conn, self._database.now(conn), lease, row.id, chunk)
            )
            number, entries = number + 1, entries + len(taken)

        for subpath, end in ends.items():
            first = since.get(subpath, 0)
            while first < end:
                found = await self._part(row.session_id, name, subpath, first, end)
                if not found:
                    break
                for ordinal, text in found:
                    pending.append((subpath, ordinal, text))
                    size += len(text)
                    logical += len(text.encode())
                    if size >= CHUNK_BYTES:
                        await flush()
                first = found[-1][0] + 1
        await flush()

        def finish(conn: Connection) -> ArchiveRow:
            now = self._database.now(conn)
            done = rows.complete(
                conn,
                now,
                lease,
                row.id,
                entries=entries,
                logical_bytes=logical,
                stored_bytes=stored,
                upto={**since, **ends},
            )
            if self.limits.when_full == "remove_oldest":
                self._make_room(conn, now, done)
                rows.prune(conn, row.session_id, self.limits.session_archives)
            return done

        return await self._database.write(finish)

    async def _part(self, session_id: str, name: str, subpath: str, first: int, end: int) -> Sequence[tuple[int, str]]:
        return await self._database.read(lambda conn: rows.part(conn, session_id, name, subpath, first=first, end=end))

    async def _chunk(self, archive_id: str, entry: int) -> Chunk | None:
        return await self._database.read(lambda conn: rows.chunk_at(conn, archive_id, entry))

    def _make_room(self, conn: Connection, now: float, new: ArchiveRow) -> None:
        while rows.kept(conn, session_id=new.session_id).stored_bytes > self.limits.session_bytes:
            if rows.remove_oldest(conn, now, but=new.id, session_id=new.session_id) is None:
                break
        while rows.kept(conn, workspace_id=new.workspace_id).stored_bytes > self.limits.workspace_bytes:
            if rows.remove_oldest(conn, now, but=new.id, workspace_id=new.workspace_id) is None:
                break

    # -- reading

    async def page(self, workspace: str, session_id: str, *, limit: int, before: int | None) -> tuple[list[View], bool]:
        """Newest first, and whether more follow. Raises NotFound."""
        found, more = await self._database.read(
            lambda conn: rows.list_archives(conn, workspace, session_id, limit=limit, before=before)
        )
        return [_archive(row) for row in found], more

    async def used(self, workspace: str, session_id: str) -> View:
        """How much there is, and how much there may be."""

        def look(conn: Connection) -> tuple[rows.Kept, rows.Kept]:
            return rows.kept(conn, session_id=session_id), rows.kept(conn, workspace_id=workspace)

        of_session, of_workspace = await self._database.read(look)
        return {
            "session_bytes": of_session.stored_bytes,
            "session_most_bytes": self.limits.session_bytes,
            "workspace_bytes": of_workspace.stored_bytes,
            "workspace_most_bytes": self.limits.workspace_bytes,
            "when_full": self.limits.when_full,
        }

    async def read(
        self, workspace: str, session_id: str, archive_id: str, *, limit: int, first: int
    ) -> tuple[View, list[View], int | None]:
        """The archive, its entries from the place `first` on, and the place of the next page. Raises NotFound.

        A page has at most `limit` entries, and fewer when they are large.
        """
        row = await self._of(workspace, session_id, archive_id)
        found: list[View] = []
        size, at = 0, first
        while len(found) < limit and size < PAGE_BYTES:
            chunk = await self._chunk(row.id, at)
            if chunk is None:
                return _archive(row), found, None
            lines = await asyncio.to_thread(_unpacked, chunk)
            for line in lines[at - chunk.first_entry :]:
                if len(found) == limit or (found and size + len(line) > PAGE_BYTES):
                    size = PAGE_BYTES
                    break
                found.append(
                    {**_entry(row, at, line_of(line)), "entry": json.loads(line, parse_constant=_no_number)[2]}
                )
                size, at = size + len(line), at + 1
        return _archive(row), found, at if at < row.entries else None

    async def search(
        self, workspace: str, session_id: str, words: str, *, limit: int, start: int | None
    ) -> tuple[list[View], int | None]:
        """Entries that hold `words`, whatever the case of letters; and where to go on, or None at the end.

        Newest archive first, oldest entry first within one. `start`: what the call before gave. There can be more even
        when nothing was found: a call looks through `SCAN_BYTES` at most. Raises NotFound.
        """
        found: list[View] = []
        room = SCAN_BYTES
        number, at = (None, 0) if start is None else divmod(start, MOST_ENTRIES)
        while True:
            below = None if number is None else min(number + 1, _MOST_NUMBER)
            row = await self._before(workspace, session_id, below)
            if row is None:
                return found, None
            if number is not None and row.number != number:
                at = 0
            number = row.number
            while at < row.entries and row.state == "complete":
                chunk = await self._chunk(row.id, at)
                if chunk is None:
                    break
                hits, read, at = await asyncio.to_thread(_scan, chunk, at, words, limit - len(found))
                found += [{**_entry(row, place, line), "excerpt": excerpt(line, words)} for place, line in hits]
                room -= read
                if len(found) >= limit or room <= 0:
                    return found, number * MOST_ENTRIES + at
            if number == 1:
                return found, None
            number, at = number - 1, 0

    async def _before(self, workspace: str, session_id: str, number: int | None) -> ArchiveRow | None:
        found, _ = await self._database.read(
            lambda conn: rows.list_archives(conn, workspace, session_id, limit=1, before=number)
        )
        return found[0] if found else None

    async def _of(self, workspace: str, session_id: str, archive_id: str) -> ArchiveRow:
        row = await self._database.read(lambda conn: rows.get_archive(conn, workspace, session_id, archive_id))
        if row.state == "removed":
            raise NotFound(f"archive {archive_id} was removed at {row.removed_at} to make room for newer ones")
        return row


def _packed(entries: Sequence[tuple[str, int, str]]) -> bytes:
    """A line for each: the subpath of its transcript, its ordinal, and the entry as the store has it."""
    lines = (f"[{json.dumps(subpath)},{ordinal},{text}]" for subpath, ordinal, text in entries)
    return zlib.compress("\n".join(lines).encode(), _LEVEL)


def _unpacked(chunk: Chunk) -> list[str]:
    # What JSON text holds of line breaks is escaped; `splitlines` would also split at U+2028, which is not.
    return zlib.decompress(chunk.body).decode().split("\n")


def _no_number(name: str) -> None:
    """`NaN` and the infinities: a transcript can hold them, JSON can't say them."""


def _scan(chunk: Chunk, first: int, words: str, most: int) -> tuple[list[tuple[int, Line]], int, int]:
    """Hits with their places, the characters that were looked at, and the place behind the last one looked at."""
    hits: list[tuple[int, Line]] = []
    read = 0
    for place, line in _from(chunk, first):
        read += len(line)
        if may_match(line, words):
            entry = line_of(line)
            if words.casefold() in entry.text.casefold():
                hits.append((place, entry))
                if len(hits) == most:
                    return hits, read, place + 1
    return hits, read, chunk.first_entry + chunk.entries


def _from(chunk: Chunk, first: int) -> Iterator[tuple[int, str]]:
    for at, line in enumerate(_unpacked(chunk), chunk.first_entry):
        if at >= first:
            yield at, line


def _archive(row: ArchiveRow) -> View:
    return {
        "id": row.id,
        "type": "archive",
        "session_id": row.session_id,
        "number": row.number,
        "state": row.state,
        "entries": row.entries,
        "logical_bytes": row.logical_bytes,
        "stored_bytes": row.stored_bytes,
        "created_at": row.created_at,
        "removed_at": row.removed_at,
    }


def _entry(row: ArchiveRow, place: int, line: Line) -> View:
    return {
        "type": "archive_entry",
        "archive_id": row.id,
        "number": place,
        "thread": line.subpath or "main",
        "kind": line.kind,
        "role": line.role,
        "at": line.at,
        "text": line.text,
    }
