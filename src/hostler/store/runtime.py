"""For how long did sandboxes work for each session, and what does that cost? The ledger of running time.

A *span* is a time in which one worker worked on a session under one lease. The open span of a session is booked again
and again while it lasts, so its end is known to the last booking when nobody is left to end it. What a span costs is
added to the session's usage, and to what is spent of every budget that counts, in the transaction that books it: no
second is booked twice.

Whoever books holds the row of the session (`eventlog.transact` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.store.jsontext import decode
from hostler.store.moments import moment
from hostler.store.prepared import Prepared
from hostler.store.reservations import Subjects, settle
from hostler.store.sessions import SessionRow, Usage, add_usage
from hostler.store.tables import sessions
from hostler.store.tables_runtime import runtime_spans

_MICROS_OF_AN_HOUR: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """Time that a worker works on a session, and goes on to."""

    id: str
    epoch: int
    """Of the worker's lease."""
    started_at: float
    seen_at: float
    """Booked up to here."""
    nanos_per_hour: int
    list_cost_nanos: int
    """Booked so far."""

    def unbooked(self, now: float) -> int:
        """What it would cost more if it were booked up to `now`, in billionths of a dollar."""
        return cost_of(self.nanos_per_hour, self.micros(now)) - self.list_cost_nanos

    def micros(self, until: float) -> int:
        """Its length in millionths of a second, with what is booked already."""
        return max(0, round((max(until, self.seen_at) - self.started_at) * 1_000_000))


_COLUMNS: Final = tuple(runtime_spans.c[name] for name in OpenSpan.__slots__)


def cost_of(nanos_per_hour: int, micros: int) -> int:
    """What so much time costs, rounded up to a whole billionth of a dollar."""
    return -(-nanos_per_hour * micros // _MICROS_OF_AN_HOUR)


def begin(conn: Connection, session: SessionRow, started_at: float, epoch: int, nanos_per_hour: int) -> None:
    """A worker with the lease of this epoch begins to work. The session must have no open span."""
    conn.execute(
        runtime_spans.insert().values(
            id=new_id("rspn"),
            session_id=session.id,
            workspace_id=session.workspace_id,
            agent_id=session.agent_id,
            environment_id=session.environment_id,
            technology=_technology(session),
            epoch=epoch,
            started_at=started_at,
            seen_at=started_at,
            ended=False,
            active_us=0,
            nanos_per_hour=nanos_per_hour,
            list_cost_nanos=0,
            created_at=moment(started_at),
        )
    )


def end(conn: Connection, now: float, session: SessionRow, span: OpenSpan, at: float) -> None:
    """Nobody works any more, since `at`."""
    _book(conn, now, session.id, span, at, ended=True, technology=_technology(session))


def book(conn: Connection, now: float, session_id: str, epoch: int) -> None:
    """The worker with the lease of this epoch still works. Does nothing without an open span of it."""
    conn.execute(sa.select(sessions.c.id).where(sessions.c.id == session_id).with_for_update(key_share=True))
    span = open_span(conn, session_id)
    if span is not None and span.epoch == epoch:
        _book(conn, now, session_id, span, now)


def open_span(conn: Connection, session_id: str) -> OpenSpan | None:
    """None: nobody works on the session."""
    found = _OPEN.run(conn, session=session_id)
    return OpenSpan(*found[0]) if found else None


@dataclass(frozen=True, slots=True)
class RuntimeTotal:
    spans: int
    active_us: int
    list_cost_nanos: int


def total(conn: Connection, session_id: str) -> RuntimeTotal:
    """What is booked for a session; deleted ones included."""
    columns = runtime_spans.c.active_us, runtime_spans.c.list_cost_nanos
    query = sa.select(sa.func.count(), *(sa.func.coalesce(sa.func.sum(column), 0) for column in columns))
    count, micros, nanos = conn.execute(query.where(runtime_spans.c.session_id == session_id)).one()
    return RuntimeTotal(count, int(micros), int(nanos))


_OPEN = Prepared(
    sa.select(*_COLUMNS).where(runtime_spans.c.session_id == sa.bindparam("session"), ~runtime_spans.c.ended)
)


def _book(conn: Connection, now: float, session_id: str, span: OpenSpan, until: float, **more: Any) -> None:
    cost = span.unbooked(until)
    booked = runtime_spans.update().where(runtime_spans.c.id == span.id)
    whose = conn.execute(
        booked.values(
            seen_at=max(until, span.seen_at),
            active_us=span.micros(until),
            list_cost_nanos=span.list_cost_nanos + cost,
            **more,
        ).returning(runtime_spans.c.workspace_id, runtime_spans.c.agent_id)
    ).one()
    if cost:
        # The session first, then budgets: as whoever records a request locks them.
        add_usage(conn, session_id, Usage(list_cost_nanos=cost))
        of = Subjects(whose.workspace_id, session_id, whose.agent_id, span.epoch)
        settle(conn, now, "", of, cost=cost, uncertain=0, over=True)


def _technology(session: SessionRow) -> str:
    sandbox = decode(session.isolation_json).get("sandbox") or {}
    return str(sandbox.get("technology") or "")
