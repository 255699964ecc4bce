"""Is there room for this in every budget that counts, and what became of it? Set aside, settled, or left by a crash.

`take` decides and sets aside in one statement: of two requests that each fit alone and not together, one gets room,
whatever process they are in. A reservation is as good as the lease under which it was taken. When that is over nobody
will settle it any more, and what it was for may have happened: `abandon` counts all of it, as uncertain.

Rows of budgets are locked in the order of their ids, and before reservations, by everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.store.budgets import about, month_of, warn_of
from hostler.store.jsontext import plain
from hostler.store.tables import work
from hostler.store.tables_budgets import budgets, reservations

MOST_ABANDONED: Final = 500
"""Reservations that one transaction looks after."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whose budgets count for a request."""

    workspace_id: str
    session_id: str
    agent_id: str
    epoch: int
    """Of the session's lease."""


@dataclass(frozen=True, slots=True)
class Room:
    """One budget that counts, as it was before this reservation."""

    budget_id: str
    scope: str
    period: str
    limit_nanos: int
    used_nanos: int
    """Spent, or maybe spent."""
    reserved_nanos: int

    @property
    def alone(self) -> int:
        """Nanos that there are when everything that is reserved is given back."""
        return self.limit_nanos - self.used_nanos

    @property
    def now(self) -> int:
        return self.alone - self.reserved_nanos


@dataclass(frozen=True, slots=True)
class Taken:
    fits: bool
    """Whether it was set aside: in all of the budgets, or in none."""
    rooms: tuple[Room, ...]
    """Empty: no budget counts."""


def _rolled(column: str, month: str, table: str = "") -> str:
    """A counter of the month that is now: one that is of an earlier month begins anew."""
    of = f"{table}." if table else ""
    return f"CASE WHEN {of}month <> '' AND {of}month < {month} THEN 0 ELSE {of}{column} END"


def _month(month: str, table: str = "") -> str:
    of = f"{table}." if table else ""
    return f"CASE WHEN {of}month <> '' AND {of}month < {month} THEN {month} ELSE {of}month END"


_PG_NEW_MONTH = f"""
    spent_nanos = {_rolled("spent_nanos", "$6::text", "b")},
    uncertain_nanos = {_rolled("uncertain_nanos", "$6::text", "b")},
    warned = {_rolled("warned", "$6::text", "b")},
    month = {_month("$6::text", "b")}"""

# MATERIALIZED and the order: whoever waits here for a row sees it as it is once it is its turn.
_PG_TAKE = f"""
WITH mine AS MATERIALIZED (
    SELECT id, scope, period, limit_nanos, reserved_nanos,
           {_rolled("spent_nanos + uncertain_nanos", "$6::text")} AS used
    FROM budgets WHERE subject IN ($1, $2, $3) AND workspace_id = $1 ORDER BY id FOR UPDATE
), verdict AS MATERIALIZED (
    SELECT coalesce(bool_and(used + reserved_nanos + $4::bigint <= limit_nanos), true) AS fits FROM mine
), taken AS (
    UPDATE budgets b SET reserved_nanos = b.reserved_nanos + $4::bigint, {_PG_NEW_MONTH}
    FROM mine, verdict WHERE b.id = mine.id AND verdict.fits RETURNING b.id
), noted AS (
    INSERT INTO reservations (grant_id, budget_id, session_id, epoch, nanos, taken_at)
    SELECT $5::text, id, $2::text, $7::bigint, $4::bigint, $8::float8 FROM taken
)
SELECT mine.id, scope, period, limit_nanos, used, reserved_nanos, fits FROM mine, verdict ORDER BY mine.id
"""

# The plus: SQLite is to look for the three subjects, and not through a workspace, which has a budget for each session.
_MINE = "subject IN (:session, :agent, :workspace) AND +workspace_id = :workspace"
_LITE_TAKE = f"""
UPDATE budgets SET reserved_nanos = reserved_nanos + :nanos,
    spent_nanos = {_rolled("spent_nanos", ":month")}, uncertain_nanos = {_rolled("uncertain_nanos", ":month")},
    warned = {_rolled("warned", ":month")}, month = {_month(":month")}
WHERE {_MINE} AND NOT EXISTS (
    SELECT 1 FROM budgets WHERE {_MINE}
    AND {_rolled("spent_nanos + uncertain_nanos", ":month")} + reserved_nanos + :nanos > limit_nanos)
RETURNING id, scope, period, limit_nanos, spent_nanos + uncertain_nanos, reserved_nanos - :nanos
"""
_LITE_NOTE = """
INSERT INTO reservations (grant_id, budget_id, session_id, epoch, nanos, taken_at)
VALUES (:grant, :budget, :session, :epoch, :nanos, :now)
"""
_LITE_LOOK = f"""
SELECT id, scope, period, limit_nanos, {_rolled("spent_nanos + uncertain_nanos", ":month")}, reserved_nanos
FROM budgets WHERE {_MINE} ORDER BY id
"""

