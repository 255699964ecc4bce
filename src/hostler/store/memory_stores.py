"""Which memory stores does a workspace have, and how much do they hold?

Another workspace's stores are not found. Every function runs inside the caller's transaction; `now` is `Database.now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, Range, page
from hostler.store.tables_memory import memory_stores

ANY_TIME = Range()


@dataclass(frozen=True, slots=True)
class StoreRow:
    id: str
    workspace_id: str
    name: str
    description: str
    metadata_json: str
    memories: int
    """How many there are."""
    kept_bytes: int
    """Contents of all versions together."""
    created_at: str
    updated_at: str
    archived_at: str | None

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = decode(self.metadata_json)
        return found


_STORE = tuple(memory_stores.c)


def create_store(
    conn: Connection,
    now: float,
    *,
    id: str,
    workspace_id: str,
    name: str,
    description: str,
    metadata: Mapping[str, str],
) -> StoreRow:
    """Make an empty store. Names need not be unique."""
    at = moment(now)
    conn.execute(
        memory_stores.insert().values(
            id=id,
            workspace_id=workspace_id,
            name=name,
            description=description,
            metadata=encode(dict(metadata)),
            memories=0,
            kept_bytes=0,
            created_at=at,
            updated_at=at,
        )
    )
    return get_store(conn, workspace_id, id)


def get_store(conn: Connection, workspace_id: str, store_id: str, *, for_update: bool = False) -> StoreRow:
    """Raises NotFound. `for_update` keeps everybody else from changing the store or its memories meanwhile."""
    query = sa.select(*_STORE).where(memory_stores.c.workspace_id == workspace_id, memory_stores.c.id == store_id)
    row = conn.execute(query.with_for_update(key_share=True) if for_update else query).first()
    if row is None:
        raise NotFound(f"memory store {store_id} does not exist")
    return StoreRow(*row)


def writable_store(conn: Connection, workspace_id: str, store_id: str) -> StoreRow:
    """The store, held for a change. Raises NotFound, or InvalidRequest when it is archived."""
    row = get_store(conn, workspace_id, store_id, for_update=True)
    if row.archived_at is not None:
        raise InvalidRequest(f"memory store {store_id} is archived: it can be read, and nothing can be written to it")
    return row


def list_stores(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    created: Range = ANY_TIME,
    include_archived: bool = False,
) -> Page[StoreRow]:
    """Stores, newest first."""
    conditions = [memory_stores.c.workspace_id == workspace_id, *created.conditions(memory_stores.c.created_at)]
    if not include_archived:
        conditions.append(memory_stores.c.archived_at.is_(None))
    return page(
        conn,
        memory_stores,
        _STORE,
        conditions,
        StoreRow,
        keys=(memory_stores.c.created_at, memory_stores.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def update_store(
    conn: Connection, now: float, row: StoreRow, *, name: str, description: str, metadata: Mapping[str, str]
) -> StoreRow:
    """Replace what the store says of itself. `row` was read with `writable_store`; no change moves no time."""
    if (name, description, dict(metadata)) == (row.name, row.description, row.metadata):
        return row
    values: dict[str, Any] = {"name": name, "description": description, "metadata": encode(dict(metadata))}
    conn.execute(memory_stores.update().where(memory_stores.c.id == row.id).values(**values, updated_at=moment(now)))
    return get_store(conn, row.workspace_id, row.id)


def archive_store(conn: Connection, now: float, workspace_id: str, store_id: str) -> StoreRow:
    """Read-only for good. A second time changes nothing. Raises NotFound."""
    row = get_store(conn, workspace_id, store_id, for_update=True)
    if row.archived_at is not None:
        return row
    at = moment(now)
    conn.execute(memory_stores.update().where(memory_stores.c.id == store_id).values(archived_at=at, updated_at=at))
    return get_store(conn, workspace_id, store_id)


def delete_store(conn: Connection, workspace_id: str, store_id: str) -> None:
    """The store, its memories and all versions are gone. Raises NotFound."""
    get_store(conn, workspace_id, store_id, for_update=True)
    conn.execute(memory_stores.delete().where(memory_stores.c.id == store_id))


def add_to_store(conn: Connection, store_id: str, *, memories: int = 0, kept_bytes: int = 0) -> None:
    """Move the counters of a store that the caller holds."""
    conn.execute(
        memory_stores.update()
        .where(memory_stores.c.id == store_id)
        .values(memories=memory_stores.c.memories + memories, kept_bytes=memory_stores.c.kept_bytes + kept_bytes)
    )


def memory_bytes(conn: Connection, workspace_id: str) -> int:
    """Bytes that the workspace's memories take, all versions that are kept included."""
    total = sa.select(sa.func.coalesce(sa.func.sum(memory_stores.c.kept_bytes), 0))
    return int(conn.execute(total.where(memory_stores.c.workspace_id == workspace_id)).scalar_one())
