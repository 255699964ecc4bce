"""How a turn is stopped from outside, by a person or by its limits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from housekit import ALLOW_ALL, House, open_house, types

from hostler.testing.rehearsal import gate, prompt, step, text, tool

pytestmark = pytest.mark.one_database

INTERRUPT = {"type": "user.interrupt"}


async def until_exists(path: Path) -> None:
    """What a tool does to the workspace is announced by nothing, so it is looked for."""
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.02)


async def test_interrupt_while_the_model_speaks_leaves_no_half_message(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(text("Half a sentence ", chunk=4), gate("never"), text("and the rest."))])
    await house.model.reached_gate("never")
    await house.until_event(session, "span.model_request_start")
    sent = await house.answer(session, INTERRUPT)
    assert sent[0].processed_at is None
    events = await house.until_idle(session)
    assert "agent.message" not in types(events)
    assert types(events)[-5:] == [
        "span.model_request_end",
        "user.interrupt",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert events[-5].is_error
    assert events[-1].stop_reason.type == "end_turn"
    applied = next(e for e in events if e.type == "user.interrupt")
    assert (applied.id, applied.processed_at is not None) == (sent[0].id, True)
    assert (await house.turn(session, [step("Back.")]))[-1].stop_reason.type == "end_turn"


async def test_interrupt_while_a_tool_runs_ends_the_tool_and_says_so(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(tool("bash", command="touch begun; sleep 300; touch late")), step("No.")])
    await house.until_event(session, "agent.tool_use")
    await until_exists(house.workspace(session) / "begun")
    await house.answer(session, INTERRUPT)
    events = await house.until_idle(session)
    outcome = next(e for e in events if e.type == "agent.tool_result")
    assert outcome.is_error
    assert outcome.content[0].text.startswith("Tool execution was interrupted")
    assert events[-1].stop_reason.type == "end_turn"
    assert types(events).count("agent.tool_result") == 1


async def test_message_after_the_interrupt_starts_the_next_turn(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(gate("never"), text("Never."))])
    await house.model.reached_gate("never")
    await house.answer(
        session,
        INTERRUPT,
        {"type": "user.message", "content": [{"type": "text", "text": prompt([step("Second.")])}]},
    )
    events = await house.until_idle(session)
    assert types(events).count("session.status_idle") == 2
    assert [e.content[0].text for e in events if e.type == "agent.message"] == ["Second."]


async def test_interrupt_of_an_idle_session_changes_nothing_and_ends_in_idle(house: House) -> None:
    session = await house.session()
    before = await house.turn(session, [step("Hi.")])
    await house.answer(session, INTERRUPT)
    rest = (await house.events(session))[len(before) :]
    assert types(rest) == ["user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle"]


async def test_turn_stops_at_its_number_of_requests(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, turns__max_turns=2) as house:
        session = await house.session(ALLOW_ALL)
        steps = [step(tool("bash", command=f"echo {n} >> log")) for n in range(5)]
        events = await house.turn(session, steps)
        error = next(e for e in events if e.type == "session.error").error
        assert error.type == "tool_use_limit_reached_error"
        assert events[-1].stop_reason.type == "retries_exhausted"
        assert (house.workspace(session) / "log").read_text().split() == ["0", "1"]
        assert (await house.turn(session, [step("Still here.")]))[-1].stop_reason.type == "end_turn"


async def test_turn_stops_at_its_time_limit(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, turns__turn_seconds=6) as house:
        session = await house.session()
        events = await house.turn(session, [step(tool("bash", command="sleep 600")), step("Never.")])
        error = next(e for e in events if e.type == "session.error").error
        assert "turn_seconds" in error.message
        assert events[-1].stop_reason.type == "retries_exhausted"
        assert [e.is_error for e in events if e.type == "agent.tool_result"] == [True]


async def test_environment_narrows_the_limits(house: House) -> None:
    client = house.client
    agent = await client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(limits={"max_turns": 1, "memory_mb": 512})
    session = (await client.beta.sessions.create(agent=agent.id, environment_id=environment)).id
    events = await house.turn(session, [step(tool("bash", command="true")), step("Never.")])
    assert events[-1].stop_reason.type == "retries_exhausted"


async def test_process_that_runs_out_of_memory_is_explained_and_the_session_lives(house: House) -> None:
    client = house.client
    agent = await client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(limits={"memory_mb": 400})
    session = (await client.beta.sessions.create(agent=agent.id, environment_id=environment)).id
    hog = "python3 -c 'x = bytearray(2 << 30)'; echo after"
    events = await house.turn(session, [step(tool("bash", command=hog)), step("Survived.")])
    assert events[-1].stop_reason.type == "end_turn"
    assert (await house.turn(session, [step("Still here.")]))[-1].stop_reason.type == "end_turn"
