"""What do two servers on one PostgreSQL know of each other? Polling is slowed down so far that it explains nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest_asyncio
import sqlalchemy as sa
from hookkit import listen, own, receiving
from housekit import DEADLINE, House, open_house, types

from hostler.engine.hub import Hub
from hostler.engine.neighbours import Neighbours
from hostler.engine.work_queue import Poll, WorkQueue
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.listening import APPLICATION
from hostler.store.webhooks import emit
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import gate, step, text, tool

_NUMBERS = count(1)
NO_POLLING = {"worker__poll_seconds": 3600.0, "worker__lease_seconds": 3600.0}
INTERRUPT = {"type": "user.interrupt"}


@dataclass
class Pair:
    """`working` runs every session; `other` has no room for any."""

    working: House
    other: House
    url: str


@asynccontextmanager
async def two_houses(
    tmp_path: Path, cluster: PostgresCluster, *, both_work: bool = False, **settings: Any
) -> AsyncIterator[Pair]:
    url = cluster.create_database(f"several_{next(_NUMBERS)}")
    shared = {"secrets__key_file": str(tmp_path / "keys.json"), **NO_POLLING, **settings}
    async with open_house(tmp_path / "a", url, **shared) as one, open_house(tmp_path / "b", url, **shared) as two:
        two.secret = one.secret
        two.client = two.new_client()
        if not both_work:
            assert two.hostler is not None
            two.hostler.worker.drain()
        yield Pair(one, two, url)


@pytest_asyncio.fixture
async def pair(tmp_path: Path, server_cluster: PostgresCluster) -> AsyncIterator[Pair]:
    async with two_houses(tmp_path, server_cluster) as opened:
        yield opened


async def hearing(house: House, well: bool = True) -> None:
    """Until the server says that it hears the others, or that it does not. Nothing announces that."""
    async with asyncio.timeout(DEADLINE):
        while well is any(r.startswith("servers:") for r in (await own(house, "GET", "/health"))["reasons"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def read_until(stream: Any, seen: list[Any], last: str, times: int = 1) -> None:
    async with asyncio.timeout(DEADLINE):
        async for event in stream:
            seen.append(event)
            if types(seen).count(last) == times:
                return


def words(number: int) -> list[Any]:
    """A turn with many events."""
    return [*[step(text(f"Step {n}."), tool("bash", command=f"echo {n}")) for n in range(number)], step("End.")]


async def break_listeners(pair: Pair) -> int:
    """Ends every listening connection, as a restart of the database would. How many there were."""
    assert pair.working.hostler is not None
    query = sa.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = :name AND datname = current_database()"
    )
    return int(
        await pair.working.hostler.database.write(lambda c: c.execute(query, {"name": APPLICATION}).scalar_one())
    )


async def test_a_stream_shows_the_whole_turn_that_another_server_runs(pair: Pair) -> None:
    session = await pair.working.session()
    seen: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        await pair.working.say(session, words(20))
        await read_until(stream, seen, "session.status_idle")
    recorded = await pair.working.events(session)
    assert len(recorded) >= 100
    assert [e.id for e in seen if getattr(e, "processed_at", True)] == [e.id for e in recorded]
    assert pair.other.hostler is not None
    assert pair.other.hostler.worker.live() == 0


async def test_what_happens_while_nothing_is_heard_is_shown_afterwards(pair: Pair) -> None:
    session = await pair.working.session()
    seen: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        await pair.working.say(session, [*words(3)[:-1], step(gate("cut"), text("On.")), *words(3)])
        await pair.working.model.reached_gate("cut")
        assert await break_listeners(pair) == 2
        pair.working.model.open_gate("cut")
        await read_until(stream, seen, "session.status_idle")
    recorded = await pair.working.events(session)
    assert [e.id for e in seen if getattr(e, "processed_at", True)] == [e.id for e in recorded]
    await hearing(pair.other)
    more: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        await pair.other.say(session, [step("Again.")])
        await read_until(stream, more, "session.status_idle")
    assert types(more).count("agent.message") == 1


async def test_an_interrupt_through_one_server_stops_the_turn_on_the_other(pair: Pair) -> None:
    session = await pair.working.session()
    await pair.working.say(session, [step(text("Half a sentence ", chunk=4), gate("never"), text("and the rest."))])
    await pair.working.model.reached_gate("never")
    seen: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        await pair.other.answer(session, INTERRUPT)
        await read_until(stream, seen, "session.status_idle")
    assert "user.interrupt" in types(seen)
    assert "agent.message" not in types(seen)


async def test_a_message_through_one_server_is_answered_by_the_process_that_is_live_on_the_other(pair: Pair) -> None:
    session = await pair.working.session()
    await pair.working.turn(session, [step("One.")])
    assert pair.working.hostler is not None
    assert pair.working.hostler.worker.live() == 1
    events = await pair.other.turn(session, [step("Two.")])
    assert [e.content[0].text for e in events if e.type == "agent.message"] == ["Two."]


async def test_input_that_waits_is_shown_by_the_other_server_before_it_is_taken_up(pair: Pair) -> None:
    session = await pair.working.session()
    await pair.working.say(session, [step(gate("busy"), text("First."))])
    await pair.working.model.reached_gate("busy")
    seen: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        sent = await pair.working.say(session, [step("Second.")])
        await read_until(stream, seen, "user.message")
        assert (seen[-1].id, seen[-1].processed_at) == (sent, None)
        pair.working.model.open_gate("busy")
        await read_until(stream, seen, "session.status_idle", times=2)
    mine = [e for e in seen if e.type == "user.message"]
    assert [(e.id, e.processed_at is None) for e in mine] == [(sent, True), (sent, False)]


async def test_deleting_through_one_server_ends_the_streams_of_the_other_and_removes_its_files(pair: Pair) -> None:
    session = await pair.working.session()
    await pair.working.turn(session, [step(tool("bash", command="echo mine > file")), step("Done.")])
    folder = pair.working.workspace(session)
    assert (folder / "file").exists()
    seen: list[Any] = []
    async with await pair.working.client.beta.sessions.events.stream(session) as stream:
        await pair.other.client.beta.sessions.delete(session)
        async with asyncio.timeout(DEADLINE):
            seen = [event async for event in stream]
    assert types(seen) == ["session.deleted"]
    async with asyncio.timeout(DEADLINE):
        while folder.parent.exists():  # noqa: ASYNC110 - nothing announces the removal of files
            await asyncio.sleep(0.01)


async def test_a_session_that_was_deleted_while_nothing_was_heard_ends_its_streams(pair: Pair) -> None:
    session = await pair.working.session()
    assert pair.other.hostler is not None
    async with await pair.working.client.beta.sessions.events.stream(session) as stream:
        # The two follow each other within one transaction: no listener can be there again when it commits.
        def unit(conn: sa.Connection) -> None:
            conn.execute(sa.text("DELETE FROM work WHERE session_id = :id"), {"id": session})
            conn.execute(sa.text("DELETE FROM sessions WHERE id = :id"), {"id": session})

        await pair.other.hostler.database.write(unit)
        assert await break_listeners(pair) == 2
        async with asyncio.timeout(DEADLINE):
            assert [event.type async for event in stream] == ["session.deleted"]


async def test_archiving_through_one_server_ends_the_process_on_the_other(pair: Pair) -> None:
    session = await pair.working.session()
    await pair.working.turn(session, [step("Hello.")])
    seen: list[Any] = []
    async with await pair.working.client.beta.sessions.events.stream(session) as stream:
        await pair.other.client.beta.sessions.archive(session)
        await read_until(stream, seen, "session.status_terminated")
    await pair.working.until_no_process()


async def test_a_server_without_its_listener_says_so_until_it_hears_again(pair: Pair) -> None:
    assert pair.working.hostler is not None
    database = pair.working.hostler.database
    session = await pair.working.session()
    seen: list[Any] = []
    async with await pair.other.client.beta.sessions.events.stream(session) as stream:
        # Connections that are open stay; superusers are let in whatever the limit of connections is.
        for statement in ("CREATE ROLE heir SUPERUSER LOGIN", "ALTER ROLE postgres NOLOGIN"):
            await database.write(lambda c, statement=statement: c.execute(sa.text(statement)).close())
        try:
            assert await break_listeners(pair) == 2
            await hearing(pair.other, False)
            told = await own(pair.other, "GET", "/health")
            assert told["status"] == "degraded"
            await pair.working.turn(session, [step("Unheard.")])
        finally:
            for statement in ("ALTER ROLE postgres LOGIN", "DROP ROLE heir"):
                await database.write(lambda c, statement=statement: c.execute(sa.text(statement)).close())
        await read_until(stream, seen, "session.status_idle")
    assert [e.id for e in seen] == [e.id for e in await pair.working.events(session)]
    await hearing(pair.other)


async def test_a_poll_for_self_hosted_work_is_woken_by_the_other_server(pair: Pair) -> None:
    """A poll of the API ends after a second and looks once more then, so this one asks the queue itself, for longer."""
    session, environment, _ = await pair.working.self_hosted()
    database, hub = await Database.open(pair.url), Hub()
    neighbours = Neighbours(database, hub)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(neighbours.run())
            poll = Poll(None, block_seconds=10 * DEADLINE)
            polled = tasks.create_task(WorkQueue(database, hub).poll("wrkspc_default", environment, poll))
            async with asyncio.timeout(DEADLINE):
                while not (neighbours.hears_others() and hub.polled(environment)):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await pair.working.say(session, [step(tool("bash", command="true"))])
                found = await polled
            following.cancel()
    finally:
        await database.close()
    assert found is not None
    assert found["data"]["id"] == session


async def test_a_webhook_is_sent_when_a_process_that_sends_none_records_the_event(
    tmp_path: Path, server_cluster: PostgresCluster
) -> None:
    """Without the signal the servers would look after half a minute."""
    hooks = {"webhooks__allow_http": True, "webhooks__private_allowed": ["127.0.0.1"]}
    async with two_houses(tmp_path, server_cluster, **hooks) as pair:
        database = await Database.open(pair.url)
        try:
            with receiving() as receiver:
                await listen(pair.other, receiver.url, "agent.created")
                await database.write(
                    lambda c: emit(c, database.now(c), DEFAULT_WORKSPACE, "agent.created", {"id": "x"})
                )
                async with asyncio.timeout(25):
                    await receiver.until(lambda got: len(got) == 1)
        finally:
            await database.close()


async def test_many_sessions_are_shared_and_all_finish(tmp_path: Path, server_cluster: PostgresCluster) -> None:
    async with two_houses(tmp_path, server_cluster, both_work=True, worker__slots=3) as pair:
        made = await pair.working.client.beta.agents.create(name="A", model="claude-opus-5-5")
        environment = await pair.working.environment()
        ids = []
        for _ in range(16):
            session = await pair.working.client.beta.sessions.create(agent=made.id, environment_id=environment)
            ids.append(session.id)
        for number, id_ in enumerate(ids):
            await (pair.working, pair.other)[number % 2].say(id_, [step("Done.")])
        for number, id_ in enumerate(ids):
            events = await (pair.other, pair.working)[number % 2].until_idle(id_)
            assert types(events).count("agent.message") == 1
        served = [len(list((tmp_path / name / "state" / "sessions").iterdir())) for name in "ab"]
        assert sum(served) == len(ids), "no session was served by both"
        assert all(served)
