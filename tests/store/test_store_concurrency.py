"""Many at once: tasks, separate connections, and whole processes that are killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.util import await_only
from storekit import Databases, Skew, add, add_catalog, add_session, append, claim_many, event, want

from hostler.domain.errors import Conflict, LeaseLost
from hostler.store import catalog, work
from hostler.store.database import Database
from hostler.store.eventlog import Change, LogView, read_events
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.sessions import SessionRow
from hostler.store.transcripts import TranscriptStore
from hostler.store.work import Lease

DEADLINE = 60


async def test_sixteen_writers_leave_no_gap_in_one_session(db: Database, session: SessionRow) -> None:
    async def write(writer: int) -> None:
        for number in range(10):
            await append(db, add(event(writer * 100 + number), event(writer * 100 + number + 50)))

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        for writer in range(16):
            tasks.create_task(write(writer))
    stored = await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=1000))
    assert [each.seq for each in stored] == list(range(1, 321))
    for first, second in zip(stored[::2], stored[1::2], strict=True):  # what was appended together stays together
        assert int(second.id.removeprefix("sevt_")) == int(first.id.removeprefix("sevt_")) + 50


async def test_every_decision_sees_the_one_before(db: Database, session: SessionRow) -> None:
    def count(view: LogView) -> Change:
        return Change(str(int(view.session.state.strip("{}") or 0) + 1), "running", [event(view.session.last_seq)])

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        for _ in range(64):
            tasks.create_task(append(db, count))
    assert (await append(db, lambda view: Change(view.session.state, "idle"))).session.state == "64"


async def test_two_claimers_never_get_the_same_session(url: str, db: Database) -> None:
    await add_catalog(db)
    names = [f"sesn_{number}" for number in range(60)]
    for name in names:
        await add_session(db, name)
        await want(db, name)
    won: list[str] = []

    async def worker(database: Database, owner: str) -> None:
        while len(won) < len(names):
            won.extend(each.session_id for each in await claim_many(database, owner, limit=3))

    others = [await Database.open(url) for _ in range(3)]
    try:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            for number, database in enumerate([db, *others, db, db]):
                tasks.create_task(worker(database, f"w{number}"))
    finally:
        for database in others:
            await database.close()
    assert sorted(won) == sorted(names)


async def test_one_of_many_claims_of_one_session_wins(db: Database, session: SessionRow) -> None:
    await want(db)
    async with asyncio.TaskGroup() as tasks:
        claims = [
            tasks.create_task(
                db.write(lambda c, n=number: work.claim_one(c, db.now(c), f"w{n}", "sesn_1", ttl=30))  # type: ignore[misc]
            )
            for number in range(16)
        ]
    assert len([claim for claim in claims if claim.result() is not None]) == 1


async def test_a_claim_and_an_append_never_both_win(url: str, db: Database, session: SessionRow) -> None:
    """The moment a lease runs out is the dangerous one: here the old worker appends while a new one claims."""
    ahead = Skew()
    other = await Database.open(url, clock_skew=ahead)
    owner, ttl = "w0", 30.0
    try:
        await want(db)
        (held,) = await claim_many(db, owner, ttl=ttl)
        for turn in range(25):
            appended: list[bool] = []
            ahead.seconds += 31

            async def zombie(lease: Lease, number: int, appended: list[bool] = appended) -> None:
                with contextlib.suppress(LeaseLost):
                    await append(db, add(event(number)), lease=lease)
                    appended.append(True)

            async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
                tasks.create_task(zombie(held.lease, turn))
                taking = tasks.create_task(
                    other.write(lambda c, o=f"w{turn + 1}": work.claim_one(c, other.now(c), o, "sesn_1", ttl=30.0))  # type: ignore[misc]
                )
            taken = taking.result()
            assert taken is not None
            assert taken.epoch == held.epoch + 1
            seen = await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=1000))
            with pytest.raises(LeaseLost):  # after the takeover is known, nothing of the old one gets in
                await append(db, add(event(1000 + turn)), lease=held.lease)
            assert await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=1000)) == seen
            held = taken
    finally:
        await other.close()


async def test_a_session_can_not_be_claimed_while_its_old_worker_commits(databases: Databases) -> None:
    """The lease runs out between the check and the commit. On SQLite nobody else can be in a transaction at all."""
    url = databases.fresh("postgresql")
    ahead = Skew()
    db, other = await Database.open(url), await Database.open(url, clock_skew=ahead)
    await add_catalog(db)
    await add_session(db, "sesn_1")
    await want(db)
    (held,) = await claim_many(db, "w1", ttl=30)
    ahead.seconds = 31

    def decide(view: LogView) -> Change:
        assert await_only(claim_many(other, "w2")) == []
        return Change("{}", "running", [event(1)])

    async with asyncio.timeout(DEADLINE):
        assert (await append(db, decide, lease=held.lease)).seq_first == 1
        (taken,) = await claim_many(other, "w2")
    assert taken.epoch == held.epoch + 1
    await db.close()
    await other.close()


async def test_a_transcript_is_written_before_a_takeover_or_not_at_all(databases: Databases) -> None:
    url = databases.fresh("postgresql")
    ahead = Skew()
    db, other = await Database.open(url), await Database.open(url, clock_skew=ahead)
    await add_catalog(db)
    await add_session(db, "sesn_1")
    await want(db)
    (held,) = await claim_many(db, "w1", ttl=30)
    ahead.seconds = 31

    def unit(conn: Connection) -> None:
        work.check(conn, db.now(conn), held.lease)
        assert await_only(claim_many(other, "w2")) == []

    async with asyncio.timeout(DEADLINE):
        await db.write(unit)
        assert len(await claim_many(other, "w2")) == 1
    await db.close()
    await other.close()


async def test_parallel_appends_to_one_transcript_keep_batches_together(db: Database) -> None:
    store = TranscriptStore(db)

    async def write(writer: int) -> None:
        for number in range(5):
            batch = [{"type": "x", "uuid": f"{writer}-{number}-{part}"} for part in range(3)]
            await store.append({"project_key": "p", "session_id": "s"}, batch)  # type: ignore[arg-type]

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        for writer in range(8):
            tasks.create_task(write(writer))
    found = [entry["uuid"] for entry in await store.load({"project_key": "p", "session_id": "s"}) or []]
    assert len(found) == len(set(found)) == 120
    for first, second, third in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert [first[:-1]] * 2 == [second[:-1], third[:-1]]


async def test_one_of_many_new_versions_on_the_same_one_wins(db: Database) -> None:
    await add_catalog(db)

    async def update() -> bool:
        try:
            await db.write(
                lambda c: catalog.append_version(c, db.now(c), WS, "agent_1", expected_version=1, name="n", body={})
            )
        except Conflict:
            return False
        return True

    async with asyncio.TaskGroup() as tasks:
        updates = [tasks.create_task(update()) for _ in range(8)]
    assert sum(each.result() for each in updates) == 1


async def test_one_of_many_environments_of_one_name_is_made(db: Database) -> None:
    async def create(number: int) -> bool:
        try:
            await db.write(
                lambda c: catalog.create_environment(
                    c, db.now(c), id=f"env_{number}", workspace_id=WS, name="dev", body={}
                )
            )
        except Conflict:
            return False
        return True

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(create(number)) for number in range(8)]
    assert sum(each.result() for each in made) == 1


APPENDER = Path(__file__).with_name("appender.py")


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(databases: Databases, dialect: str) -> None:
    url = databases.fresh(dialect)
    async with asyncio.timeout(DEADLINE):
        for round in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(APPENDER), url, str(round), stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            told = 0
            for _ in range(40 + 13 * round):
                told = int(await process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in (await process.stdout.read()).split(b"\n")[:-1])])
            await process.wait()
            database = await Database.open(url)
            stored = await database.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=100_000))
            await database.close()
            assert [each.seq for each in stored] == list(range(1, len(stored) + 1))
            assert len(stored) in (told, told + 1)


@pytest.mark.slow
async def test_a_server_that_froze_before_a_statement_gives_its_locks_back(databases: Databases) -> None:
    url = databases.fresh("postgresql")
    program = str(Path(__file__).with_name("freezing_writer.py"))
    async with contextlib.AsyncExitStack() as stack:
        db = await Database.open(url)
        stack.push_async_callback(db.close)
        await add_catalog(db)
        await add_session(db, "sesn_1")
        frozen = await asyncio.create_subprocess_exec(sys.executable, program, url, "sesn_1")
        stack.push_async_callback(frozen.wait)
        stack.callback(frozen.kill)
        listener = db.listener()
        assert listener is not None
        listening = asyncio.create_task(listener.run(lambda _: None, lambda: None))
        stack.callback(listening.cancel)
        status = await asyncio.to_thread(os.waitid, os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
        assert status is not None
        async with asyncio.timeout(DEADLINE):
            await append(db, add(event(1)))
    databases.drop(url)
