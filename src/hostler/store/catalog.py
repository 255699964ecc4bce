"""Which agents and environments does a workspace have?

Agents have versions that never change; environments change in place. Another workspace's things are not found. Every
function runs inside the caller's transaction; `now` is `Database.now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict, NotFound
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, Range, page
from hostler.store.tables import agent_versions, agents, environments, sessions

ANY_TIME = Range()


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One version of an agent."""

    id: str
    workspace_id: str
    version: int
    current_version: int
    name: str
    body_json: str
    created_at: str
    """When the agent was made, not this version."""
    updated_at: str
    """When this version was made."""
    archived_at: str | None

    @property
    def body(self) -> Any:
        """What `create_agent` or `append_version` was given. Parsed at each call."""
        return decode(self.body_json)


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    id: str
    workspace_id: str
    name: str
    body_json: str
    created_at: str
    updated_at: str
    archived_at: str | None

    @property
    def body(self) -> Any:
        """What `create_environment` or `update_environment` was given. Parsed at each call."""
        return decode(self.body_json)


# ---------------------------------------------------------------------------------------------------------- agents

_AGENT = (
    agents.c.id,
    agents.c.workspace_id,
    agent_versions.c.version,
    agents.c.current_version,
    agent_versions.c.name,
    agent_versions.c.body,
    agents.c.created_at,
    agent_versions.c.created_at,
    agents.c.archived_at,
)
_VERSIONS = agents.join(agent_versions, agents.c.id == agent_versions.c.agent_id)


def create_agent(
    conn: Connection, now: float, *, id: str, workspace_id: str, name: str, body: Mapping[str, Any]
) -> AgentRow:
    """Make an agent with version 1. Raises NotFound for an unknown workspace."""
    at = moment(now)
    try:
        with conn.begin_nested():
            conn.execute(
                agents.insert().values(
                    id=id, workspace_id=workspace_id, current_version=1, created_at=at, updated_at=at
                )
            )
    except IntegrityError as error:
        raise NotFound(f"workspace {workspace_id} does not exist") from error
    return _add_version(conn, at, workspace_id, id, 1, name, body)


def get_agent(
    conn: Connection, workspace_id: str, agent_id: str, version: int | None = None, *, for_update: bool = False
) -> AgentRow:
    """The current version, or the one that is asked for. Raises NotFound.

    for_update  keeps other transactions from changing the agent until this one ends.
    """
    wanted = agents.c.current_version if version is None else sa.literal(version)
    query = (
        sa.select(*_AGENT)
        .select_from(_VERSIONS)
        .where(agents.c.workspace_id == workspace_id, agents.c.id == agent_id, agent_versions.c.version == wanted)
    )
    if for_update:
        # Lock first, look afterwards: the joined version may change while the lock is waited for.
        conn.execute(sa.select(agents.c.id).where(agents.c.id == agent_id).with_for_update(key_share=True))
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(
            f"agent {agent_id} does not exist" if version is None else f"agent {agent_id} has no version {version}"
        )
    return AgentRow(*row)


