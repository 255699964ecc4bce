"""The queue and its leases, under a clock that tests turn."""

from __future__ import annotations

import pytest
from storekit import Skew, add_catalog, add_session, claim, claim_many, want

from hostler.domain.errors import LeaseLost
from hostler.store import work
from hostler.store.database import Database
from hostler.store.eventlog import Change, transact
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease, WorkStats


async def ids(db: Database, owner: str = "w", **more: object) -> list[str]:
    return [each.session_id for each in await claim_many(db, owner, **more)]  # type: ignore[arg-type]


async def test_a_new_session_wants_nobody(db: Database, session: SessionRow) -> None:
    assert await ids(db) == []


async def test_a_session_that_does_not_exist_can_not_be_wanted(db: Database) -> None:
    assert not await want(db, "sesn_9")


async def test_those_who_waited_longest_are_claimed_first(db: Database, skew: Skew) -> None:
    await add_catalog(db)
    for name in ("sesn_c", "sesn_a", "sesn_b"):
        await add_session(db, name)
        skew.seconds += 1
        await want(db, name)
    skew.seconds += 1
    await want(db, "sesn_c")  # asking again does not cost the place

    assert await ids(db, limit=2) == ["sesn_c", "sesn_a"]
    assert await ids(db, limit=2) == ["sesn_b"]


async def test_a_leased_session_is_nobody_elses(db: Database, session: SessionRow) -> None:
    await claim(db, "w1")
    assert await ids(db, owner="w2") == []
    assert await ids(db, owner="w1") == []


async def test_excluded_sessions_are_left(db: Database, session: SessionRow) -> None:
    await add_session(db, "sesn_2")
    await want(db, "sesn_1")
    await want(db, "sesn_2")
    assert await ids(db, exclude={"sesn_1"}) == ["sesn_2"]


async def test_a_lease_that_ran_out_is_claimed_with_a_new_epoch(db: Database, session: SessionRow, skew: Skew) -> None:
    old = await claim(db, "w1", ttl=30)
    skew.seconds += 29
    assert await ids(db, owner="w2") == []
    skew.seconds += 2
    assert await db.read(lambda conn: work.expired(conn, db.now(conn))) == [old]
    (new,) = await claim_many(db, "w2")
    assert (new.owner, new.epoch) == ("w2", old.epoch + 1)
    assert await db.read(lambda conn: work.expired(conn, db.now(conn))) == []


async def test_extending_keeps_others_away(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, ttl=30)
    for _ in range(3):
        skew.seconds += 20
        assert await db.write(lambda conn: work.extend(conn, db.now(conn), lease, ttl=30))
        assert await ids(db, owner="w2") == []


async def test_a_lease_that_ran_out_can_not_be_extended(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, ttl=30)
    skew.seconds += 31
    assert not await db.write(lambda conn: work.extend(conn, db.now(conn), lease, ttl=30))


async def test_releasing_keeps_the_wish_and_the_epoch(db: Database, session: SessionRow) -> None:
    lease = await claim(db, "w1")
    assert await db.write(lambda conn: work.release(conn, lease))
    assert not await db.write(lambda conn: work.release(conn, lease))
    (again,) = await claim_many(db, "w2")
    assert again.epoch == lease.epoch + 1


async def test_a_zombie_releases_nothing(db: Database, session: SessionRow, skew: Skew) -> None:
    old = await claim(db, "w1", ttl=30)
    skew.seconds += 31
    new = await claim(db, "w2", ttl=30)
    assert not await db.write(lambda conn: work.release(conn, old))
    await db.write(lambda conn: work.check(conn, db.now(conn), new))
    with pytest.raises(LeaseLost):
        await db.write(lambda conn: work.check(conn, db.now(conn), old))


async def test_one_session_can_be_claimed_by_name(db: Database, session: SessionRow, skew: Skew) -> None:
    async def take(owner: str) -> Lease | None:
        won = await db.write(lambda conn: work.claim_one(conn, db.now(conn), owner, "sesn_1", ttl=30))
        return won and won.lease

    assert await take("w1") is None
    await want(db)
    assert await take("w1") == Lease("sesn_1", "w1", 1)
    assert await take("w2") is None
    skew.seconds += 31
    assert await take("w2") == Lease("sesn_1", "w2", 2)


async def test_a_restarted_worker_finds_its_former_leases(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, "w1")
    assert await db.read(lambda conn: work.leases(conn, "w1")) == [lease]
    assert await db.read(lambda conn: work.leases(conn, "w2")) == []
    await db.write(lambda conn: work.release(conn, lease))
    assert await db.read(lambda conn: work.leases(conn, "w1")) == []


async def test_the_queue_is_counted_and_tells_its_next_moment(db: Database, skew: Skew) -> None:
    await add_catalog(db)
    for number in range(4):
        await add_session(db, f"sesn_{number}")

    async def stats() -> WorkStats:
        return await db.read(lambda conn: work.open_work(conn, db.now(conn)))

    async def next_in() -> float | None:
        def unit(conn) -> float | None:  # type: ignore[no-untyped-def]
            now = db.now(conn)
            at = work.next_ready_at(conn, now)
            return None if at is None else round(at - now)

        return await db.read(unit)

    assert (await stats(), await next_in()) == (WorkStats(0, 0, 0, None), None)
    await want(db, "sesn_0")
    await claim_many(db, "w", ttl=30)
    assert await next_in() == 30
    await db.write(
        lambda conn: transact(
            conn,
            db.now(conn),
            "sesn_1",
            lambda view: Change("{}", "rescheduling", wanted=True, available_at=view.now + 10),
            lease=None,
            workspace_id=None,
        )
    )
    assert await next_in() == 10
    await want(db, "sesn_2")
    counted = await stats()
    assert (counted.ready, counted.delayed, counted.leased) == (1, 1, 1)
    assert counted.oldest_ready_at is not None
    assert await next_in() == 0
    skew.seconds += 31
    assert (await stats()).ready == 3


@pytest.mark.parametrize("ask", ["want", "turn"])
async def test_whoever_is_told_may_claim_though_its_clock_is_behind(
    db: Database, session: SessionRow, skew: Skew, ask: str
) -> None:
    skew.seconds = 0.05
    if ask == "want":
        await want(db, "sesn_1")
    else:
        await db.write(
            lambda conn: transact(
                conn,
                db.now(conn),
                "sesn_1",
                lambda view: Change("{}", "running", wanted=True),
                lease=None,
                workspace_id=None,
            )
        )
    skew.seconds = 0.0
    assert [won.session_id for won in await claim_many(db, "w")] == ["sesn_1"]
