"""Self-hosted environments: the tools run where the official worker runs, everything else here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, allow, custom, deny, result, types
from workerkit import official_worker, served_turn, until_done

from hostler.testing.rehearsal import step, text, tool

WORK = ("environments.work.poll", "environments.work.ack", "environments.work.heartbeat", "environments.work.stop")


def answered(call: Any, text: str = "done", **more: Any) -> dict[str, Any]:
    """What a worker sends."""
    return {"type": "user.tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": text}], **more}


def calls(events: list[Any]) -> list[Any]:
    return [e for e in events if e.type in ("agent.tool_use", "agent.custom_tool_use")]


async def inbox(house: House) -> list[tuple[str, str, str]]:
    found: Any = await house.client.get("/hostler/v1/approvals", cast_to=dict[str, Any])
    return [(entry["session_id"], entry["event_id"], entry["kind"]) for entry in found["data"]]


def last_result(house: House) -> Any:
    """The last tool result that the model was shown."""
    blocks = [
        block
        for message in house.model.requests[-1].body["messages"]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    return blocks[-1]


@pytest.mark.one_database
@pytest.mark.endpoint(*WORK, "environments.create", "sessions.create")
async def test_official_worker_runs_a_sessions_tools_on_its_own_machine(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted()
    elsewhere = tmp_path / "elsewhere"
    async with official_worker(house, environment, key, elsewhere):
        events = await served_turn(
            house,
            session,
            [
                step(tool("write", file_path="hello.txt", content="from afar")),
                step(
                    tool("bash", command="cat hello.txt > copy.txt; cat copy.txt"), tool("read", file_path="hello.txt")
                ),
                step(tool("edit", file_path="hello.txt", old_string="afar", new_string="here")),
                step(tool("glob", pattern="*.txt"), tool("grep", pattern="here", path="hello.txt")),
                step("It says: {{last_tool_result}}"),
            ],
        )
    assert (elsewhere / "hello.txt").read_text() == "from here"
    assert (elsewhere / "copy.txt").read_text() == "from afar"
    assert not list(house.workspace(session).iterdir()), "nothing ran on this side"
    made = calls(events)
    assert [call.name for call in made] == ["write", "bash", "read", "edit", "glob", "grep"]
    assert made[0].input == {"file_path": "hello.txt", "content": "from afar"}
    assert all(call.type == "agent.tool_use" and call.evaluated_permission == "allow" for call in made)
    assert [e.tool_use_id for e in events if e.type == "user.tool_result"] == [call.id for call in made]
    assert not [e for e in events if e.type == "agent.tool_result"]
    said = next(e for e in reversed(events) if e.type == "agent.message").content[0].text
    assert "hello.txt:1:from here" in said or "from here" in said
    offered = {t["name"].removeprefix("mcp__custom__") for t in house.model.requests[0].body["tools"]}
    assert {"bash", "read", "write", "edit", "glob", "grep", "WebFetch", "WebSearch"} <= offered
    assert not offered & {"Bash", "Read", "Write", "Edit", "Glob", "Grep"}


@pytest.mark.one_database
async def test_session_waits_without_a_process_and_says_for_what(house: House) -> None:
    session, _, _ = await house.self_hosted()
    events = await house.turn(session, [step(text("Look:"), tool("bash", command="ls")), step("{{last_tool_result}}")])
    assert types(events)[-3:] == ["session.thread_status_idle", "session.usage", "session.status_idle"]
    [call] = calls(events)
    assert events[-1].stop_reason.model_dump() == {"type": "requires_action", "event_ids": [call.id]}
    await house.until_no_process()
    before = len(await house.events(session))
    [sent] = await house.answer(session, answered(call, "a.txt"))
    assert sent.type == "user.tool_result"
    assert sent.processed_at is not None
    after = await until_done(house, session, before)
    assert types(after)[:3] == ["user.tool_result", "session.status_running", "session.thread_status_running"]
    assert "a.txt" in next(e for e in after if e.type == "agent.message").content[0].text
    [again] = await house.answer(session, answered(call, "a.txt"))
    assert again.id == sent.id, "the same answer once more has no effect"
    with pytest.raises(anthropic.BadRequestError, match="already"):
        await house.answer(session, answered(call, "something else"))
    with pytest.raises(anthropic.BadRequestError, match="names no waiting"):
        await house.answer(session, {**answered(call), "tool_use_id": "sevt_none"})


async def test_server_restart_while_a_call_waits_for_a_worker_changes_nothing(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted()
    await house.turn(session, [step(tool("bash", command="echo once >> count")), step("Ok.")])
    await house.restart()
    async with official_worker(house, environment, key, tmp_path / "elsewhere"):
        await until_done(house, session)
    assert (tmp_path / "elsewhere" / "count").read_text() == "once\n"


@pytest.mark.one_database
async def test_result_reaches_the_model_in_every_kind(house: House) -> None:
    """T34: text, image, document and search results."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    session, _, _ = await house.self_hosted()
    events = await house.turn(session, [step(tool("read", file_path="all")), step("Seen.")])
    content = [
        {"type": "text", "text": "plain words"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}},
        {
            "type": "document",
            "title": "Report",
            "source": {"type": "text", "media_type": "text/plain", "data": "in the document"},
        },
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="}},
        {
            "type": "search_result",
            "title": "Found",
            "source": "https://example.com/found",
            "content": [{"type": "text", "text": "the passage"}],
            "citations": {"enabled": True},
        },
    ]
    [sent] = await house.answer(session, {**answered(calls(events)[0]), "content": content})
    assert [block.type for block in sent.content] == ["text", "image", "document", "document", "search_result"]
    await until_done(house, session)
    shown = last_result(house)["content"]
    words = "\n".join(block["text"] for block in shown if block["type"] == "text")
    for expected in ("plain words", "Report", "in the document", "application/pdf", "Found", "the passage"):
        assert expected in words
    assert "JVBERi0" not in words
    assert [block["source"]["data"] for block in shown if block["type"] == "image"] == [pixel]


