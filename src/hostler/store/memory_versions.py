"""What did memories say before, and who wrote it? Versions never change, except that one can be redacted for good."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.memories import Actor, VersionQuery
from hostler.store.memory_stores import add_to_store, get_store
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, Range, page
from hostler.store.tables_memory import memories, memory_versions


@dataclass(frozen=True, slots=True)
class VersionRow:
    id: str
    memory_store_id: str
    memory_id: str
    operation: str
    path: str | None
    content_sha256: str | None
    content_size_bytes: int | None
    created_at: str
    actor_type: str
    actor_id: str
    redacted_at: str | None
    redactor_type: str | None
    redactor_id: str | None
    content: bytes | None = None
    """None when it wasn't asked for, and when there is none."""


_BASIC = tuple(column for column in memory_versions.c if column.name != "content")
_FULL = (*_BASIC, memory_versions.c.content)


def get_version(
    conn: Connection, workspace_id: str, store_id: str, version_id: str, *, full: bool = False
) -> VersionRow:
    """Raises NotFound for a store or version that the workspace doesn't have."""
    get_store(conn, workspace_id, store_id)
    query = sa.select(*(_FULL if full else _BASIC)).where(
        memory_versions.c.memory_store_id == store_id, memory_versions.c.id == version_id
    )
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"memory version {version_id} does not exist in {store_id}")
    return VersionRow(*row)


def list_versions(conn: Connection, workspace_id: str, store_id: str, query: VersionQuery) -> Page[VersionRow]:
    """Versions of a store, newest first. Raises NotFound for no such store."""
    get_store(conn, workspace_id, store_id)
    columns = memory_versions.c
    conditions = [
        columns.memory_store_id == store_id,
        *Range(**query.created_at.texts()).conditions(columns.created_at),
    ]
    if query.memory_id is not None:
        conditions.append(columns.memory_id == query.memory_id)
    if query.operation is not None:
        conditions.append(columns.operation == query.operation)
    for kind, who in (
        ("session_actor", query.session_id),
        ("api_actor", query.api_key_id),
        ("service_account_actor", query.service_account_id),
    ):
        if who is not None:
            conditions += [columns.actor_type == kind, columns.actor_id == who]
    return page(
        conn,
        memory_versions,
        _FULL if query.view == "full" else _BASIC,
        conditions,
        VersionRow,
        keys=(columns.created_at, columns.id),
        order="desc",
        limit=query.limit,
        after=None if query.after is None else Position(*query.after),
        before=None,
    )


def redact_version(
    conn: Connection, now: float, workspace_id: str, store_id: str, version_id: str, actor: Actor
) -> VersionRow:
    """Forget what a version says: content, path, size and digest. A second time changes nothing.

    Raises NotFound, or InvalidRequest for the version that its memory stands on.
    """
    get_store(conn, workspace_id, store_id, for_update=True)
    row = get_version(conn, workspace_id, store_id, version_id)
    if row.redacted_at is not None:
        return row
    head = sa.select(memories.c.id).where(memories.c.id == row.memory_id, memories.c.version_id == version_id)
    if conn.execute(head).first() is not None:
        raise InvalidRequest(
            f"memory version {version_id} is what memory {row.memory_id} holds now and can't be redacted; "
            "update or delete the memory first"
        )
    conn.execute(
        memory_versions.update()
        .where(memory_versions.c.id == version_id)
        .values(
            path=None,
            content=None,
            content_sha256=None,
            content_size_bytes=None,
            redacted_at=moment(now),
            redactor_type=actor.type,
            redactor_id=actor.id,
        )
    )
    add_to_store(conn, store_id, kept_bytes=-(row.content_size_bytes or 0))
    return get_version(conn, workspace_id, store_id, version_id)


def content_of_version(conn: Connection, store_id: str, version_id: str) -> bytes | None:
    """What a version says. None: it was redacted, says that its memory was deleted, or is gone."""
    query = sa.select(memory_versions.c.content).where(
        memory_versions.c.memory_store_id == store_id, memory_versions.c.id == version_id
    )
    found: bytes | None = conn.execute(query).scalar()
    return None if found is None else bytes(found)


def writers_since(conn: Connection, store_id: str, memory_id: str, version_id: str | None) -> set[Actor]:
    """Who has written versions of a memory after that one; None: any of its versions."""
    columns = memory_versions.c
    query = sa.select(columns.actor_type, columns.actor_id).distinct()
    query = query.where(columns.memory_store_id == store_id, columns.memory_id == memory_id)
    if version_id is not None:
        at = sa.select(columns.created_at).where(columns.memory_store_id == store_id, columns.id == version_id)
        query = query.where(columns.id != version_id, columns.created_at >= at.scalar_subquery())
    return {Actor(type_, id_) for type_, id_ in conn.execute(query)}
