"""What may an administrator do? Keys, workspaces and quotas; each act is written into the audit with it.

An administrator looks after the workspace of the key. An admin key of the default workspace looks after the whole
installation: every workspace, and which workspaces there are. For anybody else, another workspace does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from hostler.domain.administration import CreateKey, NameWorkspace
from hostler.domain.errors import InvalidRequest, PermissionDenied
from hostler.domain.principals import DEFAULT_WORKSPACE, SCOPES, Actor, Principal, looked_after
from hostler.domain.quotas import SetQuotas
from hostler.domain.sessions import Position, TimeRange
from hostler.engine.quotas import WorkspaceQuotas
from hostler.store import audit, keys, quotas
from hostler.store.audit import AuditRow
from hostler.store.database import Database
from hostler.store.keys import KeyRow, WorkspaceRow
from hostler.store.pages import Page, Range
from hostler.store.pages import Position as StorePosition

T = TypeVar("T")
View = dict[str, Any]
"""An object as `/hostler/v1` shows it."""


class Administration:
    """Keys, workspaces and quotas. Every method raises NotFound for what the principal does not look after."""

    def __init__(self, database: Database, limits: WorkspaceQuotas) -> None:
        self._database = database
        self._limits = limits

    # -- keys

    async def create_key(self, by: Principal, wanted: CreateKey) -> View:
        """The key with its secret, which is shown here and never again."""
        workspace = looked_after(by, wanted.workspace_id)
        return await self._act(lambda conn, now: create_key(conn, now, by.actor, workspace, wanted))

    async def get_key(self, by: Principal, key_id: str) -> View:
        return key_wire(await self._database.read(lambda conn: keys.get_key(conn, self._only(by), key_id)))

    async def list_keys(
        self, by: Principal, workspace_id: str | None, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow. `workspace_id=None`: the workspace of the key that asks."""
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> Page[KeyRow]:
            keys.get_workspace(conn, workspace)
            return keys.page_of_keys(conn, workspace, limit=limit, after=_position(after))

        found = await self._database.read(unit)
        return [key_wire(row) for row in found.rows], found.has_next

    async def revoke_key(self, by: Principal, key_id: str) -> View:
        """Idempotent."""
        return await self._act(lambda conn, now: revoke_key(conn, now, by.actor, self._only(by), key_id))

    # -- workspaces

    async def create_workspace(self, by: Principal, wanted: NameWorkspace) -> View:
        self._need_installation(by, "make workspaces")
        return await self._act(lambda conn, now: create_workspace(conn, now, by.actor, wanted.name))

    async def get_workspace(self, by: Principal, workspace_id: str) -> View:
        workspace = looked_after(by, workspace_id)
        return workspace_wire(await self._database.read(lambda conn: keys.get_workspace(conn, workspace)))

    async def list_workspaces(
        self, by: Principal, *, limit: int, after: Position | None, include_archived: bool
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow. All of them, or the one that the principal belongs to."""

        def unit(conn: Connection) -> Page[WorkspaceRow]:
            only = None if by.administers_installation else by.workspace
            return keys.page_of_workspaces(
                conn, only, limit=limit, after=_position(after), include_archived=include_archived
            )

        found = await self._database.read(unit)
        return [workspace_wire(row) for row in found.rows], found.has_next

    async def rename_workspace(self, by: Principal, workspace_id: str, wanted: NameWorkspace) -> View:
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection, now: float) -> View:
            before = keys.get_workspace(conn, workspace)
            row = keys.rename_workspace(conn, workspace, wanted.name)
            if row.name != before.name:
                details = {"name": row.name, "before": before.name}
                _record(conn, now, by.actor, "workspace.rename", workspace, workspace, details)
            return workspace_wire(row)

        return await self._act(unit)

    async def archive_workspace(self, by: Principal, workspace_id: str) -> View:
        """Its keys stop working within two seconds. Idempotent. Raises InvalidRequest while a session runs there."""
        workspace = looked_after(by, workspace_id)
        self._need_installation(by, "archive workspaces")
        if workspace == DEFAULT_WORKSPACE:
            raise InvalidRequest("the default workspace can't be archived: it administers the others")

        def unit(conn: Connection, now: float) -> View:
            before = keys.get_workspace(conn, workspace)
            if before.archived_at is not None:
                return workspace_wire(before)
            if quotas.running_sessions(conn, workspace):
                raise InvalidRequest("sessions of this workspace are running; interrupt them, then archive it")
            row = keys.archive_workspace(conn, now, workspace)
            _record(conn, now, by.actor, "workspace.archive", workspace, workspace, {"name": row.name})
            return workspace_wire(row)

        return await self._act(unit)

    # -- quotas

    async def quotas(self, by: Principal, workspace_id: str) -> View:
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> View:
            keys.get_workspace(conn, workspace)
            return self._quotas(conn, self._database.now(conn), workspace)

        return await self._database.read(unit)

    async def set_quotas(self, by: Principal, workspace_id: str, wanted: SetQuotas) -> View:
        """Raises PermissionDenied unless the principal administers the installation: nobody raises their own limits."""
        workspace = looked_after(by, workspace_id)
        self._need_installation(by, "set quotas")

        def unit(conn: Connection, now: float) -> View:
            keys.get_workspace(conn, workspace, open_only=True)
            before = quotas.get_overrides(conn, workspace)
            after = wanted.onto(before)
            if after != before:
                quotas.put_overrides(conn, workspace, after)
                details = {"overrides": after, "before": before}
                _record(conn, now, by.actor, "quotas.set", workspace, workspace, details)
            return self._quotas(conn, now, workspace)

        return await self._act(unit)

    # -- the audit

    async def audit(
        self,
        by: Principal,
        workspace_id: str | None,
        *,
        limit: int,
        after: Position | None,
        created_at: TimeRange,
        actor_id: str | None = None,
        act: str | None = None,
        target_id: str | None = None,
        session_id: str | None = None,
        kinds: Sequence[str] = (),
    ) -> tuple[list[View], bool]:
        """Entries about one workspace, newest first, and whether more follow. `kinds` empty means every kind."""
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> Page[AuditRow]:
            keys.get_workspace(conn, workspace)
            return audit.page_of_acts(
                conn,
                workspace,
                limit=limit,
                after=_position(after),
                created=Range(**created_at.texts()),
                actor_id=actor_id,
                act=act,
                target_id=target_id,
                session_id=session_id,
                kinds=kinds,
            )

        found = await self._database.read(unit)
        return [audit_wire(row) for row in found.rows], found.has_next

    # -- helpers

    def _quotas(self, conn: Connection, now: float, workspace: str) -> View:
        return {
            "type": "workspace_quotas",
            "workspace_id": workspace,
            "limits": dict(self._limits.limits_in(conn, workspace)),
            "overrides": quotas.get_overrides(conn, workspace),
            "used": self._limits.used_in(conn, now, workspace),
        }

    async def _act(self, unit: Callable[[Connection, float], T]) -> T:
        return await self._database.write(lambda conn: unit(conn, self._database.now(conn)))

    @staticmethod
    def _only(by: Principal) -> str | None:
        """The one workspace whose things are found; None: all of them."""
        return None if by.administers_installation else by.workspace

    @staticmethod
    def _need_installation(by: Principal, what: str) -> None:
        if not by.administers_installation:
            raise PermissionDenied(
                f"only an admin key of the default workspace may {what}; this one administers its own workspace"
            )


# --------------------------------------------------------------------------------- acts, for requests and commands


def create_key(conn: Connection, now: float, actor: Actor, workspace: str, wanted: CreateKey) -> View:
    """Make a key and note who did. The answer holds the secret. Raises NotFound, InvalidRequest."""
    expires_in = wanted.expires_in_seconds
    row, secret = keys.create_key(conn, now, workspace, wanted.name, scopes=wanted.scopes, expires_in=expires_in)
    details = {"name": row.name, "scopes": _scopes(row), "expires_at": row.expires_at}
    _record(conn, now, actor, "key.create", row.id, workspace, details)
    return {**key_wire(row), "secret": secret}


def revoke_key(conn: Connection, now: float, actor: Actor, workspace: str | None, key_id: str) -> View:
    """Make a key useless and note who did. A second time changes nothing. Raises NotFound."""
    before = keys.get_key(conn, workspace, key_id)
    row = keys.revoke_key(conn, now, key_id, workspace_id=workspace)
    if before.revoked_at is None:
        _record(conn, now, actor, "key.revoke", row.id, row.workspace_id, {"name": row.name})
    return key_wire(row)


def create_workspace(conn: Connection, now: float, actor: Actor, name: str) -> View:
    """Make a workspace and note who did."""
    row = keys.create_workspace(conn, now, name)
    _record(conn, now, actor, "workspace.create", row.id, row.id, {"name": name})
    return workspace_wire(row)


def _record(
    conn: Connection, now: float, actor: Actor, act: str, target: str, workspace: str, details: Mapping[str, Any]
) -> None:
    audit.record_act(conn, now, actor=actor, act=act, target_id=target, workspace_id=workspace, details=details)


# ------------------------------------------------------------------------------------------------------- rendering


def key_wire(row: KeyRow) -> View:
    return {
        "id": row.id,
        "type": "api_key",
        "name": row.name,
        "workspace_id": row.workspace_id,
        "scopes": _scopes(row),
        "hint": row.hint,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
    }


def workspace_wire(row: WorkspaceRow) -> View:
    return {
        "id": row.id,
        "type": "workspace",
        "name": row.name,
        "created_at": row.created_at,
        "archived_at": row.archived_at,
    }


def audit_wire(row: AuditRow) -> View:
    return {
        "id": row.id,
        "type": "audit_entry",
        "workspace_id": row.workspace_id,
        "actor": {"type": row.actor_kind, "id": row.actor_id},
        "kind": row.kind,
        "act": row.act,
        "target_id": row.target_id,
        "session_id": row.strand or None,
        "details": {**row.details, **(row.private or {})},
        "redacted": bool(row.sealed) and row.private is None,
        "seq": row.seq,
        "hash": row.hash,
        "created_at": row.created_at,
    }


def _scopes(row: KeyRow) -> list[str]:
    return [scope for scope in SCOPES if scope in row.scopes]


def _position(after: Position | None) -> StorePosition | None:
    return StorePosition(*after) if after else None
