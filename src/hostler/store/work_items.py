"""Which units of work wait for a self-hosted environment's workers, and who has which? Rows only.

What may happen to an item is `engine.work_items`; this module finds rows, locks them, and writes them down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import NotFound
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.signals import News, tell
from hostler.store.tables_work_items import work_items, work_pollers

WorkState = Literal["queued", "starting", "active", "stopping", "stopped"]

POLLER_SECONDS = 30.0
"""How long after its last poll a worker counts as polling."""


@dataclass(frozen=True, slots=True)
class WorkItemRow:
    """One unit of work. Moments are RFC 3339 text, or seconds since 1970 where they are computed with."""

    id: str
    workspace_id: str
    environment_id: str
    session_id: str
    state: WorkState
    metadata_json: str
    created_at: str
    queued_at: float
    """Since when it waits."""
    claimed_at: float | None
    """When a poll last took it; None: nobody has."""
    token_id: str | None
    """The session token of the present claim."""
    acknowledged_at: str | None
    acknowledged_by: str | None
    """The credential that acknowledged."""
    started_at: str | None
    latest_heartbeat_at: str | None
    previous_heartbeat_at: str | None
    heartbeat_by: str | None
    """The credential of the last heartbeat."""
    ttl_seconds: int
    lease_until: float | None
    """Until when the present claim holds; None: nobody holds it."""
    idle_since: float | None
    """Since when the session has had nothing to do; None while it has."""
    barren: int
    """How many items of the session in a row ended before this one although work was waiting, without a result."""
    stop_requested_at: str | None
    stopped_at: str | None

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = decode(self.metadata_json)
        return found


@dataclass(frozen=True, slots=True)
class QueueStats:
    depth: int
    """Waiting for a poll."""
    pending: int
    """Polled and not acknowledged."""
    oldest_queued_at: float | None
    workers_polling: int


_NAMES = tuple(field.name for field in fields(WorkItemRow))
_COLUMNS = tuple(work_items.c["metadata" if name == "metadata_json" else name] for name in _NAMES)
_SAME_FOR_EVER = frozenset({"id", "workspace_id", "environment_id", "session_id", "created_at"})


def add_item(conn: Connection, row: WorkItemRow) -> bool:
    """False, and nothing is added, when the session has a live item already."""
    values = {column.name: getattr(row, name) for name, column in zip(_NAMES, _COLUMNS, strict=True)}
    try:
        with conn.begin_nested():
            conn.execute(work_items.insert().values(**values))
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise
        return False
    tell(conn, News("queue", row.environment_id))
    return True


def put_item(conn: Connection, row: WorkItemRow) -> WorkItemRow:
    """Write all that can change. The row was read in the same transaction, with a lock."""
    values = {
        column.name: getattr(row, name)
        for name, column in zip(_NAMES, _COLUMNS, strict=True)
        if name not in _SAME_FOR_EVER
    }
    conn.execute(work_items.update().where(work_items.c.id == row.id).values(**values))
    if row.state == "queued" and row.claimed_at is None:
        tell(conn, News("queue", row.environment_id))
    return row


def get_item(
    conn: Connection, workspace_id: str, environment_id: str, work_id: str, *, for_update: bool = False
) -> WorkItemRow:
    """Raises NotFound. `for_update` keeps others from changing it until this transaction ends."""
    query = sa.select(*_COLUMNS).where(
        work_items.c.id == work_id,
        work_items.c.workspace_id == workspace_id,
        work_items.c.environment_id == environment_id,
    )
    row = conn.execute(query.with_for_update() if for_update else query).first()
    if row is None:
        raise NotFound(f"work {work_id} does not exist in this environment")
    return WorkItemRow(*row)


def session_of_work(conn: Connection, workspace_id: str, environment_id: str, work_id: str) -> str | None:
    """The session that an item is about; None when there is no such item."""
    query = sa.select(work_items.c.session_id).where(
        work_items.c.id == work_id,
        work_items.c.workspace_id == workspace_id,
        work_items.c.environment_id == environment_id,
    )
    found: str | None = conn.execute(query).scalar()
    return found


def live_item(conn: Connection, session_id: str) -> WorkItemRow | None:
    """The session's item that is not stopped, locked. There is one at most."""
    query = sa.select(*_COLUMNS).where(work_items.c.session_id == session_id, work_items.c.state != "stopped")
    row = conn.execute(query.with_for_update()).first()
    return None if row is None else WorkItemRow(*row)


def holds_claim(conn: Connection, now: float, token_id: str) -> bool:
    """Whether a token's claim is the present one, and its lease has not run out. Locks the item if so."""
    query = sa.select(work_items.c.id).where(
        work_items.c.token_id == token_id, work_items.c.state != "stopped", work_items.c.lease_until > now
    )
    return conn.execute(query.with_for_update(read=True)).first() is not None


