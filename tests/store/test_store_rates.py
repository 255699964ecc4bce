"""Rate limits in the store: never more than flows in and was there, whoever takes, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storekit import Skew, add_catalog, add_session

from hostler.domain.rates import Bucket
from hostler.store import catalog, keys, rates
from hostler.store.database import Database
from hostler.store.rates import UNLIMITED, Outcome, Said, Wish
from hostler.store.tables import agents, sessions
from hostler.store.tables_rates import rate_buckets

REQUESTS = Bucket("model", "up/claude-x", "requests")
INPUT = Bucket("workspace", "wrkspc_1", "input_tokens", "wrkspc_1")
START = 1_700_000_000.0


def wish(cost: float, bucket: Bucket = REQUESTS, *, limit: float | None = 60.0, back: float = 0.0) -> Wish:
    return Wish(bucket, cost, back, limit)


async def take(db: Database, at: float, *wishes: Wish, server: str = "a", **more: Any) -> list[Outcome]:
    return await db.write(lambda conn: rates.take(conn, START + at, wishes, server=server, **more))


async def level(db: Database, at: float, bucket: Bucket = REQUESTS) -> float | None:
    rows = await db.read(lambda c: rates.buckets(c, START + at, bucket.workspace_id, upstreams=True, most=100))
    return next(row.level for row in rows if row.bucket == bucket)


async def test_a_bucket_holds_a_minutes_worth_and_fills_up_evenly(db: Database) -> None:
    (first,) = await take(db, 0.0, wish(60.0))
    assert (first.taken, first.wait, first.level) == (True, 0.0, 60.0)
    (second,) = await take(db, 10.0, wish(15.0))
    assert not second.taken
    assert second.wait == pytest.approx(5.0, abs=1e-5)
    (third,) = await take(db, 15.0, wish(15.0))
    assert third.taken
    assert await level(db, 1_000.0) == 60.0


async def test_it_takes_from_all_or_from_none(db: Database) -> None:
    await take(db, 0.0, wish(50.0, INPUT, limit=60.0))
    outcomes = await take(db, 0.0, wish(1.0), wish(30.0, INPUT))
    assert [(o.taken, round(o.wait)) for o in outcomes] == [(False, 0), (False, 20)]
    assert await level(db, 0.0) == 60.0
    assert await level(db, 0.0, INPUT) == 10.0
    assert all(o.taken for o in await take(db, 20.0, wish(1.0), wish(30.0, INPUT)))
    assert await level(db, 20.0) == 59.0


async def test_what_was_used_besides_is_a_debt_that_is_paid_before_anybody_is_let_in(db: Database) -> None:
    await take(db, 0.0, wish(10.0))
    (refused,) = await take(db, 0.0, wish(1.0, back=-100.0))
    assert (refused.taken, round(refused.wait)) == (False, 51)
    assert await level(db, 0.0) == -50.0
    assert not (await take(db, 50.0, wish(1.0)))[0].taken
    assert (await take(db, 51.0, wish(1.0)))[0].taken


async def test_a_debt_of_nobodys_wish_is_written_and_moves_no_turn(db: Database) -> None:
    await take(db, 0.0, wish(0.0, back=-70.0), server="")
    assert await level(db, 0.0) == -10.0
    await take(db, 5.0, wish(1.0), server="a")
    await take(db, 5.0, wish(0.0, back=7.0), server="")
    assert not (await take(db, 5.0, wish(1.0), server="b"))[0].taken, "it is the turn of a"
    assert (await take(db, 5.0, wish(1.0), server="a"))[0].taken


async def test_what_is_given_back_never_makes_more_than_a_bucket_holds(db: Database) -> None:
    await take(db, 0.0, wish(5.0))
    await take(db, 0.0, wish(0.0, back=500.0), server="")
    assert await level(db, 0.0) == 60.0


async def test_a_request_of_more_than_a_bucket_holds_is_let_in_when_it_is_full(db: Database) -> None:
    await take(db, 0.0, wish(1.0))
    assert not (await take(db, 0.5, wish(180.0)))[0].taken
    assert (await take(db, 1.0, wish(180.0)))[0].taken
    assert not (await take(db, 120.0, wish(1.0)))[0].taken
    assert (await take(db, 122.1, wish(1.0)))[0].taken


async def test_it_takes_ahead_only_where_half_of_it_stays(db: Database) -> None:
    assert [o.ahead for o in await take(db, 0.0, wish(1.0), share=0.05)] == [3.0]
    assert [o.ahead for o in await take(db, 0.0, wish(26.0), share=0.05)] == [0.0]
    assert await level(db, 0.0) == 30.0


async def test_what_an_upstream_says_narrows_and_never_widens(db: Database) -> None:
    def said(*what: Said) -> Any:
        return db.write(lambda conn: rates.learn(conn, START, what))

    await said(Said(REQUESTS, per_minute=600.0, remaining=600.0))
    (wide,) = await take(db, 0.0, wish(1.0))
    assert (wide.per_minute, wide.level) == (60.0, 60.0)
    await said(Said(REQUESTS, per_minute=30.0, remaining=4.0))
    (narrow,) = await take(db, 0.0, wish(5.0))
    assert (narrow.taken, narrow.per_minute, round(narrow.wait)) == (False, 30.0, 2)
    await said(Said(REQUESTS, per_minute=30.0, remaining=29.0))
    assert await level(db, 0.0) == 4.0, "somebody else may have taken what this answer does not know of"
    (alone,) = await take(db, 2.0, wish(1.0, limit=None))
    assert alone.per_minute == 30.0


async def test_a_bucket_is_closed_for_as_long_as_the_upstream_says_and_never_opened_earlier(db: Database) -> None:
    await db.write(lambda conn: rates.learn(conn, START, [Said(REQUESTS, closed=20.0)]))
    await db.write(lambda conn: rates.learn(conn, START + 1, [Said(REQUESTS, closed=5.0)]))
    (closed,) = await take(db, 2.0, wish(1.0, limit=None))
    assert (closed.taken, closed.wait, closed.per_minute) == (False, 18.0, UNLIMITED)
    assert (await take(db, 20.0, wish(1.0, limit=None)))[0].taken


async def test_what_needs_much_is_not_passed_for_ever_by_a_server_that_needs_little(db: Database) -> None:
    await take(db, 0.0, wish(60.0), server="small")
    assert not (await take(db, 1.0, wish(30.0), server="large"))[0].taken
    served: list[str] = []
    for tick in range(210):
        for server, cost in (("small", 1.0), ("large", 30.0)):
            if (await take(db, 1.0 + tick / 2, wish(cost), server=server))[0].taken:
                served.append(server)
    assert served[:6] == ["large", "small"] * 3


async def test_a_turn_is_over_when_its_server_is_gone(db: Database) -> None:
    await take(db, 0.0, wish(60.0), server="small")
    await take(db, 0.0, wish(10.0), server="gone")
    assert not (await take(db, 10.5, wish(1.0), server="small"))[0].taken
    assert (await take(db, 11.1, wish(1.0), server="small"))[0].taken


async def test_servers_that_take_at_once_never_take_more_together_than_there_is(url: str, skew: Skew) -> None:
    """Three servers, each with its own connections, two limits each; the time is the database's."""
    databases = [await Database.open(url, clock_skew=skew, migrate=False) for _ in range(3)]
    taken: list[tuple[float, float]] = []
    refused = 0

    async def one(number: int, database: Database) -> None:
        nonlocal refused
        for step in range(25):
            cost = float(1 + (number * 7 + step * 3) % 11)
            wishes = [wish(cost), wish(cost * 2, INPUT, limit=90.0)]
            if (number + step) % 2:
                wishes.reverse()

            def unit(conn: Any, wishes: list[Wish] = wishes) -> tuple[float, list[Outcome]]:
                now = database.now(conn)
                return now, rates.take(conn, now, wishes, server=f"s{number}")

            now, outcomes = await database.write(unit)
            if outcomes[0].taken:
                taken.append((now, cost))
            else:
                refused += 1
            skew.seconds += 0.37

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number, database in enumerate(databases):
                group.create_task(one(number, database))
    finally:
        for database in databases:
            await database.close()
    assert refused > 5
    assert len(taken) > 5
    for (begin, _), (end, _) in [*pairwise(sorted(taken)), (min(taken), max(taken))]:
        span = end - begin
        inside = sum(cost for at, cost in taken if begin <= at <= end)
        assert inside <= 60.0 + span * 1.0 + 1e-3
        assert 2 * inside <= 90.0 + span * 1.5 + 1e-3


