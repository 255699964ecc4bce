"""What was in a session's transcripts before they were compacted? Compressed chunks of entries, and their bounds.

An archive holds all entries since the one before, of the main transcript and of its sub-agents. It is written in
pieces, each under the session's lease, and counts only when it is complete. What is read later is what the transcript
held then, entry by entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import NotFound
from hostler.domain.ids import new_id
from hostler.store.moments import moment
from hostler.store.sessions import get_session
from hostler.store.tables import transcript_entries, transcripts
from hostler.store.tables_archives import archive_chunks, archives
from hostler.store.work import Lease, check

PART_ENTRIES: Final = 200
"""Entries read at once. One may be as large as an append (64 MiB); usual ones are a few KiB."""


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    id: str
    workspace_id: str
    session_id: str
    number: int
    """1 for a session's first."""
    state: str
    """`writing`, `complete` or `removed`."""
    entries: int
    logical_bytes: int
    stored_bytes: int
    upto_json: str
    created_at: str
    removed_at: str | None

    @property
    def upto(self) -> dict[str, int]:
        """For each transcript by its subpath: the ordinal that follows."""
        found: dict[str, int] = json.loads(self.upto_json)
        return found


@dataclass(frozen=True, slots=True)
class Chunk:
    number: int
    first_entry: int
    entries: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of archives there is."""

    archives: int
    stored_bytes: int


_COLUMNS = tuple(archives.c)


def newest(conn: Connection, session_id: str, *, before: int | None = None) -> ArchiveRow | None:
    """The session's last one that is not still being written, removed ones included. `before`: with a lower number."""
    query = sa.select(*_COLUMNS).where(archives.c.session_id == session_id, archives.c.state != "writing")
    if before is not None:
        query = query.where(archives.c.number < before)
    row = conn.execute(query.order_by(archives.c.number.desc()).limit(1)).first()
    return None if row is None else ArchiveRow(*row)


def ends(conn: Connection, session_id: str, transcript_id: str) -> dict[str, int]:
    """The next ordinal of each transcript of the session by its subpath, without what the harness keeps for itself."""
    at = transcripts.c
    query = sa.select(at.subpath, at.next_ordinal).where(
        at.project_key == session_id, at.session_id == transcript_id, at.subpath != "unconfirmed"
    )
    return {str(subpath): int(upto) for subpath, upto in conn.execute(query.order_by(at.subpath))}


def begin(conn: Connection, now: float, lease: Lease, workspace_id: str) -> ArchiveRow:
    """A new archive of the lease's session. One that an earlier life left half-written goes."""
    check(conn, now, lease)
    unfinished = (archives.c.session_id == lease.session_id, archives.c.state == "writing")
    conn.execute(archives.delete().where(*unfinished))
    query = sa.select(sa.func.coalesce(sa.func.max(archives.c.number), 0)).where(
        archives.c.session_id == lease.session_id
    )
    number = conn.execute(query).scalar_one() + 1
    row = ArchiveRow(
        new_id("arch"), workspace_id, lease.session_id, number, "writing", 0, 0, 0, "{}", moment(now), None
    )
    values = {column.name: value for column, value in zip(_COLUMNS, _fields(row), strict=True)}
    conn.execute(archives.insert().values(values))
    return row


def has_entry(conn: Connection, session_id: str, transcript_id: str, uuid: str) -> bool:
    """Whether the session's main transcript has an entry of this uuid."""
    at = transcript_entries.c
    query = sa.select(at.ordinal).where(
        at.project_key == session_id, at.session_id == transcript_id, at.subpath == "", at.uuid == uuid
    )
    return conn.execute(query.limit(1)).first() is not None


def part(
    conn: Connection, session_id: str, transcript_id: str, subpath: str, *, first: int, end: int
) -> Sequence[tuple[int, str]]:
    """The next entries of a transcript with their ordinals, from `first` to before `end`."""
    at = transcript_entries.c
    query = sa.select(at.ordinal, at.entry).where(
        at.project_key == session_id,
        at.session_id == transcript_id,
        at.subpath == subpath,
        at.ordinal >= first,
        at.ordinal < end,
    )
    return [(ordinal, text) for ordinal, text in conn.execute(query.order_by(at.ordinal).limit(PART_ENTRIES))]


def add_chunk(conn: Connection, now: float, lease: Lease, archive_id: str, chunk: Chunk) -> None:
    check(conn, now, lease)
    conn.execute(
        archive_chunks.insert().values(
            archive_id=archive_id,
            number=chunk.number,
            first_entry=chunk.first_entry,
            entries=chunk.entries,
            body=chunk.body,
        )
    )


