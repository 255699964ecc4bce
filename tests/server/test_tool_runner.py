"""The official client's own helper answers custom tools, unmodified."""

from __future__ import annotations

import asyncio

import pytest
from anthropic import beta_async_tool
from housekit import House, custom, types

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database


@beta_async_tool
async def weather(q: str) -> str:
    """Looks weather up.

    Args:
        q: where
    """
    return f"sunny in {q}"


@beta_async_tool
async def clock(q: str) -> str:
    """Looks the time up.

    Args:
        q: where
    """
    return f"noon in {q}"


@pytest.mark.endpoint("sessions.events.stream", "sessions.events.send")
async def test_tool_runner_answers_and_stops_after_the_turn(house: House) -> None:
    session = await house.session([custom("weather")])
    await house.say(session, [step(tool("weather", q="Rome"), tool("weather", q="Oslo")), step("{{last_tool_result}}")])
    async with asyncio.timeout(60):
        runner = house.client.beta.sessions.events.tool_runner(session, tools=[weather], max_idle=0.5)
        calls = [call async for call in runner]
    assert len(calls) == 2
    events = await house.until_idle(session)
    assert [e.content[0].text for e in events if e.type == "agent.message"] == ["sunny in Oslo"]


async def test_two_runners_share_one_requires_action(house: House) -> None:
    session = await house.session([custom("weather"), custom("clock")])
    await house.say(session, [step(tool("weather", q="Rome"), tool("clock", q="Rome")), step("Both.")])

    async def serve(one: object) -> int:
        runner = house.client.beta.sessions.events.tool_runner(session, tools=[one], max_idle=1.0)  # type: ignore[list-item]
        return len([call async for call in runner if call.posted])

    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(serve(weather)), tasks.create_task(serve(clock))
    assert (first.result(), second.result()) == (1, 1)
    events = await house.until_idle(session)
    assert events[-1].stop_reason.type == "end_turn"
    assert types(events).count("user.custom_tool_result") == 2