_PG_SETTLE = f"""
WITH mine AS MATERIALIZED (
    SELECT id FROM budgets WHERE subject IN ($1, $2, $3) AND workspace_id = $1 ORDER BY id FOR UPDATE
), gone AS (
    DELETE FROM reservations WHERE grant_id = $4::text AND budget_id IN (SELECT id FROM mine)
    RETURNING budget_id, nanos
)
UPDATE budgets b SET
    reserved_nanos = b.reserved_nanos - coalesce((SELECT nanos FROM gone WHERE gone.budget_id = b.id), 0),
    spent_nanos = {_rolled("spent_nanos", "$6::text", "b")} + $5::bigint,
    uncertain_nanos = {_rolled("uncertain_nanos", "$6::text", "b")} + $7::bigint,
    warned = {_rolled("warned", "$6::text", "b")}, month = {_month("$6::text", "b")}
FROM mine WHERE b.id = mine.id AND ($4::text = '' OR EXISTS (SELECT 1 FROM gone))
RETURNING b.id, b.limit_nanos, b.spent_nanos + b.uncertain_nanos, b.warn_at, b.warned
"""


def take(conn: Connection, now: float, grant_id: str, whose: Subjects, nanos: int) -> Taken:
    """Set `nanos` aside in every budget that counts, if all of them have room; otherwise in none.

    On PostgreSQL this is one statement, which may be a transaction of its own.
    """
    for text in (whose.workspace_id, whose.session_id, whose.agent_id):
        plain(text)
    month = month_of(now)
    if conn.dialect.name == "postgresql":
        given: tuple[Any, ...] = (
            whose.workspace_id, whose.session_id, whose.agent_id, nanos, grant_id, month, whose.epoch, now,
        )  # fmt: skip
        found = conn.exec_driver_sql(_PG_TAKE, given).all()
        return Taken(not found or bool(found[0][6]), tuple(Room(*row[:6]) for row in found))
    values = {
        "workspace": whose.workspace_id,
        "session": whose.session_id,
        "agent": whose.agent_id,
        "nanos": nanos,
        "month": month,
    }
    taken = conn.exec_driver_sql(_LITE_TAKE, values).all()
    if taken:
        notes = [
            {
                "grant": grant_id,
                "budget": row[0],
                "session": whose.session_id,
                "epoch": whose.epoch,
                "nanos": nanos,
                "now": now,
            }
            for row in taken
        ]
        conn.exec_driver_sql(_LITE_NOTE, notes)
        return Taken(True, tuple(Room(*row) for row in sorted(taken)))
    looked = conn.exec_driver_sql(_LITE_LOOK, values).all()
    return Taken(not looked, tuple(Room(*row) for row in looked))


def rooms(conn: Connection, now: float, whose: Subjects) -> tuple[Room, ...]:
    """The budgets that count, as they are."""
    used = sa.case((_is_past(month_of(now)), 0), else_=budgets.c.spent_nanos + budgets.c.uncertain_nanos)
    query = sa.select(
        budgets.c.id, budgets.c.scope, budgets.c.period, budgets.c.limit_nanos, used, budgets.c.reserved_nanos
    ).where(*_of(whose))
    return tuple(Room(*row) for row in conn.execute(query.order_by(budgets.c.id)))


def settle(
    conn: Connection, now: float, grant_id: str, whose: Subjects, *, cost: int, uncertain: int, over: bool
) -> None:
    """What was set aside for a request is given back, and what it has cost is counted, in every budget that counts.

    cost       nanos that are known.
    uncertain  nanos that the upstream may have counted besides.
    over       False: another attempt follows, for which the reservation stays.

    Without a grant it is only counted: a request for which nothing had to be set aside, in budgets that were made
    meanwhile, and running time. A request whose reservation is gone was counted already. Warnings that are due are told
    in this transaction.
    """
    if not over:
        return
    subjects = (whose.workspace_id, whose.session_id, whose.agent_id)
    if conn.dialect.name == "postgresql":
        given = (*map(plain, subjects), grant_id, cost, month_of(now), uncertain)
        for row in conn.exec_driver_sql(_PG_SETTLE, given).all():
            warn_of(conn, now, *row)
        return
    gone: dict[str, int] = {}
    if grant_id:
        freed = reservations.delete().where(reservations.c.grant_id == grant_id)
        found = conn.execute(freed.returning(reservations.c.budget_id, reservations.c.nanos))
        gone = {row.budget_id: row.nanos for row in found}
        if not gone:
            return
    for (budget_id,) in conn.execute(sa.select(budgets.c.id).where(*_of(whose)).order_by(budgets.c.id)).all():
        _count(conn, now, budget_id, freed=gone.get(budget_id, 0), cost=cost, uncertain=uncertain)


