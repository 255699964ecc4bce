"""Which entries that a session cut off by going back can nobody ask for any more, and how much is kept of them?

A checkpoint names the entries that counted at its point. What no checkpoint of the session names can't be brought back
by anything. Functions run inside the caller's transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.store.lines import Line, Spans, bytes_of, spans_of, within
from hostler.store.tables_checkpoints import checkpoints, cut_transcript_entries

Place = tuple[str, str]
"""Transcript and subpath."""

_BATCH = 200


def unneeded(conn: Connection, session_id: str, kept: ColumnElement[bool] | None = None) -> dict[Place, list[int]]:
    """Ordinals by place. `kept`: which checkpoints count; None: all.

    The caller holds the session's row, or only wants to know: a session that goes back meanwhile has others.
    """
    lines = sa.select(checkpoints.c.line).where(checkpoints.c.session_id == session_id)
    needed: dict[str, list[Spans]] = {}
    for text in conn.execute(lines if kept is None else lines.where(kept)).scalars():
        for subpath, one in Line.of_text(text).transcripts.items():
            needed.setdefault(subpath, []).append(one.spans)
    cut = cut_transcript_entries.c
    query = sa.select(cut.transcript_id, cut.subpath, cut.ordinal).where(cut.session_id == session_id)
    found: dict[Place, list[int]] = {}
    for transcript_id, subpath, ordinal in conn.execute(query.order_by(cut.transcript_id, cut.subpath, cut.ordinal)):
        if not any(within(ordinal, spans) for spans in needed.get(subpath, ())):
            found.setdefault((transcript_id, subpath), []).append(ordinal)
    return found


def measure(conn: Connection, session_id: str, wanted: dict[Place, list[int]]) -> int:
    """The bytes of these entries."""
    size = sa.func.coalesce(sa.func.sum(bytes_of(conn, cut_transcript_entries.c.entry)), 0)
    return sum(int(conn.execute(sa.select(size).where(where)).scalar_one()) for where in _where(session_id, wanted))


def drop(conn: Connection, session_id: str, wanted: dict[Place, list[int]]) -> None:
    for where in _where(session_id, wanted):
        conn.execute(cut_transcript_entries.delete().where(where))


def kept_bytes(conn: Connection, session_id: str) -> int:
    """Of all that the session has cut off."""
    size = sa.func.coalesce(sa.func.sum(bytes_of(conn, cut_transcript_entries.c.entry)), 0)
    return int(conn.execute(sa.select(size).where(cut_transcript_entries.c.session_id == session_id)).scalar_one())


def _where(session_id: str, wanted: dict[Place, list[int]]) -> list[ColumnElement[bool]]:
    cut = cut_transcript_entries.c
    found = []
    for (transcript_id, subpath), ordinals in wanted.items():
        spans = spans_of(ordinals)
        for start in range(0, len(spans), _BATCH):
            some = [cut.ordinal.between(first, last) for first, last in spans[start : start + _BATCH]]
            at = (cut.session_id == session_id, cut.transcript_id == transcript_id, cut.subpath == subpath)
            found.append(sa.and_(*at, sa.or_(*some)))
    return found
