"""What a client sees of a turn, from the first event to the last."""

from __future__ import annotations

import pytest
from housekit import House, types

from hostler.testing.rehearsal import gate, step, text, thinking, tool


@pytest.mark.endpoint("sessions.events.send", "sessions.events.list", "sessions.create")
async def test_turn_runs_real_tools_in_the_order_of_the_contract(house: House) -> None:
    session = await house.session()
    events = await house.turn(
        session,
        [
            step(thinking("Hm."), text("I'll write."), tool("bash", command="echo hello > note.txt; cat note.txt")),
            step(tool("read", file_path="/workspace/note.txt", view_range=[1, 1])),
            step("It says: {{last_tool_result}}"),
        ],
    )
    assert types(events) == [
        "user.message",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
        "agent.thinking",
        "agent.message",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    bash, read = (e for e in events if e.type == "agent.tool_use")
    assert bash.name == "bash"
    assert bash.input == {"command": "echo hello > note.txt; cat note.txt"}
    assert bash.evaluated_permission == "allow"
    assert read.input == {"file_path": "/workspace/note.txt", "view_range": [1, 1]}
    first, second = (e for e in events if e.type == "agent.tool_result")
    assert first.tool_use_id == bash.id
    assert first.content[0].text == "hello"
    assert "hello" in second.content[0].text
    assert "hello" in next(e for e in reversed(events) if e.type == "agent.message").content[0].text
    assert events[-1].stop_reason.type == "end_turn"
    assert (house.workspace(session) / "note.txt").read_text() == "hello\n"
    assert len({e.id for e in events}) == len(events)


@pytest.mark.one_database
async def test_usage_is_the_sum_of_what_the_upstream_counted(house: House) -> None:
    session = await house.session()
    used = {"input_tokens": 11, "output_tokens": 7, "cache_read_input_tokens": 5}
    first = step(tool("bash", command="true"), usage=used)
    events = await house.turn(session, [first, step("Done.", usage=used)])
    usage = next(e for e in events if e.type == "session.usage").usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (22, 14, 10)
    shown = (await house.client.beta.sessions.retrieve(session)).usage
    assert (shown.input_tokens, shown.output_tokens) == (22, 14)
    ends = [e for e in events if e.type == "span.model_request_end"]
    assert [e.model_usage.output_tokens for e in ends] == [7, 7]


async def test_conversation_goes_on_after_the_process_and_the_server_are_gone(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step(tool("bash", command="echo kept > kept.txt")), step("First.")])
    await house.restart()
    events = await house.turn(session, [step(tool("bash", command="cat kept.txt")), step("Got {{last_tool_result}}")])
    assert next(e for e in events if e.type == "agent.tool_result").content[0].text == "kept"
    said = [str(m) for m in house.model.message_requests[-1].body["messages"]]
    assert any("First." in m for m in said)


async def test_queued_message_waits_for_its_turn(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(gate("open"), text("First answer."))])
    await house.model.reached_gate("open")
    second = await house.say(session, [step("Second answer.")])
    waiting = (await house.events(session))[-1]
    assert (waiting.id, waiting.processed_at) == (second, None)
    house.model.open_gate("open")
    events = await house.until_idle(session)
    if types(events).count("session.status_idle") < 2:
        events = await house.until_idle(session, len(events))
    events = await house.events(session)
    messages = [e for e in events if e.type in ("user.message", "agent.message")]
    assert [m.content[0].text[:5] for m in messages if m.type == "agent.message"] == ["First", "Secon"]
    assert next(e for e in events if e.id == second).processed_at is not None
    assert [e.id for e in messages].index(second) == 2


async def test_messages_that_wait_are_on_one_page(house: House) -> None:
    """They have no number yet, so nobody could go on behind some of them."""
    session = await house.session()
    await house.say(session, [step(gate("open"), text("First answer."))])
    await house.until_event(session, "span.model_request_start")
    waiting = [await house.say(session, [step("Later.")]) for _ in range(2)]
    every = [event.id for event in await house.events(session)]
    for order, wanted in (("asc", every), ("desc", every[::-1])):
        pages, page = [], await house.client.beta.sessions.events.list(session, limit=1, order=order)  # type: ignore[arg-type]
        while True:
            pages.append([event.id for event in page.data])
            if not page.has_next_page():
                break
            page = await page.get_next_page()
        assert [one for ids in pages for one in ids] == wanted
        assert (waiting if order == "asc" else waiting[::-1]) in pages
    house.model.open_gate("open")


@pytest.mark.one_database
async def test_refusal_is_a_stop_reason_with_details(house: House) -> None:
    session = await house.session()
    details = {"type": "refusal", "category": "cyber", "explanation": "Not that."}
    events = await house.turn(session, [step("I can't.", stop_reason="refusal", stop_details=details)])
    assert events[-1].stop_reason.type == "refusal"
    assert events[-1].stop_details is not None


@pytest.mark.one_database
@pytest.mark.parametrize(("status", "kind"), [(529, "model_overloaded_error"), (429, "model_rate_limited_error")])
async def test_passing_upstream_failure_is_told_and_survived(house: House, status: int, kind: str) -> None:
    session = await house.session()
    events = await house.turn(session, [step("After all.", error=status, times=1)])
    assert "session.status_rescheduled" in types(events)
    error = next(e for e in events if e.type == "session.error").error
    assert (error.type, error.retry_status.type) == (kind, "retrying")
    assert events[-1].stop_reason.type == "end_turn"
    assert types(events).count("session.status_running") == 2


@pytest.mark.one_database
async def test_lasting_upstream_failure_ends_the_turn_and_not_the_session(house: House) -> None:
    session = await house.session()
    events = await house.turn(session, [step(error=529, times="always")])
    last = [e for e in events if e.type == "session.error"][-1].error
    assert (last.type, last.retry_status.type) == ("model_overloaded_error", "exhausted")
    assert events[-1].stop_reason.type == "retries_exhausted"
    assert (await house.turn(session, [step("Fine again.")]))[-1].stop_reason.type == "end_turn"
