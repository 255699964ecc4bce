"""Which sessions are live, and which wait for a place?

Live: a worker holds its lease together with a place for a process. Waiting: it wants a worker and has none. Both are
read from the queue (`store.work`), so they hold over all servers that share a database, and outlive each of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.store.tables import environments, sessions, work
from hostler.store.work import Need


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A session that wants a worker and has none."""

    session_id: str
    workspace_id: str
    environment_id: str
    need: Need
    since: float
    """When it began to want one: its place among those of its workspace."""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A session that a worker holds together with a place."""

    session_id: str
    environment_id: str
    server: str
    since: float
    status: str
    """Of the session: `idle` could make room for another."""


_FREE = sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= sa.bindparam("now"))
_LIVE = sa.and_(work.c.live, work.c.lease_until > sa.bindparam("now"))


def waiting(conn: Connection, now: float, *, most: int, exclude: Collection[str] = ()) -> list[WaitingRow]:
    """Those that wait, longest first: of each environment and each need at most `most`.

    So nobody's flood hides the others, however long it is.
    """
    rank = sa.func.row_number().over(
        partition_by=(sessions.c.environment_id, work.c.need), order_by=(work.c.enqueued_at, work.c.session_id)
    )
    columns = (
        work.c.session_id,
        sessions.c.workspace_id,
        sessions.c.environment_id,
        work.c.need,
        work.c.enqueued_at,
        rank.label("rank"),
    )
    found = sa.select(*columns).select_from(work.join(sessions, sessions.c.id == work.c.session_id))
    found = found.where(work.c.wanted, work.c.available_at <= sa.bindparam("now"), _FREE)
    if exclude:
        found = found.where(work.c.session_id.not_in(sorted(exclude)))
    ranked = found.subquery()
    query = sa.select(*[column for column in ranked.c if column.name != "rank"]).where(ranked.c.rank <= most)
    query = query.order_by(ranked.c.enqueued_at, ranked.c.session_id)
    return [WaitingRow(*row) for row in conn.execute(query, {"now": now})]


def is_waiting(conn: Connection, now: float, session_id: str) -> bool:
    """Whether it wants a worker and has none."""
    query = sa.select(work.c.session_id).where(work.c.session_id == session_id, work.c.wanted, _FREE)
    return conn.execute(query, {"now": now}).first() is not None


def live_counts(conn: Connection, now: float, environment_ids: Collection[str]) -> dict[str, int]:
    """How many sessions of each environment are live, over all servers. Those with none are left out."""
    query = (
        sa.select(sessions.c.environment_id, sa.func.count())
        .select_from(work.join(sessions, sessions.c.id == work.c.session_id))
        .where(_LIVE, sessions.c.environment_id.in_(sorted(environment_ids)))
        .group_by(sessions.c.environment_id)
    )
    return {str(row[0]): int(row[1]) for row in conn.execute(query, {"now": now})}


def bodies(conn: Connection, environment_ids: Collection[str], *, lock: bool = False) -> dict[str, str]:
    """The environments as they are now, in JSON. `lock`: nobody else who asks so gets them before the end of this
    transaction, so that what is counted in between stays true."""
    query = sa.select(environments.c.id, environments.c.body).where(environments.c.id.in_(sorted(environment_ids)))
    query = query.order_by(environments.c.id)
    if lock:
        query = query.with_for_update(key_share=True)
    return {str(row[0]): str(row[1]) for row in conn.execute(query)}


def live(conn: Connection, now: float, workspace_id: str) -> list[LiveRow]:
    """The live sessions of a workspace, over all servers, longest first."""
    query = (
        sa.select(work.c.session_id, sessions.c.environment_id, work.c.owner, work.c.leased_at, sessions.c.status)
        .select_from(work.join(sessions, sessions.c.id == work.c.session_id))
        .where(_LIVE, sessions.c.workspace_id == workspace_id)
        .order_by(work.c.leased_at, work.c.session_id)
    )
    return [LiveRow(*row) for row in conn.execute(query, {"now": now})]
