"""Who gets a place, decided in the transaction that takes the lease: on both databases, by several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.util import await_only
from storekit import Skew, add, add_catalog, add_session, append, claim_many, want

from hostler.engine.admission import Admission, Lack, Room, Taken
from hostler.engine.memory_use import EXPECTED_BYTES, MIB
from hostler.store import admission as rows
from hostler.store import work
from hostler.store.catalog import create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE, create_workspace

ROOM = Room(places=100, errands=8)


@dataclass
class Server:
    """One server's view of the queue."""

    db: Database
    name: str = "w1"
    admission: Admission = field(default_factory=Admission)

    async def take(self, room: Room = ROOM, **more: Any) -> Taken:
        def unit(conn: Connection) -> Taken:
            return self.admission.take(conn, self.db.now(conn), self.name, room, ttl=30, **more)

        taken = await self.db.write(unit)
        self.admission.taken(taken)
        return taken

    async def placed(self, room: Room = ROOM, **more: Any) -> list[str]:
        return [claimed.session_id for claimed, _ in (await self.take(room, **more)).placed]

    async def ends(self, session_id: str) -> None:
        """Its turn is over."""
        leases = await self.db.read(lambda conn: work.leases(conn, self.name))
        lease = next(lease for lease in leases if lease.session_id == session_id)
        await append(self.db, add(wanted=False, status="idle"), session_id=session_id, lease=lease)
        await self.db.write(lambda conn: work.release(conn, lease))


@pytest.fixture
async def server(db: Database) -> Server:
    await add_catalog(db)
    return Server(db)


async def workspace(db: Database, suffix: str) -> str:
    made = await db.write(lambda conn: create_workspace(conn, db.now(conn), suffix))
    await add_catalog(db, made.id, suffix=suffix)
    return made.id


async def limited(db: Database, most: int, name: str = "limited") -> str:
    """An environment that allows so many live sessions."""
    body = {"config": {"type": "cloud", "hosting": {"max_live_sessions": most}}}

    def unit(conn: Connection) -> None:
        create_environment(conn, db.now(conn), id=f"env_{name}", workspace_id=DEFAULT_WORKSPACE, name=name, body=body)

    await db.write(unit)
    return f"env_{name}"


async def says(db: Database, skew: Skew, session_id: str, *, made: bool = False, **fields: Any) -> None:
    """A message comes, later than those before it."""
    if not made:
        await add_session(db, session_id, **fields)
    skew.seconds += 1
    await append(db, add(wanted=True, begins=True), session_id=session_id)


async def test_a_flood_of_one_workspace_does_not_keep_another_waiting(db: Database, skew: Skew, server: Server) -> None:
    other = await workspace(db, "2")
    for number in range(20):
        await says(db, skew, f"flood_{number:02}")
    for number in range(2):
        await says(db, skew, f"other_{number}", workspace_id=other, suffix="2")
    one, served = replace(ROOM, places=1), []
    for _ in range(5):
        (got,) = await server.placed(one)
        served.append(got)
        skew.seconds += 1
        await server.ends(got)
    assert served == ["flood_00", "other_0", "flood_01", "other_1", "flood_02"]


async def test_a_server_that_was_started_anew_goes_on_with_the_same_order(
    db: Database, skew: Skew, server: Server
) -> None:
    for name in ("sesn_a", "sesn_b", "sesn_c"):
        await says(db, skew, name)
    one = replace(ROOM, places=1)
    assert await server.placed(one) == ["sesn_a"]
    skew.seconds += 31  # killed: its lease runs out, and the turn that it had is as old as before
    again = Server(db, "w2")
    assert [await again.placed(one), await again.placed(one), await again.placed(one)] == [
        ["sesn_a"],
        ["sesn_b"],
        ["sesn_c"],
    ]


async def test_a_session_whose_next_turn_begins_at_once_stands_behind_those_that_wait(
    db: Database, skew: Skew, server: Server
) -> None:
    await says(db, skew, "sesn_a")
    await says(db, skew, "sesn_b")
    one = replace(ROOM, places=1)
    assert await server.placed(one) == ["sesn_a"]
    skew.seconds += 1
    (lease,) = await db.read(lambda conn: work.leases(conn, "w1"))
    await append(db, add(wanted=True, begins=True), session_id="sesn_a", lease=lease)
    await db.write(lambda conn: work.release(conn, lease))
    assert await server.placed(one) == ["sesn_b"]


