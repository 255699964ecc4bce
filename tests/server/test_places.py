"""Who gets a place for a process, who waits for one and says so, and who makes room? Real server, real `claude`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hookkit import own
from housekit import ALLOW_ALL, DEADLINE, House, open_house, types
from test_several_servers import two_houses

from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import gate, step, text

INTERRUPT: Any = {"type": "user.interrupt"}
QUICK = {"admission__notice_seconds": 0.05, "worker__slots": 1}
"""A session that waits says so soon."""


async def sessions_of(house: House, count: int, **hosting: Any) -> list[str]:
    """That many sessions of one new environment."""
    made = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(hosting=hosting)
    return [
        (await house.client.beta.sessions.create(agent=made.id, environment_id=environment)).id for _ in range(count)
    ]


def notices(events: Sequence[Any]) -> list[dict[str, Any]]:
    found = [getattr(e.error, "hostler", None) for e in events if e.type == "session.error"]
    return [dict(each) for each in found if each and each["type"] == "waiting_for_place"]


def said(events: Sequence[Any]) -> list[str]:
    return [e.content[0].text for e in events if e.type == "agent.message"]


async def waits(house: House, session: str) -> Any:
    """Once the session has said that it waits: what our view says of it."""
    await house.until_event(session, "session.status_rescheduled")
    listed = (await own(house, "GET", "/waiting_sessions"))["data"]
    return next(each for each in listed if each["session_id"] == session)


async def busy(house: House, session: str, name: str) -> None:
    """It works until its gate is opened."""
    await house.say(session, [step(gate(name), text("Done."))])
    await house.model.reached_gate(name)


@pytest.mark.one_database
async def test_the_limit_of_an_environment_makes_others_wait_and_they_say_so(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, **{**QUICK, "worker__slots": 4}) as house:
        first, second, third = await sessions_of(house, 3, max_live_sessions=1)
        await busy(house, first, "first")
        await house.say(second, [step("Two.")])
        shown = await waits(house, second)
        assert (shown["reason"], shown["place"], shown["limit"]) == ("environment_limit", 1, 1)
        assert (await house.client.beta.sessions.retrieve(second)).status == "rescheduling"
        await house.say(third, [step("Three.")])
        assert (await waits(house, third))["place"] == 2
        live = (await own(house, "GET", "/live_sessions"))["data"]
        assert [(each["session_id"], each["idle"]) for each in live] == [(first, False)]
        house.model.open_gate("first")
        two, three = await house.until_idle(second), await house.until_idle(third)
        assert (said(two), said(three)) == (["Two."], ["Three."])
        (told,) = notices(two)
        assert (told["reason"], told["place"], told["limit"]) == ("environment_limit", 1, 1)
        assert types(two)[1:8] == [
            "session.status_running",
            "session.thread_status_running",
            "session.error",
            "session.status_rescheduled",
            "session.thread_status_rescheduled",
            "session.status_running",
            "session.thread_status_running",
        ]
        assert (await own(house, "GET", "/waiting_sessions"))["data"] == []


@pytest.mark.one_database
async def test_an_idle_process_makes_room_and_nobody_has_to_say_anything(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, worker__slots=2, admission__notice_seconds=60) as house:
        one, two, three = await sessions_of(house, 3)
        await house.turn(one, [step("One.")])
        await house.turn(two, [step("Two.")])
        await house.turn(one, [step("One again.")])  # two is now idle for longest
        events = await house.turn(three, [step("Three.")])
        assert notices(events) == []
        live = {each["session_id"] for each in (await own(house, "GET", "/live_sessions"))["data"]}
        assert live == {one, three}


@pytest.mark.one_database
async def test_an_interrupt_archive_and_delete_of_a_waiting_session_take_effect_at_once(
    tmp_path: Path, store_url: str
) -> None:
    async with open_house(tmp_path, store_url, **QUICK) as house:
        first, second, third = await sessions_of(house, 3)
        await busy(house, first, "first")
        for waiting in (second, third):
            await house.say(waiting, [step("Never.")])
            await waits(house, waiting)
        for waiting in (second, third):
            (interrupt,) = await house.answer(waiting, INTERRUPT)
            assert interrupt.processed_at is not None
            assert (await house.client.beta.sessions.retrieve(waiting)).status == "idle"
        await house.client.beta.sessions.archive(second)
        await house.client.beta.sessions.delete(third)
        assert (await own(house, "GET", "/waiting_sessions"))["data"] == []
        house.model.open_gate("first")
        await house.until_idle(first)
        assert said(await house.events(second)) == []


@pytest.mark.one_database
async def test_a_turn_that_waits_for_too_long_ends_and_its_message_goes_with_the_next(
    tmp_path: Path, store_url: str
) -> None:
    async with open_house(tmp_path, store_url, **QUICK, admission__longest_wait_seconds=0.3) as house:
        first, second = await sessions_of(house, 2, idle_timeout_seconds=0)
        await busy(house, first, "first")
        events = await house.turn(second, [step("Never.")])
        assert types(events)[-1] == "session.status_idle"
        assert events[-1].stop_reason.type == "retries_exhausted"
        error = next(e.error for e in events if e.type == "session.error" and e.error.retry_status.type == "exhausted")
        assert error.code == "longest_wait_reached"
        assert "Send a message to try again" in error.message
        house.model.open_gate("first")
        await house.until_idle(first)
        await house.until_no_process()  # else this turn would have to wait for a place, for longer than it may
        assert said(await house.turn(second, [step("Both.")])) == ["Both."]
        assert "Never." in str(house.model.requests[-1])


@pytest.mark.one_database
async def test_a_session_whose_messages_follow_each_other_gives_its_place_to_those_that_wait(
    tmp_path: Path, store_url: str
) -> None:
    async with open_house(tmp_path, store_url, **QUICK, admission__hold_seconds=0) as house:
        chatty, other = await sessions_of(house, 2)
        await busy(house, chatty, "first")
        await house.say(chatty, [step("Second.")])
        await house.say(other, [step("Other.")])
        await waits(house, other)
        house.model.open_gate("first")
        await house.until_idle(other)
        await house.until_idle(chatty)
        mine, theirs = await house.events(chatty), await house.events(other)
        second = next(e for e in mine if e.type == "agent.message" and e.content[0].text == "Second.")
        answer = next(e for e in theirs if e.type == "agent.message")
        assert answer.processed_at < second.processed_at


@pytest.mark.one_database
async def test_memory_makes_idle_processes_go_and_others_wait_but_never_ends_a_working_one(
    tmp_path: Path, store_url: str
) -> None:
    # One process fits, two don't: 180 MiB are expected of each, whatever is measured of the first.
    terms = {**QUICK, "worker__slots": 8, "admission__memory_mb": 260, "admission__reserve_mb": 64}
    async with open_house(tmp_path, store_url, **terms) as house:
        one, two = await sessions_of(house, 2)
        await house.turn(one, [step("One.")])
        await busy(house, two, "two")  # which the first one made room for
        live = [each["session_id"] for each in (await own(house, "GET", "/live_sessions"))["data"]]
        assert live == [two]
        await house.say(one, [step("One again.")])
        assert (await waits(house, one))["reason"] == "memory"
        house.model.open_gate("two")
        assert said(await house.until_idle(two)) == ["Done."]
        assert said(await house.until_idle(one))[-1:] == ["One again."]


@pytest.mark.one_database
async def test_an_idle_process_ends_when_working_ones_need_the_memory(tmp_path: Path, store_url: str) -> None:
    # The reserve is more than what is left beside one process: it is begun alone, and goes when it is idle.
    terms = {"admission__memory_mb": 260, "admission__reserve_mb": 230}
    async with open_house(tmp_path, store_url, **terms) as house:
        (session,) = await sessions_of(house, 1, idle_timeout_seconds=3600)
        await busy(house, session, "work")
        assert house.hostler is not None
        memory = house.hostler.worker.memory
        async with asyncio.timeout(DEADLINE):
            while not memory.measured.get(session):  # noqa: ASYNC110 - measured once a second
                await asyncio.sleep(0.05)
        available = memory.available()
        assert available is not None
        assert available < memory.reserve, "memory is short while it works, and it goes on working"
        house.model.open_gate("work")
        assert said(await house.until_idle(session)) == ["Done."]
        await house.until_no_process()


async def test_an_idle_process_on_one_server_makes_room_for_whoever_waits_in_its_environment(
    tmp_path: Path, server_cluster: PostgresCluster
) -> None:
    """Nobody polls: the servers tell each other."""
    async with two_houses(tmp_path, server_cluster, both_work=True) as pair:
        one, two = await sessions_of(pair.working, 2, max_live_sessions=1)
        for session, house in ((one, pair.working), (two, pair.other), (one, pair.other), (two, pair.working)):
            before = len(await house.events(session))
            await house.say(session, [step("Done.")])
            assert said(await house.until_idle(session, before)) == ["Done."]
            live = (await own(house, "GET", "/live_sessions"))["data"]
            assert [each["session_id"] for each in live] == [session]
