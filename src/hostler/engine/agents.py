"""What may happen to an agent? Creation, new versions, archiving, and what a session takes from it.

A version never changes. An update that changes nothing makes no version; one that changes anything makes the next, if
nobody else made it first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from hostler.domain.agents import AgentVersion, CreateAgent, EffortLevel, UpdateAgent, first_version, resolve_model
from hostler.domain.errors import Conflict, InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.sessions import AgentOverrides, AgentRef, Position, SessionAgentUpdate, TimeRange
from hostler.domain.tools import resolve_tools
from hostler.domain.values import merge_metadata
from hostler.engine import skills
from hostler.engine.models import Models
from hostler.engine.routing import check_routing
from hostler.store import catalog, webhooks
from hostler.store.catalog import AgentRow
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.pages import Range


class Agents:
    """The agents of every workspace, shown as the wire shows them. Raises NotFound for another workspace's agent."""

    def __init__(self, database: Database, models: Models) -> None:
        self._database = database
        self._models = models

    async def create(self, workspace: str, request: CreateAgent) -> dict[str, Any]:
        effort = self._models.default_effort(request.model.id)
        check_routing(self._models, request.routing)
        agent_id = new_id("agent")

        def create(conn: Connection) -> AgentRow:
            now = self._database.now(conn)
            version = first_version(request, default_effort=effort, skills=skills.pin(conn, workspace, request.skills))
            row = catalog.create_agent(
                conn,
                now,
                id=agent_id,
                workspace_id=workspace,
                name=version.name,
                body=version.model_dump(mode="json"),
            )
            webhooks.emit(conn, now, workspace, "agent.created", {"id": agent_id})
            return row

        return agent_wire(await self._database.write(create))

    async def retrieve(self, workspace: str, agent_id: str, version: int | None = None) -> dict[str, Any]:
        """The current version, or the one asked for."""
        return agent_wire(await self._database.read(lambda conn: catalog.get_agent(conn, workspace, agent_id, version)))

    async def update(self, workspace: str, agent_id: str, patch: UpdateAgent) -> dict[str, Any]:
        """The resulting version. Raises Conflict when `patch.version` isn't the current one, InvalidRequest when the
        agent is archived or the patch clears what can't be cleared."""
        for field in ("name", "model"):
            if field in patch.model_fields_set and getattr(patch, field) is None:
                raise InvalidRequest(f"{field}: can't be cleared; leave it out to keep it")
        check_routing(self._models, patch.routing)

        def update(conn: Connection) -> AgentRow:
            row = catalog.get_agent(conn, workspace, agent_id, for_update=True)
            if row.archived_at is not None:
                raise InvalidRequest(f"agent {agent_id} is archived and can't be changed; create another one")
            if patch.version is not None and patch.version != row.version:
                raise Conflict(
                    f"agent {agent_id} is at version {row.version}, not {patch.version}; retrieve it and try again"
                )
            stored = version_of(row)
            changed = patched(stored, patch, self._models.default_effort, pinned(conn, workspace, patch))
            if changed == stored:
                return row
            now = self._database.now(conn)
            webhooks.emit(conn, now, workspace, "agent.updated", {"id": agent_id})
            return catalog.append_version(
                conn,
                now,
                workspace,
                agent_id,
                expected_version=row.version,
                name=changed.name,
                body=changed.model_dump(mode="json"),
            )

        return agent_wire(await self._database.write(update))

    async def versions(
        self, workspace: str, agent_id: str, *, limit: int, after_version: int | None = None
    ) -> tuple[list[dict[str, Any]], bool]:
        """Versions of one agent, newest first, and whether more follow."""
        found = await self._database.read(
            lambda conn: catalog.list_versions(conn, workspace, agent_id, limit=limit, after_version=after_version)
        )
        return [agent_wire(row) for row in found.rows], found.has_next

    async def archive(self, workspace: str, agent_id: str) -> dict[str, Any]:
        """Archived for good; a second time changes nothing. Running sessions go on."""

        def archive(conn: Connection) -> AgentRow:
            before = catalog.get_agent(conn, workspace, agent_id, for_update=True)
            if before.archived_at is not None:
                return before
            now = self._database.now(conn)
            webhooks.emit(conn, now, workspace, "agent.archived", {"id": agent_id})
            return catalog.archive_agent(conn, now, workspace, agent_id)

        return agent_wire(await self._database.write(archive))

    async def list(
        self,
        workspace: str,
        *,
        limit: int,
        after: Position | None = None,
        created_at: TimeRange | None = None,
        include_archived: bool = False,
    ) -> tuple[list[dict[str, Any]], bool]:
        """Agents at their current version, newest first, and whether more follow."""
        created = Range(**(created_at or TimeRange()).texts())
        found = await self._database.read(
            lambda conn: catalog.list_agents(
                conn,
                workspace,
                limit=limit,
                after=None if after is None else StorePosition(*after),
                created=created,
                include_archived=include_archived,
            )
        )
        return [agent_wire(row) for row in found.rows], found.has_next


