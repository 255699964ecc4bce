"""How far does a worker's credential reach? The facts about a session that `api.access` compares it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from hostler.store.database import Database
from hostler.store.sessions import SessionRow, get_session

WorkSession = Callable[[Connection, str, str, str], str | None]
"""(workspace, environment, work item) -> the session that the item is about; None when there is no such item."""


@dataclass(frozen=True, slots=True)
class SessionReach:
    """What belongs to one session."""

    environment_id: str
    skills: frozenset[str]
    """Skills of its agents."""
    memory_stores: dict[str, str]
    """Access (`read_write` or `read_only`) by memory store."""


class Reach(Protocol):
    async def of_session(self, workspace: str, session_id: str) -> SessionReach:
        """Raises NotFound."""
        ...

    async def session_of_work(self, workspace: str, environment_id: str, work_id: str) -> str | None:
        """The session that a work item is about; None when there is no such item."""
        ...


def no_work_items(conn: Connection, workspace: str, environment_id: str, work_id: str) -> str | None:
    """For a server without a work queue."""
    return None


class StoredReach:
    """The facts as the database has them."""

    def __init__(self, database: Database, work_session: WorkSession = no_work_items) -> None:
        self._database = database
        self._work_session = work_session

    async def of_session(self, workspace: str, session_id: str) -> SessionReach:
        return reach_of(await self._database.read(lambda conn: get_session(conn, workspace, session_id)))

    async def session_of_work(self, workspace: str, environment_id: str, work_id: str) -> str | None:
        return await self._database.read(lambda conn: self._work_session(conn, workspace, environment_id, work_id))


def reach_of(row: SessionRow) -> SessionReach:
    agent = row.agent
    roster = (agent.get("multiagent") or {}).get("agents") or []
    agents = [agent, *(member for member in roster if isinstance(member, dict))]
    return SessionReach(
        environment_id=row.environment_id,
        skills=frozenset(_skill(skill) for member in agents for skill in member.get("skills") or ()),
        memory_stores={
            resource["memory_store_id"]: resource["access"]
            for resource in row.resources
            if resource["type"] == "memory_store"
        },
    )


def _skill(skill: dict[str, Any]) -> str:
    return str(skill["skill_id"])
