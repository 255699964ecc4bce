"""What the tests of the store arrange with: fresh databases of both kinds, a turnable clock, and a few rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from hostler.store import work
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.eventlog import Appended, Change, LogView, NewEvent, transact
from hostler.store.jsontext import encode
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, SessionRow, create_session
from hostler.store.work import Claimed, Lease
from hostler.testing.postgres import PostgresCluster

DIALECTS = ("sqlite", "postgresql")


class Skew:
    """The hand on the database's clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Databases:
    """Makes migrated and empty databases of both kinds, each a fresh copy."""

    directory: Path
    cluster: Callable[[], PostgresCluster]
    sqlite_template: Path
    count: int = 0

    def fresh(self, dialect: str, *, migrated: bool = True) -> str:
        self.count += 1
        if dialect == "sqlite":
            path = self.directory / f"{self.count}.db"
            if migrated:
                shutil.copyfile(self.sqlite_template, path)
            return f"sqlite:///{path}"
        return self.cluster().create_database(f"test_{self.count}", template="migrated" if migrated else None)

    def drop(self, url: str) -> None:
        """Seven megabytes each are worth it on PostgreSQL."""
        if url.startswith("postgresql:"):
            self.cluster().drop_database(url.split("/")[3].split("?")[0])


async def add_catalog(db: Database, workspace_id: str = DEFAULT_WORKSPACE, *, suffix: str = "1") -> None:
    """One agent, `agent_<suffix>`, and one environment, `env_<suffix>`."""

    def unit(conn: Connection) -> None:
        now = db.now(conn)
        create_agent(conn, now, id=f"agent_{suffix}", workspace_id=workspace_id, name="Coder", body={"n": 1})
        create_environment(conn, now, id=f"env_{suffix}", workspace_id=workspace_id, name=f"dev{suffix}", body={})

    await db.write(unit)


def new_session(
    session_id: str, workspace_id: str = DEFAULT_WORKSPACE, *, suffix: str = "1", **fields: Any
) -> NewSession:
    values = {
        "id": session_id,
        "workspace_id": workspace_id,
        "agent_id": f"agent_{suffix}",
        "agent_version": 1,
        "environment_id": f"env_{suffix}",
        "thread_id": f"sthr_{session_id}",
        "agent": {"name": "Coder"},
        "environment": {"type": "cloud"},
        "state": "{}",
    }
    return NewSession(**(values | fields))


async def add_session(db: Database, session_id: str, **fields: Any) -> SessionRow:
    return await db.write(lambda conn: create_session(conn, db.now(conn), new_session(session_id, **fields)))


def event(number: int, type: str = "agent.message", *, at: str = "2026-01-01T00:00:00.000000Z") -> NewEvent:
    return NewEvent(f"sevt_{number}", type, at, encode({"id": f"sevt_{number}", "type": type, "processed_at": at}))


def add(*events: NewEvent, **fields: Any) -> Callable[[LogView], Change]:
    return lambda view: Change(**{"state": view.session.state, "status": "running", "events": events, **fields})


async def append(
    db: Database,
    decide: Callable[[LogView], Change],
    *,
    session_id: str = "sesn_1",
    lease: Lease | None = None,
    workspace_id: str | None = None,
) -> Appended:
    return await db.write(
        lambda conn: transact(conn, db.now(conn), session_id, decide, lease=lease, workspace_id=workspace_id)
    )


async def want(db: Database, session_id: str = "sesn_1") -> bool:
    return await db.write(lambda conn: work.want(conn, db.now(conn), session_id))


async def claim_many(db: Database, owner: str, *, ttl: float = 30.0, limit: int = 100, **more: Any) -> list[Claimed]:
    return await db.write(lambda conn: work.claim(conn, db.now(conn), owner, ttl=ttl, limit=limit, **more))


async def claim(db: Database, owner: str = "w1", *, ttl: float = 30.0) -> Lease:
    """Want and claim `sesn_1`."""
    await want(db)
    (won,) = await claim_many(db, owner, ttl=ttl)
    return won.lease