def version_of(row: AgentRow) -> AgentVersion:
    """What the version of `row` says."""
    return AgentVersion.model_validate_json(row.body_json)


def agent_wire(row: AgentRow) -> dict[str, Any]:
    """The agent as the wire shows it, every key present."""
    return {
        "id": row.id,
        "type": "agent",
        "version": row.version,
        **version_of(row).wire(),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def pinned(conn: Connection, workspace: str, patch: UpdateAgent | AgentOverrides, *, at: str = "") -> dict[str, Any]:
    """What `patch` says of skills, each at a version; nothing when it says nothing. Raises NotFound, InvalidRequest."""
    return {"skills": skills.pin(conn, workspace, patch.skills, at=at)} if "skills" in patch.model_fields_set else {}


def patched(
    stored: AgentVersion,
    patch: UpdateAgent,
    default_effort: Callable[[str], EffortLevel],
    pinned_skills: Mapping[str, Any],
) -> AgentVersion:
    """`stored` with `patch`: what was left out stays, null clears, arrays are replaced, metadata is merged.

    `pinned_skills` is what `pinned` made of the patch.
    """
    sent = patch.model_fields_set
    changes: dict[str, Any] = dict(pinned_skills)
    if patch.name is not None:
        changes["name"] = patch.name
    if patch.model is not None:
        changes["model"] = resolve_model(
            patch.model, default_effort=default_effort(patch.model.id), stored=stored.model
        )
    for field in ("description", "system"):
        if field in sent:
            changes[field] = getattr(patch, field) or None
    if "compaction" in sent:
        changes["compaction"] = patch.compaction
    if "routing" in sent:
        changes["routing"] = patch.routing
    changes |= replaced_tools(patch)
    if "metadata" in sent:
        changes["metadata"] = merge_metadata(stored.metadata, patch.metadata)
    changed = stored.model_copy(update=changes)
    changed.check()
    return changed


def replaced_tools(patch: UpdateAgent | AgentOverrides | SessionAgentUpdate) -> dict[str, Any]:
    """What `patch` says of tools, MCP servers and the permission mode: each that was sent, as a whole."""
    sent = patch.model_fields_set
    changes: dict[str, Any] = {"tools": resolve_tools(patch.tools)} if "tools" in sent else {}
    for field in ("mcp_servers", "local_mcp_servers", "permission_mode"):
        if field in sent:
            changes[field] = getattr(patch, field)
    return changes


def session_agent(
    conn: Connection, workspace: str, choice: AgentRef | AgentOverrides, models: Models
) -> tuple[AgentRow, dict[str, Any]]:
    """The agent that a new session takes: its row, and the snapshot as `session.agent` shows it, overrides applied.

    Raises NotFound, and InvalidRequest when the agent is archived or the overrides contradict each other.
    """
    row = catalog.get_agent(conn, workspace, choice.id, choice.version)
    if row.archived_at is not None:
        raise InvalidRequest(f"agent {choice.id} is archived and takes no new sessions; name another agent")
    version = version_of(row)
    if isinstance(choice, AgentOverrides):
        changes = pinned(conn, workspace, choice, at="agent.")
        if choice.model is not None:
            changes["model"] = resolve_model(choice.model, default_effort=models.default_effort(choice.model.id))
        if "system" in choice.model_fields_set:
            changes["system"] = choice.system or None
        version = version.model_copy(update=changes | replaced_tools(choice))
        version.check(at="agent.")
    snapshot = {"id": row.id, "type": "agent", "version": row.version, **version.wire()}
    del snapshot["metadata"]
    return row, snapshot


def patched_snapshot(snapshot: Mapping[str, Any], patch: SessionAgentUpdate) -> dict[str, Any]:
    """The snapshot of a session's agent with `patch`. Raises InvalidRequest when tools and servers then disagree."""
    known = {key: value for key, value in snapshot.items() if key in AgentVersion.model_fields}
    version = AgentVersion.model_validate_json(json.dumps(known)).model_copy(update=replaced_tools(patch))
    version.check(at="agent.")
    shown = version.wire()
    del shown["metadata"]
    others = {key: value for key, value in snapshot.items() if key not in AgentVersion.model_fields}
    following = {**shown, **others}
    return {key: following[key] for key in snapshot if key in following} | following
