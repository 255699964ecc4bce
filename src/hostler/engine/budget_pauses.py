"""Which sessions wait for room in a budget, and who lets them go on when there is some?

A session waits until its own budget is raised or removed, or until one of ours has room again: because it was raised or
deleted, or because a month turned. The first happens in the transaction of whoever raises it; for the rest every server
looks, and what a session waits for is looked up again in the transaction that lets it go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from sqlalchemy import Connection

from hostler.engine.model_port import Shortage
from hostler.engine.runs import Notice
from hostler.engine.state import SessionState, Short, is_paused
from hostler.store import budgets as rows
from hostler.store.budgets import NANOS_OF_A_CENT, Pause
from hostler.store.sessions import SessionRow


def short_of(shortage: Shortage) -> Short:
    scope = cast(Literal["session", "agent", "workspace"], shortage.scope)
    return Short(budget=shortage.budget_id, scope=scope, needs=shortage.needs_nanos)


def reached(why: str, shortage: Shortage) -> Notice:
    """What the user of a session is told that waits for a budget of ours."""
    details = {
        "budget_id": shortage.budget_id,
        "scope": shortage.scope,
        "period": shortage.period,
        "limit": {"amount": str(shortage.limit_nanos // NANOS_OF_A_CENT), "currency": "USD"},
    }
    return Notice("budget_reached", f"{why} The session goes on by itself once there is room.", details)


def lacks(conn: Connection, now: float, session: SessionRow, budget: Mapping[str, Any] | None, short: Short) -> bool:
    """Whether there is still no room for what the session waits for.

    budget  the session's own as it will be after the transaction.
    """
    if short.scope != "session":
        return not rows.has_room(conn, now, short.budget, short.needs)
    if budget is None:
        return False
    held = rows.of_session(conn, session.id)
    used = 0 if held is None else held.spent_nanos + held.uncertain_nanos
    return rows.nanos_of(budget["max_list_cost"]["amount"]) - used < short.needs


def keep_pause(conn: Connection, now: float, session_id: str, before: SessionState, after: SessionState) -> None:
    """What waits for a budget of ours is kept in rows of its own. Most steps change nothing."""
    was, waits = _awaited(before), _awaited(after)
    if was == waits:
        return
    if waits is None:
        rows.forget_pause(conn, session_id)
    else:
        rows.note_pause(conn, now, Pause(session_id, waits.budget, waits.needs))


def _awaited(state: SessionState) -> Short | None:
    short = state.turn.short if state.turn is not None and is_paused(state) else None
    return None if short is None or short.scope == "session" else short