@dataclass
class Model:
    """A bucket of 60 a minute, as it should be."""

    limit: float = 60.0
    level: float = 60.0
    at: float = 0.0
    closed_until: float = 0.0

    def now(self, at: float, back: float) -> None:
        flowed = min(self.limit, self.level + (at - self.at) * self.limit / 60.0)
        self.level, self.at = min(self.limit, flowed + back), at

    def lacks(self, cost: float) -> float:
        short = min(cost, self.limit) - self.level
        return max(short * 60.0 / self.limit if short > 1e-6 else 0.0, self.closed_until - self.at, 0.0)


COSTS = st.tuples(st.integers(0, 75), st.integers(0, 20))
STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 20), COSTS, st.integers(-15, 5), st.booleans()),
    st.tuples(st.just("learn"), st.integers(0, 20), st.integers(20, 90), st.integers(0, 90), st.integers(0, 5)),
)
_numbers = itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=5, max_size=25))
async def test_two_buckets_are_what_a_model_says_and_no_window_sees_more_than_there_is(
    db: Database, steps: list[Any]
) -> None:
    number = next(_numbers)
    first = Bucket("model", f"up/{number}", "requests")
    second = Bucket("agent", f"agent_{number}", "requests", "wrkspc_1")
    models = {first.key: Model(), second.key: Model()}
    one, two = models[first.key], models[second.key]
    at, taken = 0.0, []
    for step in steps:
        at += step[1]
        if step[0] == "learn":
            _, _, per_minute, remaining, closed = step
            said = Said(first, float(per_minute), float(min(remaining, per_minute)), float(closed), 60.0)
            await db.write(lambda conn, at=at, said=said: rates.learn(conn, START + at, [said]))
            narrowed = min(60.0, float(per_minute))
            one.level = min(one.level + (at - one.at) * min(one.limit, narrowed) / 60.0, said.remaining)
            one.limit, one.at = narrowed, at
            one.closed_until = max(one.closed_until, at + closed if closed else 0.0)
            continue
        _, _, costs, back, ahead = step
        one.now(at, float(back))
        two.now(at, 0.0)
        waits = {first.key: one.lacks(costs[0]), second.key: two.lacks(costs[1])}
        wishes = wish(float(costs[0]), first, back=float(back)), wish(float(costs[1]), second)
        outcomes = await take(db, at, *wishes, server="", share=0.05 if ahead else 0.0)
        for outcome in outcomes:
            assert outcome.wait == pytest.approx(waits[outcome.bucket], abs=1e-4)
            assert outcome.level == pytest.approx(models[outcome.bucket].level, abs=1e-4)
            assert outcome.taken == (max(waits.values()) == 0.0)
            if outcome.taken:
                model, cost = models[outcome.bucket], costs[0] if outcome.bucket == first.key else costs[1]
                room = ahead and model.level - cost - 0.05 * model.limit >= model.limit / 2
                assert outcome.ahead == pytest.approx(0.05 * model.limit if room else 0.0)
                model.level -= cost + outcome.ahead
                if outcome.bucket == second.key:
                    taken.append((at, cost + outcome.ahead))
    for begin in range(len(taken)):
        for end in range(begin, len(taken)):
            used = sum(cost for _, cost in taken[begin : end + 1])
            assert used <= 60.0 + (taken[end][0] - taken[begin][0]) + 1e-3


