"""When does a session of a self-hosted environment get a worker, and when does it give the worker back?

Called inside the transaction that records a step of the session, so that the work item is there when anybody hears of
the step. There is at most one live item of a session. It comes into being when the session begins to run, or when a
call waits for a worker; it ends when the worker or an operator stops it, when its session is over, or when its lease
runs out and nothing is left to do.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from hostler.domain.events import Event
from hostler.domain.ids import new_id
from hostler.engine.state import SessionState, for_workers
from hostler.engine.work_items import MAX_BARREN, Terms, held, stopped
from hostler.store import sessions
from hostler.store.moments import moment
from hostler.store.session_tokens import expire_token
from hostler.store.sessions import SessionRow
from hostler.store.work_items import WorkItemRow, add_item, live_item, new_item, put_item


def needs_worker(state: SessionState) -> bool:
    """Whether a worker has, or may soon have, something to do."""
    return state.self_hosted and (state.status in ("running", "rescheduling") or bool(for_workers(state)))


def follow(
    conn: Connection,
    now: float,
    session: SessionRow,
    before: SessionState,
    after: SessionState,
    events: tuple[Event, ...],
) -> bool:
    """Bring the queue to where the session is. True: an item waits for a poll that did not before."""
    if not after.self_hosted:
        return False
    if after.status == "terminated":
        if before.status != "terminated":
            _end(conn, now, session)
        return False
    began = after.status == "running" and before.status != "running"
    began = began or any(event.type == "session.status_running" for event in events)
    asked = bool(for_workers(after) - for_workers(before))
    resting = _resting(after)
    answered = any(event.type == "user.tool_result" for event in events) and not asked
    interrupted = bool(for_workers(before)) and any(event.type == "user.interrupt" for event in events)
    if not (began or asked or answered or interrupted or resting != _resting(before)):
        return False
    live = live_item(conn, session.id)
    if live is not None and live.state == "stopping" and not held(live, now):
        _let_go(conn, now, live)
        live = None
    if live is None:
        # An interrupt is how a person gets a new worker for a session whose worker failed.
        return (began or asked or interrupted) and _enqueue(conn, now, session, idle_since=now if resting else None)
    idle_since = (live.idle_since or now) if resting else None
    barren = 0 if answered else live.barren
    if (idle_since, barren) != (live.idle_since, live.barren):
        put_item(conn, replace(live, idle_since=idle_since, barren=barren))
    return False


def ended(conn: Connection, now: float, item: WorkItemRow, *, by_worker: bool) -> bool:
    """An item has just been stopped. What its session still needs goes to the next one; True: that one waits now.

    An operator who stops an item means it. Of a worker it may only mean that it was shut down, or that its idle time
    had run out just before something came in.
    """
    if item.token_id is not None:
        expire_token(conn, now, item.token_id)
    if not by_worker:
        return False
    session = sessions.get_session(conn, None, item.session_id)
    state = SessionState.model_validate_json(session.state)
    # What began while the item was there, the worker may have missed. Calls to come bring an item of their own.
    began_since = state.status == "running" and (state.running_since or 0.0) > item.queued_at
    if not (for_workers(state) or began_since) or item.barren >= MAX_BARREN:
        return False
    return _enqueue(conn, now, session, idle_since=None, barren=item.barren + 1)


def _resting(state: SessionState) -> bool:
    """Idle, and not because something waits for an answer."""
    return state.status == "idle" and state.turn is None


def _enqueue(conn: Connection, now: float, session: SessionRow, *, idle_since: float | None, barren: int = 0) -> bool:
    return add_item(
        conn,
        new_item(
            now,
            id=new_id("work"),
            workspace_id=session.workspace_id,
            environment_id=session.environment_id,
            session_id=session.id,
            ttl_seconds=Terms().lease_seconds,
            idle_since=idle_since,
            barren=barren,
        ),
    )


def _let_go(conn: Connection, now: float, item: WorkItemRow) -> None:
    put_item(conn, stopped(item, now))
    if item.token_id is not None:
        expire_token(conn, now, item.token_id)


def _end(conn: Connection, now: float, session: SessionRow) -> None:
    """The session is archived: a worker that holds it is told at its next heartbeat."""
    live = live_item(conn, session.id)
    if live is None:
        return
    if live.state == "queued" or not held(live, now):
        _let_go(conn, now, live)
    elif live.state != "stopping":
        put_item(conn, replace(live, state="stopping", stop_requested_at=moment(now)))
