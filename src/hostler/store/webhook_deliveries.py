"""What is still to be delivered, who does it, and how did it go?

A queue with leases, like `store.work`: each delivery is made by the server that leased it, and recorded only while the
lease is its own. Events about one thing are first attempted in their order; one that failed waits for its next attempt
without holding up the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import Conflict, NotFound
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.signals import raise_signal
from hostler.store.tables_webhooks import webhook_attempts as attempts
from hostler.store.tables_webhooks import webhook_deliveries as deliveries
from hostler.store.tables_webhooks import webhook_endpoints as endpoints
from hostler.store.webhooks import SIGNAL, TRIES, EndpointRow

_LOOK_AT = 256
"""Due deliveries looked at in one go."""

DeliveryState = Literal["pending", "delivered", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    id: str
    workspace_id: str
    endpoint_id: str
    event_id: str
    """Stays the same however often it is sent."""
    event_type: str
    data_json: str
    state: str
    test: bool
    attempts: int
    tries_left: int
    due_at: float
    epoch: int
    created_at: str
    """When the event happened."""


@dataclass(frozen=True, slots=True)
class AttemptRow:
    number: int
    at: str
    status: int | None
    """HTTP status of the answer; None when there was none."""
    error: str | None
    """Why it doesn't count as delivered; None when it does."""
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery to be made now, and where to."""

    delivery: DeliveryRow
    endpoint: EndpointRow
    owner: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went."""

    started_at: float
    latency_ms: float
    status: int | None
    error: str | None


_DELIVERY = tuple(
    deliveries.c[name]
    for name in (
        "id",
        "workspace_id",
        "endpoint_id",
        "event_id",
        "event_type",
        "data",
        "state",
        "test",
        "attempts",
        "tries_left",
        "due_at",
        "epoch",
        "created_at",
    )
)
_ENDPOINT = tuple(endpoints.c)


def _free(now: float) -> sa.ColumnElement[bool]:
    return sa.or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now)


# ------------------------------------------------------------------------------------------------------------- queue


def due(
    conn: Connection, now: float, *, full: Collection[str] = (), full_workspaces: Collection[str] = ()
) -> list[tuple[str, str, str]]:
    """(id, endpoint's id, workspace's id) of deliveries that could be made now, the longest due first.

    full, full_workspaces  endpoints and workspaces to leave out.

    Only reads; `lease` decides.
    """
    earlier = deliveries.alias("earlier")
    before = sa.or_(
        earlier.c.enqueued_at < deliveries.c.enqueued_at,
        sa.and_(earlier.c.enqueued_at == deliveries.c.enqueued_at, earlier.c.tick < deliveries.c.tick),
    )
    held_up = sa.exists().where(
        earlier.c.endpoint_id == deliveries.c.endpoint_id,
        earlier.c.subject == deliveries.c.subject,
        earlier.c.state == "pending",
        earlier.c.id != deliveries.c.id,
        sa.or_(earlier.c.lease_until > now, sa.and_(earlier.c.attempts == 0, before)),
    )
    query = sa.select(deliveries.c.id, deliveries.c.endpoint_id, deliveries.c.workspace_id).where(
        deliveries.c.state == "pending", deliveries.c.due_at <= now, _free(now), sa.not_(held_up)
    )
    if full:
        query = query.where(deliveries.c.endpoint_id.not_in(sorted(full)))
    if full_workspaces:
        query = query.where(deliveries.c.workspace_id.not_in(sorted(full_workspaces)))
    query = query.order_by(deliveries.c.due_at, deliveries.c.enqueued_at, deliveries.c.tick).limit(_LOOK_AT)
    return [(found, endpoint, workspace) for found, endpoint, workspace in conn.execute(query)]


def overfull(conn: Connection, most: int) -> list[tuple[str, str]]:
    """(workspace's id, endpoint's id) of endpoints for which more than `most` deliveries wait."""
    query = sa.select(deliveries.c.workspace_id, deliveries.c.endpoint_id).where(deliveries.c.state == "pending")
    query = query.group_by(deliveries.c.workspace_id, deliveries.c.endpoint_id).having(sa.func.count() > most)
    return [(workspace, endpoint) for workspace, endpoint in conn.execute(query)]


def next_due_at(conn: Connection, now: float) -> float | None:
    """When the next waiting attempt is due, later than now."""
    query = sa.select(sa.func.min(deliveries.c.due_at)).where(
        deliveries.c.state == "pending", deliveries.c.due_at > now
    )
    found: float | None = conn.execute(query).scalar()
    return found


