"""What may happen to an environment? Creation, change in place, archiving, deletion; and what a session takes."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from sqlalchemy import Connection

from hostler.domain.environments import (
    CloudConfig,
    Config,
    CreateEnvironment,
    SelfHostedConfig,
    UpdateEnvironment,
    changed_config,
    new_config,
)
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.domain.values import Value, merge_metadata
from hostler.engine.placement import Placement
from hostler.store import catalog, webhooks
from hostler.store.catalog import EnvironmentRow
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition


class EnvironmentBody(Value):
    """What is kept of an environment besides its name."""

    description: str | None = None
    config: Config = CloudConfig()
    metadata: dict[str, str] = Field(default_factory=dict)


class Environments:
    """The environments of every workspace, as the wire shows them. NotFound for another workspace's environment."""

    def __init__(self, database: Database, placement: Placement) -> None:
        self._database = database
        self._placement = placement

    async def create(self, workspace: str, request: CreateEnvironment) -> dict[str, Any]:
        """Raises Conflict when the name is taken, InvalidRequest when this host can't keep what it promises."""
        config = new_config(request.config)
        (await self._placement.survey()).check(config)
        body = EnvironmentBody(description=request.description, config=config, metadata=dict(request.metadata))
        environment_id = new_id("env")

        def create(conn: Connection) -> EnvironmentRow:
            now = self._database.now(conn)
            row = catalog.create_environment(
                conn,
                now,
                id=environment_id,
                workspace_id=workspace,
                name=request.name,
                body=body.model_dump(mode="json"),
            )
            webhooks.emit(conn, now, workspace, "environment.created", {"id": environment_id})
            return row

        return environment_wire(await self._database.write(create))

    async def retrieve(self, workspace: str, environment_id: str) -> dict[str, Any]:
        return environment_wire(
            await self._database.read(lambda conn: catalog.get_environment(conn, workspace, environment_id))
        )

    async def update(self, workspace: str, environment_id: str, patch: UpdateEnvironment) -> dict[str, Any]:
        """Changed in place; sessions keep the configuration that they started with.

        Raises InvalidRequest when it is archived or promises what this host can't keep, Conflict when the new name is
        taken.
        """
        survey = await self._placement.survey()

        def update(conn: Connection) -> EnvironmentRow:
            row = catalog.get_environment(conn, workspace, environment_id, for_update=True)
            if row.archived_at is not None:
                raise _archived(environment_id)
            stored = body_of(row)
            changed = patched(stored, patch)
            name = row.name if patch.name is None else patch.name
            if name == row.name and changed == stored:
                return row
            if changed.config != stored.config:
                survey.check(changed.config)
            now = self._database.now(conn)
            webhooks.emit(conn, now, workspace, "environment.updated", {"id": environment_id})
            return catalog.update_environment(
                conn,
                now,
                workspace,
                environment_id,
                name=name,
                body=changed.model_dump(mode="json"),
            )

        return environment_wire(await self._database.write(update))

    async def list(
        self, workspace: str, *, limit: int, after: Position | None = None, include_archived: bool = False
    ) -> tuple[list[dict[str, Any]], bool]:
        """Environments, newest first, and whether more follow."""
        found = await self._database.read(
            lambda conn: catalog.list_environments(
                conn,
                workspace,
                limit=limit,
                after=None if after is None else StorePosition(*after),
                include_archived=include_archived,
            )
        )
        return [environment_wire(row) for row in found.rows], found.has_next

    async def archive(self, workspace: str, environment_id: str) -> dict[str, Any]:
        """Archived for good; a second time changes nothing. Running sessions go on."""

        def archive(conn: Connection) -> EnvironmentRow:
            before = catalog.get_environment(conn, workspace, environment_id, for_update=True)
            if before.archived_at is not None:
                return before
            now = self._database.now(conn)
            webhooks.emit(conn, now, workspace, "environment.archived", {"id": environment_id})
            return catalog.archive_environment(conn, now, workspace, environment_id)

        return environment_wire(await self._database.write(archive))

    async def delete(self, workspace: str, environment_id: str) -> None:
        """Raises Conflict while a session refers to it."""

        def delete(conn: Connection) -> None:
            catalog.delete_environment(conn, workspace, environment_id)
            webhooks.emit(conn, self._database.now(conn), workspace, "environment.deleted", {"id": environment_id})

        await self._database.write(delete)


def body_of(row: EnvironmentRow) -> EnvironmentBody:
    """What `row` keeps besides the name."""
    return EnvironmentBody.model_validate_json(row.body_json)


def environment_wire(row: EnvironmentRow) -> dict[str, Any]:
    """The environment as the wire shows it, every key present."""
    body = body_of(row)
    return {
        "id": row.id,
        "type": "environment",
        "name": row.name,
        "description": body.description,
        "config": body.config.wire(),
        "metadata": body.metadata,
        "scope": "organization",
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def patched(stored: EnvironmentBody, patch: UpdateEnvironment) -> EnvironmentBody:
    """`stored` with `patch`: what was left out stays; a null description clears, an empty one is kept as it is."""
    sent = patch.model_fields_set
    changes: dict[str, Any] = {}
    if "description" in sent:
        changes["description"] = patch.description
    if patch.config is not None:
        changes["config"] = changed_config(stored.config, patch.config)
    if "metadata" in sent:
        changes["metadata"] = merge_metadata(stored.metadata, patch.metadata, empty_deletes=True)
    return stored.model_copy(update=changes)


def session_environment(
    conn: Connection, workspace: str, environment_id: str
) -> tuple[EnvironmentRow, CloudConfig | SelfHostedConfig]:
    """The environment that a new session takes. Raises NotFound, and InvalidRequest when it is archived."""
    row = catalog.get_environment(conn, workspace, environment_id)
    if row.archived_at is not None:
        raise _archived(environment_id)
    return row, body_of(row).config


def _archived(environment_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"environment {environment_id} is archived; create or name another one", code="environment_archived"
    )
