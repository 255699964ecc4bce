"""What of a session goes into a bundle, in pages, and how do rows of a bundle become a session's?

Reading goes by numbers that are never given twice, so that pages of several moments fit together. Functions run inside
the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import Conflict
from hostler.store.archives import ArchiveRow
from hostler.store.lines import Spans, recount, within
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow, get_session
from hostler.store.tables import events, sessions, transcript_entries, transcripts
from hostler.store.tables_archives import archive_chunks, archives
from hostler.store.tables_checkpoints import cut_transcript_entries
from hostler.store.tables_files import files, session_outputs

_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class EventFacts:
    id: str
    type: str
    processed_at: str
    body: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """An entry of a transcript."""

    uuid: str | None
    entry: str
    """JSON text."""


# ------------------------------------------------------------------------------------------------------------ reading


def events_page(conn: Connection, session_id: str, spans: Spans, after: int, limit: int) -> tuple[list[str], int]:
    """Bodies of the next events of `spans`, of at most `limit` that were looked at; and the number of the last one.

    The number is 0 when there are no more.
    """
    query = sa.select(events.c.seq, events.c.body).where(events.c.session_id == session_id, events.c.seq > after)
    found = conn.execute(query.order_by(events.c.seq).limit(limit)).all()
    return [body for seq, body in found if within(seq, spans)], found[-1].seq if found else 0


def entries_page(
    conn: Connection, session_id: str, transcript_id: str, subpath: str, spans: Spans, after: int, limit: int
) -> tuple[list[tuple[int, str]], int | None]:
    """The next entries of `spans` with their ordinals, those that were cut off meanwhile too, and where to go on.

    None: there are no more.
    """
    found: list[tuple[int, str]] = []
    ends: list[int] = []
    for table in (transcript_entries, cut_transcript_entries):
        project, name, path = list(table.c)[:3]
        query = sa.select(table.c.ordinal, table.c.entry).where(
            project == session_id, name == transcript_id, path == subpath, table.c.ordinal > after
        )
        page = conn.execute(query.order_by(table.c.ordinal).limit(limit)).all()
        found += [(row.ordinal, row.entry) for row in page]
        if len(page) == limit:
            ends.append(page[-1].ordinal)
    upto = min(ends) if ends else max((ordinal for ordinal, _ in found), default=None)
    if upto is None:
        return [], None
    return sorted(each for each in found if each[0] <= upto and within(each[0], spans)), upto


def mtime_of(conn: Connection, session_id: str, transcript_id: str, subpath: str) -> int:
    query = sa.select(transcripts.c.mtime_ms).where(
        transcripts.c.project_key == session_id,
        transcripts.c.session_id == transcript_id,
        transcripts.c.subpath == subpath,
    )
    return int(conn.execute(query).scalar() or 0)


def complete_archives(conn: Connection, session_id: str) -> list[ArchiveRow]:
    """Oldest first."""
    query = sa.select(*archives.c).where(archives.c.session_id == session_id, archives.c.state == "complete")
    return [ArchiveRow(*row) for row in conn.execute(query.order_by(archives.c.number))]


def output_paths(conn: Connection, session_id: str) -> dict[str, str]:
    """Where each file that the session has put out lies, by its id."""
    query = sa.select(session_outputs.c.file_id, session_outputs.c.path)
    found = conn.execute(query.where(session_outputs.c.session_id == session_id))
    return {row.file_id: row.path for row in found}


# ------------------------------------------------------------------------------------------------------------ writing


def refuse_taken(conn: Connection, session_id: str, file_ids: Sequence[str], archive_ids: Sequence[str]) -> None:
    """Raises Conflict when one of these ids is in use in this installation, in whatever workspace."""
    for table, ids in ((sessions, [session_id]), (files, file_ids), (archives, archive_ids)):
        for start in range(0, len(ids), _BATCH):
            query = sa.select(table.c.id).where(table.c.id.in_(ids[start : start + _BATCH]))
            taken = conn.execute(query).scalar()
            if taken is not None:
                raise Conflict(f"{taken} is in use in this installation: leave out keep_ids, and it gets a new id")


def add_events(conn: Connection, session_id: str, found: Iterable[EventFacts]) -> int:
    """The first events of a session that has none; how many."""
    count = 0
    for batch in _batches(found):
        rows = [
            {
                "session_id": session_id,
                "seq": seq,
                "id": event.id,
                "type": event.type,
                "processed_at": event.processed_at,
                "body": event.body,
            }
            for seq, event in enumerate(batch, count + 1)
        ]
        conn.execute(events.insert(), rows)
        count += len(rows)
    conn.execute(sessions.update().where(sessions.c.id == session_id).values(last_seq=count))
    return count


def add_transcript(
    conn: Connection, session_id: str, transcript_id: str, subpath: str, mtime_ms: int, found: Iterable[EntryFacts]
) -> None:
    """One transcript of a session that has none of this subpath."""
    place = {"project_key": session_id, "session_id": transcript_id, "subpath": subpath}
    count = 0
    for batch in _batches(found):
        rows = [
            {**place, "ordinal": ordinal, "uuid": entry.uuid, "entry": entry.entry}
            for ordinal, entry in enumerate(batch, count)
        ]
        conn.execute(transcript_entries.insert(), rows)
        count += len(rows)
    if count:
        conn.execute(transcripts.insert().values(**place, next_ordinal=count, mtime_ms=mtime_ms))


def add_archive(
    conn: Connection, session: SessionRow, row: dict[str, Any], chunks: Iterable[tuple[int, int, bytes]]
) -> None:
    """A complete archive. `row`: its columns but session, workspace and sizes; chunks: first entry, entries, bytes."""
    conn.execute(
        archives.insert().values(
            **row, session_id=session.id, workspace_id=session.workspace_id, state="complete", stored_bytes=0
        )
    )
    stored = 0
    for number, (first_entry, count, body) in enumerate(chunks):
        conn.execute(
            archive_chunks.insert().values(
                archive_id=row["id"], number=number, first_entry=first_entry, entries=count, body=body
            )
        )
        stored += len(body)
    conn.execute(archives.update().where(archives.c.id == row["id"]).values(stored_bytes=stored))


def as_it_is(conn: Connection, now: float, session_id: str, *, archived: bool) -> SessionRow:
    """The session as it is now, archived if it was."""
    recount(conn, session_id)
    if archived:
        conn.execute(sessions.update().where(sessions.c.id == session_id).values(archived_at=moment(now)))
    return get_session(conn, None, session_id)


def _batches(found: Iterable[Any]) -> Iterator[list[Any]]:
    every = iter(found)
    while batch := list(islice(every, _BATCH)):
        yield batch
