"""Rate limits: who waits, for how long, and who goes first; on one server and on several that share a database."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ratekit import DEADLINE, MODEL, Hands, World, buckets, turns_of_the_loop

from hostler.domain.rates import Bucket
from hostler.engine.model_port import Asked, Target, Throttled
from hostler.engine.throttle import RateThrottle
from hostler.store import keys, rates
from hostler.store.database import Database

REQUESTS = Bucket("model", MODEL, "requests")
INPUT = Bucket("model", MODEL, "input_tokens")
OUTPUT = Bucket("model", MODEL, "output_tokens")
_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "hostler.db")
        yield f"sqlite:///{tmp_path / 'hostler.db'}"
        return
    cluster, name = request.getfixturevalue("cluster"), f"throttle_{next(_numbers)}"
    yield cluster.create_database(name, template="migrated")
    cluster.drop_database(name)


@pytest.fixture
def world(url: str) -> World:
    return World(url, Hands())


def database_of(throttle: RateThrottle) -> Database:
    return throttle._database


async def level(throttle: RateThrottle, bucket: Bucket, workspace: str = "w1") -> float:
    """As the database has it, with everything that a server holds or owes."""
    await throttle._buckets._write(everything=True)
    found = (await buckets(database_of(throttle), workspace))[bucket].level
    assert found is not None
    return round(found, 1)


async def looked(throttle: RateThrottle, until: Callable[[], bool]) -> None:
    """Until it has read what is so now. A whole server hears of it; these have nobody who listens."""

    def so() -> bool:
        throttle._stale.set()
        return until()

    await turns_of_the_loop(so)


# ------------------------------------------------------------------------------------------------- where is no limit


async def test_without_limits_nothing_is_counted_and_the_database_is_not_asked(world: World) -> None:
    async with world.server() as throttle:
        await database_of(throttle).close()  # whoever asked it now would fail
        for _ in range(100):
            world.answer(throttle, await world.ask(throttle))
        assert throttle.waiting() == []
        assert throttle._taken == {}


async def test_a_roomy_limit_costs_few_visits_to_the_database(world: World) -> None:
    async with world.server({MODEL: {"requests": 10_000}}) as throttle:
        database, visits = database_of(throttle), 0
        write = database.write

        async def counted(fn):  # type: ignore[no-untyped-def]
            nonlocal visits
            visits += 1
            return await write(fn)

        database.write = counted  # type: ignore[method-assign]
        world.answer(throttle, await world.ask(throttle))
        kept = (await buckets(database))[REQUESTS].level
        assert kept == pytest.approx(10_000 - 1 - 500, abs=5), "a twentieth is held ahead, and no more"
        for _ in range(999):
            world.answer(throttle, await world.ask(throttle))
        assert visits <= 5
        assert await level(throttle, REQUESTS) == 9_000.0


# --------------------------------------------------------------------------------------------------- what is counted


async def test_estimates_are_put_right_and_debts_are_kept(world: World) -> None:
    async with world.server({MODEL: {"input_tokens": 1_000, "output_tokens": 100}}) as throttle:
        first = await world.ask(throttle)
        assert (await level(throttle, INPUT), await level(throttle, OUTPUT)) == (900.0, 90.0)
        world.answer(throttle, first, given=40, made=160)
        assert (await level(throttle, INPUT), await level(throttle, OUTPUT)) == (960.0, -60.0)
        second = asyncio.create_task(world.ask(throttle))
        await world.hands.asleep()
        world.hands.turn(84.5)  # the debt of 60, and 80: the answers have been longer, and may have no more
        await asyncio.wait_for(second, DEADLINE)
        assert await level(throttle, INPUT) == 960.0, "40 tokens for as many bytes, as the last time"


async def test_what_is_owed_and_what_is_held_is_written_by_itself(world: World) -> None:
    async with world.server({MODEL: {"requests": 100, "output_tokens": 100}}) as throttle:
        world.answer(throttle, await world.ask(throttle), made=300)
        assert (await buckets(database_of(throttle)))[REQUESTS].level == pytest.approx(94.0, abs=0.1)
        world.hands.turn(3.0)

        async def written() -> bool:
            now = await buckets(database_of(throttle))
            owed, held = now[OUTPUT].level, now[REQUESTS].level
            assert owed is not None
            return owed < -150 and held == 100.0

        async with asyncio.timeout(DEADLINE):
            while not await written():
                pass


async def test_what_failed_gives_its_tokens_back_and_what_broke_off_does_not(world: World) -> None:
    async with world.server({MODEL: {"requests": 100, "input_tokens": 1_000, "output_tokens": 100}}) as throttle:

        async def levels() -> tuple[float, float, float]:
            return (await level(throttle, REQUESTS), await level(throttle, INPUT), await level(throttle, OUTPUT))

        world.answer(throttle, await world.ask(throttle), status=529)
        assert await levels() == (99.0, 1_000.0, 100.0)
        world.answer(throttle, await world.ask(throttle), status=0, complete=False)
        assert await levels() == (98.0, 900.0, 90.0)
        world.answer(throttle, await world.ask(throttle), given=300, made=1, complete=False)
        assert await levels() == (97.0, 600.0, 80.0)
        throttle.left(await world.ask(throttle))
        assert await levels() == (97.0, 600.0, 80.0)


async def test_limits_of_workspaces_and_agents_count_and_are_felt_when_they_change(world: World) -> None:
    mine = keys.DEFAULT_WORKSPACE
    async with world.server(wait_seconds=0.0) as throttle, world.server(wait_seconds=0.0) as other:
        database = database_of(other)
        await database.write(lambda c: rates.put_limits(c, mine, "", {"requests": 3}))
        await database.write(lambda c: rates.put_limits(c, mine, "agent_1", {"requests": 1}))
        for server in (throttle, other):
            await looked(server, lambda server=server: len(server._known.own) == 2)  # type: ignore[misc]
        await world.ask(throttle, world.asked(mine, agent="agent_1"))
        with pytest.raises(Throttled, match="limit of 1 requests a minute of the agent agent_1") as caught:
            await world.ask(other, world.asked(mine, agent="agent_1"))
        assert caught.value.retry_after == pytest.approx(60.0, abs=1.0)
        await world.ask(other, world.asked(mine, agent="agent_2"))
        await world.ask(throttle, world.asked(mine, agent="agent_3"))
        with pytest.raises(Throttled, match=f"limit of 3 requests a minute of the workspace {mine}"):
            await world.ask(throttle, world.asked(mine, agent="agent_2"))
        await world.ask(throttle, world.asked("wrkspc_other", agent="agent_2"))


# ------------------------------------------------------------------------------------------------- what upstreams say


async def test_an_upstreams_headers_narrow_a_limit_for_every_server_and_never_widen_it(world: World) -> None:
    limits = {MODEL: {"requests": 50}}
    async with world.server(limits) as throttle, world.server(limits) as other:
        said = {"anthropic_ratelimit_requests_limit": "4000", "anthropic_ratelimit_requests_remaining": "3999"}
        world.answer(throttle, await world.ask(throttle), **said)
        assert await level(throttle, REQUESTS) == 49.0
        narrow = {
            "anthropic_ratelimit_requests_limit": "20",
            "anthropic_ratelimit_requests_remaining": "2",
            "anthropic_ratelimit_tokens_limit": "500",
            "anthropic_ratelimit_tokens_remaining": "450",
        }
        world.answer(throttle, await world.ask(throttle), **narrow)
        await throttle._buckets._write(everything=True)
        shown = await buckets(database_of(throttle))
        row = shown[REQUESTS]
        assert (row.configured, row.learned, row.per_minute, row.level) == (
            50.0,
            20.0,
            20.0,
            pytest.approx(2.0, abs=0.1),
        )
        assert shown[Bucket("model", MODEL, "tokens")].level == pytest.approx(450.0, abs=1.0)
        await looked(other, lambda: len(other._known.learned) == 2)
        await world.ask(other)
        await world.ask(other)
        third = asyncio.create_task(world.ask(other))
        await world.hands.asleep()
        assert not third.done()
        world.hands.turn(3.1)
        await asyncio.wait_for(third, DEADLINE)


async def test_without_learning_headers_count_for_nothing(world: World) -> None:
    async with world.server(learn=False) as throttle:
        said = {"anthropic_ratelimit_requests_limit": "1", "anthropic_ratelimit_requests_remaining": "0"}
        for _ in range(3):
            world.answer(throttle, await world.ask(throttle), **said)


async def test_what_was_learned_before_it_was_switched_off_does_not_count(world: World) -> None:
    said = {"anthropic_ratelimit_requests_limit": "1", "anthropic_ratelimit_requests_remaining": "0"}
    async with world.server() as throttle:
        world.answer(throttle, await world.ask(throttle), **said)
        await throttle._buckets._write(everything=True)
        assert (await buckets(database_of(throttle)))[REQUESTS].learned == 1.0
        async with world.server(learn=False) as other:
            row = (await buckets(database_of(other)))[REQUESTS]
            assert (row.learned, row.learned_at) == (None, None)


async def test_a_429_closes_a_model_for_as_long_as_it_says_and_no_other(world: World) -> None:
    async with world.server(wait_seconds=30.0) as throttle, world.server(wait_seconds=30.0) as other:
        world.answer(throttle, await world.ask(throttle), status=429, retry_after="12")
        async with asyncio.timeout(DEADLINE):
            while not (await buckets(database_of(throttle))).get(REQUESTS):  # noqa: ASYNC110
                await asyncio.sleep(0)
        waits = asyncio.create_task(world.ask(throttle))
        await world.hands.asleep()
        await world.ask(throttle, target=Target("up", "claude-y", "claude-y"))
        await world.ask(throttle, target=Target("other", "claude-x", "claude-x"))
        world.hands.turn(2.0)
        await world.hands.asleep()
        why = "waits for the limits for claude-x at the upstream up, which asked for a pause of 10 s more (10 s)"
        assert world.told == [why]
        await looked(other, lambda: bool(other._known.learned))
        elsewhere = asyncio.create_task(world.ask(other))
        await world.hands.asleep(2)
        world.hands.turn(9.0)
        await world.hands.asleep(2)
        assert not waits.done()
        assert not elsewhere.done()
        world.hands.turn(1.5)
        await asyncio.wait_for(waits, DEADLINE)
        await asyncio.wait_for(elsewhere, DEADLINE)


async def test_a_pause_longer_than_the_deadline_is_told_at_once(world: World) -> None:
    async with world.server(wait_seconds=30.0) as throttle:
        world.answer(throttle, await world.ask(throttle), status=429, retry_after="300")
        with pytest.raises(Throttled, match="asked for a pause of 300 s more") as caught:
            await world.ask(throttle)
        assert caught.value.retry_after == pytest.approx(300.0)


async def test_sessions_that_ask_for_ever_new_models_make_nothing_grow(world: World) -> None:
    async with world.server() as throttle:
        said = {"anthropic_ratelimit_requests_limit": "50", "anthropic_ratelimit_requests_remaining": "49"}
        for number in range(500):
            target = Target("up", f"model-{number}", "x")
            world.answer(throttle, world.asked(session=f"s{number}"), target=target, **said)
        assert len(throttle._known.learned) == 400


# ----------------------------------------------------------------------------------------------------- who goes first


async def test_a_workspace_with_a_hundred_waiting_requests_starves_nobody(world: World) -> None:
    async with world.server({"up": {"requests": 60}}, wait_seconds=500.0) as throttle:
        for _ in range(60):
            await world.ask(throttle, world.asked("flooder"))
        order: list[str] = []

        async def one(asked: Asked) -> None:
            await world.ask(throttle, asked)
            order.append(asked.caller.workspace_id)

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(one(world.asked("flooder")))
            await turns_of_the_loop(lambda: len(throttle._queues.get("up", ())) == 100)
            world.hands.turn(0.01)
            for _ in range(5):
                group.create_task(one(world.asked("other")))
            await turns_of_the_loop(lambda: len(throttle._queues["up"]) == 105)
            assert [(each.workspace_id, each.requests) for each in throttle.waiting()] == [
                ("flooder", 100),
                ("other", 5),
            ]
            while len(order) < 105:
                await turns_of_the_loop(lambda: len(order) == 105 or bool(world.hands._asleep))
                world.hands.turn(1.0)
        assert order[:10].count("other") == 5
        assert len(order) == 105


async def test_who_waits_for_a_limit_of_its_own_stands_in_nobodys_way(world: World) -> None:
    mine = keys.DEFAULT_WORKSPACE
    async with world.server({"up": {"requests": 600}}) as throttle:
        database = database_of(throttle)
        await database.write(lambda c: rates.put_limits(c, mine, "", {"requests": 1}))
        await turns_of_the_loop(lambda: bool(throttle._known.own))
        await world.ask(throttle, world.asked(mine))
        waits = asyncio.create_task(world.ask(throttle, world.asked(mine)))
        await turns_of_the_loop(lambda: bool(throttle.waiting()))
        for _ in range(50):
            await world.ask(throttle, world.asked("w2"))
        assert not waits.done()
        waits.cancel()


async def test_a_large_request_holds_its_place_before_small_ones(world: World) -> None:
    async with world.server({MODEL: {"input_tokens": 600}}, wait_seconds=500.0) as throttle:
        await world.ask(throttle, world.asked(size=2_400))
        order: list[str] = []

        async def one(name: str, asked: Asked) -> None:
            await world.ask(throttle, asked)
            order.append(name)

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(one("large", world.asked(session="a", size=2_000)))
            await turns_of_the_loop(lambda: bool(throttle.waiting()))
            for _ in range(3):
                world.hands.turn(1.0)
                group.create_task(one("small", world.asked(session="b", size=40)))
            while len(order) < 4:
                await turns_of_the_loop(lambda: len(order) == 4 or bool(world.hands._asleep))
                world.hands.turn(5.0)
        assert order == ["large", "small", "small", "small"]


# ------------------------------------------------------------------------------------------------- who waits no more


async def test_at_its_deadline_a_request_is_told_which_limit_and_takes_nothing(world: World) -> None:
    async with world.server({MODEL: {"requests": 1}}, wait_seconds=20.0) as throttle:
        await world.ask(throttle)
        waits = asyncio.create_task(world.ask(throttle))
        for _ in range(21):
            await turns_of_the_loop(lambda: waits.done() or bool(world.hands._asleep))
            world.hands.turn(1.0)
        with pytest.raises(Throttled) as caught:
            await asyncio.wait_for(waits, DEADLINE)
        assert str(caught.value).startswith("There is no room after 2")
        assert "in the limit of 1 requests a minute for claude-x at the upstream up. Try again" in str(caught.value)
        assert 35 < caught.value.retry_after < 45
        assert throttle.waiting() == []
        assert await level(throttle, REQUESTS) == pytest.approx(0.35, abs=0.1)


async def test_who_hangs_up_leaves_the_queue_at_once_and_takes_nothing(world: World) -> None:
    async with world.server({MODEL: {"requests": 1}}) as throttle:
        await world.ask(throttle)
        gone, stays = world.asked(), world.asked()
        first = asyncio.create_task(world.ask(throttle, gone))
        second = asyncio.create_task(world.ask(throttle, stays))
        await turns_of_the_loop(lambda: len(throttle._queues.get("up", ())) == 2)
        throttle.left(gone)
        await asyncio.wait_for(first, DEADLINE)
        assert [each.requests for each in throttle.waiting()] == [1]
        assert gone.id not in throttle._taken
        cancelled = asyncio.create_task(world.ask(throttle))
        await turns_of_the_loop(lambda: len(throttle._queues["up"]) == 2)
        cancelled.cancel()
        await turns_of_the_loop(lambda: len(throttle._queues["up"]) == 1)
        for _ in range(61):
            await turns_of_the_loop(lambda: second.done() or bool(world.hands._asleep))
            world.hands.turn(1.0)
        await asyncio.wait_for(second, DEADLINE)
        throttle.left(stays)
        assert await level(throttle, REQUESTS) > 0.9


async def test_a_database_that_fails_fails_the_request_and_not_the_queue(world: World) -> None:
    async with world.server({MODEL: {"requests": 100}}) as throttle:
        database = database_of(throttle)
        write, broken = database.write, True

        async def sometimes(fn):  # type: ignore[no-untyped-def]
            if broken:
                raise OSError("no database")
            return await write(fn)

        database.write = sometimes  # type: ignore[method-assign]
        with pytest.raises(OSError, match="no database"):
            await world.ask(throttle)
        broken = False
        await world.ask(throttle)
        assert await level(throttle, REQUESTS) == 99.0


# --------------------------------------------------------------------------------------------------- several at once


async def test_servers_together_never_use_more_than_there_is(world: World) -> None:
    """Two servers, a hundred requests each, many at once. A server may hold a twentieth of a bucket ahead."""
    limits = {MODEL: {"requests": 60, "input_tokens": 12_000}}
    begun = world.hands.now
    used: list[tuple[float, int]] = []

    async with world.server(limits, wait_seconds=500.0) as one, world.server(limits, wait_seconds=500.0) as two:

        async def ask(server: RateThrottle, number: int) -> None:
            size = 400 + 80 * (number % 7)
            asked = await world.ask(server, world.asked(f"w{number % 3}", session=f"s{number}", size=size))
            used.append((world.hands.now - begun, size // 4))
            world.answer(server, asked, given=size // 4 + number % 5)

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            for number in range(80):
                for server in (one, two):
                    group.create_task(ask(server, number))
            while len(used) < 160:
                await asyncio.sleep(0)
                await turns_of_the_loop(
                    lambda: len(world.hands._asleep) >= sum(bool(server.waiting()) for server in (one, two))
                )
                world.hands.turn(0.5)
    slack = 2 * 0.05 * 60
    for begin in range(0, len(used), 5):
        for end in range(begin, len(used), 5):
            span = used[end][0] - used[begin][0]
            assert end - begin + 1 <= 60 + span + slack
    assert used[-1][0] >= (160 - 60 - slack), "it can't have gone faster"
    assert used[-1][0] < 300, "and it goes on"
    for server in (one, two):
        assert server._taken == {}
