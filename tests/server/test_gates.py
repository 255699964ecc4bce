"""Calls that wait for somebody: approvals and custom tools, one or several, across a restart."""

from __future__ import annotations

import itertools

import anthropic
import pytest
from housekit import ASK_FOR_BASH, House, allow, custom, deny, result, types

from hostler.domain.events import NOT_JUDGED
from hostler.engine.call_gate import CallGate
from hostler.engine.runs import ToolCall, Verdict
from hostler.testing.rehearsal import step, text, tool


def blocked_on(events: list, kind: str) -> list:
    return [e for e in events if e.type == kind]


def last_history(house: House) -> list:
    return house.model.message_requests[-1].body["messages"]


async def test_approved_call_runs_once_and_holds_no_process_meanwhile(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    events = await house.turn(session, [step(tool("bash", command="echo ran >> log")), step("Done.")])
    call = blocked_on(events, "agent.tool_use")[0]
    assert call.evaluated_permission == "ask"
    assert events[-1].stop_reason.type == "requires_action"
    assert events[-1].stop_reason.event_ids == [call.id]
    assert not (house.workspace(session) / "log").exists()
    await house.until_no_process()
    before = len(await house.events(session))
    await house.answer(session, allow(call))
    rest = await house.until_idle(session, before)
    assert types(rest)[:3] == ["user.tool_confirmation", "session.status_running", "session.thread_status_running"]
    assert rest[-1].stop_reason.type == "end_turn"
    assert (house.workspace(session) / "log").read_text() == "ran\n"


@pytest.mark.one_database
async def test_denied_call_never_runs_and_the_model_hears_why(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    events = await house.turn(session, [step(tool("bash", command="touch ran")), step("Heard: {{last_tool_result}}")])
    call = blocked_on(events, "agent.tool_use")[0]
    await house.answer(session, deny(call, "Not on a Friday."))
    rest = await house.until_idle(session, len(events))
    outcome = next(e for e in rest if e.type == "agent.tool_result")
    assert outcome.is_error
    assert outcome.content[0].text == "Not on a Friday."
    assert "Not on a Friday." in next(e for e in rest if e.type == "agent.message").content[0].text
    assert not (house.workspace(session) / "ran").exists()


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.one_database
@pytest.mark.parametrize("order", [ORDERS[0], ORDERS[3], ORDERS[5]])
async def test_three_parallel_asks_answered_in_any_order_across_a_restart(house: House, order: tuple[int, ...]) -> None:
    session = await house.session(ASK_FOR_BASH)
    steps = [
        step(text("Three at once."), *(tool("bash", command=f"echo {n} >> log; echo out{n}") for n in "abc")),
        step("All done."),
    ]
    events = await house.turn(session, steps)
    calls = blocked_on(events, "agent.tool_use")
    assert [c.input["command"] for c in calls] == [f"echo {n} >> log; echo out{n}" for n in "abc"]
    assert events[-1].stop_reason.event_ids == [c.id for c in calls]
    asked = len(house.model.message_requests)
    first, *others = order
    await house.answer(session, allow(calls[first]))
    again = (await house.events(session))[-1]
    assert again.type == "session.status_idle"
    assert again.stop_reason.event_ids == [c.id for c in calls if c is not calls[first]]
    await house.restart()
    for index in others:
        answer = deny(calls[index], "no b") if index == 1 else allow(calls[index])
        await house.answer(session, answer)
    end = await house.until_idle(session, len(events))
    assert end[-1].stop_reason.type == "end_turn"
    results = {e.tool_use_id: e for e in end if e.type == "agent.tool_result"}
    assert set(results) == {c.id for c in calls}
    expected = ["outa", "no b" if order[0] != 1 else "outb", "outc"]
    assert [results[c.id].content[0].text for c in calls] == expected
    ran = [n for n, text_ in zip("abc", expected, strict=True) if text_.startswith("out")]
    assert (house.workspace(session) / "log").read_text().split() == ran
    assert len(house.model.message_requests) == asked + 1, "held calls are handed over without asking the model"
    said, answered = last_history(house)[-2:]
    assert [b["type"] for b in said["content"]] == ["text", "tool_use", "tool_use", "tool_use"]
    assert [b["type"] for b in answered["content"]] == ["tool_result"] * 3
    assert [b["tool_use_id"] for b in answered["content"]] == [b["id"] for b in said["content"][1:]]


@pytest.mark.one_database
@pytest.mark.parametrize("order", [ORDERS[0], ORDERS[4]])
async def test_three_parallel_custom_tools_answered_in_any_order_across_a_restart(
    house: House, order: tuple[int, ...]
) -> None:
    session = await house.session([custom("weather"), custom("time")])
    steps = [
        step(tool("weather", q="a"), tool("time", q="b"), tool("weather", q="c")),
        step("Heard {{last_tool_result}}"),
    ]
    events = await house.turn(session, steps)
    calls = blocked_on(events, "agent.custom_tool_use")
    assert [(c.name, c.input) for c in calls] == [
        ("weather", {"q": "a"}),
        ("time", {"q": "b"}),
        ("weather", {"q": "c"}),
    ]
    assert events[-1].stop_reason.event_ids == [c.id for c in calls]
    for position, index in enumerate(order):
        if position == 1:
            await house.restart()
        await house.answer(session, result(calls[index], f"value {index}"))
    end = await house.until_idle(session, len(events))
    assert end[-1].stop_reason.type == "end_turn"
    answered = last_history(house)[-1]["content"]
    assert [b["content"][0]["text"] for b in answered] == ["value 0", "value 1", "value 2"]


@pytest.mark.one_database
async def test_free_calls_beside_a_gated_one_run_exactly_once(house: House) -> None:
    tools = [*ASK_FOR_BASH, custom("weather")]
    session = await house.session(tools)
    steps = [
        step(
            tool("write", file_path="/workspace/w.txt", content="one"),
            tool("bash", command="echo ran >> log"),
            tool("read", file_path="/workspace/w.txt"),
            tool("weather", q="x"),
        ),
        step("End."),
    ]
    events = await house.turn(session, steps)
    calls = [e for e in events if e.type in ("agent.tool_use", "agent.custom_tool_use")]
    assert [c.name for c in calls] == ["write", "bash", "read", "weather"]
    assert events[-1].stop_reason.event_ids == [calls[1].id, calls[3].id]
    await house.answer(session, result(calls[3], "sunny"), allow(calls[1]))
    end = await house.until_idle(session, len(events))
    assert end[-1].stop_reason.type == "end_turn"
    everything = await house.events(session)
    results = [e for e in everything if e.type in ("agent.tool_result", "user.custom_tool_result")]
    assert len(results) == 4
    assert (house.workspace(session) / "log").read_text() == "ran\n"


async def test_repeated_answer_has_one_effect_and_a_different_one_is_refused(house: House) -> None:
    session = await house.session([custom("weather")])
    events = await house.turn(session, [step(tool("weather", q="a")), step("Ok.")])
    call = blocked_on(events, "agent.custom_tool_use")[0]
    once = await house.answer(session, result(call, "sun"))
    twice = await house.answer(session, result(call, "sun"))
    assert once[0].id == twice[0].id
    with pytest.raises(anthropic.BadRequestError):
        await house.answer(session, result(call, "rain"))
    with pytest.raises(anthropic.BadRequestError):
        await house.answer(session, {**result(call, "x"), "custom_tool_use_id": "sevt_unknown"})
    await house.until_idle(session, len(events))
    everything = await house.events(session)
    assert types(everything).count("user.custom_tool_result") == 1
    again = await house.answer(session, result(call, "sun"))
    assert again[0].id == once[0].id


@pytest.mark.one_database
async def test_cloud_session_takes_no_tool_result(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    events = await house.turn(session, [step(tool("bash", command="true")), step("Ok.")])
    call = blocked_on(events, "agent.tool_use")[0]
    with pytest.raises(anthropic.BadRequestError, match="self_hosted"):
        await house.answer(session, {"type": "user.tool_result", "tool_use_id": call.id, "content": []})


async def test_interrupt_of_a_waiting_turn_closes_its_calls_without_asking_the_model(house: House) -> None:
    session = await house.session([*ASK_FOR_BASH, custom("weather")])
    steps = [step(tool("bash", command="touch ran"), tool("weather", q="x")), step("Never.")]
    events = await house.turn(session, steps)
    bash, weather = (e for e in events if e.type in ("agent.tool_use", "agent.custom_tool_use"))
    asked = len(house.model.message_requests)
    await house.answer(session, {"type": "user.interrupt"})
    rest = (await house.events(session))[len(events) :]
    assert types(rest) == [
        "user.interrupt",
        "agent.tool_result",
        "user.custom_tool_result",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert rest[1].is_error
    assert rest[-1].stop_reason.type == "end_turn"
    assert len(house.model.message_requests) == asked
    for late in (allow(bash), result(weather, "late")):
        with pytest.raises(anthropic.BadRequestError):
            await house.answer(session, late)
    after = await house.turn(session, [step("Listening.")])
    assert after[-1].stop_reason.type == "end_turn"
    assert not (house.workspace(session) / "ran").exists()
    history = last_history(house)
    uses = [b["id"] for m in history if m["role"] == "assistant" for b in m["content"] if b["type"] == "tool_use"]
    outcomes = [
        b
        for m in history
        if m["role"] == "user" and isinstance(m["content"], list)
        for b in m["content"]
        if b["type"] == "tool_result"
    ]
    assert [b["tool_use_id"] for b in outcomes] == uses
    assert len(uses) == 2
    assert all(b["is_error"] for b in outcomes)


@pytest.mark.one_database
async def test_a_call_that_cannot_be_judged_does_not_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(gate: CallGate, call: ToolCall) -> Verdict:
        raise LookupError("nobody expected this")

    monkeypatch.setattr(CallGate, "permit", fails)
    session = await house.session()
    events = await house.turn(session, [step(tool("bash", command="touch ran")), step("Heard.")])
    outcome = next(e for e in events if e.type == "agent.tool_result")
    assert (outcome.is_error, outcome.content[0].text) == (True, NOT_JUDGED)
    assert not (house.workspace(session) / "ran").exists()
    assert events[-1].stop_reason.type == "end_turn"
