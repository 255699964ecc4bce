"""How much does a workspace use, and which limits has it of its own?

The row of `workspace_quotas` is also the lock of what is counted: whoever makes a session under a limit holds it until
the transaction ends, so that two can't both take the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.quotas import LimitName, Overrides
from hostler.store.jsontext import decode, encode
from hostler.store.tables import sessions
from hostler.store.tables_tenancy import workspace_quotas

StorageCounter = Callable[[Connection, str], int]
"""Bytes that one kind of thing (files, memories, skills) keeps for a workspace, by one indexed query."""


def get_overrides(conn: Connection, workspace_id: str) -> dict[LimitName, int]:
    """The limits that the workspace has of its own."""
    query = sa.select(workspace_quotas.c.overrides).where(workspace_quotas.c.workspace_id == workspace_id)
    text: str | None = conn.execute(query).scalar()
    found: dict[LimitName, int] = {} if text is None else decode(text)
    return found


def put_overrides(conn: Connection, workspace_id: str, overrides: Overrides) -> None:
    """Replace them. The workspace must exist."""
    row = _insert(conn).values(workspace_id=workspace_id, overrides=encode(dict(overrides)))
    conn.execute(row.on_conflict_do_update(index_elements=["workspace_id"], set_={"overrides": row.excluded.overrides}))


def count_session(conn: Connection, workspace_id: str, day: str) -> int:
    """Count one more session on this day (UTC, `2026-01-02`), and say how many that makes. Holds the row."""
    row = _insert(conn).values(workspace_id=workspace_id, day=day, sessions_made=1)
    same_day = workspace_quotas.c.day == row.excluded.day
    made = sa.case((same_day, workspace_quotas.c.sessions_made + 1), else_=1)
    upsert = row.on_conflict_do_update(
        index_elements=["workspace_id"], set_={"day": row.excluded.day, "sessions_made": made}
    )
    count: int = conn.execute(upsert.returning(workspace_quotas.c.sessions_made)).scalar_one()
    return count


def sessions_made(conn: Connection, workspace_id: str, day: str) -> int:
    """How many sessions were counted on this day."""
    query = sa.select(workspace_quotas.c.sessions_made)
    query = query.where(workspace_quotas.c.workspace_id == workspace_id, workspace_quotas.c.day == day)
    return conn.execute(query).scalar() or 0


def live_sessions(conn: Connection, workspace_id: str, most: int | None = None) -> int:
    """Sessions that are not archived. `most`: stop counting there."""
    rows = sa.select(sa.literal(1)).where(sessions.c.workspace_id == workspace_id, sessions.c.archived_at.is_(None))
    if most is not None:
        rows = rows.limit(most)
    return conn.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one()


def running_sessions(conn: Connection, workspace_id: str) -> bool:
    """Whether any session of the workspace runs now."""
    query = sa.select(sessions.c.id).where(
        sessions.c.workspace_id == workspace_id,
        sessions.c.archived_at.is_(None),
        sessions.c.status.in_(("running", "rescheduling")),
    )
    return conn.execute(query.limit(1)).first() is not None


def storage_used(conn: Connection, workspace_id: str, counters: Sequence[StorageCounter]) -> int:
    """Bytes that the workspace keeps, over all kinds of things that have a counter."""
    return sum(counter(conn, workspace_id) for counter in counters)


def hold(conn: Connection, workspace_id: str) -> None:
    """Keep other transactions from counting for this workspace until this one ends."""
    conn.execute(_insert(conn).values(workspace_id=workspace_id).on_conflict_do_nothing())
    query = sa.select(workspace_quotas.c.workspace_id).where(workspace_quotas.c.workspace_id == workspace_id)
    conn.execute(query.with_for_update())


def _insert(conn: Connection) -> Any:
    return (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(workspace_quotas)
