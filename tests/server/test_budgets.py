"""A budget on the whole server: shown, kept to, raised and removed through the official client.

The wire lets the last request overshoot; we promise that none does. A session pauses before the request that has no
room, so these budgets have room for one request of `claude`, and not for a second one.
"""

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
        step(tool("bash", command="echo one >> log"), usage=costs(28)),
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
    assert events[-2].usage.list_cost.amount == "28"
    # Not one request more than the one that there was room for, and its tool has run.
    assert types(events).count("span.model_request_start") == 1
    asked = house.model.message_requests
    assert len(asked) == 1
    assert asked[0].body["max_tokens"] < 30 * 500  # less than all of the budget: the prompt costs, too
    assert any(request.path.endswith("count_tokens") for request in house.model.requests)
    assert not events[-4].is_error
    assert (house.workspace(session) / "log").read_text() == "one\n"

    for refused in ([step("x")], "x"):
        with pytest.raises(anthropic.BadRequestError, match="budget"):
            await house.say(session, refused)
    await house.answer(session, {"type": "user.interrupt"})
    assert (await house.events(session))[-1].id == events[-1].id

    with pytest.raises(anthropic.BadRequestError) as low:
        await house.client.beta.sessions.update(session, budget=limit(28))
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
    session = await begin(house, limit(30))
    events = await house.turn(session, [step(tool("bash", command="true"), usage=costs(28)), step("Done.")])
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
    session = await begin(house, limit(30), ASK_FOR_BASH)
    script = [step(tool("bash", command="echo x >> log"), usage=costs(30)), step("Done.")]
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
    session = await begin(house, limit(30))
    await house.turn(session, [step(tool("bash", command="echo x >> log"), usage=costs(28)), step("Done.")])
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


async def own(house: House, path: str = "", **body: Any) -> dict[str, Any]:
    """Our own endpoints of budgets: read without a body, changed with one."""
    client, path = house.client, f"/hostler/v1/budgets{path}"
    if body:
        return await client.post(path, body=body, cast_to=dict[str, Any])
    return await client.get(path, cast_to=dict[str, Any])


@pytest.mark.parametrize("scope", ["agent", "workspace"])
async def test_a_budget_of_ours_pauses_the_session_says_which_and_goes_on_when_it_is_raised(
    house: House, scope: str
) -> None:
    session = await begin(house, None)
    agent = (await house.client.beta.sessions.retrieve(session)).agent.id
    whose = {"agent_id": agent} if scope == "agent" else {}
    limit = {"amount": "30", "currency": "USD"}
    made = await own(house, scope=scope, period="month", limit=limit, warn_at=[50, 90], **whose)
    steps = [step(tool("bash", command="echo one >> log"), usage=costs(28)), step("Done.")]
    events = await house.turn(session, steps)
    assert events[-1].stop_reason.type == "budget_reached"
    (told,) = [event for event in events if event.type == "session.error"]
    assert told.error.to_dict()["hostler"] == {
        "type": "budget_reached",
        "budget_id": made["id"],
        "scope": scope,
        "period": "month",
        "limit": limit,
    }
    assert told.error.message.startswith(f"This month's budget of the {scope} ({made['id']}) is reached:")
    audit = await house.client.get("/hostler/v1/audit?kind[]=budget", cast_to=dict[str, Any])
    reached = next(entry["details"] for entry in audit["data"] if entry["act"] == "budget.reached")
    assert (reached["budget_id"], reached["scope"], reached["budget_cents"]) == (made["id"], scope, None)
    said = rf"the next model request needs \d+ cents, which the budget of this {scope} has not left"
    with pytest.raises(anthropic.BadRequestError, match=said):
        await house.say(session, "x")
    shown = await own(house, f"/{made['id']}")
    assert (shown["reserved_nanos"], shown["paused_sessions"]) == (0, 1)
    # The request, and a few seconds of running time.
    assert 280_000_000 < shown["spent_nanos"] < 285_000_000
    assert shown["warned_at"] == 90
    before = len(await house.events(session))
    await own(house, f"/{made['id']}", limit={"amount": "31", "currency": "USD"})  # still too little
    await own(house, f"/{made['id']}", limit={"amount": "5000", "currency": "USD"})
    more = await house.until_idle(session, before)
    assert types(more)[:2] == ["session.status_running", "session.thread_status_running"]
    assert more[-1].stop_reason.type == "end_turn"
    assert (await own(house, f"/{made['id']}"))["paused_sessions"] == 0


@pytest.mark.one_database
async def test_where_a_budget_of_ours_counts_a_model_without_a_price_makes_no_session(house: House) -> None:
    await own(house, scope="workspace", limit={"amount": "30", "currency": "USD"})
    with pytest.raises(anthropic.BadRequestError) as refused:
        await begin(house, None, model="some-other-model")
    assert "model_not_budgetable" in str(refused.value.body)
