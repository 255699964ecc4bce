"""Do the ledgers of a session say the same? Its counters beside the rows that they count, and what did not agree.

Each comparison is one statement, so that it sees one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.sessions import Usage
from hostler.store.tables import model_requests, sessions
from hostler.store.tables_runtime import runtime_spans, usage_mismatches

MOST_OF_A_SESSION = 100
"""Mismatches that are kept of one session: one that can't agree must not fill the table."""


@dataclass(frozen=True, slots=True)
class Ledgers:
    """What is written down of one session, in three places."""

    session_id: str
    workspace_id: str
    state: str
    """The engine's, which counts the running time."""
    counted: Usage
    """On the session."""
    requests: Usage
    """Of its model requests."""
    spans: int
    active_us: int
    runtime_nanos: int
    """Of its spans of running time."""


def ledgers(conn: Connection, *, session_id: str | None = None, after: str = "", limit: int = 1000) -> list[Ledgers]:
    """Of one session, or of all by their ids from the one after `after` on. Those that are deleted have nothing to
    compare."""
    used = [model_requests.c[name] for name in Usage.__slots__]
    times = (runtime_spans.c.active_us, runtime_spans.c.list_cost_nanos)
    asked = sa.select(model_requests.c.session_id, *(sa.func.sum(column).label(column.name) for column in used))
    ran = sa.select(
        runtime_spans.c.session_id,
        sa.func.count().label("spans"),
        *(sa.func.sum(column).label(column.name) for column in times),
    )
    if session_id is not None:
        asked = asked.where(model_requests.c.session_id == session_id)
        ran = ran.where(runtime_spans.c.session_id == session_id)
    requests = asked.group_by(model_requests.c.session_id).subquery()
    runtimes = ran.group_by(runtime_spans.c.session_id).subquery()
    query = (
        sa.select(
            sessions.c.id,
            sessions.c.workspace_id,
            sessions.c.state,
            *(sessions.c[name] for name in Usage.__slots__),
            *(sa.func.coalesce(requests.c[name], 0) for name in Usage.__slots__),
            *(sa.func.coalesce(runtimes.c[name], 0) for name in ("spans", "active_us", "list_cost_nanos")),
        )
        .select_from(
            sessions.outerjoin(requests, requests.c.session_id == sessions.c.id).outerjoin(
                runtimes, runtimes.c.session_id == sessions.c.id
            )
        )
        .where(sessions.c.id == session_id if session_id is not None else sessions.c.id > after)
        .order_by(sessions.c.id)
        .limit(limit)
    )
    count = len(Usage.__slots__)
    found = []
    for id_, workspace_id, state, *numbers in conn.execute(query):
        values = [int(number) for number in numbers]
        counted, summed, rest = values[:count], values[count : 2 * count], values[2 * count :]
        found.append(Ledgers(id_, workspace_id, state, Usage(*counted), Usage(*summed), *rest))
    return found


@dataclass(frozen=True, slots=True)
class MismatchRow:
    id: str
    workspace_id: str
    session_id: str
    kind: str
    details: str
    """JSON text."""
    created_at: str


_COLUMNS = tuple(usage_mismatches.c[name] for name in MismatchRow.__slots__)


def note(
    conn: Connection, now: float, workspace_id: str, session_id: str, found: Sequence[tuple[str, dict[str, object]]]
) -> list[MismatchRow]:
    """Write down what did not agree (its kind, and its details); gives what was not known yet.

    A difference that stays is told once: the newest row of its kind says the same.
    """
    known: dict[str, str] = {}
    mine = sa.select(usage_mismatches.c.kind, usage_mismatches.c.details).where(
        usage_mismatches.c.session_id == session_id
    )
    rows = conn.execute(mine.order_by(usage_mismatches.c.created_at, usage_mismatches.c.id)).all()
    known.update((kind, details) for kind, details in rows)
    new: list[MismatchRow] = []
    for kind, details in found:
        text = encode(details)
        if known.get(kind) == text or len(rows) + len(new) >= MOST_OF_A_SESSION:
            continue
        row = MismatchRow(new_id("umis"), workspace_id, session_id, kind, text, moment(now))
        conn.execute(usage_mismatches.insert().values({name: getattr(row, name) for name in MismatchRow.__slots__}))
        new.append(row)
    return new


def page_of_mismatches(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    session_id: str | None = None,
) -> Page[MismatchRow]:
    """Newest first."""
    mine = [usage_mismatches.c.workspace_id == workspace_id]
    if session_id is not None:
        mine.append(usage_mismatches.c.session_id == session_id)
    return page(
        conn,
        usage_mismatches,
        _COLUMNS,
        mine,
        MismatchRow,
        keys=(usage_mismatches.c.created_at, usage_mismatches.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
