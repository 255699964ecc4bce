"""What may be done with memory stores, memories and versions from outside? Joins rules to transactions and the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.memories import (
    CreateMemory,
    CreateMemoryStore,
    MemoryQuery,
    UpdateMemory,
    UpdateMemoryStore,
    VersionQuery,
    View,
    Wire,
)
from hostler.domain.principals import Principal
from hostler.domain.sessions import Position, TimeRange
from hostler.domain.values import merge_metadata
from hostler.engine.memory_access import actor_of, may_access_store, may_manage_stores
from hostler.store import memories, memory_stores, memory_versions
from hostler.store.database import Database
from hostler.store.memories import Admit, Folder, MemoryRow, admit_anything
from hostler.store.memory_stores import StoreRow
from hostler.store.memory_versions import VersionRow
from hostler.store.pages import Position as StorePosition
from hostler.store.pages import Range
from hostler.store.webhooks import emit

T = TypeVar("T")


class MemoryStores:
    """The memory stores of every workspace. Each method raises NotFound for what the principal may not know of, and
    PermissionDenied for what it knows and may not do."""

    def __init__(self, database: Database, admit: Admit = admit_anything) -> None:
        """`admit` is asked before more bytes are kept (`WorkspaceQuotas.admit_bytes`)."""
        self._database = database
        self._admit = admit

    # -- stores

    async def create(self, principal: Principal, request: CreateMemoryStore) -> Wire:
        may_manage_stores(principal)
        store_id = new_id("memstore")

        def unit(conn: Connection) -> StoreRow:
            now = self._database.now(conn)
            emit(conn, now, principal.workspace, "memory_store.created", {"id": store_id})
            return memory_stores.create_store(
                conn,
                now,
                id=store_id,
                workspace_id=principal.workspace,
                name=request.name,
                description=request.description or "",
                metadata=request.metadata,
            )

        return store_wire(await self._database.write(unit))

    async def retrieve(self, principal: Principal, store_id: str) -> Wire:
        return store_wire(
            await self._read(
                principal, store_id, lambda conn: memory_stores.get_store(conn, principal.workspace, store_id)
            )
        )

    async def update(self, principal: Principal, store_id: str, patch: UpdateMemoryStore) -> Wire:
        """Raises InvalidRequest when the store is archived."""
        may_manage_stores(principal)
        if "name" in patch.model_fields_set and patch.name is None:
            raise InvalidRequest("name: can't be cleared; leave it out to keep it")

        def unit(conn: Connection) -> StoreRow:
            row = memory_stores.writable_store(conn, principal.workspace, store_id)
            return memory_stores.update_store(
                conn,
                self._database.now(conn),
                row,
                name=row.name if patch.name is None else patch.name,
                description=(patch.description or "") if "description" in patch.model_fields_set else row.description,
                metadata=merge_metadata(row.metadata, patch.metadata),
            )

        return store_wire(await self._database.write(unit))

    async def list_stores(
        self,
        principal: Principal,
        *,
        limit: int,
        after: Position | None = None,
        created_at: TimeRange | None = None,
        include_archived: bool = False,
    ) -> tuple[list[Wire], bool]:
        """Stores, newest first, and whether more follow."""
        may_manage_stores(principal)
        found = await self._database.read(
            lambda conn: memory_stores.list_stores(
                conn,
                principal.workspace,
                limit=limit,
                after=None if after is None else StorePosition(*after),
                created=Range(**(created_at or TimeRange()).texts()),
                include_archived=include_archived,
            )
        )
        return [store_wire(row) for row in found.rows], found.has_next

    async def archive(self, principal: Principal, store_id: str) -> Wire:
        """Read-only for good; a second time changes nothing."""
        may_manage_stores(principal)

        def unit(conn: Connection) -> StoreRow:
            now, workspace = self._database.now(conn), principal.workspace
            row = memory_stores.get_store(conn, workspace, store_id, for_update=True)
            if row.archived_at is None:
                emit(conn, now, workspace, "memory_store.archived", {"id": store_id})
            return memory_stores.archive_store(conn, now, workspace, store_id)

        return store_wire(await self._database.write(unit))

    async def delete(self, principal: Principal, store_id: str) -> None:
        """With everything that it holds. Sessions that it is attached to go on without it."""
        may_manage_stores(principal)

        def unit(conn: Connection) -> None:
            memory_stores.delete_store(conn, principal.workspace, store_id)
            now = self._database.now(conn)
            emit(conn, now, principal.workspace, "memory_store.deleted", {"id": store_id})

        await self._database.write(unit)

    # -- memories

    async def create_memory(self, principal: Principal, store_id: str, request: CreateMemory, view: View) -> Wire:
        """Raises MemoryPathTaken; InvalidRequest when the store is archived or full."""
        content = request.content.encode()

        def unit(conn: Connection) -> MemoryRow:
            may_access_store(conn, principal, store_id, write=True)
            return memories.create_memory(
                conn,
                self._database.now(conn),
                principal.workspace,
                store_id,
                path=request.path,
                content=content,
                actor=actor_of(principal),
                admit=self._admit,
            )

        return memory_wire(await self._database.write(unit), view)

    async def retrieve_memory(self, principal: Principal, store_id: str, memory_id: str, view: View) -> Wire:
        return memory_wire(
            await self._read(
                principal,
                store_id,
                lambda c: memories.get_memory(c, principal.workspace, store_id, memory_id, full=view == "full"),
            )
        )

    async def update_memory(
        self, principal: Principal, store_id: str, memory_id: str, patch: UpdateMemory, view: View
    ) -> Wire:
        """Raises MemoryChanged, MemoryPathTaken; InvalidRequest when the store is archived."""

        def unit(conn: Connection) -> MemoryRow:
            may_access_store(conn, principal, store_id, write=True)
            return memories.update_memory(
                conn,
                self._database.now(conn),
                principal.workspace,
                store_id,
                memory_id,
                path=patch.path,
                content=None if patch.content is None else patch.content.encode(),
                expected_sha256=None if patch.precondition is None else patch.precondition.content_sha256,
                actor=actor_of(principal),
                admit=self._admit,
            )

        return memory_wire(await self._database.write(unit), view)

    async def list_memories(
        self, principal: Principal, store_id: str, query: MemoryQuery
    ) -> tuple[list[Wire], str | None]:
        """Items in the order of their paths, and after which path the next page begins."""
        rows, after = await self._read(
            principal, store_id, lambda conn: memories.list_memories(conn, principal.workspace, store_id, query)
        )
        return [
            {"type": "memory_prefix", "path": row.path} if isinstance(row, Folder) else memory_wire(row) for row in rows
        ], after

    async def delete_memory(
        self, principal: Principal, store_id: str, memory_id: str, expected_sha256: str | None
    ) -> None:
        """Raises MemoryChanged. Works in an archived store."""

        def unit(conn: Connection) -> None:
            may_access_store(conn, principal, store_id, write=True)
            memories.delete_memory(
                conn,
                self._database.now(conn),
                principal.workspace,
                store_id,
                memory_id,
                expected_sha256=expected_sha256,
                actor=actor_of(principal),
            )

        await self._database.write(unit)

    # -- versions

    async def retrieve_version(self, principal: Principal, store_id: str, version_id: str, view: View) -> Wire:
        return version_wire(
            await self._read(
                principal,
                store_id,
                lambda c: memory_versions.get_version(
                    c, principal.workspace, store_id, version_id, full=view == "full"
                ),
            )
        )

    async def list_versions(self, principal: Principal, store_id: str, query: VersionQuery) -> tuple[list[Wire], bool]:
        """Versions, newest first, and whether more follow."""
        found = await self._read(
            principal, store_id, lambda conn: memory_versions.list_versions(conn, principal.workspace, store_id, query)
        )
        return [version_wire(row) for row in found.rows], found.has_next

    async def redact_version(self, principal: Principal, store_id: str, version_id: str) -> Wire:
        """Raises InvalidRequest for the version that its memory stands on. A second time changes nothing."""
        may_manage_stores(principal)
        return version_wire(
            await self._database.write(
                lambda conn: memory_versions.redact_version(
                    conn, self._database.now(conn), principal.workspace, store_id, version_id, actor_of(principal)
                )
            )
        )

    async def _read(self, principal: Principal, store_id: str, fn: Callable[[Connection], T]) -> T:
        def unit(conn: Connection) -> T:
            may_access_store(conn, principal, store_id, write=False)
            return fn(conn)

        return await self._database.read(unit)


# ------------------------------------------------------------------------------------------------------- rendering


def store_wire(row: StoreRow) -> Wire:
    return {
        "id": row.id,
        "type": "memory_store",
        "name": row.name,
        "description": row.description,
        "metadata": row.metadata,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def memory_wire(row: MemoryRow, view: View = "full") -> Wire:
    """With its content, if the row has it and the view shows it."""
    return {
        "id": row.id,
        "type": "memory",
        "memory_store_id": row.memory_store_id,
        "memory_version_id": row.version_id,
        "path": row.path,
        "content": None if row.content is None or view == "basic" else row.content.decode(),
        "content_sha256": row.content_sha256,
        "content_size_bytes": row.content_size_bytes,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def version_wire(row: VersionRow) -> Wire:
    return {
        "id": row.id,
        "type": "memory_version",
        "memory_id": row.memory_id,
        "memory_store_id": row.memory_store_id,
        "operation": row.operation,
        "path": row.path,
        "content": None if row.content is None else row.content.decode(),
        "content_sha256": row.content_sha256,
        "content_size_bytes": row.content_size_bytes,
        "created_at": row.created_at,
        "created_by": _actor_wire(row.actor_type, row.actor_id),
        "redacted_at": row.redacted_at,
        "redacted_by": None if row.redactor_type is None else _actor_wire(row.redactor_type, row.redactor_id or ""),
    }


def _actor_wire(kind: str, who: str) -> dict[str, str]:
    return {"type": kind, "session_id" if kind == "session_actor" else "api_key_id": who}