def release(conn: Connection, grant_id: str) -> bool:
    """Nothing was asked: what was set aside is given back. False: there was nothing any more."""
    query = sa.select(reservations.c.budget_id).where(reservations.c.grant_id == grant_id)
    mine = [row[0] for row in conn.execute(query.order_by(reservations.c.budget_id))]
    conn.execute(sa.select(budgets.c.id).where(budgets.c.id.in_(mine)).order_by(budgets.c.id).with_for_update()).all()
    freed = reservations.delete().where(reservations.c.grant_id == grant_id)
    gone = conn.execute(freed.returning(reservations.c.budget_id, reservations.c.nanos)).all()
    for budget_id, nanos in gone:
        less = budgets.update().where(budgets.c.id == budget_id)
        conn.execute(less.values(reserved_nanos=budgets.c.reserved_nanos - nanos))
    return bool(gone)


def abandon(conn: Connection, now: float, session_id: str | None = None) -> int:
    """What nobody will settle any more counts from now on, as uncertain. How many reservations that was, at most 500.

    session_id  None: those whose lease is over. Otherwise all of this session's, which is about to be gone.
    """
    which = _left(now) if session_id is None else reservations.c.session_id == session_id
    query = sa.select(reservations.c.grant_id, reservations.c.budget_id).where(which).limit(MOST_ABANDONED)
    found = conn.execute(query).all()
    if not found:
        return 0
    mine = sorted({row.budget_id for row in found})
    conn.execute(sa.select(budgets.c.id).where(budgets.c.id.in_(mine)).order_by(budgets.c.id).with_for_update()).all()
    grants = sorted({row.grant_id for row in found})
    gone = reservations.delete().where(reservations.c.grant_id.in_(grants), reservations.c.budget_id.in_(mine), which)
    lost: dict[str, int] = {}
    count = 0
    for budget_id, nanos in conn.execute(gone.returning(reservations.c.budget_id, reservations.c.nanos)):
        lost[budget_id] = lost.get(budget_id, 0) + nanos
        count += 1
    for budget_id in sorted(lost):
        _count(conn, now, budget_id, freed=lost[budget_id], cost=0, uncertain=lost[budget_id])
    return count


def open_reservations(conn: Connection, session_id: str | None = None) -> int:
    """How many there are, of a session or of all."""
    query = sa.select(sa.func.count()).select_from(reservations)
    if session_id is not None:
        query = query.where(reservations.c.session_id == session_id)
    return int(conn.execute(query).scalar_one())


def _left(now: float) -> sa.ColumnElement[bool]:
    """The lease under which it was taken is over."""
    holds = sa.exists().where(
        work.c.session_id == reservations.c.session_id,
        work.c.epoch == reservations.c.epoch,
        work.c.lease_until > now,
    )
    return sa.not_(holds)


def _of(whose: Subjects) -> Sequence[sa.ColumnElement[bool]]:
    return about(whose.workspace_id, (whose.session_id, whose.agent_id, whose.workspace_id))


def _is_past(month: str) -> sa.ColumnElement[bool]:
    return sa.and_(budgets.c.month != "", budgets.c.month < month)


def _count(conn: Connection, now: float, budget_id: str, *, freed: int, cost: int, uncertain: int) -> None:
    month = month_of(now)
    past = _is_past(month)

    def anew(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.case((past, 0), else_=column)

    changed = budgets.update().where(budgets.c.id == budget_id)
    values = {
        "reserved_nanos": budgets.c.reserved_nanos - freed,
        "spent_nanos": anew(budgets.c.spent_nanos) + cost,
        "uncertain_nanos": anew(budgets.c.uncertain_nanos) + uncertain,
        "warned": anew(budgets.c.warned),
        "month": sa.case((past, month), else_=budgets.c.month),
    }
    row = conn.execute(
        changed.values(**values).returning(
            budgets.c.limit_nanos,
            budgets.c.spent_nanos + budgets.c.uncertain_nanos,
            budgets.c.warn_at,
            budgets.c.warned,
        )
    ).first()
    if row is not None:
        warn_of(conn, now, budget_id, *row)
