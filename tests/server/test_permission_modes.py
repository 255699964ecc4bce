"""Permission modes on the real `claude`: the gate is ours under every one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from housekit import House, allow, types

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def tools(**policies: str) -> list[Any]:
    configs = [{"name": name, "permission_policy": {"type": policy}} for name, policy in policies.items()]
    return [{"type": "agent_toolset_20260401", "configs": configs}]


async def session(house: House, mode: str, toolset: list[Any]) -> str:
    return await house.session(toolset, extra_body={"permission_mode": mode})


def uses(events: list[Any]) -> list[Any]:
    return [e for e in events if e.type == "agent.tool_use"]


@pytest.mark.parametrize("mode", ["default", "acceptEdits", "bypassPermissions", "auto"])
async def test_no_mode_runs_a_call_that_has_to_be_asked_about(house: House, mode: str) -> None:
    made = await session(house, mode, tools(bash="always_ask", write="always_ask"))
    steps = [
        step(tool("bash", command="touch ran"), tool("write", file_path="/workspace/w", content="x")),
        step("Done."),
    ]
    events = await house.turn(made, steps)
    assert [e.evaluated_permission for e in uses(events)] == ["ask", "ask"]
    assert events[-1].stop_reason.event_ids == [e.id for e in uses(events)]
    assert list(house.workspace(made).iterdir()) == []
    await house.answer(made, *(allow(e) for e in uses(events)))
    await house.until_idle(made, len(events))
    assert {path.name for path in house.workspace(made).iterdir()} == {"ran", "w"}


@pytest.mark.parametrize("mode", ["default", "acceptEdits", "bypassPermissions", "dontAsk", "plan", "auto"])
async def test_no_mode_runs_a_call_that_the_policy_denies(house: House, mode: str) -> None:
    made = await session(house, mode, tools(bash="deny"))
    events = await house.turn(made, [step(tool("bash", command="touch ran")), step("Heard: {{last_tool_result}}")])
    (call,) = uses(events)
    assert (call.evaluated_permission, call.evaluation.type) == ("deny", "auto")
    assert call.evaluation.evaluated_permission.type == "deny"
    result = next(e for e in events if e.type == "agent.tool_result")
    assert result.is_error
    assert "policy of this agent denies" in result.content[0].text
    assert events[-1].stop_reason.type == "end_turn"
    assert list(house.workspace(made).iterdir()) == []


async def test_agent_that_does_not_ask_is_denied_and_goes_on(house: House) -> None:
    made = await session(house, "dontAsk", tools(bash="always_ask", write="auto"))
    write = tool("write", file_path="/workspace/w", content="x")
    steps = [step(tool("bash", command="touch ran"), write, tool("glob", pattern="*")), step("Done.")]
    events = await house.turn(made, steps)
    assert [e.evaluated_permission for e in uses(events)] == ["deny", "deny", "allow"]
    assert types(events).count("session.status_idle") == 1
    assert list(house.workspace(made).iterdir()) == []


async def test_planning_agent_reads_is_told_to_plan_and_changes_nothing(house: House) -> None:
    made = await session(house, "plan", tools(glob="always_ask"))
    await house.turn(made, [step("Hello.")])
    (house.workspace(made) / "seen").write_text("content")
    steps = [
        step(tool("read", file_path="/workspace/seen")),
        step(tool("bash", command="touch ran")),
        step(tool("write", file_path="/workspace/w", content="x")),
        step(tool("glob", pattern="*")),
        step("Done."),
    ]
    before = len(await house.events(made))
    events = await house.turn(made, steps)
    assert [e.evaluated_permission for e in uses(events)] == ["allow", "deny", "deny", "ask"]
    await house.answer(made, allow(uses(events)[-1]))
    rest = await house.until_idle(made, before + len(events))
    assert rest[-1].stop_reason.type == "end_turn"
    assert next(e for e in rest if e.type == "agent.tool_result").is_error is False
    assert {path.name for path in house.workspace(made).iterdir()} == {"seen"}
    assert "plan mode" in str(house.model.message_requests[-1].body).lower()


async def test_mode_judges_what_the_policy_leaves_to_a_judge(house: House) -> None:
    auto = tools(bash="auto", write="auto")
    steps = [
        step(tool("write", file_path="/workspace/w", content="x")),
        step(tool("bash", command="true")),
        step("Ok."),
    ]
    for mode, wanted in (("default", ["ask"]), ("acceptEdits", ["allow", "ask"]), ("bypassPermissions", ["allow"] * 2)):
        made = await session(house, mode, auto)
        events = await house.turn(made, steps)
        assert [e.evaluated_permission for e in uses(events)] == wanted, mode


async def test_mode_of_a_living_session_can_change(house: House) -> None:
    made = await session(house, "bypassPermissions", tools(bash="auto"))
    steps = [step(tool("bash", command="echo x >> ran")), step("Ok.")]
    await house.turn(made, steps)
    await house.client.beta.sessions.update(made, agent={}, extra_body={"agent": {"permission_mode": "dontAsk"}})
    events = await house.turn(made, steps)
    assert uses(events)[0].evaluated_permission == "deny"
    assert (house.workspace(made) / "ran").read_text() == "x\n"


LOCAL = Path(__file__).with_name("local_mcp_server.py").read_text("utf-8")


async def test_local_server_runs_in_the_sandbox_and_sees_nothing_of_the_host(house: House) -> None:
    local = {"name": "notes", "command": "/usr/bin/python3", "args": ["-c", LOCAL], "env": {"GREETING": "hello"}}
    toolset = {
        "type": "mcp_toolset",
        "mcp_server_name": "notes",
        "default_config": {"permission_policy": {"type": "always_allow"}},
        "configs": [
            {"name": "forbidden", "enabled": False},
            {"name": "asks", "permission_policy": {"type": "always_ask"}},
        ],
    }
    made = await house.session([toolset], extra_body={"local_mcp_servers": [local]})
    steps = [
        step(tool("mcp__notes__where")),
        step(tool("mcp__notes__forbidden")),
        step(tool("mcp__notes__asks")),
        step("Done."),
    ]
    events = await house.turn(made, steps)
    offered = {tool["name"] for tool in house.model.message_requests[-1].body["tools"]}
    assert offered == {"mcp__notes__where", "mcp__notes__asks"}
    where, forbidden, asks = (e for e in events if e.type == "agent.mcp_tool_use")
    results = {e.mcp_tool_use_id: e for e in events if e.type == "agent.mcp_tool_result"}
    assert results[where.id].content[0].text == "hello from /workspace as 1000 in sandbox"
    assert (forbidden.evaluated_permission, results[forbidden.id].is_error) == ("deny", True)
    assert events[-1].stop_reason.event_ids == [asks.id]
    await house.answer(made, allow(asks))
    rest = await house.until_idle(made, len(events))
    assert next(e for e in rest if e.type == "agent.mcp_tool_result").content[0].text == "asked"


async def test_local_server_that_does_not_start_is_told(house: House) -> None:
    local = {"name": "notes", "command": "/nonexistent"}
    toolset = {"type": "mcp_toolset", "mcp_server_name": "notes"}
    made = await house.session([toolset], extra_body={"local_mcp_servers": [local]})
    events = await house.turn(made, [step("Hello.")])
    (error,) = [e.error for e in events if e.type == "session.error"]
    assert (error.type, error.mcp_server_name) == ("mcp_connection_failed_error", "notes")
    assert events[-1].stop_reason.type == "end_turn"
