"""Which budgets are there, and who is told that one gets short?

A session's own is the one that the wire knows; those of agents and workspaces are ours. What is set aside of a budget,
and counted in it, is in `store.reservations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict, NotFound
from hostler.domain.ids import new_id
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.signals import raise_signal
from hostler.store.tables import model_requests
from hostler.store.tables_budgets import budget_pauses, budgets
from hostler.store.tables_runtime import runtime_spans
from hostler.store.webhooks import emit

Scope = Literal["session", "agent", "workspace"]
Period = Literal["total", "month"]

SIGNAL: Final = "budgets"
"""Raised when a budget has more room, or is gone (`store.signals`)."""
THRESHOLD_REACHED: Final = "budget.threshold_reached"
NANOS_OF_A_CENT: Final = 10_000_000
MOST_NANOS: Final = 10**18
"""A billion dollars: more than that is no limit, and sums of it fit into a column."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One budget. Its counters are of `month`, which may be over."""

    id: str
    workspace_id: str
    scope: str
    subject: str
    period: str
    month: str
    limit_nanos: int
    spent_nanos: int
    uncertain_nanos: int
    reserved_nanos: int
    warn_at_json: str
    warned: int
    """The highest threshold that was told of in this period; 0: none."""
    created_at: str
    updated_at: str

    @property
    def warn_at(self) -> list[int]:
        """In percent, ascending."""
        found: list[int] = decode(self.warn_at_json)
        return found

    def at(self, month: str) -> BudgetRow:
        """As it counts in this month."""
        if not self.month or self.month >= month:
            return self
        values = {name: getattr(self, name) for name in BudgetRow.__slots__}
        return BudgetRow(**values | {"month": month, "spent_nanos": 0, "uncertain_nanos": 0, "warned": 0})


_COLUMNS: Final = tuple(budgets.c)


def nanos_of(cents: str) -> int:
    """Of an amount as the wire has it: whole cents."""
    return min(int(cents) * NANOS_OF_A_CENT, MOST_NANOS)


def month_of(now: float) -> str:
    """Such as `2026-11`, in UTC. Text order is time order."""
    return moment(now)[:7]


def create(
    conn: Connection,
    now: float,
    workspace_id: str,
    scope: Scope,
    subject: str,
    period: Period,
    limit_nanos: int,
    warn_at: Sequence[int] = (),
) -> BudgetRow:
    """A month's begins with what the ledger has of it. Raises Conflict when there is one for this already."""
    spent = 0 if period == "total" else _spent_in(conn, scope, subject, workspace_id, month_of(now))
    values = {
        "id": new_id("bdgt"),
        "workspace_id": workspace_id,
        "scope": scope,
        "subject": subject,
        "period": period,
        "month": month_of(now) if period == "month" else "",
        "limit_nanos": limit_nanos,
        "spent_nanos": spent,
        "warn_at": encode(sorted(warn_at)),
        "warned": _reached(warn_at, spent, limit_nanos),
        "created_at": moment(now),
        "updated_at": moment(now),
    }
    try:
        with conn.begin_nested():
            conn.execute(budgets.insert().values(**values))
    except IntegrityError as error:
        raise Conflict(
            f"there is a budget of this {scope} with the period {period} already; change its limit instead"
        ) from error
    return BudgetRow(*conn.execute(sa.select(*_COLUMNS).where(budgets.c.id == values["id"])).one())


def get(conn: Connection, workspace_id: str, budget_id: str, *, lock: bool = False) -> BudgetRow:
    """Of an agent or of the workspace. Raises NotFound."""
    mine = (budgets.c.id == budget_id, budgets.c.workspace_id == workspace_id, budgets.c.scope != "session")
    query = sa.select(*_COLUMNS).where(*mine)
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"budget {budget_id} does not exist")
    return BudgetRow(*row)


