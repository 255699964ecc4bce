"""What the tests of snapshots arrange with: sessions, homes, and a look at a tree that can be compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from hostler.engine.object_port import ObjectInfo
from hostler.engine.snapshot_port import PARTS
from hostler.engine.state import SessionState
from hostler.objects.folder import FolderObjects
from hostler.snapshots.service import SnapshotTerms, StoredSnapshots
from hostler.snapshots.sweeping import SnapshotSweep
from hostler.store import work
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, SessionRow, create_session
from hostler.store.snapshots import SnapshotRow, list_snapshots, remove_snapshots, used_objects
from hostler.store.tables import workspaces
from hostler.store.work import Lease

DIALECTS = ("sqlite", "postgresql")
TOP_MODE = 0o700


class Skew:
    """The hand on the database's clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Bench:
    """A database, a folder of objects, and workers' services over both."""

    database: Database
    skew: Skew
    folder: Path
    objects: FolderObjects = field(init=False)
    snapshots: StoredSnapshots = field(init=False)
    _workers: int = 0
    _sessions: int = 0

    def __post_init__(self) -> None:
        self.objects = FolderObjects(self.folder / "objects")
        self.snapshots = self.worker()

    def worker(self, **more: Any) -> StoredSnapshots:
        """Another server's service: nothing remembered."""
        self._workers += 1
        more = {"linked_owner": 300_000 if os.geteuid() == 0 else None} | more
        objects = more.pop("objects", self.objects)
        terms = more.pop("terms", SnapshotTerms())
        return StoredSnapshots(self.database, objects, self.folder / f"memories-{self._workers}", terms, **more)

    def sweep(self, **more: Any) -> SnapshotSweep:
        return SnapshotSweep(self.database, self.objects, **more)

    async def session(self, workspace_id: str = DEFAULT_WORKSPACE) -> SessionRow:
        self._sessions += 1
        number = self._sessions

        def unit(conn: Connection) -> SessionRow:
            now = self.database.now(conn)
            create_agent(conn, now, id=f"agent_{number}", workspace_id=workspace_id, name="Coder", body={})
            create_environment(conn, now, id=f"env_{number}", workspace_id=workspace_id, name=f"dev{number}", body={})
            new = NewSession(
                id=f"sesn_{number}",
                workspace_id=workspace_id,
                agent_id=f"agent_{number}",
                agent_version=1,
                environment_id=f"env_{number}",
                thread_id=f"sthr_{number}",
                agent={},
                environment={},
                state=SessionState(thread_id=f"sthr_{number}", agent_name="Coder").model_dump_json(),
            )
            return create_session(conn, now, new)

        return await self.database.write(unit)

    async def workspace(self) -> str:
        """Another one."""
        await self.database.write(
            lambda c: c.execute(workspaces.insert().values(id="wrkspc_2", name="second", created_at="2026"))
        )
        return "wrkspc_2"

    async def rows(self, session_id: str) -> Sequence[SnapshotRow]:
        """Newest first."""
        return await self.database.read(lambda c: list_snapshots(c, session_id))

    async def remove(self, gone: Sequence[SnapshotRow]) -> None:
        await self.database.write(lambda c: remove_snapshots(c, gone))

    async def used(self, snapshot_id: str) -> Sequence[str]:
        return await self.database.read(lambda c: used_objects(c, snapshot_id))

    async def lease(self, session: SessionRow, owner: str = "worker", ttl: float = 30.0) -> Lease:
        def unit(conn: Connection) -> Lease:
            work.want(conn, self.database.now(conn), session.id)
            (won,) = work.claim(conn, self.database.now(conn), owner, ttl=ttl, limit=1)
            return won.lease

        return await self.database.write(unit)

    def home(self, name: str) -> Path:
        """A home with its parts, all empty."""
        home = self.folder / "homes" / name
        for part in PARTS:
            (home / part).mkdir(parents=True)
        return home

    async def listed(self) -> dict[str, ObjectInfo]:
        return {info.name: info async for info in self.objects.list("snapshots/")}

    def object_files(self, kind: str) -> Sequence[Path]:
        return sorted((self.folder / "objects").rglob(f"{kind}s/*/*"), key=lambda path: path.stat().st_mtime_ns)


def seen(home: Path) -> dict[bytes, tuple[object, ...]]:
    """All that a snapshot is to bring back, by path: kind, mode, time, content, and which names are the same file."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(home)

    def look(path: bytes) -> None:
        here = os.lstat(top + b"/" + path)
        mode = stat.S_IMODE(here.st_mode)
        if stat.S_ISDIR(here.st_mode):
            names = sorted(os.listdir(top + b"/" + path))
            if b"/" in path or names:  # an empty part is as good as none
                found[path] = ("folder", mode if b"/" in path else TOP_MODE, here.st_mtime_ns)
            for name in names:
                look(path + b"/" + name)
        elif stat.S_ISLNK(here.st_mode):
            found[path] = ("symlink", os.readlink(top + b"/" + path), here.st_mtime_ns)
        elif not stat.S_ISREG(here.st_mode):
            found[path] = ("other", mode, here.st_mtime_ns)
        else:
            with open(top + b"/" + path, "rb") as content:
                same = first.setdefault(here.st_ino, path)
                found[path] = ("file", mode, here.st_mtime_ns, content.read(), same)

    for part in PARTS:
        if (home / part).is_dir():
            look(part.encode())
    return found


def write(home: Path, files: dict[str, str | bytes]) -> None:
    for path, content in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def damaged(change: Callable[[bytearray], None], path: Path) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