async def test_limits_are_kept_by_workspace_and_agent(db: Database) -> None:
    await add_catalog(db)
    mine = keys.DEFAULT_WORKSPACE
    await db.write(lambda c: rates.put_limits(c, mine, "", {"requests": 5}))
    await db.write(lambda c: rates.put_limits(c, mine, "agent_1", {"input_tokens": 7, "output_tokens": 8}))
    await db.write(lambda c: rates.put_limits(c, mine, "agent_1", {"output_tokens": 9}))
    assert await db.read(rates.all_limits) == {(mine, ""): {"requests": 5}, (mine, "agent_1"): {"output_tokens": 9}}
    assert await db.read(lambda c: rates.get_limits(c, mine, "agent_1")) == {"output_tokens": 9}
    assert await db.read(lambda c: rates.limits_of_agents(c, mine, 10)) == [("agent_1", {"output_tokens": 9})]
    await db.write(lambda c: rates.put_limits(c, mine, "", {}))
    assert await db.read(lambda c: rates.get_limits(c, mine)) == {}


async def test_nothing_stays_of_who_is_gone(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1")
    await db.write(
        lambda c: catalog.create_agent(c, 1.0, id="agent_2", workspace_id=keys.DEFAULT_WORKSPACE, name="B", body={})
    )
    other = await db.write(lambda c: keys.create_workspace(c, START, "Other"))
    mine = keys.DEFAULT_WORKSPACE
    for workspace, agent in ((mine, ""), (mine, "agent_1"), (mine, "agent_2"), (other.id, "")):
        await db.write(lambda c, w=workspace, a=agent: rates.put_limits(c, w, a, {"requests": 5}))
    gone, living, theirs, whole = (
        Bucket("agent", "agent_2", "requests", mine),
        Bucket("agent", "agent_1", "requests", mine),
        Bucket("workspace", other.id, "requests", other.id),
        Bucket("workspace", mine, "requests", mine),
    )
    await take(db, 0.0, *(wish(1.0, bucket) for bucket in (gone, living, theirs, whole)))
    await take(db, 0.0, wish(0.0, INPUT, back=-1e9), server="")
    await db.write(lambda c: c.execute(agents.update().values(archived_at="2026-01-01T00:00:00.000000Z")))
    await db.write(lambda c: keys.archive_workspace(c, START, other.id))
    assert await db.write(lambda c: rates.sweep(c, START + 10)) == 4
    assert set(await db.read(rates.all_limits)) == {(mine, ""), (mine, "agent_1")}, "a session of it may still ask"

    def left() -> Any:
        return db.read(lambda c: {row[0] for row in c.execute(rate_buckets.select())})

    assert await left() == {living.key, whole.key, INPUT.key}
    await db.write(lambda c: c.execute(sessions.update().values(archived_at="2026-01-01T00:00:00.000000Z")))
    await db.write(lambda c: rates.sweep(c, START + 10))
    assert set(await db.read(rates.all_limits)) == {(mine, "")}
    await db.write(lambda c: rates.sweep(c, START + 100_000))
    assert await left() == {INPUT.key}, "a debt of that size is not paid in a day"
