"""The schema: made once, known by name, and never guessed at."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from storekit import Databases

import hostler.store
from hostler.store import audit_chain, catalog, keys, ledger
from hostler.store.database import Database
from hostler.store.eventlog import list_events, read_events
from hostler.store.migrate import HEAD, SchemaMismatch
from hostler.store.schema import metadata
from hostler.store.sessions import list_sessions
from hostler.store.sqlite import SqliteBackend
from hostler.store.transcripts import TranscriptStore
from hostler.testing.postgres import PostgresCluster

GOLDEN = Path(__file__).with_name("golden")


def test_the_program_works_with_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(hostler.store.__path__[0]) / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrating_makes_the_tables_of_the_program_on_sqlite(databases: Databases, tmp_path: Path) -> None:
    fresh = sa.create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    metadata.create_all(fresh)
    fresh.dispose()

    def schema(path: Path) -> list[str]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        connection.close()
        # One constraint a line, in any order: the order has no meaning.
        return sorted(",\n".join(sorted(sql.split(", \n\t"))) for (sql,) in rows if "alembic_version" not in sql)

    def normal(statements: list[str]) -> list[list[str]]:
        return [sorted(line.strip(" \t\n,)(") for line in sql.splitlines()) for sql in statements]

    assert normal(schema(databases.sqlite_template)) == normal(schema(tmp_path / "fresh.db"))


async def test_migrating_makes_the_tables_of_the_program_on_postgresql(
    databases: Databases, cluster: PostgresCluster
) -> None:
    name = databases.fresh("postgresql", migrated=False).split("/")[3].split("?")[0]
    engine = sa.ext.asyncio.create_async_engine(cluster.url(name).replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    cluster.create_database("to_dump", template="migrated")
    migrated = [part for part in cluster.schema("to_dump").split(";\n") if "alembic_version" not in part]
    assert migrated == cluster.schema(name).split(";\n")
    assert len(migrated) > 30


async def test_a_fresh_database_has_the_default_workspace(databases: Databases, dialect: str) -> None:
    database = await Database.open(databases.fresh(dialect, migrated=False))
    assert [row.id for row in await database.read(keys.list_workspaces)] == [keys.DEFAULT_WORKSPACE]
    await database.close()


async def test_a_program_that_may_not_migrate_refuses_an_empty_database(databases: Databases, dialect: str) -> None:
    with pytest.raises(SchemaMismatch, match=HEAD):
        await Database.open(databases.fresh(dialect, migrated=False), migrate=False)
    database = await Database.open(databases.fresh(dialect), migrate=False)
    await database.close()


@pytest.mark.parametrize("migrate", [True, False])
async def test_a_schema_from_the_future_is_refused_and_left_alone(url: str, migrate: bool) -> None:
    def mark(conn: Connection) -> None:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    database = await Database.open(url)
    await database.write(mark)
    await database.close()
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="9999"):
            await Database.open(url, migrate=migrate)


async def test_processes_that_start_together_migrate_once(databases: Databases, dialect: str) -> None:
    url = databases.fresh(dialect, migrated=False)
    program = (
        "import asyncio, sys\n"
        "from hostler.store.database import Database\n"
        "async def main():\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    await (await Database.open(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
    )
    pipe = asyncio.subprocess.PIPE
    async with asyncio.timeout(60):
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, url, stdin=pipe, stdout=pipe, stderr=pipe
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        for process in processes:
            _, errors = await process.communicate()
            assert (process.returncode, errors.decode()) == (0, "")
    database = await Database.open(url, migrate=False)
    assert len(await database.read(keys.list_workspaces)) == 1
    await database.close()


async def test_what_was_stored_by_every_schema_so_far_is_still_read(tmp_path: Path) -> None:
    """`golden/<revision>.sql` are databases as released programs left them; they are added to, never edited."""
    found = sorted(GOLDEN.glob("*.sql"))
    assert found[-1].stem == HEAD, "a new schema needs a golden database of its own"
    for dump in found:
        path = tmp_path / f"{dump.stem}.db"
        connection = sqlite3.connect(path)
        connection.executescript(dump.read_text())
        connection.close()
        database = await Database.open(f"sqlite:///{path}")
        read = await everything(database)
        await database.close()
        assert json.loads(json.dumps(read)) == json.loads(dump.with_suffix(".json").read_text())


async def everything(database: Database) -> dict[str, object]:
    """What a program can read of a golden database, as plain JSON values."""

    def unit(conn: Connection) -> dict[str, object]:
        sessions = list_sessions(conn, keys.DEFAULT_WORKSPACE, limit=100, include_archived=True).rows
        return {
            "agents": [
                [row.id, row.version, row.name, row.body]
                for row in catalog.list_agents(conn, keys.DEFAULT_WORKSPACE, limit=100).rows
            ],
            "environments": [
                [row.id, row.name, row.body]
                for row in catalog.list_environments(conn, keys.DEFAULT_WORKSPACE, limit=100).rows
            ],
            "sessions": [
                [
                    row.id,
                    row.status,
                    row.title,
                    row.metadata,
                    row.agent,
                    row.environment,
                    row.state,
                    row.usage.input_tokens,
                ]
                for row in sessions
            ],
            "told": [
                [each.seq, each.id, each.type, each.processed_at, json.loads(each.body)]
                for row in sessions
                for each in read_events(conn, row.id, after_seq=0, limit=1000)
            ],
            "listed": [each.seq for row in sessions for each in list_events(conn, row.id, limit=1000)[0]],
            "requests": [
                [each.model, each.status, each.usage.output_tokens]
                for row in sessions
                for each in ledger.list_model_requests(conn, row.id)
            ],
            "egress": [[each.host, each.allowed] for row in sessions for each in ledger.list_egress(conn, row.id)],
        }

    read = await database.read(unit)
    read["transcript"] = await TranscriptStore(database, session_id="sesn_golden").load(
        {"project_key": "p", "session_id": "s"}
    )
    return read


async def test_only_the_owner_can_read_the_database_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "hostler.db"
    database = await Database.open(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {each.name for each in path.parent.iterdir()} >= {"hostler.db", "hostler.db-wal"}
    assert all(each.stat().st_mode & 0o077 == 0 for each in path.parent.iterdir())
    await database.close()


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
async def test_sqlite_is_set_up_for_a_server(databases: Databases, durable: bool, level: int) -> None:
    database = await Database.open(databases.fresh("sqlite"), durable=durable)

    def pragma(name: str) -> object:
        return lambda conn: conn.exec_driver_sql(f"PRAGMA {name}").scalar()  # type: ignore[no-any-return]

    expected = {"journal_mode": "wal", "synchronous": level, "foreign_keys": 1, "mmap_size": 512 << 20}
    for name, value in expected.items():
        assert await database.write(pragma(name)) == value  # type: ignore[arg-type]
    assert await database.write(pragma("query_only")) == 0  # type: ignore[arg-type]
    assert await database.read(pragma("query_only")) == 1  # type: ignore[arg-type]
    assert SqliteBackend is not None
    await database.close()


async def test_the_queue_and_the_lists_use_their_indexes(databases: Databases) -> None:
    database = await Database.open(databases.fresh("sqlite"))

    async def plan(query: str) -> str:
        rows = await database.read(lambda conn: conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
        return " ".join(str(row[3]) for row in rows)

    ready = "SELECT session_id FROM work WHERE work.wanted = 1 AND available_at <= 1 ORDER BY enqueued_at, session_id"
    assert "ix_work_wanted" in await plan(ready)
    assert "TEMP B-TREE" not in await plan(ready)
    newest = "SELECT id FROM sessions WHERE workspace_id = 'w' AND (created_at, id) < ('a', 'b')"
    assert "ix_sessions_newest" in await plan(f"{newest} ORDER BY created_at DESC, id DESC LIMIT 20")
    one = "SELECT seq FROM events WHERE session_id = 's' AND id = 'e'"
    assert "uq_events_id" in await plan(one)
    assert "ix_audit_entries_loose" in await plan(audit_chain.WAITING["sqlite"])
    await database.close()
