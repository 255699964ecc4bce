"""What of a session's log and transcripts counts, and how is another line of them made to count?

A session that went back has a log with parts that don't count any more, and transcripts that lack what was cut off.
What counts is the session's *line*: numbers of events and ordinals of entries. Numbers and ordinals are never given
twice, so a line that counted once can be made to count again, however often the session went back and forth since.
Functions run inside the caller's transaction, which holds the session's row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.domain.errors import InvalidRequest
from hostler.store.jsontext import decode, encode
from hostler.store.tables import events, sessions, transcript_entries, transcripts
from hostler.store.tables_checkpoints import cut_events, cut_transcript_entries

Spans = tuple[tuple[int, int], ...]
"""From a number to a number, both included; ascending, and apart from each other."""

_BATCH = 200
"""Spans in one statement; SQLite takes no deeper expression than 1,000."""
_COPIED = 500
"""Entries that are rewritten at once."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The entries of one transcript that count."""

    spans: Spans
    entries: int


@dataclass(frozen=True, slots=True)
class Line:
    """What counts of a session."""

    events: Spans
    transcripts: Mapping[str, Transcript]
    """By subpath; the main one is ``."""

    def to_text(self) -> str:
        return encode(
            {
                "events": self.events,
                "transcripts": {
                    subpath: {"spans": one.spans, "entries": one.entries} for subpath, one in self.transcripts.items()
                },
            }
        )

    @staticmethod
    def of_text(text: str) -> Line:
        found = decode(text)
        return Line(
            _spans_of(found["events"]),
            {
                subpath: Transcript(_spans_of(one["spans"]), one["entries"])
                for subpath, one in found["transcripts"].items()
            },
        )


def current(
    conn: Connection, session_id: str, last_seq: int, transcript_id: str, *, without: Collection[str] = ()
) -> Line:
    """The line that counts now. `without`: subpaths that are no transcripts of the conversation."""
    live = _ordinals(conn, transcript_entries, session_id, transcript_id)
    gone = _ordinals(conn, cut_transcript_entries, session_id, transcript_id)
    return Line(
        counting(conn, session_id, last_seq),
        {
            subpath: Transcript(spans_of(ordinals, sorted({*ordinals, *gone.get(subpath, ())})), len(ordinals))
            for subpath, ordinals in sorted(live.items())
            if subpath not in without
        },
    )


def counting(conn: Connection, session_id: str, last_seq: int) -> Spans:
    """The numbers of events that count, up to `last_seq`."""
    return complement(cut(conn, session_id), last_seq)


def cut(conn: Connection, session_id: str) -> Spans:
    """The numbers of events that don't count any more."""
    query = sa.select(cut_events.c.first_seq, cut_events.c.last_seq).where(cut_events.c.session_id == session_id)
    return tuple((first, last) for first, last in conn.execute(query.order_by(cut_events.c.first_seq)))


def go_back(
    conn: Connection,
    session_id: str,
    last_seq: int,
    transcript_id: str,
    line: Line,
    *,
    without: Collection[str] = (),
) -> None:
    """From now on `line` counts, and nothing else up to `last_seq`. What is cut off is kept.

    Subpaths that `line` doesn't name are emptied. `without`: subpaths that are no transcripts of the conversation;
    what they have is dropped, since they may be removed and begun anew, under the same ordinals. Raises InvalidRequest
    when an entry of the line is kept nowhere.
    """
    for subpath in without:
        conn.execute(transcript_entries.delete().where(*_at(transcript_entries, session_id, transcript_id, subpath)))
    conn.execute(cut_events.delete().where(cut_events.c.session_id == session_id))
    for first, last in complement(line.events, last_seq):
        conn.execute(cut_events.insert().values(session_id=session_id, first_seq=first, last_seq=last))
    wanted = {subpath: one.spans for subpath, one in line.transcripts.items()}
    for subpath, ordinals in _ordinals(conn, transcript_entries, session_id, transcript_id).items():
        gone = [ordinal for ordinal in ordinals if not within(ordinal, wanted.get(subpath, ()))]
        _cut_off(conn, session_id, transcript_id, subpath, spans_of(gone, ordinals))
    for subpath, ordinals in _ordinals(conn, cut_transcript_entries, session_id, transcript_id).items():
        back = [ordinal for ordinal in ordinals if within(ordinal, wanted.get(subpath, ()))]
        _put_back(conn, session_id, transcript_id, subpath, spans_of(back, ordinals))
    _count_again(conn, session_id)
    found = _ordinals(conn, transcript_entries, session_id, transcript_id)
    for subpath, one in line.transcripts.items():
        if len(found.get(subpath, ())) != one.entries:
            raise InvalidRequest(
                f"of the transcript {subpath or 'of the conversation'} {one.entries} entries are needed and "
                f"{len(found.get(subpath, ()))} are kept: it was shortened since, so the session can't go back there"
            )