def lease(conn: Connection, now: float, owner: str, wanted: Sequence[str], *, ttl: float) -> list[Leased]:
    """Take those of `wanted` that nobody else has taken meanwhile, for `ttl` seconds."""
    free = (
        sa.select(deliveries.c.id)
        .where(deliveries.c.id.in_(wanted), deliveries.c.state == "pending", deliveries.c.due_at <= now, _free(now))
        .order_by(deliveries.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    taken = (
        deliveries.update()
        .where(deliveries.c.id.in_(sa.select(free.c.id)))
        .values(owner=owner, epoch=deliveries.c.epoch + 1, lease_until=now + ttl)
        .returning(*_DELIVERY)
    )
    rows = [DeliveryRow(*row) for row in conn.execute(taken)]
    query = sa.select(*_ENDPOINT).where(endpoints.c.id.in_({row.endpoint_id for row in rows}))
    known = {row[0]: EndpointRow(*row) for row in conn.execute(query)} if rows else {}
    orphans = [row.id for row in rows if row.endpoint_id not in known]
    if orphans:  # recorded while the endpoint was being deleted
        conn.execute(deliveries.delete().where(deliveries.c.id.in_(orphans)))
    # Recorded beside the disabling, which saw nothing to drop yet.
    closed = {
        row.id
        for row in rows
        if not row.test and row.endpoint_id in known and known[row.endpoint_id].state == "disabled"
    }
    if closed:
        conn.execute(
            deliveries.update().where(deliveries.c.id.in_(closed)).values(state="dropped", owner=None, lease_until=None)
        )
    rows = [row for row in rows if row.endpoint_id in known and row.id not in closed]
    place = {id_: number for number, id_ in enumerate(wanted)}
    rows.sort(key=lambda row: place[row.id])
    return [Leased(row, known[row.endpoint_id], owner) for row in rows]


def release_own(conn: Connection, owner: str) -> int:
    """Give back what carries this owner's name from a former life."""
    held = deliveries.update().where(
        deliveries.c.state == "pending", deliveries.c.owner == owner, deliveries.c.lease_until.is_not(None)
    )
    return conn.execute(held.values(owner=None, lease_until=None)).rowcount


def finish(conn: Connection, leased: Leased, outcome: Outcome, *, state: DeliveryState, due_at: float) -> bool:
    """Record an attempt, and what becomes of the delivery. False, and nothing recorded, when the lease was lost.

    due_at  of the next attempt, when `state` is pending.
    """
    row = leased.delivery
    done = conn.execute(
        deliveries.update()
        .where(
            deliveries.c.id == row.id,
            deliveries.c.owner == leased.owner,
            deliveries.c.epoch == row.epoch,
            deliveries.c.state == "pending",
        )
        .values(
            state=state,
            attempts=row.attempts + 1,
            tries_left=max(0, row.tries_left - 1),
            due_at=due_at,
            owner=None,
            lease_until=None,
        )
    )
    if done.rowcount != 1:
        return False
    conn.execute(
        attempts.insert().values(
            delivery_id=row.id,
            number=row.attempts + 1,
            at=moment(outcome.started_at),
            status=outcome.status,
            error=outcome.error,
            latency_ms=outcome.latency_ms,
        )
    )
    return True


def count_failure(conn: Connection, endpoint_id: str) -> int:
    """One more delivery in a row was given up. How many by now; 0 for an endpoint that is gone."""
    more = endpoints.update().where(endpoints.c.id == endpoint_id).values(failures=endpoints.c.failures + 1)
    found: int | None = conn.execute(more.returning(endpoints.c.failures)).scalar()
    return found or 0


def forget_failures(conn: Connection, endpoint_id: str) -> None:
    conn.execute(endpoints.update().where(endpoints.c.id == endpoint_id, endpoints.c.failures > 0).values(failures=0))


# --------------------------------------------------------------------------------------------------------------- log


def get_delivery(conn: Connection, workspace_id: str, endpoint_id: str, delivery_id: str) -> DeliveryRow:
    """Raises NotFound."""
    query = sa.select(*_DELIVERY).where(
        deliveries.c.workspace_id == workspace_id,
        deliveries.c.endpoint_id == endpoint_id,
        deliveries.c.id == delivery_id,
    )
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"delivery {delivery_id} does not exist at this endpoint")
    return DeliveryRow(*row)


def list_deliveries(
    conn: Connection,
    workspace_id: str,
    endpoint_id: str,
    *,
    limit: int,
    after: Position | None = None,
    states: Collection[str] = (),
) -> Page[DeliveryRow]:
    """Newest first."""
    conditions: list[sa.ColumnElement[bool]] = [
        deliveries.c.workspace_id == workspace_id,
        deliveries.c.endpoint_id == endpoint_id,
    ]
    if states:
        conditions.append(deliveries.c.state.in_(sorted(states)))
    return page(
        conn,
        deliveries,
        _DELIVERY,
        conditions,
        DeliveryRow,
        keys=(deliveries.c.created_at, deliveries.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def attempts_of(conn: Connection, delivery_ids: Collection[str]) -> dict[str, list[AttemptRow]]:
    """Every attempt of these deliveries, in order."""
    found: dict[str, list[AttemptRow]] = {id_: [] for id_ in delivery_ids}
    if found:
        query = sa.select(attempts).where(attempts.c.delivery_id.in_(sorted(found)))
        for delivery_id, *rest in conn.execute(query.order_by(attempts.c.delivery_id, attempts.c.number)):
            found[delivery_id].append(AttemptRow(*rest))
    return found


def add_leased(conn: Connection, now: float, owner: str, values: dict[str, Any], *, ttl: float) -> DeliveryRow:
    """A new delivery that its maker attempts at once, and nobody else does."""
    row = {**values, "owner": owner, "epoch": 1, "lease_until": now + ttl}
    added = deliveries.insert().values(**row).returning(*_DELIVERY)
    return DeliveryRow(*conn.execute(added).one())


def send_again(conn: Connection, now: float, workspace_id: str, endpoint_id: str, delivery_id: str) -> DeliveryRow:
    """Start anew with all tries, under the same event id. Raises NotFound, and Conflict while it waits anyway."""
    row = get_delivery(conn, workspace_id, endpoint_id, delivery_id)
    again = conn.execute(
        deliveries.update()
        .where(deliveries.c.id == delivery_id, deliveries.c.state != "pending")
        .values(state="pending", tries_left=1 if row.test else TRIES, due_at=now, enqueued_at=now, lease_until=None)
        .returning(*_DELIVERY)
    ).first()
    if again is None:
        raise Conflict(f"delivery {delivery_id} is on its way; wait for its outcome")
    raise_signal(conn, SIGNAL)
    return DeliveryRow(*again)
