"""A budget on the whole server: shown, kept to, raised and removed through the official client."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, allow, types

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.endpoint("sessions.create", "sessions.update", "sessions.retrieve")


def limit(cents: int) -> Any:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def costs(cents: int) -> dict[str, Any]:
    """Usage of a response of `claude-opus-5-5` that costs so much: 20 USD for a million tokens of output."""
    no_cache = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return {
        "input_tokens": 0,
        "output_tokens": 500 * cents,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_creation": no_cache,
    }


async def begin(house: House, budget: Any, tools: Any = None, model: str = "claude-opus-5-5") -> str:
    agent = await house.client.beta.agents.create(name="A", model=model, tools=ALLOW_ALL if tools is None else tools)
    environment = await house.environment()
    made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, budget=budget)
    return made.id


async def test_a_turn_pauses_at_the_cap_and_goes_on_by_itself_when_it_is_raised(house: House) -> None:
    session = await begin(house, limit(30))
    steps = [
        step(tool("bash", command="echo one >> log"), usage=costs(40)),
        step(tool("bash", command="echo two >> log")),
        step("Done."),
    ]
    events = await house.turn(session, steps)
    assert types(events)[-5:] == [
        "span.model_request_end",
        "agent.tool_result",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert events[-1].stop_reason.type == events[-3].stop_reason.type == "budget_reached"
    assert events[-2].budget.max_list_cost.amount == "30"
    assert int(events[-2].usage.list_cost.amount) >= 40
    # Not one request more than the one that reached the cap, and its tool has run.
    assert types(events).count("span.model_request_start") == 1
    assert not events[-4].is_error
    assert (house.workspace(session) / "log").read_text() == "one\n"

    for refused in ([step("x")], "x"):
        with pytest.raises(anthropic.BadRequestError, match="budget"):
            await house.say(session, refused)
    await house.answer(session, {"type": "user.interrupt"})
    assert (await house.events(session))[-1].id == events[-1].id

    with pytest.raises(anthropic.BadRequestError) as low:
        await house.client.beta.sessions.update(session, budget=limit(40))
    assert "budget_not_raised" in str(low.value.body)

    before = len(await house.events(session))
    raised = await house.client.beta.sessions.update(session, budget=limit(5000))
    assert raised.status == "running"
    assert raised.budget is not None
    assert raised.budget.max_list_cost.amount == "5000"
    more = await house.until_idle(session, before)
    assert types(more)[:3] == ["session.updated", "session.status_running", "session.thread_status_running"]
    assert more[0].budget.max_list_cost.amount == "5000"
    assert more[0].model_fields_set & {"title", "metadata", "agent"} == set()
    assert more[-1].stop_reason.type == "end_turn"


@pytest.mark.one_database
async def test_removing_the_budget_goes_on_and_can_not_be_taken_back(house: House) -> None:
    session = await begin(house, limit(1))
    events = await house.turn(session, [step(tool("bash", command="true"), usage=costs(2)), step("Done.")])
    assert events[-1].stop_reason.type == "budget_reached"
    before = len(await house.events(session))
    removed = await house.client.beta.sessions.update(session, budget=None)
    assert removed.budget is None
    more = await house.until_idle(session, before)
    assert (more[0].type, more[0].budget) == ("session.updated", None)
    assert more[-1].stop_reason.type == "end_turn"
    with pytest.raises(anthropic.BadRequestError) as refused:
        await house.client.beta.sessions.update(session, budget=limit(9999))
    assert "budget_create_only" in str(refused.value.body)


@pytest.mark.one_database
async def test_an_approval_at_the_cap_is_taken_and_its_call_runs_once_the_budget_is_raised(house: House) -> None:
    session = await begin(house, limit(1), ASK_FOR_BASH)
    script = [step(tool("bash", command="echo x >> log"), usage=costs(2)), step("Done.")]
    events = await house.turn(session, script)
    assert events[-1].stop_reason.type == "requires_action"
    call = next(e for e in events if e.type == "agent.tool_use")
    before = len(await house.events(session))
    await house.answer(session, allow(call))
    paused = await house.until_idle(session, before)
    assert paused[-1].stop_reason.type == "budget_reached"
    assert not (house.workspace(session) / "log").exists()
    before += len(paused)
    await house.client.beta.sessions.update(session, budget=limit(9999))
    more = await house.until_idle(session, before)
    assert more[-1].stop_reason.type == "end_turn"
    assert (house.workspace(session) / "log").read_text() == "x\n"


async def test_a_paused_session_waits_through_a_restart(house: House) -> None:
    session = await begin(house, limit(1))
    await house.turn(session, [step(tool("bash", command="echo x >> log"), usage=costs(2)), step("Done.")])
    before = len(await house.events(session))
    await house.restart()
    shown = await house.client.beta.sessions.retrieve(session)
    assert shown.status == "idle"
    await house.client.beta.sessions.update(session, budget=limit(9999))
    more = await house.until_idle(session, before)
    assert more[-1].stop_reason.type == "end_turn"
    assert (house.workspace(session) / "log").read_text() == "x\n"


@pytest.mark.one_database
async def test_cost_is_shown_without_a_budget_and_left_out_where_nobody_knows_it(house: House) -> None:
    known = await begin(house, None)
    events = await house.turn(known, [step("Hi.", usage=costs(7))])
    assert events[-2].usage.list_cost.amount == "7"
    shown = await house.client.beta.sessions.retrieve(known)
    assert shown.usage.list_cost is not None
    assert shown.budget is None
    unknown = await begin(house, None, model="some-other-model")
    events = await house.turn(unknown, [step("Hi.")])
    assert events[-2].usage.list_cost is None
    with pytest.raises(anthropic.BadRequestError) as refused:
        await house.client.beta.sessions.update(unknown, budget=limit(10))
    assert "budget_create_only" in str(refused.value.body)


@pytest.mark.one_database
async def test_amounts_that_are_not_whole_cents_are_refused(house: House) -> None:
    for amount in ("0", "007", "-5", "1.5", "", "1e3", "٣"):
        wanted: Any = {"type": "limit", "max_list_cost": {"amount": amount, "currency": "USD"}}
        with pytest.raises(anthropic.BadRequestError, match="amount"):
            await begin(house, wanted)


@pytest.mark.one_database
async def test_a_model_without_a_price_takes_no_budget(house: House) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        await begin(house, limit(10), model="some-other-model")
    assert "model_not_budgetable" in str(refused.value.body)
    assert [s async for s in house.client.beta.sessions.list()] == []
