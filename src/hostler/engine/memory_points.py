"""Which version of each memory counts for a session, and how do its stores go back to such versions?

Nothing of a memory's history is removed: what a memory said before becomes a new version, in the session's name. A
memory that somebody else has changed since is left alone and reported, unless `force`; one that somebody else has made
since is always left alone: it was never this session's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, NotFound
from hostler.domain.memories import Actor
from hostler.store import memories
from hostler.store.checkpoints import Memories
from hostler.store.memories import Admit, MemoryRow, admit_anything
from hostler.store.memory_versions import content_of_version, writers_since
from hostler.store.sessions import SessionRow

Facts = tuple[str, str, str]
"""Version, path and digest of a memory at a point."""


def writable_stores(session: SessionRow) -> list[str]:
    """The stores that the session may write."""
    return [
        resource["memory_store_id"]
        for resource in session.resources
        if resource["type"] == "memory_store" and resource["access"] == "read_write"
    ]


def versions_now(conn: Connection, session: SessionRow) -> Memories:
    """What counts in each store that the session may write. A store that was deleted is left out."""
    found: dict[str, dict[str, Facts]] = {}
    for store_id in writable_stores(session):
        try:
            rows = memories.all_memories(conn, session.workspace_id, store_id)
        except NotFound:
            continue
        found[store_id] = {row.id: (row.version_id, row.path, row.content_sha256) for row in rows}
    return found


@dataclass(slots=True)
class Restored:
    """What became of the memories."""

    restored: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    """With the reason of each."""

    def wire(self) -> dict[str, Any]:
        return {"restored": self.restored, "left": self.left}


def restore(
    conn: Connection,
    now: float,
    session: SessionRow,
    wanted: Memories,
    *,
    force: bool,
    admit: Admit = admit_anything,
) -> Restored:
    """Makes the stores that the session may write say again what they said when `wanted` counted."""
    out = Restored()
    for store_id in writable_stores(session):
        if store_id in wanted:
            _Store(conn, now, session, store_id, force, admit, out).restore(wanted[store_id])
    return out


@dataclass(slots=True)
class _Store:
    conn: Connection
    now: float
    session: SessionRow
    store_id: str
    force: bool
    admit: Admit
    out: Restored

    def restore(self, wanted: Mapping[str, Facts]) -> None:
        try:
            rows = memories.all_memories(self.conn, self.session.workspace_id, self.store_id)
        except NotFound:
            self.out.left.append({"memory_store_id": self.store_id, "path": "/", "reason": "store_deleted"})
            return
        here = {row.id: row for row in rows}
        same = {(row.path, row.content_sha256) for row in rows if row.id not in wanted}
        missing = {id_: facts for id_, facts in wanted.items() if id_ not in here and facts[1:] not in same}
        satisfied = {facts[1:] for id_, facts in wanted.items() if id_ not in here}
        # Room first: what is new goes, then what was changed goes back, then what was deleted comes again.
        for row in rows:
            if row.id not in wanted and (row.path, row.content_sha256) not in satisfied:
                self._remove(row)
        for row in rows:
            if row.id in wanted and wanted[row.id][0] != row.version_id:
                self._change(row, wanted[row.id])
        for id_, facts in missing.items():
            self._make(id_, facts)

    def _remove(self, row: MemoryRow) -> None:
        if self._others(row.id, None):
            return  # somebody else's: not a conflict, for this session never had it
        self._do(
            row.path,
            "deleted",
            lambda actor: memories.delete_memory(
                self.conn, self.now, self.session.workspace_id, self.store_id, row.id, actor=actor
            ),
        )

    def _change(self, row: MemoryRow, facts: Facts) -> None:
        version, path, digest = facts
        if (row.path, row.content_sha256) == (path, digest):
            return
        if self._conflicts(row.id, version, path):
            return
        content = content_of_version(self.conn, self.store_id, version)
        if content is None:
            self._left(path, "redacted")
            return
        self._do(
            path,
            "modified",
            lambda actor: memories.update_memory(
                self.conn,
                self.now,
                self.session.workspace_id,
                self.store_id,
                row.id,
                path=path,
                content=content,
                actor=actor,
                admit=self.admit,
            ),
        )

    def _make(self, memory_id: str, facts: Facts) -> None:
        version, path, _ = facts
        if self._conflicts(memory_id, version, path):
            return
        content = content_of_version(self.conn, self.store_id, version)
        if content is None:
            self._left(path, "redacted")
            return
        self._do(
            path,
            "created",
            lambda actor: memories.create_memory(
                self.conn,
                self.now,
                self.session.workspace_id,
                self.store_id,
                path=path,
                content=content,
                actor=actor,
                admit=self.admit,
            ),
        )

    def _conflicts(self, memory_id: str, version: str, path: str) -> bool:
        """Whether it has to be left because somebody else has changed it since."""
        if self.force or not self._others(memory_id, version):
            return False
        self._left(path, "changed_by_others")
        return True

    def _others(self, memory_id: str, version: str | None) -> bool:
        mine = Actor("session_actor", self.session.id)
        return bool(writers_since(self.conn, self.store_id, memory_id, version) - {mine})

    def _do(self, path: str, operation: str, act: Callable[[Actor], object]) -> None:
        """The store's functions check everything before they write, so what they refuse changes nothing."""
        try:
            act(Actor("session_actor", self.session.id))
        except HostlerError as error:
            self._left(path, "refused", error.message)
            return
        self.out.restored.append({"memory_store_id": self.store_id, "path": path, "operation": operation})

    def _left(self, path: str, reason: str, message: str = "") -> None:
        more = {"message": message} if message else {}
        self.out.left.append({"memory_store_id": self.store_id, "path": path, "reason": reason, **more})