def complete(
    conn: Connection,
    now: float,
    lease: Lease,
    archive_id: str,
    *,
    entries: int,
    logical_bytes: int,
    stored_bytes: int,
    upto: Mapping[str, int],
) -> ArchiveRow:
    """From now on it counts."""
    check(conn, now, lease)
    changed = archives.update().where(archives.c.id == archive_id, archives.c.state == "writing")
    row = conn.execute(
        changed.values(
            state="complete",
            entries=entries,
            logical_bytes=logical_bytes,
            stored_bytes=stored_bytes,
            upto=json.dumps(dict(upto), separators=(",", ":")),
        ).returning(*_COLUMNS)
    ).one()
    return ArchiveRow(*row)


def discard(conn: Connection, archive_id: str) -> None:
    """Removes one that was not completed, chunks and row."""
    conn.execute(archives.delete().where(archives.c.id == archive_id, archives.c.state == "writing"))


def kept(conn: Connection, *, session_id: str | None = None, workspace_id: str | None = None) -> Kept:
    """Complete archives of a session or of a workspace."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(archives.c.stored_bytes), 0)).where(
        archives.c.state == "complete"
    )
    if session_id is not None:
        query = query.where(archives.c.session_id == session_id)
    if workspace_id is not None:
        query = query.where(archives.c.workspace_id == workspace_id)
    count, stored = conn.execute(query).one()
    return Kept(count, int(stored))


def remove_oldest(
    conn: Connection, now: float, *, but: str, session_id: str | None = None, workspace_id: str | None = None
) -> ArchiveRow | None:
    """Make room: the chunks of the oldest complete archive go, its row stays as `removed`. None: only `but` is left."""
    query = sa.select(*_COLUMNS).where(archives.c.state == "complete", archives.c.id != but)
    if session_id is not None:
        query = query.where(archives.c.session_id == session_id)
    if workspace_id is not None:
        query = query.where(archives.c.workspace_id == workspace_id)
    found = conn.execute(query.order_by(archives.c.created_at, archives.c.id).limit(1)).first()
    if found is None:
        return None
    row = ArchiveRow(*found)
    conn.execute(archive_chunks.delete().where(archive_chunks.c.archive_id == row.id))
    conn.execute(archives.update().where(archives.c.id == row.id).values(state="removed", removed_at=moment(now)))
    return row


def prune(conn: Connection, session_id: str, most: int) -> None:
    """Only the newest `most` of a session stay, removed ones included: rows are bounded, too."""
    highest = sa.select(sa.func.max(archives.c.number)).where(archives.c.session_id == session_id)
    old = archives.c.number <= conn.execute(highest).scalar_one() - most
    conn.execute(archives.delete().where(archives.c.session_id == session_id, old))


def list_archives(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, before: int | None = None
) -> tuple[list[ArchiveRow], bool]:
    """A session's archives, newest first, and whether more follow. `before`: only lower numbers. Raises NotFound."""
    get_session(conn, workspace_id, session_id)
    query = sa.select(*_COLUMNS).where(archives.c.session_id == session_id, archives.c.state != "writing")
    if before is not None:
        query = query.where(archives.c.number < before)
    rows = [ArchiveRow(*row) for row in conn.execute(query.order_by(archives.c.number.desc()).limit(limit + 1))]
    return rows[:limit], len(rows) > limit


def get_archive(conn: Connection, workspace_id: str, session_id: str, archive_id: str) -> ArchiveRow:
    """Raises NotFound for one of another session or workspace too."""
    query = sa.select(*_COLUMNS).where(
        archives.c.id == archive_id,
        archives.c.session_id == session_id,
        archives.c.workspace_id == workspace_id,
        archives.c.state != "writing",
    )
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"archive {archive_id} of session {session_id} not found")
    return ArchiveRow(*row)


def chunk_at(conn: Connection, archive_id: str, entry: int) -> Chunk | None:
    """The chunk that holds the entry at this place, or None behind the last."""
    at = archive_chunks.c
    query = sa.select(at.number, at.first_entry, at.entries, at.body).where(
        at.archive_id == archive_id, at.first_entry + at.entries > entry
    )
    row = conn.execute(query.order_by(at.number).limit(1)).first()
    return None if row is None else Chunk(*row)


def _fields(row: ArchiveRow) -> list[object]:
    return [getattr(row, name) for name in ArchiveRow.__slots__]
