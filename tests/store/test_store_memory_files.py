"""Two sessions and a client share a store; agents write files, the server dies at any moment: is anything lost?

Each text is written once in a test, so every one of them can be looked for. After the dust has settled both folders
and the store must be alike, and every text that an agent left in a file must be there still: as a memory, in the
history, or set aside in a folder.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Connection
from storekit import Databases, add_catalog, add_session

from hostler.domain.errors import HostlerError
from hostler.domain.ids import new_id
from hostler.domain.memories import Actor, VersionQuery
from hostler.engine.memory_files import MemoryFiles
from hostler.engine.memory_folder import ASIDE
from hostler.store import memories, memory_stores, memory_versions
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import SessionRow

PATHS = st.sampled_from(["/a", "/a/b", "/d/e"])
WHO = st.sampled_from([0, 1])
CLIENT = Actor("api_actor", "apikey_1")


class Died(BaseException):
    """The server is gone. Nothing that is meant for errors may catch it."""


class DatabaseThatDies:
    """The real database, until `alive` units of work were done: then the server dies, before or after the last one."""

    def __init__(self, database: Database, alive: int, *, after: bool) -> None:
        self._database = database
        self._alive = alive
        self._after = after

    def now(self, conn: Connection) -> float:
        return self._database.now(conn)

    async def read(self, fn: Callable[[Connection], Any]) -> Any:
        return await self._do(self._database.read, fn)

    async def write(self, fn: Callable[[Connection], Any]) -> Any:
        return await self._do(self._database.write, fn)

    async def _do(self, unit: Any, fn: Any) -> Any:
        self._alive -= 1
        if self._alive < 0 and not self._after:
            raise Died
        done = await unit(fn)
        if self._alive < 0:
            raise Died
        return done


class FilesMachine(RuleBasedStateMachine):
    runner: ClassVar[asyncio.Runner]
    db: ClassVar[Database]
    place: ClassVar[Path]

    @initialize()
    def begin(self) -> None:
        self.count = 0
        self.store = new_id("memstore")
        self.write(
            lambda c: memory_stores.create_store(
                c, self.db.now(c), id=self.store, workspace_id=DEFAULT_WORKSPACE, name="s", description="", metadata={}
            )
        )
        resource = {
            "type": "memory_store",
            "memory_store_id": self.store,
            "access": "read_write",
            "mount_path": "/mnt/memory/s",
        }
        self.sessions: list[SessionRow] = []
        self.left: list[dict[str, str]] = [{}, {}]
        """By session and path: what its agent wrote last, and that must not get lost."""
        self.safe: set[str] = set()
        """Texts that must be found at the end."""
        for _ in range(2):
            session_id = new_id("sesn")
            self.sessions.append(
                self.runner.run(
                    add_session(self.db, session_id, resources=[resource], environment={"config": {"type": "cloud"}})
                )
            )
            self.home(len(self.sessions) - 1).mkdir(parents=True)
        for who in (0, 1):
            self.sync(who)

    def write(self, fn: Callable[[Connection], Any]) -> Any:
        return self.runner.run(self.db.write(fn))

    def home(self, who: int) -> Path:
        return self.place / self.sessions[who].id

    def files(self, who: int) -> Path:
        return self.home(who) / "memory" / self.store / "files"

    def fresh(self) -> str:
        self.count += 1
        return f"text {self.count}"

    # -- what agents do

    @rule(who=WHO, path=PATHS)
    def agent_writes(self, who: int, path: str) -> None:
        file, text = self.files(who) / path[1:], self.fresh()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError:
            return
        self.left[who][path] = text

    @rule(who=WHO, path=PATHS)
    def agent_removes(self, who: int, path: str) -> None:
        place = self.files(who) / path[1:]
        if place.is_dir():
            shutil.rmtree(place)
        elif place.exists():
            place.unlink()
        for other in list(self.left[who]):
            if other == path or other.startswith(path + "/"):
                del self.left[who][other]

    @rule(who=WHO, path=PATHS, to=PATHS)
    def agent_moves(self, who: int, path: str, to: str) -> None:
        source, target = self.files(who) / path[1:], self.files(who) / to[1:]
        if not source.is_file() or target.exists():
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError:
            return
        text = self.left[who].pop(path, None)
        if text is not None:
            self.left[who][to] = text

    # -- what a client does

    @rule(path=PATHS)
    def client_writes(self, path: str) -> None:
        text = self.fresh().encode()

        def unit(c: Connection) -> None:
            now = self.db.now(c)
            rows = {row.path: row for row in memories.all_memories(c, DEFAULT_WORKSPACE, self.store)}
            common: Any = {"content": text, "actor": CLIENT}
            if path in rows:
                memories.update_memory(c, now, DEFAULT_WORKSPACE, self.store, rows[path].id, **common)
            else:
                memories.create_memory(c, now, DEFAULT_WORKSPACE, self.store, path=path, **common)

        try:
            self.write(unit)
        except HostlerError:
            return

    @rule(path=PATHS)
    def client_deletes(self, path: str) -> None:
        def unit(c: Connection) -> None:
            for row in memories.all_memories(c, DEFAULT_WORKSPACE, self.store):
                if row.path == path:
                    memories.delete_memory(c, self.db.now(c), DEFAULT_WORKSPACE, self.store, row.id, actor=CLIENT)

        self.write(unit)

    # -- what the server does

    def run_sync(self, who: int, database: Any) -> None:
        try:
            self.runner.run(MemoryFiles(database).lay_out(self.sessions[who], self.home(who)))
        except Died:
            return
        # From now on this must be found: until now the agent could change its mind.
        self.safe |= set(self.left[who].values())
        self.left[who].clear()

    @rule(who=WHO)
    def sync(self, who: int) -> None:
        self.run_sync(who, self.db)

    @rule(who=WHO, units=st.integers(0, 4), after=st.booleans())
    def server_dies(self, who: int, units: int, after: bool) -> None:
        self.run_sync(who, DatabaseThatDies(self.db, units, after=after))

    def teardown(self) -> None:
        if not hasattr(self, "safe"):
            return
        for who in (0, 1, 0, 1):
            self.sync(who)
        stored = {
            row.path: row.content.decode()
            for row in self.runner.run(
                self.db.read(
                    lambda c: memories.contents(
                        c, self.store, [m.id for m in memories.all_memories(c, DEFAULT_WORKSPACE, self.store)]
                    )
                )
            )
            if row.content is not None
        }
        aside: set[str] = set()
        for who in (0, 1):
            shown = {}
            for file in self.files(who).rglob("*"):
                if file.is_file():
                    path = f"/{file.relative_to(self.files(who))}"
                    if path.startswith(f"/{ASIDE}/"):
                        aside.add(file.read_text())
                    else:
                        shown[path] = file.read_text()
            assert shown == stored
        history = self.runner.run(
            self.db.read(
                lambda c: memory_versions.list_versions(
                    c, DEFAULT_WORKSPACE, self.store, VersionQuery(limit=1000, view="full")
                )
            )
        )
        said = {row.content.decode() for row in history.rows if row.content is not None}
        assert self.safe <= said | aside
        for session in self.sessions:
            shutil.rmtree(self.place / session.id)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_sessions_that_share_a_store_lose_nothing_and_end_alike(
    databases: Databases, dialect: str, tmp_path: Path
) -> None:
    with asyncio.Runner() as runner:
        url = databases.fresh(dialect)
        db = runner.run(Database.open(url))
        try:
            runner.run(add_catalog(db))
            machine = type("Machine", (FilesMachine,), {"runner": runner, "db": db, "place": tmp_path})
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                machine,
                settings=settings(
                    max_examples=80,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
        finally:
            runner.run(db.close())
            databases.drop(url)


async def test_worker_elsewhere_looks_after_its_folders_itself(db: Database, tmp_path: Path) -> None:
    await add_catalog(db)
    resource = {"type": "memory_store", "memory_store_id": "memstore_1", "access": "read_write", "mount_path": "/m/s"}
    elsewhere = await add_session(db, "sesn_1", resources=[resource], environment={"config": {"type": "self_hosted"}})
    files = MemoryFiles(db)
    assert await files.lay_out(elsewhere, tmp_path) == []
    await files.refresh(elsewhere, tmp_path)
    await files.collect(elsewhere, tmp_path)
    await files.catch_up(elsewhere, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("units", range(3))
async def test_what_was_sent_before_the_server_died_is_not_taken_for_somebody_elses_change(
    db: Database, tmp_path: Path, units: int
) -> None:
    """It dies after that many units of work, so also with a write in the store that nobody was told of. The session
    goes on before the next server looks: nobody else has changed anything, so nothing is set aside."""
    await add_catalog(db)
    resource = {"type": "memory_store", "memory_store_id": "memstore_1", "access": "read_write", "mount_path": "/m/s"}
    session = await add_session(db, "sesn_1", resources=[resource], environment={"config": {"type": "cloud"}})
    await db.write(
        lambda c: memory_stores.create_store(
            c, db.now(c), id="memstore_1", workspace_id=DEFAULT_WORKSPACE, name="s", description="", metadata={}
        )
    )
    await MemoryFiles(db).lay_out(session, tmp_path)
    files = tmp_path / "memory" / "memstore_1" / "files"
    for name, content in {"changed": "1", "removed": "2", "moved": "3", "replaced": "4"}.items():
        (files / name).write_text(content)
    await MemoryFiles(db).collect(session, tmp_path)

    (files / "changed").write_text("one")
    (files / "made").write_text("new")
    (files / "removed").unlink()
    (files / "moved").rename(files / "there")
    (files / "replaced").unlink()
    with suppress(Died):
        await MemoryFiles(DatabaseThatDies(db, units, after=True)).collect(session, tmp_path)  # type: ignore[arg-type]
    (files / "changed").write_text("two")
    (files / "made").write_text("newer")
    (files / "there").write_text("elsewhere")
    (files / "replaced").write_text("again")
    await MemoryFiles(db).catch_up(session, tmp_path)

    wanted = {"/changed": "two", "/made": "newer", "/there": "elsewhere", "/replaced": "again"}
    assert await stored(db, "memstore_1") == wanted
    assert {f"/{file.name}": file.read_text() for file in files.iterdir()} == wanted


async def stored(db: Database, store: str) -> dict[str, str]:
    def unit(c: Connection) -> dict[str, str]:
        ids = [row.id for row in memories.all_memories(c, DEFAULT_WORKSPACE, store)]
        rows = memories.contents(c, store, ids)
        return {row.path: row.content.decode() for row in rows if row.content is not None}

    return await db.read(unit)