def copy_events(
    conn: Connection, session_id: str, spans: Spans, copy_id: str, renamed: Mapping[str, str], types: Collection[str]
) -> int:
    """The events of `spans` as the first events of another session, with numbers from 1 on. How many they are.

    Ids and bodies stay, except that in events of `types` the words of `renamed` are replaced (ids of ours: they need
    no escape in JSON, and such events hold nothing that anybody has written).
    """
    body: ColumnElement[str] = events.c.body
    for old, new in renamed.items():
        body = sa.func.replace(body, old, new)
    number = sa.func.row_number().over(order_by=events.c.seq)
    made = sa.select(
        sa.literal(copy_id),
        number,
        events.c.id,
        events.c.type,
        events.c.processed_at,
        sa.case((events.c.type.in_(sorted(types)), body), else_=events.c.body),
    ).where(events.c.session_id == session_id, _in_spans(events.c.seq, spans))
    names = ["session_id", "seq", "id", "type", "processed_at", "body"]
    conn.execute(events.insert().from_select(names, made))
    query = sa.select(sa.func.count()).where(events.c.session_id == copy_id)
    count = int(conn.execute(query).scalar_one())
    recount(conn, copy_id)
    return count


def bytes_of(conn: Connection, column: ColumnElement[Any]) -> ColumnElement[int]:
    """How many bytes a text takes."""
    if conn.dialect.name == "postgresql":
        return sa.func.octet_length(column, type_=sa.BigInteger)
    return sa.func.length(sa.cast(column, sa.LargeBinary), type_=sa.BigInteger)


def copy_transcripts(
    conn: Connection, session_id: str, transcript_id: str, line: Line, copy_id: str, copy_transcript_id: str
) -> None:
    """The entries of `line` as the transcripts of another session, under another id, also where an entry names it."""
    for subpath, one in line.transcripts.items():
        if not one.entries:
            continue
        place = {"project_key": copy_id, "session_id": copy_transcript_id, "subpath": subpath}
        head = sa.select(transcripts.c.mtime_ms).where(*_at(transcripts, session_id, transcript_id, subpath))
        mtime = conn.execute(head).scalar_one()
        conn.execute(transcripts.insert().values(**place, next_ordinal=one.entries, mtime_ms=mtime))
        made = 0
        for batch in _batches(_kept(conn, session_id, transcript_id, subpath, one.spans)):
            rows = []
            for uuid, text in batch:
                entry = _renamed(text, transcript_id, copy_transcript_id)
                rows.append({**place, "ordinal": made, "uuid": uuid, "entry": entry})
                made += 1
            conn.execute(transcript_entries.insert(), rows)
        if made != one.entries:
            raise InvalidRequest(
                f"of the transcript {subpath or 'of the conversation'} {one.entries} entries are needed and {made} are "
                "kept: it was shortened since, so the session can't be forked there"
            )
    _count_again(conn, copy_id)


def events_of(conn: Connection, session_id: str, spans: Spans) -> dict[str, tuple[int, str]]:
    """Number and type of each event of the spans, by id, in their order."""
    query = sa.select(events.c.id, events.c.seq, events.c.type)
    query = query.where(events.c.session_id == session_id, _in_spans(events.c.seq, spans))
    return {id_: (seq, type_) for id_, seq, type_ in conn.execute(query.order_by(events.c.seq))}


def bodies_of(conn: Connection, session_id: str, seqs: Sequence[int]) -> list[str]:
    """JSON text of the events of these numbers, in their order."""
    query = sa.select(events.c.body).where(events.c.session_id == session_id, events.c.seq.in_(seqs))
    return list(conn.execute(query.order_by(events.c.seq)).scalars())


# ------------------------------------------------------------------------------------------------------------ spans


def spans_of(numbers: Sequence[int], among: Sequence[int] | None = None) -> Spans:
    """As few spans as hold all of the ascending `numbers`, and none of the others of the ascending `among`.

    None: no other number at all.
    """
    if not numbers:
        return ()
    place = {number: at for at, number in enumerate(among)} if among is not None else None
    out: list[list[int]] = []
    for number in numbers:
        at = number if place is None else place[number]
        if out and at == out[-1][2] + 1:
            out[-1][1:] = [number, at]
        else:
            out.append([number, number, at])
    return tuple((first, last) for first, last, _ in out)


def complement(spans: Spans, last: int) -> Spans:
    """The numbers from 1 to `last` that are not in `spans`."""
    out: list[tuple[int, int]] = []
    at = 1
    for first, end in spans:
        if first > at:
            out.append((at, min(first - 1, last)))
        at = end + 1
    if at <= last:
        out.append((at, last))
    return tuple(span for span in out if span[0] <= span[1])