def _claimable(environment_id: str, claimed_before: float) -> tuple[sa.ColumnElement[bool], ...]:
    free = sa.or_(work_items.c.claimed_at.is_(None), work_items.c.claimed_at <= claimed_before)
    return work_items.c.environment_id == environment_id, work_items.c.state == "queued", free


def _run_out(environment_id: str, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    return work_items.c.environment_id == environment_id, work_items.c.lease_until <= now


def anything_due(conn: Connection, now: float, environment_id: str, *, claimed_before: float) -> bool:
    """Whether a poll would find something to claim, or a lease that has run out."""
    claimable = sa.select(sa.literal(1)).where(*_claimable(environment_id, claimed_before)).limit(1)
    return conn.execute(claimable).first() is not None or anything_run_out(conn, now, environment_id)


def anything_run_out(conn: Connection, now: float, environment_id: str) -> bool:
    """Whether a lease has run out that nobody has noticed yet."""
    query = sa.select(sa.literal(1)).where(*_run_out(environment_id, now)).limit(1)
    return conn.execute(query).first() is not None


def next_item(conn: Connection, environment_id: str, *, claimed_before: float) -> WorkItemRow | None:
    """The item that has waited longest, locked. Rows that others hold at this moment are passed over."""
    query = sa.select(*_COLUMNS).where(*_claimable(environment_id, claimed_before))
    query = query.order_by(work_items.c.queued_at, work_items.c.id).limit(1)
    row = conn.execute(query.with_for_update(skip_locked=True)).first()
    return None if row is None else WorkItemRow(*row)


def run_out_items(conn: Connection, now: float, environment_id: str) -> list[WorkItemRow]:
    """The items whose lease has run out, locked. Rows that others hold at this moment are passed over."""
    query = sa.select(*_COLUMNS).where(*_run_out(environment_id, now)).order_by(work_items.c.lease_until)
    return [WorkItemRow(*row) for row in conn.execute(query.with_for_update(skip_locked=True))]


def list_items(
    conn: Connection, workspace_id: str, environment_id: str, *, limit: int, after: Position | None
) -> Page[WorkItemRow]:
    """Items of an environment, newest first."""
    conditions = [work_items.c.workspace_id == workspace_id, work_items.c.environment_id == environment_id]
    return page(
        conn,
        work_items,
        _COLUMNS,
        conditions,
        WorkItemRow,
        keys=(work_items.c.created_at, work_items.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def queue_stats(conn: Connection, now: float, environment_id: str, *, claimed_before: float) -> QueueStats:
    """Count the queue of an environment."""
    waits = sa.or_(work_items.c.claimed_at.is_(None), work_items.c.claimed_at <= claimed_before)
    query = sa.select(
        sa.func.coalesce(sa.func.sum(sa.case((waits, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((waits, 0), else_=1)), 0),
        sa.func.min(work_items.c.queued_at),
    ).where(work_items.c.environment_id == environment_id, work_items.c.state == "queued")
    depth, pending, oldest = conn.execute(query).one()
    recent = sa.select(sa.func.count()).where(
        work_pollers.c.environment_id == environment_id, work_pollers.c.polled_at > now - POLLER_SECONDS
    )
    return QueueStats(int(depth), int(pending), oldest, int(conn.execute(recent).scalar_one()))


def note_poller(conn: Connection, now: float, environment_id: str, worker: str) -> None:
    """A worker polled now. Workers that have not polled for long are forgotten."""
    old = work_pollers.c.polled_at <= now - 10 * POLLER_SECONDS
    conn.execute(work_pollers.delete().where(work_pollers.c.environment_id == environment_id, old))
    place = (work_pollers.c.environment_id == environment_id, work_pollers.c.worker == worker)
    if conn.execute(work_pollers.update().where(*place).values(polled_at=now)).rowcount:
        return
    try:
        with conn.begin_nested():
            row = {"environment_id": environment_id, "worker": worker, "polled_at": now}
            conn.execute(work_pollers.insert().values(**row))
    except IntegrityError:  # the same worker, in another transaction, at the same moment
        return


def new_item(
    now: float, *, id: str, workspace_id: str, environment_id: str, session_id: str, ttl_seconds: int, **more: Any
) -> WorkItemRow:
    """A row that waits for a worker."""
    values: dict[str, Any] = dict.fromkeys(_NAMES)
    values |= {
        "id": id,
        "workspace_id": workspace_id,
        "environment_id": environment_id,
        "session_id": session_id,
        "state": "queued",
        "metadata_json": encode({}),
        "created_at": moment(now),
        "queued_at": now,
        "ttl_seconds": ttl_seconds,
        "barren": 0,
    }
    return WorkItemRow(**values | more)


def metadata_text(metadata: Mapping[str, str]) -> str:
    """As a row keeps it."""
    return encode(dict(metadata))
