"""Which sessions are there, and what is known about each besides its events?

The row of a session is also the lock and the counter of its event log: whoever changes a session holds that row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import NotFound
from hostler.store.acting import acting
from hostler.store.audit import Act, append
from hostler.store.budgets import limit_session, unlimit_session
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Order, Page, Position, Range, page
from hostler.store.prepared import Prepared, PreparedUpdate
from hostler.store.rooms import leave_room
from hostler.store.signals import News, tell
from hostler.store.tables import (
    events,
    sequences,
    session_memory_stores,
    sessions,
    transcript_entries,
    transcripts,
    work,
)
from hostler.store.tables_homes import session_homes
from hostler.store.tables_snapshots import snapshots
from hostler.store.tables_tenancy import waiting_calls


class _Keep(Enum):
    KEEP = "keep"


KEEP: Final = _Keep.KEEP
"""In place of a new value: leave it as it is. `None` clears."""
Keep = Literal[_Keep.KEEP]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session has used so far, or what one request adds to it. Tokens, searches, and what they cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0
    list_cost_nanos: int = 0
    """List price, in billionths of a US dollar, of the requests whose model has a price."""
    unpriced_requests: int = 0
    """Requests that used something, of models without a price."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be made. `state` is JSON text of the engine's; nobody else reads it."""

    id: str
    workspace_id: str
    agent_id: str
    agent_version: int
    environment_id: str
    thread_id: str
    agent: Mapping[str, Any]
    """Snapshot of the agent, overrides applied."""
    environment: Mapping[str, Any]
    """Snapshot of the environment: a running session keeps the configuration that it began with. The `skills` beside
    it are the engine's; no client sees them."""
    state: str
    status: str = "idle"
    title: str | None = None
    metadata: Mapping[str, str] | None = None
    deployment_id: str | None = None
    resources: Sequence[Mapping[str, Any]] = ()
    """What is mounted for the session, as the wire shows it. Secrets are not here."""
    vault_ids: Sequence[str] = ()
    budget: Mapping[str, Any] | None = None
    isolation: Mapping[str, Any] = field(default_factory=dict)
    """How it is isolated, as the wire shows it (`engine.labels`)."""
    forked_from: Mapping[str, Any] | None = None
    """The point of another session at which this one begins, as the wire shows it."""
    imported_from: Mapping[str, Any] | None = None
    """The bundle of which this one was made, as the wire shows it."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: str
    workspace_id: str
    agent_id: str
    agent_version: int
    environment_id: str
    deployment_id: str | None
    thread_id: str
    status: str
    title: str | None
    metadata_json: str
    agent_json: str
    environment_json: str
    resources_json: str
    vault_ids_json: str
    budget_json: str | None
    isolation_json: str
    state: str
    last_seq: int
    """Sequence number of the newest event; 0 when there is none."""
    usage: Usage
    created_at: str
    updated_at: str
    archived_at: str | None
    forked_from_json: str | None = None
    imported_from_json: str | None = None
    log_bytes: int = 0
    """Of the bodies of its events."""

    @property
    def metadata(self) -> dict[str, str]:
        """Parsed at each call, like the two snapshots."""
        found: dict[str, str] = decode(self.metadata_json)
        return found

    @property
    def agent(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.agent_json)
        return found

    @property
    def environment(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.environment_json)
        return found

    @property
    def resources(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = decode(self.resources_json)
        return found

    @property
    def vault_ids(self) -> list[str]:
        found: list[str] = decode(self.vault_ids_json)
        return found

    @property
    def budget(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = None if self.budget_json is None else decode(self.budget_json)
        return found

    @property
    def forked_from(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = None if self.forked_from_json is None else decode(self.forked_from_json)
        return found

    @property
    def imported_from(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = None if self.imported_from_json is None else decode(self.imported_from_json)
        return found

    @property
    def isolation(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.isolation_json)
        return found


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """Fields of a session to replace. `KEEP` leaves one as it is."""

    title: str | Keep | None = KEEP
    metadata: Mapping[str, str] | Keep = KEEP
    agent: Mapping[str, Any] | Keep = KEEP
    resources: Sequence[Mapping[str, Any]] | Keep = KEEP
    budget: Mapping[str, Any] | Keep | None = KEEP
    isolation: Mapping[str, Any] | Keep = KEEP
    archived_at: str | Keep | None = KEEP

    def values(self) -> dict[str, Any]:
        """Column values of the fields that change."""
        found: dict[str, Any] = {}
        if self.title is not KEEP:
            found["title"] = self.title
        if self.metadata is not KEEP:
            found["metadata"] = encode(dict(self.metadata))
        if self.agent is not KEEP:
            found["agent"] = encode(dict(self.agent))
        if self.resources is not KEEP:
            found["resources"] = encode([dict(resource) for resource in self.resources])
        if self.budget is not KEEP:
            found["budget"] = None if self.budget is None else encode(dict(self.budget))
        if self.isolation is not KEEP:
            found["isolation"] = encode(dict(self.isolation))
        if self.archived_at is not KEEP:
            found["archived_at"] = self.archived_at
        return found


COLUMNS = tuple(sessions.c)
_USAGE = tuple(sessions.c[name] for name in Usage.__slots__)
_USAGE_AT = COLUMNS.index(_USAGE[0])


def session_row(*values: Any) -> SessionRow:
    """A row from the values of `COLUMNS`, in that order."""
    end = _USAGE_AT + len(_USAGE)
    fields: tuple[Any, ...] = (*values[:_USAGE_AT], Usage(*values[_USAGE_AT:end]), *values[end:])
    return SessionRow(*fields)


def create_session(conn: Connection, now: float, new: NewSession) -> SessionRow:
    """Make a session without events and without work. Raises NotFound when its agent or environment is gone."""
    at = moment(now)
    values = {
        "id": new.id,
        "workspace_id": new.workspace_id,
        "agent_id": new.agent_id,
        "agent_version": new.agent_version,
        "environment_id": new.environment_id,
        "deployment_id": new.deployment_id,
        "thread_id": new.thread_id,
        "status": new.status,
        "title": new.title,
        "metadata": encode(dict(new.metadata or {})),
        "agent": encode(dict(new.agent)),
        "environment": encode(dict(new.environment)),
        "resources": encode([dict(resource) for resource in new.resources]),
        "vault_ids": encode(list(new.vault_ids)),
        "budget": None if new.budget is None else encode(dict(new.budget)),
        "isolation": encode(dict(new.isolation)),
        "forked_from": None if new.forked_from is None else encode(dict(new.forked_from)),
        "imported_from": None if new.imported_from is None else encode(dict(new.imported_from)),
        "state": new.state,
        "last_seq": 0,
        "created_at": at,
        "updated_at": at,
    }
    try:
        with conn.begin_nested():
            conn.execute(sessions.insert().values(**values))
            # The row of the queue exists from the beginning, so that it can always be locked together with the session.
            conn.execute(work.insert().values(session_id=new.id, wanted=False, available_at=now, enqueued_at=now))
    except IntegrityError as error:
        if "foreign key" not in str(error.orig).lower():
            raise
        raise NotFound("the workspace, agent or environment of this session does not exist") from error
    if new.budget is not None:
        limit_session(conn, now, new.workspace_id, new.id, new.budget)
    for resource in new.resources:
        if resource["type"] == "memory_store":
            note_memory_store(conn, new.id, resource["memory_store_id"])
    made = {"agent_id": new.agent_id, "agent_version": new.agent_version, "environment_id": new.environment_id}
    act = Act("administration", "session.create", acting(conn), new.id, new.id, made)
    append(conn, now, new.workspace_id, [act])
    return get_session(conn, new.workspace_id, new.id)


_OF_WORKSPACE = Prepared(
    sa.select(*COLUMNS).where(
        sessions.c.id == sa.bindparam("id"), sessions.c.workspace_id == sa.bindparam("workspace_id")
    )
)
_OF_ANY = Prepared(sa.select(*COLUMNS).where(sessions.c.id == sa.bindparam("id")))


def get_session(conn: Connection, workspace_id: str | None, session_id: str) -> SessionRow:
    """Raises NotFound. `workspace_id=None`: of any workspace (for the engine, never for a request)."""
    if workspace_id is None:
        found = _OF_ANY.run(conn, id=session_id)
    else:
        found = _OF_WORKSPACE.run(conn, id=session_id, workspace_id=workspace_id)
    if not found:
        raise missing(session_id)
    return session_row(*found[0])


def lock_session(conn: Connection, workspace_id: str, session_id: str) -> SessionRow:
    """The session, which nobody else changes or deletes before the end of this transaction. Raises NotFound."""
    query = sa.select(*COLUMNS).where(sessions.c.id == session_id, sessions.c.workspace_id == workspace_id)
    row = conn.execute(query.with_for_update()).first()
    if row is None:
        raise missing(session_id)
    return session_row(*row)


def list_sessions(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    order: Order = "desc",
    after: Position | None = None,
    before: Position | None = None,
    agent_id: str | None = None,
    agent_version: int | None = None,
    environment_id: str | None = None,
    deployment_id: str | None = None,
    memory_store_id: str | None = None,
    statuses: Collection[str] = (),
    created: Range | None = None,
    include_archived: bool = False,
) -> Page[SessionRow]:
    """Sessions by creation. `after` pages forward, `before` backward; `statuses` empty means every status."""
    conditions = [sessions.c.workspace_id == workspace_id]
    conditions += created.conditions(sessions.c.created_at) if created is not None else []
    for column, value in (
        (sessions.c.agent_id, agent_id),
        (sessions.c.agent_version, agent_version),
        (sessions.c.environment_id, environment_id),
        (sessions.c.deployment_id, deployment_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if memory_store_id is not None:
        mounted = sa.select(session_memory_stores.c.session_id)
        mounted = mounted.where(session_memory_stores.c.memory_store_id == memory_store_id)
        conditions.append(sessions.c.id.in_(mounted))
    if statuses:
        conditions.append(sessions.c.status.in_(sorted(statuses)))
    if not include_archived:
        conditions.append(sessions.c.archived_at.is_(None))
    return page(
        conn,
        sessions,
        COLUMNS,
        conditions,
        session_row,
        keys=(sessions.c.created_at, sessions.c.id),
        order=order,
        limit=limit,
        after=after,
        before=before,
    )


def update_session_fields(
    conn: Connection, now: float, workspace_id: str | None, session_id: str, update: SessionUpdate
) -> SessionRow:
    """Replace fields outside the event log, and move `updated_at`. Raises NotFound.

    A change that the log has to tell goes through `eventlog.transact`, which takes the same update.
    """
    get_session(conn, workspace_id, session_id)
    conn.execute(sessions.update().where(sessions.c.id == session_id).values(**update.values(), updated_at=moment(now)))
    return get_session(conn, workspace_id, session_id)


def note_memory_store(conn: Connection, session_id: str, memory_store_id: str) -> None:
    """The session has this store: `list_sessions` finds it by the store from now on. After `create_session`."""
    conn.execute(session_memory_stores.insert().values(session_id=session_id, memory_store_id=memory_store_id))


def delete_session(conn: Connection, workspace_id: str | None, session_id: str) -> None:
    """Remove the session, its events, work, held calls and transcripts. Raises NotFound.

    Model requests and egress decisions stay: they are the bill and the audit. Transcripts are those whose project key
    is the session's id, as `TranscriptStore(session_id=…)` writes them.
    """
    get_session(conn, workspace_id, session_id)
    # First the row that everybody else locks first, so that nobody is met half-way.
    conn.execute(sa.select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    unlimit_session(conn, session_id)
    for table in (waiting_calls, session_homes, snapshots, work, events, sequences, session_memory_stores):
        conn.execute(table.delete().where(table.c.session_id == session_id))
    leave_room(conn, session_id)
    for table in (transcripts, transcript_entries):
        conn.execute(table.delete().where(table.c.project_key == session_id))
    conn.execute(sessions.delete().where(sessions.c.id == session_id))
    tell(conn, News("deleted", session_id))


def existing(conn: Connection, session_ids: Collection[str]) -> set[str]:
    """Those of the ids that are sessions, of whatever workspace."""
    query = sa.select(sessions.c.id).where(sessions.c.id.in_(sorted(session_ids)))
    return set(conn.execute(query).scalars()) if session_ids else set()


_ADD_USAGE = PreparedUpdate(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("whose"))
    .values({column: column + sa.bindparam(f"added_{column.name}", type_=column.type) for column in _USAGE})
    .returning(sessions.c.workspace_id)
)


def add_usage(conn: Connection, session_id: str, used: Usage) -> str | None:
    """Add to the counters of a session, and return its workspace. None: it is gone."""
    added = {f"added_{name}": getattr(used, name) for name in Usage.__slots__}
    found = _ADD_USAGE.run(conn, whose=session_id, **added)
    return found[0][0] if found else None


def missing(session_id: str) -> NotFound:
    return NotFound(f"session {session_id} does not exist")
