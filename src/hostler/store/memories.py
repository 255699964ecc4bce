"""Which memories does a store have, and what happens when one is written?

Each change holds the row of its store, so changes of one store come one after the other: paths stay unique, no folder
is a memory too, and the counters are right. Each adds one version; a change that changes nothing adds none. Functions
run inside the caller's transaction. They check everything before they write, so a caller may catch what they raise
and go on with the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.domain.errors import InvalidRequest, MemoryChanged, MemoryPathTaken, NotFound
from hostler.domain.ids import new_id
from hostler.domain.memories import MAX_MEMORIES, Actor, MemoryQuery, Operation, digest
from hostler.store.memory_stores import add_to_store, get_store, writable_store
from hostler.store.moments import moment
from hostler.store.tables_memory import memories, memory_versions


@dataclass(frozen=True, slots=True)
class MemoryRow:
    id: str
    memory_store_id: str
    path: str
    version_id: str
    """The version that says what the memory holds now."""
    content_sha256: str
    content_size_bytes: int
    created_at: str
    updated_at: str
    content: bytes | None = None
    """None when it wasn't asked for."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Stands for the memories below a path, in a list that doesn't go deeper. `path` ends in a slash."""

    path: str


Admit = Callable[[Connection, str, int], None]
"""Asked with the workspace before so many bytes more are kept. Raises when they may not be."""


def admit_anything(conn: Connection, workspace_id: str, adding: int) -> None:
    """For a server without quotas."""


_MEMORY = tuple(memories.c)
_WITH_CONTENT = memories.join(memory_versions, memories.c.version_id == memory_versions.c.id)


# ------------------------------------------------------------------------------------------------------------- read


def get_memory(conn: Connection, workspace_id: str, store_id: str, memory_id: str, *, full: bool = False) -> MemoryRow:
    """Raises NotFound for a store or memory that the workspace doesn't have."""
    get_store(conn, workspace_id, store_id)
    found = _rows(conn, [memories.c.memory_store_id == store_id, memories.c.id == memory_id], full=full)
    if not found:
        raise NotFound(f"memory {memory_id} does not exist in {store_id}")
    return found[0]


def list_memories(
    conn: Connection, workspace_id: str, store_id: str, query: MemoryQuery
) -> tuple[list[MemoryRow | Folder], str | None]:
    """Items in the order of their paths, and after which path the next page begins; None when nothing follows.

    Raises NotFound for no such store.
    """
    get_store(conn, workspace_id, store_id)
    conditions = [memories.c.memory_store_id == store_id, *_below(query.prefix)]
    if query.after is not None:
        whole = query.after.endswith("/")
        conditions.append(memories.c.path >= _behind(query.after) if whole else memories.c.path > query.after)
    if query.depth == 0:
        rows = _rows(conn, conditions, full=query.view == "full", limit=query.limit + 1)
        return [*rows[: query.limit]], rows[query.limit - 1].path if len(rows) > query.limit else None
    paths = conn.execute(sa.select(memories.c.path).where(*conditions).order_by(memories.c.path)).scalars()
    items = _children(paths.all(), query.prefix, query.limit + 1)
    shown = items[: query.limit]
    wanted = memories.c.path.in_([path for path in shown if not path.endswith("/")])
    rows = _rows(conn, [memories.c.memory_store_id == store_id, wanted], full=query.view == "full")
    by_path = {row.path: row for row in rows}
    # On PostgreSQL the two queries need not see the same moment: what was deleted in between is not shown.
    made: list[MemoryRow | Folder] = [
        Folder(path) if path.endswith("/") else by_path[path] for path in shown if path.endswith("/") or path in by_path
    ]
    return made, shown[-1] if len(items) > query.limit else None


def all_memories(conn: Connection, workspace_id: str, store_id: str) -> list[MemoryRow]:
    """Every memory of a store by path, without contents. Raises NotFound for no such store."""
    get_store(conn, workspace_id, store_id)
    return _rows(conn, [memories.c.memory_store_id == store_id], full=False)


def contents(conn: Connection, store_id: str, memory_ids: Sequence[str]) -> list[MemoryRow]:
    """These memories as they are now, with contents. Those that are gone are left out."""
    return _rows(conn, [memories.c.memory_store_id == store_id, memories.c.id.in_(memory_ids)], full=True)


def _rows(
    conn: Connection, conditions: Sequence[ColumnElement[bool]], *, full: bool, limit: int | None = None
) -> list[MemoryRow]:
    query = sa.select(*_MEMORY, *([memory_versions.c.content] if full else []))
    query = query.select_from(_WITH_CONTENT if full else memories)
    return [MemoryRow(*row) for row in conn.execute(query.where(*conditions).order_by(memories.c.path).limit(limit))]


def _children(paths: Sequence[str], prefix: str, most: int) -> list[str]:
    """The direct children of `prefix` among sorted `paths`; a folder with its slash, once."""
    items: list[str] = []
    for path in paths:
        slash = path.find("/", len(prefix))
        item = path if slash < 0 else path[: slash + 1]
        if not items or items[-1] != item:
            if len(items) == most:
                break
            items.append(item)
    return items


def _behind(folder: str) -> str:
    """The first text after everything that begins with `folder`, which ends in a slash."""
    return folder[:-1] + "0"  # 0 is the character after /


def _below(folder: str) -> list[ColumnElement[bool]]:
    return [memories.c.path >= folder, memories.c.path < _behind(folder)]


# ------------------------------------------------------------------------------------------------------------ write