async def test_the_limit_of_an_environment_holds_over_all_servers_at_the_same_time(
    db: Database, skew: Skew, server: Server
) -> None:
    environment = await limited(db, 3)
    for number in range(8):
        await says(db, skew, f"sesn_{number}", environment_id=environment)
    servers = [Server(db, f"w{number}") for number in range(4)]
    async with asyncio.TaskGroup() as tasks:
        takes = [tasks.create_task(each.placed()) for each in servers]
    got = sorted(name for take in takes for name in take.result())
    # Whoever looks second finds those of the first taken; nobody finds more places than there are.
    assert len(got) == len(set(got)) <= 3
    more = await server.placed()
    assert sorted(got + more) == ["sesn_0", "sesn_1", "sesn_2"]
    skew.seconds += 31  # all four servers are gone
    assert await server.placed() == ["sesn_0", "sesn_1", "sesn_2"]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_a_server_that_looks_while_another_is_taking_the_last_place_waits_and_finds_it_taken(
    db: Database, skew: Skew, server: Server
) -> None:
    environment = await limited(db, 1)
    for name in ("sesn_a", "sesn_b"):
        await says(db, skew, name, environment_id=environment)
    other, taking, go_on = Server(db, "w2"), asyncio.Event(), asyncio.Event()

    def unit(conn: Connection) -> Taken:
        taken = server.admission.take(conn, db.now(conn), "w1", ROOM, ttl=30)
        taking.set()
        await_only(go_on.wait())
        return taken

    def waits_for_a_lock(conn: Connection) -> bool:
        found = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(conn.exec_driver_sql(found).scalar_one())

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(db.write(unit))
        await taking.wait()
        second = tasks.create_task(other.placed(held=["sesn_a"]))  # so that it is not kept away by the first one's row
        while not (second.done() or await db.read(waits_for_a_lock)):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        go_on.set()
    assert [claimed.session_id for claimed, _ in first.result().placed] == ["sesn_a"]
    assert second.result() == []


async def test_a_full_environment_is_in_nobody_elses_way(db: Database, skew: Skew, server: Server) -> None:
    environment = await limited(db, 1)
    for name in ("sesn_a", "sesn_b", "sesn_c"):
        await says(db, skew, name, environment_id=environment)
    await says(db, skew, "sesn_d")
    taken = await server.take()
    assert [claimed.session_id for claimed, _ in taken.placed] == ["sesn_a", "sesn_d"]
    assert taken.lacks == [Lack("environment_limit", 2, environment)]
    assert taken.left
    found = await db.read(lambda conn: server.admission.waits(conn, db.now(conn), most=10))
    assert [(row.session_id, wait.reason, wait.place, wait.limit) for row, wait in found] == [
        ("sesn_b", "environment_limit", 1, 1),
        ("sesn_c", "environment_limit", 2, 1),
    ]
    await server.ends("sesn_a")
    assert await server.placed() == ["sesn_b"]


async def test_slots_are_given_to_those_who_come_first_and_the_rest_is_told(
    db: Database, skew: Skew, server: Server
) -> None:
    for number in range(4):
        await says(db, skew, f"sesn_{number}")
    taken = await server.take(replace(ROOM, places=2))
    assert [claimed.session_id for claimed, _ in taken.placed] == ["sesn_0", "sesn_1"]
    assert taken.lacks == [Lack("server_limit", 2)]
    found = await db.read(lambda conn: server.admission.waits(conn, db.now(conn), most=10))
    assert [(row.session_id, wait.reason, wait.place) for row, wait in found] == [
        ("sesn_2", "server_limit", 1),
        ("sesn_3", "server_limit", 2),
    ]


def expecting(**bytes_of: int) -> Callable[[str], int]:
    return lambda environment_id: bytes_of.get(environment_id, EXPECTED_BYTES)


async def test_memory_is_given_to_whoever_is_next_and_a_small_one_never_passes_a_big_one(
    db: Database, skew: Skew, server: Server
) -> None:
    big = await limited(db, 9, "big")
    await says(db, skew, "sesn_a")
    await says(db, skew, "sesn_big", environment_id=big)
    await says(db, skew, "sesn_small")
    room = replace(ROOM, headroom=700 * MIB, expected=expecting(env_big=600 * MIB))
    taken = await server.take(room)
    assert [claimed.session_id for claimed, _ in taken.placed] == ["sesn_a"]
    assert taken.lacks == [Lack("memory", 2, missing_bytes=(600 + 180 - 520) * MIB)]
    assert server.admission.short == "memory"
    assert await server.placed(replace(room, headroom=800 * MIB)) == ["sesn_big", "sesn_small"]


