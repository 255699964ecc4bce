"""Units of work: committed or not at all, tried again when the database asks, and clear about what is wrong."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.util import await_only
from storekit import Databases, Skew, add, append, event

from hostler.domain.clock import SystemClock
from hostler.domain.errors import Busy, InvalidRequest, StoreBusy, StoreDamaged
from hostler.store import sqlite
from hostler.store.database import Database
from hostler.store.eventlog import read_events
from hostler.store.keys import create_workspace, list_workspaces
from hostler.store.sessions import SessionRow
from hostler.store.tables import workspaces
from hostler.testing.postgres import PostgresCluster

DEADLINE = 60


async def names(db: Database) -> list[str]:
    return sorted(row.name for row in await db.read(list_workspaces))


async def test_a_database_that_takes_no_writes_now_is_busy(db: Database) -> None:
    """A standby after a failover; a file that can't be written: nothing that was asked is at fault."""

    def unit(conn: Connection) -> None:
        lite = conn.dialect.name == "sqlite"
        conn.exec_driver_sql("PRAGMA query_only = 1" if lite else "SET TRANSACTION READ ONLY")
        try:
            create_workspace(conn, 0.0, "lost")
        finally:
            if lite:
                conn.exec_driver_sql("PRAGMA query_only = 0")

    with pytest.raises(StoreBusy):
        await db.write(unit)
    await db.write(lambda conn: create_workspace(conn, 0.0, "kept"))
    assert await names(db) == ["Default", "kept"]


async def test_an_exception_undoes_the_unit_and_the_next_one_works(db: Database) -> None:
    class Wrong(Exception):
        pass

    def unit(conn: Connection) -> None:
        create_workspace(conn, 0.0, "lost")
        raise Wrong

    for _ in range(20):
        with pytest.raises(Wrong):
            await db.write(unit)
    await db.write(lambda conn: create_workspace(conn, 0.0, "kept"))
    assert await names(db) == ["Default", "kept"]


async def test_a_statement_that_fails_undoes_the_unit(db: Database) -> None:
    def unit(conn: Connection) -> None:
        create_workspace(conn, 0.0, "lost")
        conn.execute(sa.text("SELECT * FROM no_such_table"))

    with pytest.raises(sa.exc.DBAPIError):
        await db.write(unit)
    with pytest.raises(sa.exc.DBAPIError):
        await db.read(lambda conn: conn.execute(sa.text("SELECT * FROM no_such_table")))
    assert await names(db) == ["Default"]


async def test_what_is_committed_is_read_at_once(db: Database) -> None:
    for number in range(50):
        await db.write(lambda conn, n=number: create_workspace(conn, 0.0, f"w{n}"))  # type: ignore[misc]
        assert f"w{number}" in await names(db)


async def test_a_cancelled_unit_does_not_harm_the_next(db: Database) -> None:
    async def many() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(30):
                tasks.create_task(db.write(lambda conn, n=number: create_workspace(conn, 0.0, f"w{n}")))  # type: ignore[misc]

    for _ in range(5):
        running = asyncio.ensure_future(many())  # noqa: TID251 - to be cancelled
        await asyncio.wait([running], timeout=0.002)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await db.write(lambda conn: create_workspace(conn, 0.0, "after"))
    assert "after" in await names(db)


async def test_time_is_the_databases_and_tests_turn_it(db: Database, skew: Skew) -> None:
    def now() -> float:
        return SystemClock().now().timestamp()

    before = now()
    found = await db.read(db.now)
    assert before - 0.01 <= found <= now() + 0.01
    skew.seconds = 3600
    assert (await db.read(db.now)) - found >= 3600


async def test_closing_twice_is_harmless(url: str) -> None:
    database = await Database.open(url)
    await database.close()
    await database.close()


@pytest.mark.parametrize(
    "url", ["", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "oops", "sqlite:////proc/1/no/x.db", "sqlite:////"]
)
async def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await Database.open(url)


async def test_a_file_that_is_no_database_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StoreDamaged):
        await Database.open(f"sqlite:///{tmp_path / 'x.db'}")


