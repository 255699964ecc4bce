"""How does a memory store become part of a session? Named and described as it is now, with a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.domain.memories import slug
from hostler.domain.resources import MEMORY, MemoryResource
from hostler.engine.resources import Resource
from hostler.store.memory_stores import get_store


class MemoryKind:
    """The `ResourceKind` of memory stores. `store.sessions.create_session` notes which session has which store."""

    def attach(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        request: MemoryResource,
        taken: Sequence[Resource],
    ) -> Resource:
        """Raises NotFound for a store that the workspace doesn't have; InvalidRequest for an archived one, or twice."""
        store = get_store(connection, workspace, request.memory_store_id)
        if store.archived_at is not None:
            raise InvalidRequest(f"memory store {store.id} is archived and can't be attached to new sessions")
        if any(r["type"] == "memory_store" and r["memory_store_id"] == store.id for r in taken):
            raise InvalidRequest(f"memory store {store.id} is attached twice; once is enough")
        used = {r["mount_path"].removeprefix(f"{MEMORY}/") for r in taken if r["type"] == "memory_store"}
        return {
            "type": "memory_store",
            "memory_store_id": store.id,
            "access": request.access or "read_write",
            "name": store.name,
            "description": store.description,
            "instructions": request.instructions,
            "mount_path": f"{MEMORY}/{slug(store.name, used)}",
        }

    def copy(
        self, connection: Connection, now: float, workspace: str, session_id: str, resource: Resource, copy_id: str
    ) -> Resource | None:
        """The same store, attached as it is."""
        return resource

    def detach(self, connection: Connection, workspace: str, session_id: str, resource: Resource) -> None:
        """Nothing to give up: the store belongs to nobody's session."""


def memory_section(resources: Sequence[dict[str, Any]]) -> str | None:
    """What the model is told about the stores of its session; None without any."""
    stores = [resource for resource in resources if resource["type"] == "memory_store"]
    if not stores:
        return None
    lines = [
        "# Memory",
        "",
        "These folders are your memory. What they hold was left by earlier sessions, and outlives this one. Before you "
        "begin a task, look into them for what helps with it. While you work, write down there what a later session "
        "will be glad to know.",
        "",
    ]
    for store in stores:
        how = "you may read and write it" if store["access"] == "read_write" else "read-only"
        lines.append(f"- {store['mount_path']} ({store['name']}): {how}.")
        lines += [f"  {line}" for text in (store["description"], store["instructions"]) for line in _lines(text)]
    if any(store["access"] == "read_write" for store in stores):
        lines += [
            "",
            "A memory is a UTF-8 text file of at most 100 kB; subfolders are fine. Your changes are saved when your "
            "turn ends, and other sessions may write to the same memory. What could not be saved is in the folder "
            "`.unsynced` of its store, with a README that says why.",
        ]
    return "\n".join(lines)


def _lines(text: str | None) -> list[str]:
    return text.splitlines() if text else []