@pytest.mark.one_database
async def test_error_of_a_worker_is_an_error_for_the_model(house: House) -> None:
    session, _, _ = await house.self_hosted()
    events = await house.turn(session, [step(tool("bash", command="false")), step("Hm.")])
    await house.answer(session, answered(calls(events)[0], "exit 1", is_error=True))
    await until_done(house, session)
    assert last_result(house)["is_error"] is True


async def test_call_that_asks_is_allowed_first_and_answered_then(house: House) -> None:
    session, _, _ = await house.self_hosted(ASK_FOR_BASH)
    events = await house.turn(session, [step(tool("bash", command="ls")), step("{{last_tool_result}}")])
    [call] = calls(events)
    assert call.evaluated_permission == "ask"
    assert await inbox(house) == [(session, call.id, "confirmation")]
    with pytest.raises(anthropic.BadRequestError, match="allowed first"):
        await house.answer(session, answered(call))
    before = len(await house.events(session))
    [verdict] = await house.answer(session, allow(call))
    waiting = (await house.events(session))[before:]
    assert types(waiting) == [
        "user.tool_confirmation",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert waiting[-1].stop_reason.event_ids == [call.id]
    assert await inbox(house) == [], "it waits for a worker now, not for a person"
    assert (await house.answer(session, allow(call)))[0].id == verdict.id
    with pytest.raises(anthropic.BadRequestError, match="already"):
        await house.answer(session, deny(call, "no"))
    await house.answer(session, answered(call, "the list"))
    after = await until_done(house, session, before + 4)
    assert "the list" in next(e for e in after if e.type == "agent.message").content[0].text
    assert (await house.answer(session, allow(call)))[0].id == verdict.id


@pytest.mark.one_database
async def test_worker_runs_a_call_that_asks_only_after_the_verdict(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted(ASK_FOR_BASH)
    elsewhere = tmp_path / "elsewhere"
    async with official_worker(house, environment, key, elsewhere):
        events = await house.turn(
            session,
            [
                step(tool("bash", command="echo no > denied")),
                step(tool("bash", command="echo yes > allowed")),
                step("Ok."),
            ],
        )
        await house.answer(session, deny(calls(events)[0], "Not this one."))
        second = await house.until_idle(session, len(events))
        assert "Not this one." in str(last_result(house)["content"])
        await house.answer(session, allow(calls(second)[0]))
        done = await until_done(house, session)
    assert [path.name for path in elsewhere.iterdir()] == ["allowed"]
    denied, ran = (e for e in done if e.type == "user.tool_result")
    assert denied.is_error
    assert denied.content[0].text == "Not this one."
    assert not ran.is_error


@pytest.mark.one_database
async def test_worker_and_application_answer_one_response_together(house: House, tmp_path: Path) -> None:
    """T35."""
    session, environment, key = await house.self_hosted([*ALLOW_ALL, custom("weather")])
    async with official_worker(house, environment, key, tmp_path / "elsewhere"):
        await house.say(
            session,
            [
                step(tool("bash", command="echo from bash"), tool("weather", q="here"), tool("bash", command="pwd")),
                step("Both."),
            ],
        )
        asked = await house.until_event(session, "agent.custom_tool_use")
        await house.answer(session, result(asked, "sunny"))
        events = await until_done(house, session)
    assert [call.name for call in calls(events)] == ["bash", "weather", "bash"]
    by_call = {getattr(e, "tool_use_id", None) or getattr(e, "custom_tool_use_id", None): e for e in events}
    assert [by_call[call.id].type for call in calls(events)] == [
        "user.tool_result",
        "user.custom_tool_result",
        "user.tool_result",
    ]
    answers = house.model.requests[-1].body["messages"][-1]["content"]
    assert [b["type"] for b in answers if b["type"] == "tool_result"] == ["tool_result"] * 3


async def test_interrupt_closes_a_waiting_call_so_that_no_worker_runs_it(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted()
    events = await house.turn(session, [step(tool("bash", command="touch too-late")), step("Never said.")])
    before = len(events)
    await house.answer(session, {"type": "user.interrupt"})
    closed = (await house.events(session))[before:]
    assert types(closed) == [
        "user.interrupt",
        "user.tool_result",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    assert closed[1].is_error
    assert closed[1].content[0].text == "Tool execution was interrupted before completion. Please retry."
    with pytest.raises(anthropic.BadRequestError, match="already"):
        await house.answer(session, answered(calls(events)[0]))
    async with official_worker(house, environment, key, tmp_path / "elsewhere"):
        await served_turn(house, session, [step(tool("bash", command="touch in-time")), step("Ok.")])
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["in-time"]


@pytest.mark.one_database
async def test_disabled_tool_is_not_offered_and_a_call_of_it_is_refused(house: House) -> None:
    toolset: Any = {"type": "agent_toolset_20260401", "configs": [{"name": "bash", "enabled": False}]}
    session, _, _ = await house.self_hosted([toolset])
    events = await house.turn(session, [step(tool("mcp__custom__bash", command="ls")), step("Ok.")])
    [call] = calls(events)
    assert (call.name, call.evaluated_permission) == ("bash", "deny")
    assert events[-1].stop_reason.type == "end_turn"
    assert "mcp__custom__bash" not in {t["name"] for t in house.model.requests[0].body["tools"]}


@pytest.mark.one_database
async def test_harness_own_name_of_a_tool_is_refused_and_no_worker_runs_it(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted()
    async with official_worker(house, environment, key, tmp_path / "elsewhere"):
        events = await served_turn(
            house,
            session,
            [step(tool("Bash", command="touch wrong")), step(tool("bash", command="touch right")), step("Ok.")],
        )
    wrong, right = calls(events)
    assert (wrong.name, wrong.evaluated_permission) == ("bash", "deny")
    assert right.evaluated_permission == "allow"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["right"]