async def test_a_lock_that_another_process_keeps_is_told_as_busy(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_MS", 50)
    url = databases.fresh("sqlite")
    database = await Database.open(url)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        await database.write(lambda conn: create_workspace(conn, 0.0, "w"))
    assert await names(database) == ["Default"]  # readers go on
    other.execute("ROLLBACK")
    await database.write(lambda conn: create_workspace(conn, 0.0, "w"))
    assert await names(database) == ["Default", "w"]
    other.close()
    await database.close()


async def test_a_reader_on_sqlite_can_not_write(databases: Databases) -> None:
    database = await Database.open(databases.fresh("sqlite"))
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        await database.read(lambda conn: create_workspace(conn, 0.0, "w"))
    await database.close()


async def test_a_deadlock_is_resolved_by_trying_again(databases: Databases) -> None:
    database = await Database.open(databases.fresh("postgresql"))
    first = await database.write(lambda conn: create_workspace(conn, 0.0, "a"))
    second = await database.write(lambda conn: create_workspace(conn, 0.0, "b"))
    locked = {first.id: asyncio.Event(), second.id: asyncio.Event()}
    runs: list[str] = []

    def unit(conn: Connection, mine: str, other: str) -> None:
        runs.append(mine)
        rename = workspaces.update().values(name=workspaces.c.name + "!")
        conn.execute(rename.where(workspaces.c.id == mine))
        locked[mine].set()
        await_only(locked[other].wait())
        conn.execute(rename.where(workspaces.c.id == other))

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        tasks.create_task(database.write(lambda conn: unit(conn, first.id, second.id)))
        tasks.create_task(database.write(lambda conn: unit(conn, second.id, first.id)))
    # PostgreSQL may let the one that tries again have the row before the one that waited for it: then they meet again.
    assert len(runs) >= 3
    assert await names(database) == ["Default", "a!!", "b!!"]
    await database.close()


async def test_a_unit_whose_connection_breaks_runs_again(databases: Databases) -> None:
    database = await Database.open(databases.fresh("postgresql"))
    runs = 0

    def unit(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        create_workspace(conn, 0.0, "once")
        if runs == 1:
            conn.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await database.write(unit)
    assert (runs, await names(database)) == (2, ["Default", "once"])

    def read(conn: Connection) -> int:
        nonlocal runs
        runs += 1
        if runs == 3:
            conn.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return runs

    assert await database.read(read) == 4
    await database.close()


async def test_a_server_that_is_gone_is_told_as_busy_and_a_server_that_is_back_is_used() -> None:
    with PostgresCluster(durable=True) as server:
        url = server.create_database("hostler")
        database = await Database.open(url)
        await database.write(lambda conn: create_workspace(conn, 0.0, "kept"))
        server.stop("kill")
        with pytest.raises(Busy):
            await database.write(lambda conn: create_workspace(conn, 0.0, "lost"))
        with pytest.raises(Busy):
            await names(database)
        with pytest.raises(Busy):
            await Database.open(url)
        server.start()
        assert await names(database) == ["Default", "kept"]
        await database.write(lambda conn: create_workspace(conn, 0.0, "later"))
        assert await names(database) == ["Default", "kept", "later"]
        await database.close()


async def test_a_database_of_the_wrong_encoding_is_refused(cluster: PostgresCluster) -> None:
    cluster.sql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with pytest.raises(InvalidRequest, match="LATIN1"):
        await Database.open(cluster.url("latin"))


async def test_a_database_that_does_not_exist_is_told_as_such(cluster: PostgresCluster) -> None:
    with pytest.raises(InvalidRequest, match="no_such"):
        await Database.open(cluster.url("no_such"))


async def test_a_crash_of_the_server_loses_nothing_acknowledged(session: SessionRow, db: Database, url: str) -> None:
    """On SQLite: the file as it is on disk, without closing, is opened by somebody else."""
    for number in range(5):
        await append(db, add(event(number)))
    other = await Database.open(url)
    assert len(await other.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=99))) == 5
    await other.close()
