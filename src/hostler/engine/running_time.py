"""For how long was a session worked on? The state machine's own count, and the ledger's, kept the same.

A session runs (`SessionState.running_since`) from a message to idle. Time counts while a worker has the session: what
passes before one takes it up, and between a worker that died and the next one, is nobody's work. Pure, but for `keep`.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from hostler.engine.state import SessionState
from hostler.store import runtime
from hostler.store.runtime import OpenSpan
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease


def as_worked(state: SessionState, span: OpenSpan | None, lease: Lease | None, now: float) -> SessionState:
    """The state without the time in which nobody was seen to work, until a step by `lease`, or by a client."""
    since = state.running_since
    if since is None or (span is not None and (lease is None or span.epoch == lease.epoch)):
        return state
    worked = 0.0 if span is None else max(0.0, span.seen_at - since)
    return state.model_copy(update={"active_seconds": state.active_seconds + worked, "running_since": now})


def with_unbooked(session: SessionRow, span: OpenSpan | None, lease: Lease | None, now: float) -> SessionRow:
    """The session with the cost of its running time up to now, unless it is another worker's."""
    if span is None or (lease is not None and span.epoch != lease.epoch):
        return session
    more = span.unbooked(now)
    used = session.usage
    return replace(session, usage=replace(used, list_cost_nanos=used.list_cost_nanos + more))


def keep(
    conn: Connection,
    session: SessionRow,
    span: OpenSpan | None,
    lease: Lease | None,
    before: SessionState,
    after: SessionState,
    now: float,
    nanos_per_hour: int,
) -> None:
    """Write down what a step means for the running time. `before`: as `as_worked` gave it."""
    if span is not None:
        lost = lease is not None and span.epoch != lease.epoch
        if not lost and after.running_since == before.running_since:
            return
        runtime.end(conn, now, session, span, span.seen_at if lost else now)
    if lease is not None and after.running_since is not None:
        runtime.begin(conn, session, after.running_since, lease.epoch, nanos_per_hour)
