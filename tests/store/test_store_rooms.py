"""Rooms: who is in them, on which worker they are at home, and who of the others may act."""

from __future__ import annotations

import pytest
from storekit import Skew, add_catalog, add_session, claim_many, want

from hostler.domain.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from hostler.store import admission, rooms, sessions, snapshots, work
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.rooms import RoomElsewhere, RoomLease
from hostler.store.snapshots import NewSnapshot
from hostler.store.work import Lease


async def join(db: Database, session_id: str, name: str, most: int = 8, room: str = "main") -> str:
    return await db.write(
        lambda c: rooms.join_room(c, db.now(c), DEFAULT_WORKSPACE, "env_1", room, session_id, name, most)
    )


async def two(db: Database) -> str:
    """The room of sesn_a and sesn_b."""
    await add_catalog(db)
    for name in ("a", "b"):
        await add_session(db, f"sesn_{name}")
        room = await join(db, f"sesn_{name}", name)
        await want(db, f"sesn_{name}")
    return room


async def enter(db: Database, lease: Lease) -> rooms.RoomRow:
    return (await db.write(lambda c: rooms.enter_room(c, db.now(c), lease)))[0]


async def claimed(db: Database, owner: str, **more: object) -> dict[str, Lease]:
    return {one.session_id: one.lease for one in await claim_many(db, owner, **more)}  # type: ignore[arg-type]


async def test_a_room_has_a_place_for_each_name_and_no_more_than_it_may(db: Database) -> None:
    room = await two(db)
    await add_session(db, "sesn_c")
    with pytest.raises(Conflict):
        await join(db, "sesn_c", "a")
    with pytest.raises(InvalidRequest, match="is full: 2 sessions"):
        await join(db, "sesn_c", "c", most=2)
    assert await join(db, "sesn_c", "c", most=2, room="other") != room
    with pytest.raises(NotFound):
        await db.read(lambda c: rooms.get_room(c, "wrkspc_other", room))
    found = await db.read(lambda c: rooms.list_rooms(c, DEFAULT_WORKSPACE, limit=1))
    assert (len(found.rows), found.has_next) == (1, True)


async def test_the_sessions_of_a_room_are_claimed_where_it_is_at_home_and_nowhere_else(
    db: Database, skew: Skew
) -> None:
    room = await two(db)
    first = (await claimed(db, "w1", limit=1))["sesn_a"]
    assert (await enter(db, first)).worker == "w1"
    assert await claimed(db, "w2") == {}, "the room is at home on w1"
    second = (await claimed(db, "w1"))["sesn_b"]
    assert (await enter(db, second)).epoch == 1
    assert await db.read(lambda c: rooms.inside(c, db.now(c), room)) == {"sesn_a", "sesn_b"}
    skew.seconds += 31
    moved = await claimed(db, "w2")
    assert set(moved) == {"sesn_a", "sesn_b"}
    assert (await enter(db, moved["sesn_a"])).epoch == 2


async def test_whoever_claimed_too_early_does_not_get_in(db: Database, skew: Skew) -> None:
    """Both workers looked when nobody was inside: the one that enters first has the room."""
    await two(db)
    first = (await claimed(db, "w1", limit=1))["sesn_a"]
    second = (await claimed(db, "w2", limit=1))["sesn_b"]
    room = await enter(db, first)
    with pytest.raises(RoomElsewhere):
        await enter(db, second)
    await db.write(lambda c: rooms.leave_place(c, first))
    assert (await enter(db, second)).epoch == room.epoch + 1
    stale = RoomLease(room.id, room.epoch, first)
    with pytest.raises(LeaseLost, match="has moved"):
        await db.write(lambda c: rooms.set_copy(c, db.now(c), stale, dirty=False))
    skew.seconds += 31
    with pytest.raises(LeaseLost):
        await enter(db, second)


async def test_a_session_that_gives_its_lease_back_is_not_inside_any_more(db: Database) -> None:
    await two(db)
    first = (await claimed(db, "w1", limit=1))["sesn_a"]
    await enter(db, first)
    await db.write(lambda c: work.release(c, first))
    assert set(await claimed(db, "w2")) == {"sesn_a", "sesn_b"}


async def test_the_last_who_leaves_takes_the_room_away_with_what_was_kept_of_it(db: Database) -> None:
    room = await two(db)
    new = NewSnapshot("snap_1", DEFAULT_WORKSPACE, room, None, "turn", 1, 1, 1, "m", "c")
    await db.write(lambda c: snapshots.create_snapshot(c, db.now(c), new, ()))
    await db.write(lambda c: sessions.delete_session(c, None, "sesn_a"))
    assert (await db.read(lambda c: rooms.get_room(c, None, room))).id == room
    await db.write(lambda c: sessions.delete_session(c, None, "sesn_b"))
    assert await db.read(lambda c: rooms.existing_rooms(c, [room])) == {}
    assert await db.read(lambda c: snapshots.latest_snapshot(c, room)) is None


async def test_the_snapshots_of_a_session_go_with_it(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_a")
    new = NewSnapshot("snap_1", DEFAULT_WORKSPACE, "sesn_a", None, "turn", 1, 1, 1, "m", "c")
    await db.write(lambda c: snapshots.create_snapshot(c, db.now(c), new, ()))
    await db.write(lambda c: sessions.delete_session(c, None, "sesn_a"))
    assert await db.read(lambda c: snapshots.latest_snapshot(c, "sesn_a")) is None


async def test_who_was_away_when_it_happened_is_told_once(db: Database) -> None:
    room = await two(db)
    await db.write(lambda c: rooms.add_conflict(c, db.now(c), room, "map", "sesn_a", "sesn_b", "overwritten"))
    assert [row.path for row in await db.write(lambda c: rooms.untold(c, "sesn_b"))] == ["map"]
    assert await db.write(lambda c: rooms.untold(c, "sesn_b")) == []
    assert await db.write(lambda c: rooms.untold(c, "sesn_a")) == []
    listed = await db.read(lambda c: rooms.list_conflicts(c, room, limit=10))
    assert [(row.session_id, row.other_session_id) for row in listed.rows] == [("sesn_a", "sesn_b")]


async def test_whoever_can_not_serve_a_session_does_not_see_it_wait(db: Database) -> None:
    """It would take the place of one that could be served, or make room for nothing."""
    await two(db)
    first = (await claimed(db, "w1", limit=1))["sesn_a"]
    await enter(db, first)

    async def seen_by(worker: str | None) -> list[str]:
        found = await db.read(lambda c: admission.waiting(c, db.now(c), most=5, worker=worker))
        return [row.session_id for row in found]

    assert await seen_by("w2") == []
    assert await seen_by("w1") == ["sesn_b"]
    assert await seen_by(None) == ["sesn_b"]