def create_memory(
    conn: Connection,
    now: float,
    workspace_id: str,
    store_id: str,
    *,
    path: str,
    content: bytes,
    actor: Actor,
    admit: Admit = admit_anything,
) -> MemoryRow:
    """A new memory at a valid path.

    Raises NotFound for no such store; InvalidRequest when the store is archived or full; MemoryPathTaken; and what
    `admit` raises.
    """
    store = writable_store(conn, workspace_id, store_id)
    _refuse_taken(conn, store_id, path)
    if store.memories >= MAX_MEMORIES:
        raise InvalidRequest(
            f"memory store {store_id} holds {store.memories} memories, and at most {MAX_MEMORIES} are kept; "
            "delete some, or put several into one"
        )
    admit(conn, workspace_id, len(content))
    memory_id, at = new_id("mem"), moment(now)
    version = _add_version(conn, at, store_id, memory_id, "created", path, content, actor)
    conn.execute(
        memories.insert().values(
            id=memory_id,
            memory_store_id=store_id,
            path=path,
            version_id=version,
            content_sha256=digest(content),
            content_size_bytes=len(content),
            created_at=at,
            updated_at=at,
        )
    )
    add_to_store(conn, store_id, memories=1, kept_bytes=len(content))
    return MemoryRow(memory_id, store_id, path, version, digest(content), len(content), at, at, content)


def update_memory(
    conn: Connection,
    now: float,
    workspace_id: str,
    store_id: str,
    memory_id: str,
    *,
    path: str | None = None,
    content: bytes | None = None,
    expected_sha256: str | None = None,
    actor: Actor,
    admit: Admit = admit_anything,
) -> MemoryRow:
    """Another content, another path, or both; None keeps. The id stays.

    Raises NotFound; InvalidRequest when the store is archived; MemoryChanged when the memory doesn't hold what was
    expected; MemoryPathTaken when another memory is in the way; and what `admit` raises.
    """
    writable_store(conn, workspace_id, store_id)
    row = get_memory(conn, workspace_id, store_id, memory_id, full=True)
    assert row.content is not None, "the version that a memory stands on is never redacted"
    _refuse_changed(row, expected_sha256)
    new_path = row.path if path is None else path
    new_content = row.content if content is None else content
    if new_path != row.path:
        _refuse_taken(conn, store_id, new_path, but=memory_id)
    if (new_path, new_content) == (row.path, row.content):
        return row
    admit(conn, workspace_id, len(new_content))
    at = moment(now)
    version = _add_version(conn, at, store_id, memory_id, "modified", new_path, new_content, actor)
    conn.execute(
        memories.update()
        .where(memories.c.id == memory_id)
        .values(
            path=new_path,
            version_id=version,
            content_sha256=digest(new_content),
            content_size_bytes=len(new_content),
            updated_at=at,
        )
    )
    add_to_store(conn, store_id, kept_bytes=len(new_content))
    return MemoryRow(
        memory_id, store_id, new_path, version, digest(new_content), len(new_content), row.created_at, at, new_content
    )


def delete_memory(
    conn: Connection,
    now: float,
    workspace_id: str,
    store_id: str,
    memory_id: str,
    *,
    expected_sha256: str | None = None,
    actor: Actor,
) -> None:
    """Its versions stay, and one more says that it was deleted. Works in an archived store.

    Raises NotFound, or MemoryChanged when the memory doesn't hold what was expected.
    """
    get_store(conn, workspace_id, store_id, for_update=True)
    row = get_memory(conn, workspace_id, store_id, memory_id)
    _refuse_changed(row, expected_sha256)
    _add_version(conn, moment(now), store_id, memory_id, "deleted", row.path, None, actor)
    conn.execute(memories.delete().where(memories.c.id == memory_id))
    add_to_store(conn, store_id, memories=-1)


def _add_version(
    conn: Connection,
    at: str,
    store_id: str,
    memory_id: str,
    operation: Operation,
    path: str,
    content: bytes | None,
    actor: Actor,
) -> str:
    version = new_id("memver")
    conn.execute(
        memory_versions.insert().values(
            id=version,
            memory_store_id=store_id,
            memory_id=memory_id,
            operation=operation,
            path=path,
            content=content,
            content_sha256=None if content is None else digest(content),
            content_size_bytes=None if content is None else len(content),
            created_at=at,
            actor_type=actor.type,
            actor_id=actor.id,
        )
    )
    return version


def _refuse_changed(row: MemoryRow, expected_sha256: str | None) -> None:
    if expected_sha256 is not None and expected_sha256 != row.content_sha256:
        raise MemoryChanged(
            f"memory {row.id} holds content with the SHA-256 {row.content_sha256}, not {expected_sha256}; "
            "retrieve it, and decide again"
        )


def _refuse_taken(conn: Connection, store_id: str, path: str, *, but: str | None = None) -> None:
    """No memory may be at `path`, nor where it needs folders, nor below it: a store is also shown as files."""
    above = [path[:at] for at in range(1, len(path)) if path[at] == "/"]
    way = sa.or_(memories.c.path.in_([path, *above]), sa.and_(*_below(path + "/")))
    query = sa.select(memories.c.id, memories.c.path).where(memories.c.memory_store_id == store_id, way)
    if but is not None:
        query = query.where(memories.c.id != but)
    found = conn.execute(query.order_by(memories.c.path).limit(1)).first()
    if found is None:
        return
    how = "is there already" if found.path == path else "is in the way: a path is either a memory or a folder"
    raise MemoryPathTaken(
        f"path: {path} can't be taken; memory {found.id} at {found.path} {how}",
        memory_id=found.id,
        path=found.path,
    )