def list_budgets(
    conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None, subject: str | None = None
) -> Page[BudgetRow]:
    """Those of agents and of the workspace, newest first."""
    mine = [budgets.c.workspace_id == workspace_id, budgets.c.scope != "session"]
    if subject is not None:
        mine.append(budgets.c.subject == subject)
    return page(
        conn,
        budgets,
        _COLUMNS,
        mine,
        BudgetRow,
        keys=(budgets.c.created_at, budgets.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def count(conn: Connection, workspace_id: str) -> int:
    """Of agents and of the workspace."""
    query = sa.select(sa.func.count()).select_from(budgets)
    return int(
        conn.execute(query.where(budgets.c.workspace_id == workspace_id, budgets.c.scope != "session")).scalar_one()
    )


def change(
    conn: Connection,
    now: float,
    workspace_id: str,
    budget_id: str,
    *,
    limit_nanos: int | None = None,
    warn_at: Sequence[int] | None = None,
) -> BudgetRow:
    """What is None stays. A limit below what is used already is reached at once. Raises NotFound."""
    before = get(conn, workspace_id, budget_id, lock=True).at(month_of(now))
    limit = before.limit_nanos if limit_nanos is None else limit_nanos
    thresholds = before.warn_at if warn_at is None else sorted(warn_at)
    used = before.spent_nanos + before.uncertain_nanos
    # Thresholds that are not reached any more may be told of again.
    warned = min(before.warned, _reached(thresholds, used, limit))
    values = {
        "limit_nanos": limit,
        "warn_at": encode(thresholds),
        "warned": warned,
        "month": before.month,
        "spent_nanos": before.spent_nanos,
        "uncertain_nanos": before.uncertain_nanos,
        "updated_at": moment(now),
    }
    conn.execute(budgets.update().where(budgets.c.id == budget_id).values(**values))
    warn_of(conn, now, budget_id, limit, used, encode(thresholds), warned)
    raise_signal(conn, SIGNAL)
    return get(conn, workspace_id, budget_id)


def delete(conn: Connection, workspace_id: str, budget_id: str) -> None:
    """With what is set aside in it; who waits for it goes on. Raises NotFound."""
    get(conn, workspace_id, budget_id, lock=True)
    conn.execute(budgets.delete().where(budgets.c.id == budget_id))
    raise_signal(conn, SIGNAL)


# --------------------------------------------------------------------------------------------------------- of sessions


def limit_session(
    conn: Connection, now: float, workspace_id: str, session_id: str, budget: Mapping[str, Any] | None
) -> None:
    """The session has this budget of the wire from now on; None: none. Under the lock of its row."""
    if budget is None:
        unlimit_session(conn, session_id)
        return
    limit = nanos_of(budget["max_list_cost"]["amount"])
    changed = conn.execute(
        budgets.update().where(budgets.c.subject == session_id).values(limit_nanos=limit, updated_at=moment(now))
    )
    if not changed.rowcount:
        create(conn, now, workspace_id, "session", session_id, "total", limit)


def unlimit_session(conn: Connection, session_id: str) -> None:
    """The session has no budget of its own any more."""
    conn.execute(budgets.delete().where(budgets.c.subject == session_id))


def of_session(conn: Connection, session_id: str) -> BudgetRow | None:
    """The session's own."""
    row = conn.execute(sa.select(*_COLUMNS).where(budgets.c.subject == session_id)).first()
    return None if row is None else BudgetRow(*row)


def counts_for(conn: Connection, workspace_id: str, agent_id: str) -> bool:
    """Whether a session of this agent has to keep to a budget of ours."""
    mine = sa.select(budgets.c.id).where(*about(workspace_id, (workspace_id, agent_id)))
    return conn.execute(mine.limit(1)).first() is not None


def about(workspace_id: str, subjects: Sequence[str]) -> Sequence[sa.ColumnElement[bool]]:
    """Which budgets are of these subjects of a workspace.

    They are looked for by subject. With the plain column SQLite would take the index of the workspace instead, which
    has a budget for each session.
    """
    return budgets.c.subject.in_(subjects), budgets.c.workspace_id.concat("") == workspace_id


# -------------------------------------------------------------------------------------------------------------- pauses


@dataclass(frozen=True, slots=True)
class Pause:
    """A session that waits for room in a budget of ours."""

    session_id: str
    budget_id: str
    needs_nanos: int


def has_room(conn: Connection, now: float, budget_id: str, needs_nanos: int) -> bool:
    """Whether so much would fit with nothing reserved. A budget that is gone has room for everything."""
    row = conn.execute(sa.select(*_COLUMNS).where(budgets.c.id == budget_id)).first()
    if row is None:
        return True
    found = BudgetRow(*row).at(month_of(now))
    return found.limit_nanos - found.spent_nanos - found.uncertain_nanos >= needs_nanos


def note_pause(conn: Connection, now: float, pause: Pause) -> None:
    forget_pause(conn, pause.session_id)
    conn.execute(
        budget_pauses.insert().values(
            session_id=pause.session_id,
            budget_id=pause.budget_id,
            needs_nanos=pause.needs_nanos,
            paused_at=moment(now),
        )
    )


def forget_pause(conn: Connection, session_id: str) -> None:
    conn.execute(budget_pauses.delete().where(budget_pauses.c.session_id == session_id))


def resumable(conn: Connection, now: float, most: int) -> list[str]:
    """Sessions whose budget has room for what they wait for, those that wait for longest first."""
    month = month_of(now)
    used = sa.case(
        (sa.and_(budgets.c.month != "", budgets.c.month < month), 0),
        else_=budgets.c.spent_nanos + budgets.c.uncertain_nanos,
    )
    query = (
        sa.select(budget_pauses.c.session_id)
        .select_from(budget_pauses.outerjoin(budgets, budgets.c.id == budget_pauses.c.budget_id))
        .where(sa.or_(budgets.c.id.is_(None), budgets.c.limit_nanos - used >= budget_pauses.c.needs_nanos))
        .order_by(budget_pauses.c.paused_at, budget_pauses.c.session_id)
        .limit(most)
    )
    return list(conn.execute(query).scalars())


def paused_by(conn: Connection, budget_id: str) -> int:
    """How many sessions wait for it."""
    query = sa.select(sa.func.count()).select_from(budget_pauses).where(budget_pauses.c.budget_id == budget_id)
    return int(conn.execute(query).scalar_one())


# ------------------------------------------------------------------------------------------------------------ warnings


def warn_of(
    conn: Connection, now: float, budget_id: str, limit_nanos: int, used_nanos: int, warn_at_json: str, warned: int
) -> None:
    """Tell of the highest threshold that `used_nanos` has reached, unless that was told. The row is locked."""
    if warn_at_json == "[]":
        return
    reached = _reached(decode(warn_at_json), used_nanos, limit_nanos)
    if reached <= warned:
        return
    changed = budgets.update().where(budgets.c.id == budget_id).values(warned=reached)
    row = conn.execute(changed.returning(budgets.c.workspace_id, budgets.c.scope, budgets.c.subject)).one()
    data = {"id": budget_id, "percent": str(reached), "scope": row.scope, "subject_id": row.subject}
    emit(conn, now, row.workspace_id, THRESHOLD_REACHED, data)


def _reached(warn_at: Sequence[int], used: int, limit: int) -> int:
    return max((percent for percent in warn_at if used * 100 >= percent * limit), default=0)


def _spent_in(conn: Connection, scope: Scope, subject: str, workspace_id: str, month: str) -> int:
    spent = 0
    for ledger in (model_requests, runtime_spans):
        mine = [ledger.c.workspace_id == workspace_id, ledger.c.created_at >= f"{month}-01"]
        if scope == "agent":
            mine.append(ledger.c.agent_id == subject)
        query = sa.select(sa.func.coalesce(sa.func.sum(ledger.c.list_cost_nanos), 0)).where(*mine)
        spent += int(conn.execute(query).scalar_one())
    return spent