def within(number: int, spans: Spans) -> bool:
    return any(first <= number <= last for first, last in spans)


def _spans_of(found: Iterable[Sequence[int]]) -> Spans:
    return tuple((first, last) for first, last in found)


def _in_spans(column: sa.Column[int], spans: Spans) -> ColumnElement[bool]:
    return sa.or_(sa.false(), *(column.between(first, last) for first, last in spans))


# -------------------------------------------------------------------------------------------------------- transcripts


def _at(table: sa.Table, session_id: str, transcript_id: str, subpath: str | None) -> list[ColumnElement[bool]]:
    """Our transcripts have the session's id in place of the project (`store.transcripts`)."""
    project, name, path = list(table.c)[:3]
    where = [project == session_id, name == transcript_id]
    return where if subpath is None else [*where, path == subpath]


def _ordinals(conn: Connection, table: sa.Table, session_id: str, transcript_id: str) -> dict[str, list[int]]:
    query = sa.select(table.c.subpath, table.c.ordinal).where(*_at(table, session_id, transcript_id, None))
    found: dict[str, list[int]] = {}
    for subpath, ordinal in conn.execute(query.order_by(table.c.subpath, table.c.ordinal)):
        found.setdefault(subpath, []).append(ordinal)
    return found


def _cut_off(conn: Connection, session_id: str, transcript_id: str, subpath: str, spans: Spans) -> None:
    names = ["session_id", "transcript_id", "subpath", "ordinal", "uuid", "entry"]
    _move(conn, transcript_entries, cut_transcript_entries, names, (session_id, transcript_id, subpath), spans)


def _put_back(conn: Connection, session_id: str, transcript_id: str, subpath: str, spans: Spans) -> None:
    names = ["project_key", "session_id", "subpath", "ordinal", "uuid", "entry"]
    _move(conn, cut_transcript_entries, transcript_entries, names, (session_id, transcript_id, subpath), spans)


def _move(
    conn: Connection, source: sa.Table, target: sa.Table, names: list[str], path: tuple[str, str, str], spans: Spans
) -> None:
    for start in range(0, len(spans), _BATCH):
        which = [*_at(source, *path), _in_spans(source.c.ordinal, spans[start : start + _BATCH])]
        conn.execute(target.insert().from_select(names, sa.select(*source.c).where(*which)))
        conn.execute(source.delete().where(*which))


def recount(conn: Connection, session_id: str) -> None:
    """The bytes of the session's log and of each of its transcripts, after rows were moved or made in bulk."""
    log = sa.select(sa.func.coalesce(sa.func.sum(bytes_of(conn, events.c.body)), 0))
    kept = int(conn.execute(log.where(events.c.session_id == session_id)).scalar_one())
    conn.execute(sessions.update().where(sessions.c.id == session_id).values(log_bytes=kept))
    _count_again(conn, session_id)


def _count_again(conn: Connection, session_id: str) -> None:
    """The bytes of each transcript, after its entries were moved."""
    entries = transcript_entries.c
    size = sa.select(sa.func.coalesce(sa.func.sum(bytes_of(conn, entries.entry)), 0)).where(
        *(
            column == other
            for column, other in zip(list(transcript_entries.c)[:3], list(transcripts.c)[:3], strict=True)
        )
    )
    here = transcripts.c.project_key == session_id
    conn.execute(transcripts.update().where(here).values(bytes=size.scalar_subquery()))


def _kept(conn: Connection, session_id: str, transcript_id: str, subpath: str, spans: Spans) -> Iterable[Any]:
    """(uuid, text) of the entries of `spans`, in order, whether they count now or were cut off."""
    found: list[tuple[int, str | None, str]] = []
    for table in (transcript_entries, cut_transcript_entries):
        for start in range(0, len(spans), _BATCH):
            query = sa.select(table.c.ordinal, table.c.uuid, table.c.entry).where(
                *_at(table, session_id, transcript_id, subpath),
                _in_spans(table.c.ordinal, spans[start : start + _BATCH]),
            )
            found += [(ordinal, uuid, text) for ordinal, uuid, text in conn.execute(query)]
    return [(uuid, text) for _, uuid, text in sorted(found)]


def _batches(rows: Iterable[Any]) -> Iterable[list[Any]]:
    every = list(rows)
    for start in range(0, len(every), _COPIED):
        yield every[start : start + _COPIED]


def _renamed(text: str, before: str, after: str) -> str:
    """The entry with the other id where it says to which conversation it belongs. What people wrote stays."""
    entry = decode(text)
    if isinstance(entry, dict) and entry.get("sessionId") == before:
        return encode({**entry, "sessionId": after})
    return text