def list_agents(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    created: Range = ANY_TIME,
    include_archived: bool = False,
) -> Page[AgentRow]:
    """Agents at their current version, newest first."""
    conditions = [agents.c.workspace_id == workspace_id, agent_versions.c.version == agents.c.current_version]
    conditions += created.conditions(agents.c.created_at)
    if not include_archived:
        conditions.append(agents.c.archived_at.is_(None))
    return page(
        conn,
        _VERSIONS,
        _AGENT,
        conditions,
        AgentRow,
        keys=(agents.c.created_at, agents.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def list_versions(
    conn: Connection, workspace_id: str, agent_id: str, *, limit: int, after_version: int | None = None
) -> Page[AgentRow]:
    """Versions of one agent, newest first. Raises NotFound for an unknown agent."""
    get_agent(conn, workspace_id, agent_id)
    query = sa.select(*_AGENT).select_from(_VERSIONS).where(agents.c.id == agent_id)
    if after_version is not None:
        query = query.where(agent_versions.c.version < after_version)
    rows = conn.execute(query.order_by(agent_versions.c.version.desc()).limit(limit + 1)).all()
    return Page(
        [AgentRow(*row) for row in rows[:limit]], has_next=len(rows) > limit, has_prev=after_version is not None
    )


def append_version(
    conn: Connection,
    now: float,
    workspace_id: str,
    agent_id: str,
    *,
    expected_version: int,
    name: str,
    body: Mapping[str, Any],
) -> AgentRow:
    """Make version `expected_version + 1` the current one.

    Raises Conflict when the current version is another one: somebody was faster. Raises NotFound for an unknown agent.
    """
    at = moment(now)
    changed = conn.execute(
        agents.update()
        .where(
            agents.c.workspace_id == workspace_id,
            agents.c.id == agent_id,
            agents.c.current_version == expected_version,
        )
        .values(current_version=expected_version + 1, updated_at=at)
    )
    if changed.rowcount != 1:
        current = get_agent(conn, workspace_id, agent_id).version
        raise Conflict(f"agent {agent_id} is at version {current}, not {expected_version}")
    return _add_version(conn, at, workspace_id, agent_id, expected_version + 1, name, body)


def archive_agent(conn: Connection, now: float, workspace_id: str, agent_id: str) -> AgentRow:
    """Archive for good. A second time changes nothing. Raises NotFound."""
    conn.execute(
        agents.update()
        .where(agents.c.workspace_id == workspace_id, agents.c.id == agent_id, agents.c.archived_at.is_(None))
        .values(archived_at=moment(now), updated_at=moment(now))
    )
    return get_agent(conn, workspace_id, agent_id)


def _add_version(
    conn: Connection, at: str, workspace_id: str, agent_id: str, version: int, name: str, body: Mapping[str, Any]
) -> AgentRow:
    conn.execute(
        agent_versions.insert().values(agent_id=agent_id, version=version, name=name, body=encode(body), created_at=at)
    )
    return get_agent(conn, workspace_id, agent_id, version)


# ---------------------------------------------------------------------------------------------------- environments

_ENVIRONMENT = tuple(environments.c)


def create_environment(
    conn: Connection, now: float, *, id: str, workspace_id: str, name: str, body: Mapping[str, Any]
) -> EnvironmentRow:
    """Make an environment. Raises Conflict when the workspace has one of that name, archived ones included."""
    at = moment(now)
    values = {
        "id": id,
        "workspace_id": workspace_id,
        "name": name,
        "body": encode(body),
        "created_at": at,
        "updated_at": at,
    }
    _unless_taken(conn, environments.insert().values(**values), name)
    return get_environment(conn, workspace_id, id)


def get_environment(
    conn: Connection, workspace_id: str, environment_id: str, *, for_update: bool = False
) -> EnvironmentRow:
    """Raises NotFound. `for_update` keeps other transactions from changing it until this one ends."""
    query = sa.select(*_ENVIRONMENT).where(
        environments.c.workspace_id == workspace_id, environments.c.id == environment_id
    )
    row = conn.execute(query.with_for_update(key_share=True) if for_update else query).first()
    if row is None:
        raise NotFound(f"environment {environment_id} does not exist", code="environment_not_found")
    return EnvironmentRow(*row)


def environment_names(conn: Connection, workspace_id: str) -> set[str]:
    """The names that are taken, archived environments included."""
    query = sa.select(environments.c.name).where(environments.c.workspace_id == workspace_id)
    return set(conn.execute(query).scalars())


def list_environments(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    created: Range = ANY_TIME,
    include_archived: bool = False,
) -> Page[EnvironmentRow]:
    """Environments, newest first."""
    conditions = [environments.c.workspace_id == workspace_id, *created.conditions(environments.c.created_at)]
    if not include_archived:
        conditions.append(environments.c.archived_at.is_(None))
    return page(
        conn,
        environments,
        _ENVIRONMENT,
        conditions,
        EnvironmentRow,
        keys=(environments.c.created_at, environments.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def update_environment(
    conn: Connection, now: float, workspace_id: str, environment_id: str, *, name: str, body: Mapping[str, Any]
) -> EnvironmentRow:
    """Replace name and body. Raises NotFound, or Conflict when the name is taken. Read with `for_update` before."""
    get_environment(conn, workspace_id, environment_id)
    update = environments.update().where(environments.c.id == environment_id)
    _unless_taken(conn, update.values(name=name, body=encode(body), updated_at=moment(now)), name)
    return get_environment(conn, workspace_id, environment_id)


def archive_environment(conn: Connection, now: float, workspace_id: str, environment_id: str) -> EnvironmentRow:
    """Archive for good. A second time changes nothing. Raises NotFound."""
    conn.execute(
        environments.update()
        .where(
            environments.c.workspace_id == workspace_id,
            environments.c.id == environment_id,
            environments.c.archived_at.is_(None),
        )
        .values(archived_at=moment(now), updated_at=moment(now))
    )
    return get_environment(conn, workspace_id, environment_id)


def delete_environment(conn: Connection, workspace_id: str, environment_id: str) -> None:
    """Raises NotFound, or Conflict (`environment_in_use`) while a session refers to it, archived sessions included."""
    get_environment(conn, workspace_id, environment_id, for_update=True)
    in_use = Conflict(f"environment {environment_id} still has sessions: delete them first", code="environment_in_use")
    if conn.execute(sa.select(sessions.c.id).where(sessions.c.environment_id == environment_id).limit(1)).first():
        raise in_use
    try:
        with conn.begin_nested():
            conn.execute(environments.delete().where(environments.c.id == environment_id))
    except IntegrityError as error:  # a session was made in between: the foreign key saw it
        raise in_use from error


def _unless_taken(conn: Connection, statement: sa.Insert | sa.Update, name: str) -> None:
    try:
        with conn.begin_nested():
            conn.execute(statement)
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise NotFound("that workspace does not exist") from error
        raise Conflict(f"an environment named {name!r} exists already") from error