@pytest.mark.parametrize(("headroom", "reserve", "begins"), [(-20, 210, True), (-20, 400, True), (-20, 190, False)])
async def test_where_nothing_is_live_the_first_one_may_use_the_reserve(
    db: Database, skew: Skew, server: Server, headroom: int, reserve: int, begins: bool
) -> None:
    await says(db, skew, "sesn_a")
    await says(db, skew, "sesn_b")
    room = replace(ROOM, headroom=headroom * MIB, reserve=reserve * MIB)
    assert await server.placed(room) == []
    assert await server.placed(replace(room, alone=True)) == (["sesn_a"] if begins else [])


async def test_what_needs_no_process_is_taken_although_there_is_no_place(
    db: Database, skew: Skew, server: Server
) -> None:
    await says(db, skew, "sesn_turn")
    await says(db, skew, "sesn_interrupted")
    await append(db, add(need="errand"), session_id="sesn_interrupted")
    await add_session(db, "sesn_order")
    await want(db, "sesn_order")
    await want(db, "sesn_turn")  # an order for a session that waits doesn't make its turn an errand
    taken = await server.take(replace(ROOM, places=0))
    assert sorted(claimed.session_id for claimed in taken.errands) == ["sesn_interrupted", "sesn_order"]
    assert [claimed.session_id for claimed, _ in taken.placed] == []
    counts = await db.read(lambda conn: rows.live_counts(conn, db.now(conn), ["env_1"]))
    assert counts == {}, "what has no process is not live"


async def test_who_has_waited_for_too_long_is_taken_to_be_ended_unless_there_is_a_place(
    db: Database, skew: Skew, server: Server
) -> None:
    for name in ("sesn_a", "sesn_b", "sesn_c"):
        await says(db, skew, name)
    waiting = await db.read(lambda c: rows.waiting(c, db.now(c), most=10, exclude=(), worker="w"))
    since = {row.session_id: row.since for row in waiting}
    before = {"sesn_a": since["sesn_a"], "sesn_b": since["sesn_b"], "sesn_c": since["sesn_c"] - 1}
    taken = await server.take(replace(ROOM, places=1), overdue=before)
    assert [claimed.session_id for claimed, _ in taken.placed] == ["sesn_a"]
    assert [claimed.session_id for claimed in taken.errands] == ["sesn_b"], "sesn_c has begun to wait anew"
    assert taken.overdue == {"sesn_b"}


async def test_those_that_only_stand_by_get_what_nobody_else_needs(db: Database, skew: Skew, server: Server) -> None:
    await says(db, skew, "sesn_stays")
    await append(db, add(need="stand_by", status="idle"), session_id="sesn_stays")
    await says(db, skew, "sesn_turn")
    taken = await server.take(replace(ROOM, places=1))
    assert [claimed.session_id for claimed, _ in taken.placed] == ["sesn_turn"]
    assert (taken.lacks, taken.left) == ([], False), "nobody makes room for it, and nobody is told"
    skew.seconds += 5
    await says(db, skew, "sesn_later")
    await says(db, skew, "sesn_stays", made=True)
    assert await server.placed(replace(ROOM, places=1)) == ["sesn_later"], "standing by was no place in the queue"
    assert await server.placed() == ["sesn_stays"]


async def test_those_that_stand_by_pass_a_full_environment_but_nobody_who_lacks_memory(
    db: Database, skew: Skew, server: Server
) -> None:
    environment = await limited(db, 1)
    for name in ("sesn_a", "sesn_b"):
        await says(db, skew, name, environment_id=environment)
    for name in ("sesn_stays", "sesn_stays_too"):
        await says(db, skew, name)
        await append(db, add(need="stand_by", status="idle"), session_id=name)
    big = replace(ROOM, headroom=400 * MIB, expected=expecting(env_limited=500 * MIB))
    assert await server.placed(big) == []
    assert await server.placed(replace(ROOM, headroom=400 * MIB)) == ["sesn_a", "sesn_stays"]


async def test_live_is_whoever_holds_a_lease_with_a_place(db: Database, skew: Skew, server: Server) -> None:
    await says(db, skew, "sesn_a")
    await says(db, skew, "sesn_b")
    assert await server.placed() == ["sesn_a", "sesn_b"]
    await add_session(db, "sesn_c")
    await db.write(lambda conn: work.claim_free(conn, db.now(conn), "w1", "sesn_c", ttl=30))
    found = await db.read(lambda conn: rows.live(conn, db.now(conn), DEFAULT_WORKSPACE))
    assert [(row.session_id, row.server, row.status) for row in found] == [
        ("sesn_a", "w1", "running"),
        ("sesn_b", "w1", "running"),
    ]
    await server.ends("sesn_a")
    skew.seconds += 31
    assert await db.read(lambda conn: rows.live(conn, db.now(conn), DEFAULT_WORKSPACE)) == []
    assert [each.session_id for each in await claim_many(db, "w2")] == ["sesn_b"]
