"""How does a machine get the right to serve an environment? By a key that its workspace makes, lists and revokes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.domain.principals import Actor, Principal
from hostler.domain.sessions import Position
from hostler.engine.environments import body_of
from hostler.store import catalog
from hostler.store import environment_keys as rows
from hostler.store.audit import record_act
from hostler.store.database import Database
from hostler.store.environment_keys import EnvironmentKeyRow
from hostler.store.pages import Position as StorePosition


class EnvironmentKeys:
    """The keys of self-hosted environments. NotFound for another workspace's environment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, by: Principal, environment_id: str, name: str) -> dict[str, Any]:
        """The key with its `secret`, which nobody can see a second time. Noted in the audit.

        Raises InvalidRequest for an environment that has no queue (cloud), or that is archived.
        """
        row, secret = await self._database.write(
            lambda conn: make_key(conn, self._database.now(conn), by.actor, by.workspace, environment_id, name)
        )
        return {**key_wire(row), "secret": secret}

    async def list(
        self, workspace: str, environment_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[dict[str, Any]], bool]:
        """Newest first, revoked ones included, and whether more follow."""

        def unit(conn: Connection) -> Any:
            catalog.get_environment(conn, workspace, environment_id)
            place = None if after is None else StorePosition(*after)
            return rows.list_environment_keys(conn, workspace, environment_id, limit=limit, after=place)

        found = await self._database.read(unit)
        return [key_wire(row) for row in found.rows], found.has_next

    async def revoke(self, by: Principal, environment_id: str, key_id: str) -> dict[str, Any]:
        """Felt within two seconds. A second time changes nothing. Raises NotFound."""

        def unit(conn: Connection) -> EnvironmentKeyRow:
            catalog.get_environment(conn, by.workspace, environment_id)
            return revoke_key(conn, self._database.now(conn), by.actor, by.workspace, environment_id, key_id)

        return key_wire(await self._database.write(unit))


def make_key(
    conn: Connection, now: float, actor: Actor, workspace: str, environment_id: str, name: str
) -> tuple[EnvironmentKeyRow, str]:
    """The key's row and its secret. Raises NotFound, or InvalidRequest when the environment can't have one."""
    environment = catalog.get_environment(conn, workspace, environment_id)
    if body_of(environment).config.type != "self_hosted":
        raise InvalidRequest(
            f"environment {environment_id} is a cloud environment: its tools run on this server; "
            'create one with {"type": "self_hosted"} to serve it with a worker of your own'
        )
    if environment.archived_at is not None:
        raise InvalidRequest(f"environment {environment_id} is archived", code="environment_archived")
    row, secret = rows.create_environment_key(conn, now, workspace, environment_id, name)
    _record(conn, now, actor, "environment_key.create", row)
    return row, secret


def revoke_key(
    conn: Connection, now: float, actor: Actor, workspace: str, environment_id: str, key_id: str
) -> EnvironmentKeyRow:
    """Make a key useless and note who did. A second time changes nothing. Raises NotFound."""
    row, changed = rows.revoke_environment_key(conn, now, workspace, environment_id, key_id)
    if changed:
        _record(conn, now, actor, "environment_key.revoke", row)
    return row


def _record(conn: Connection, now: float, actor: Actor, act: str, row: EnvironmentKeyRow) -> None:
    record_act(
        conn,
        now,
        actor=actor,
        act=act,
        target_id=row.id,
        workspace_id=row.workspace_id,
        details={"name": row.name, "environment_id": row.environment_id},
    )


def key_wire(row: EnvironmentKeyRow) -> dict[str, Any]:
    """The key as our own endpoints show it, without its secret."""
    return {
        "id": row.id,
        "type": "environment_key",
        "environment_id": row.environment_id,
        "name": row.name,
        "hint": row.hint,
        "created_at": row.created_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
    }
