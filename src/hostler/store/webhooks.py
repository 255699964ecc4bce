"""Who is told of what happens in a workspace, and how does a happening become something to deliver?

`emit` is called inside the transaction that records what it tells: both are committed, or neither. Every change of an
endpoint holds the workspace's row, in which the union of all wanted events is kept: recording an event reads that row
anyway, so a workspace without endpoints pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.ids import new_id
from hostler.store import audit
from hostler.store.acting import acting
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.signals import raise_signal
from hostler.store.tables import workspaces
from hostler.store.tables_webhooks import webhook_deliveries as deliveries
from hostler.store.tables_webhooks import webhook_endpoints as endpoints

EVERYTHING: Final = "*"
"""In place of a list of event types."""
SIGNAL: Final = "webhooks"
"""Raised when there is something to deliver (`store.signals`)."""
TRIES: Final = 3
"""How often a delivery is attempted before it is given up."""
_TICK = "hostler.webhook_tick"


@dataclass(frozen=True, slots=True)
class EndpointRow:
    id: str
    workspace_id: str
    url: str
    name: str
    description: str
    enabled_events_json: str
    state: str
    disabled_reason: str
    """Empty while it is enabled, and when a person disabled it."""
    failures: int
    """Deliveries in a row that were given up."""
    secret: str
    """Sealed; so is the old one."""
    old_secret: str | None
    old_secret_until: float | None
    created_at: str
    updated_at: str

    @property
    def enabled_events(self) -> list[str]:
        found: list[str] = decode(self.enabled_events_json)
        return found


_ENDPOINT = tuple(endpoints.c)


def wanted(union_json: str, type_: str) -> bool:
    """Whether the workspace that holds `union_json` has an endpoint for this event."""
    return union_json != "[]" and wants(decode(union_json), type_)


_ADMINISTERED: Final = frozenset({"agent", "environment", "vault", "vault_credential", "memory_store"})
"""Sessions have entries of their own."""
_ACTS: Final = {"created": "create", "updated": "update", "archived": "archive", "deleted": "delete"}


def wants(enabled_events: Sequence[str], type_: str) -> bool:
    return type_ in enabled_events or EVERYTHING in enabled_events


# ------------------------------------------------------------------------------------------------------- what happens


def emit(conn: Connection, now: float, workspace_id: str, type_: str, data: Mapping[str, str]) -> int:
    """Tell the workspace's endpoints, once this transaction is committed. How many will be told.

    type_  a webhook event of the contract, such as `vault.created`.
    data   `id` of what it is about, and what else the contract's event data have (`vault_id`, `session_thread_id`).
           Type, workspace and organisation are added.

    What people do to what is set up is also written into the audit (`_ADMINISTERED`), whoever listens.
    """
    kind, _, happened = type_.partition(".")
    if kind in _ADMINISTERED and happened in _ACTS:
        more = {name: value for name, value in data.items() if name != "id"}
        audit.record_act(
            conn,
            now,
            actor=acting(conn),
            act=f"{kind}.{_ACTS[happened]}",
            target_id=data["id"],
            workspace_id=workspace_id,
            details=more,
        )
    return emit_all(conn, now, workspace_id, [(type_, data)])


def emit_all(conn: Connection, now: float, workspace_id: str, happened: Iterable[tuple[str, Mapping[str, str]]]) -> int:
    """The same for several happenings, in their order."""
    listening = sa.select(endpoints.c.id, endpoints.c.enabled_events).where(
        endpoints.c.workspace_id == workspace_id, endpoints.c.state == "enabled"
    )
    known = [(endpoint_id, decode(events)) for endpoint_id, events in conn.execute(listening)]
    rows: list[dict[str, Any]] = []
    for type_, data in happened if known else ():
        event_id = new_id("whe")
        rows += [
            delivery_values(conn, now, workspace_id, endpoint_id, event_id, type_, data)
            for endpoint_id, events in known
            if wants(events, type_)
        ]
    if rows:
        conn.execute(deliveries.insert(), rows)
        raise_signal(conn, SIGNAL)
    return len(rows)


def delivery_values(
    conn: Connection,
    now: float,
    workspace_id: str,
    endpoint_id: str,
    event_id: str,
    type_: str,
    data: Mapping[str, str],
    *,
    test: bool = False,
) -> dict[str, Any]:
    """The row of one event on its way to one endpoint."""
    # Events of one transaction have the same moment: the counter of its connection keeps them in order.
    tick = conn.info[_TICK] = conn.info.get(_TICK, 0) + 1
    return {
        "id": new_id("whd"),
        "workspace_id": workspace_id,
        "endpoint_id": endpoint_id,
        "event_id": event_id,
        "event_type": type_,
        "subject": data["id"],
        "data": encode({"type": type_, **data, "workspace_id": workspace_id}),
        "state": "pending",
        "test": test,
        "attempts": 0,
        "tries_left": 1 if test else TRIES,
        "enqueued_at": now,
        "tick": tick,
        "due_at": now,
        "owner": None,
        "epoch": 0,
        "lease_until": None,
        "created_at": moment(now),
    }


# ---------------------------------------------------------------------------------------------------------- endpoints


def create_endpoint(
    conn: Connection,
    now: float,
    *,
    id: str,
    workspace_id: str,
    url: str,
    name: str,
    description: str,
    enabled_events: Sequence[str],
    secret: str,
    most: int,
) -> EndpointRow:
    """Raises InvalidRequest when the workspace has `most` endpoints already, NotFound for an unknown workspace."""
    _lock(conn, workspace_id)
    count = conn.execute(
        sa.select(sa.func.count()).select_from(endpoints).where(endpoints.c.workspace_id == workspace_id)
    )
    if int(count.scalar_one()) >= most:
        raise InvalidRequest(f"this workspace has {most} webhook endpoints, which is the limit; delete one first")
    at = moment(now)
    row = EndpointRow(
        id, workspace_id, url, name, description, encode(list(enabled_events)), "enabled", "", 0, secret, None, None,
        at, at,
    )  # fmt: skip
    conn.execute(endpoints.insert().values(**_values(row)))
    _refresh(conn, workspace_id)
    return row


def get_endpoint(conn: Connection, workspace_id: str, endpoint_id: str, *, for_update: bool = False) -> EndpointRow:
    """Raises NotFound. `for_update` keeps other transactions from changing it until this one ends."""
    if for_update:
        _lock(conn, workspace_id)
    query = sa.select(*_ENDPOINT).where(endpoints.c.workspace_id == workspace_id, endpoints.c.id == endpoint_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"webhook endpoint {endpoint_id} does not exist")
    return EndpointRow(*row)


def list_endpoints(
    conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None
) -> Page[EndpointRow]:
    """Endpoints, newest first."""
    return page(
        conn,
        endpoints,
        _ENDPOINT,
        [endpoints.c.workspace_id == workspace_id],
        EndpointRow,
        keys=(endpoints.c.created_at, endpoints.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def change_endpoint(
    conn: Connection, now: float, workspace_id: str, endpoint_id: str, changes: Mapping[str, Any]
) -> EndpointRow:
    """Replace columns of the row. Disabling drops what was still to be delivered. Raises NotFound."""
    _lock(conn, workspace_id)
    before = get_endpoint(conn, workspace_id, endpoint_id)
    current = _values(before)
    changes = {name: value for name, value in changes.items() if current[name] != value}
    if not changes:
        return before
    change = endpoints.update().where(endpoints.c.id == endpoint_id)
    conn.execute(change.values(**changes, updated_at=moment(now)))
    after = get_endpoint(conn, workspace_id, endpoint_id)
    if after.state == "disabled":
        _drop(conn, endpoint_id)
    _refresh(conn, workspace_id)
    return after


def delete_endpoint(conn: Connection, workspace_id: str, endpoint_id: str) -> None:
    """The endpoint and its delivery log are gone. Raises NotFound."""
    _lock(conn, workspace_id)
    get_endpoint(conn, workspace_id, endpoint_id)
    conn.execute(endpoints.delete().where(endpoints.c.id == endpoint_id))
    conn.execute(deliveries.delete().where(deliveries.c.endpoint_id == endpoint_id))
    _refresh(conn, workspace_id)


def disable_endpoint(conn: Connection, now: float, workspace_id: str, endpoint_id: str, reason: str) -> bool:
    """Automatic disabling. False: it is disabled already, or gone."""
    _lock(conn, workspace_id)
    changed = conn.execute(
        endpoints.update()
        .where(endpoints.c.id == endpoint_id, endpoints.c.state == "enabled")
        .values(state="disabled", disabled_reason=reason, updated_at=moment(now))
    )
    if changed.rowcount != 1:
        return False
    _drop(conn, endpoint_id)
    _refresh(conn, workspace_id)
    return True


def _drop(conn: Connection, endpoint_id: str) -> None:
    waiting = sa.and_(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == "pending")
    conn.execute(
        deliveries.update().where(waiting, deliveries.c.test.is_(False)).values(state="dropped", lease_until=None)
    )


def _values(row: EndpointRow) -> dict[str, Any]:
    names = (column.name for column in _ENDPOINT)
    return {name: getattr(row, "enabled_events_json" if name == "enabled_events" else name) for name in names}


def _lock(conn: Connection, workspace_id: str) -> None:
    query = sa.select(workspaces.c.id).where(workspaces.c.id == workspace_id).with_for_update(key_share=True)
    if conn.execute(query).first() is None:
        raise NotFound(f"workspace {workspace_id} does not exist")


def _refresh(conn: Connection, workspace_id: str) -> None:
    """Write down what anybody in the workspace wants to know. Under the lock of its row."""
    query = sa.select(endpoints.c.enabled_events).where(
        endpoints.c.workspace_id == workspace_id, endpoints.c.state == "enabled"
    )
    union = sorted({type_ for (events,) in conn.execute(query) for type_ in decode(events)})
    if EVERYTHING in union:
        union = [EVERYTHING]
    conn.execute(workspaces.update().where(workspaces.c.id == workspace_id).values(webhook_events=encode(union)))
