"""MCP servers: their tools run through our road, wait for approvals, and fail without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import pytest
import pytest_asyncio
from housekit import ALLOW_ALL, House, allow, deny, open_house, types
from mcpkit import Tools, mcp_server, toolset, url_server

from hostler.testing.rehearsal import step, text, tool

pytestmark = pytest.mark.one_database


@pytest_asyncio.fixture
async def loop() -> AsyncIterator[Tools]:
    async with mcp_server() as tools:
        yield tools


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, egress__private_allowed=["127.0.0.1", "::1"]) as opened:
        yield opened


async def session(house: House, tools: list, *servers: dict, **more: object) -> str:
    environment = await house.environment(networking={"type": "limited", "allow_mcp_servers": True})
    made = await house.client.beta.agents.create(
        name="Caller", model="claude-opus-5-5", tools=tools, mcp_servers=list(servers), extra_body=more
    )
    return (await house.client.beta.sessions.create(agent=made.id, environment_id=environment)).id


async def test_tool_of_a_server_runs_and_is_told_as_its_servers(house: House, loop: Tools) -> None:
    made = await session(house, [*ALLOW_ALL, toolset()], url_server(loop))
    events = await house.turn(made, [step(tool("mcp__loop__echo", text="hi")), step("Heard {{last_tool_result}}")])
    call = next(e for e in events if e.type == "agent.mcp_tool_use")
    assert (call.mcp_server_name, call.name, call.input) == ("loop", "echo", {"text": "hi"})
    assert (call.evaluated_permission, call.evaluation.type) == ("allow", "always_allow")
    result = next(e for e in events if e.type == "agent.mcp_tool_result")
    assert result.mcp_tool_use_id == call.id
    assert "echo hi" in result.content[0].text
    assert not result.is_error
    assert "echo hi" in next(e for e in events if e.type == "agent.message").content[0].text
    assert loop.calls == [("echo", "hi")]
    assert "session.error" not in types(events)


def calls(events: list) -> list:
    return [e for e in events if e.type == "agent.mcp_tool_use"]


def results(events: list) -> list:
    return [e for e in events if e.type == "agent.mcp_tool_result"]


def errors(events: list) -> list:
    return [e.error for e in events if e.type == "session.error"]


async def test_call_asks_by_default_and_runs_once_when_approved_after_a_restart(house: House, loop: Tools) -> None:
    ask = {"type": "mcp_toolset", "mcp_server_name": "loop"}
    made = await session(house, [ask], url_server(loop))
    events = await house.turn(made, [step(tool("mcp__loop__echo", text="paid")), step("Heard {{last_tool_result}}")])
    (call,) = calls(events)
    assert (call.evaluated_permission, call.evaluation.type) == ("ask", "always_ask")
    assert events[-1].stop_reason.event_ids == [call.id]
    await house.until_no_process()
    assert loop.calls == []
    await house.restart()
    before = len(await house.events(made))
    await house.answer(made, allow(call))
    rest = await house.until_idle(made, before)
    assert rest[-1].stop_reason.type == "end_turn"
    assert "echo paid" in results(rest)[0].content[0].text
    assert loop.calls == [("echo", "paid")]


async def test_denied_call_never_reaches_the_server_and_the_model_hears_why(house: House, loop: Tools) -> None:
    made = await session(house, [toolset("always_ask")], url_server(loop))
    events = await house.turn(made, [step(tool("mcp__loop__echo", text="x")), step("Heard: {{last_tool_result}}")])
    await house.answer(made, deny(calls(events)[0], "Too dear."))
    rest = await house.until_idle(made, len(events))
    assert results(rest)[0].is_error
    assert results(rest)[0].content[0].text == "Too dear."
    assert "Too dear." in next(e for e in rest if e.type == "agent.message").content[0].text
    assert loop.calls == []


async def test_parallel_calls_of_a_server_and_a_built_in_tool_wait_for_their_own_answers(
    house: House, loop: Tools
) -> None:
    tools = [*ALLOW_ALL, toolset("always_ask", failing={"permission_policy": {"type": "always_allow"}})]
    made = await session(house, tools, url_server(loop))
    at_once = step(
        text("Four at once."),
        tool("mcp__loop__echo", text="a"),
        tool("bash", command="echo free >> log"),
        tool("mcp__loop__failing"),
        tool("mcp__loop__echo", text="b"),
    )
    events = await house.turn(made, [at_once, step("Done.")])
    first, failing, second = calls(events)
    assert events[-1].stop_reason.event_ids == [first.id, second.id]
    await house.answer(made, deny(second, "not b"))
    await house.restart()
    before = len(await house.events(made))
    await house.answer(made, allow(first))
    await house.until_idle(made, before)
    everything = await house.events(made)
    by_call = {e.mcp_tool_use_id: e for e in results(everything)}
    assert set(by_call) == {first.id, failing.id, second.id}
    assert "echo a" in by_call[first.id].content[0].text
    assert by_call[failing.id].is_error
    assert "out of order" in by_call[failing.id].content[0].text
    assert by_call[second.id].content[0].text == "not b"
    assert loop.calls == [("echo", "a"), ("failing", None)]
    assert (house.workspace(made) / "log").read_text() == "free\n"
    said, answered = house.model.message_requests[-1].body["messages"][-2:]
    assert [b["type"] for b in said["content"]] == ["text", *["tool_use"] * 4]
    assert [b["tool_use_id"] for b in answered["content"]] == [b["id"] for b in said["content"][1:]]


def offered(house: House) -> set[str]:
    return {tool["name"] for tool in house.model.message_requests[-1].body["tools"]}


async def test_disabled_tool_is_not_offered_and_refused_when_the_model_calls_it_anyway(
    house: House, loop: Tools
) -> None:
    made = await session(house, [toolset(secret={"enabled": False})], url_server(loop))
    events = await house.turn(made, [step(tool("mcp__loop__secret")), step("Heard: {{last_tool_result}}")])
    assert "mcp__loop__echo" in offered(house)
    assert "mcp__loop__secret" not in offered(house)
    (call,) = calls(events)
    assert (call.evaluated_permission, call.evaluation) == ("deny", None)
    assert results(events)[0].is_error
    assert loop.calls == []


async def test_only_the_enabled_tool_is_offered_when_the_others_are_off_by_default(house: House, loop: Tools) -> None:
    only = {**toolset(echo={"enabled": True}), "default_config": {"enabled": False}}
    made = await session(house, [only], url_server(loop))
    await house.turn(made, [step("Hello.")])
    assert offered(house) == {"mcp__loop__echo"}


CURL = (
    "curl -sS --max-time 20 -x http://127.0.0.1:3128 http://mcp.hostler.internal/loop "
    "-H 'accept: application/json, text/event-stream' -H 'content-type: application/json' "
    "-H 'mcp-protocol-version: 2025-06-18' -d '{body}'"
)


def curl(body: str) -> str:
    return CURL.replace("{body}", body)


async def test_program_in_the_sandbox_calls_no_tool_past_the_gate(house: House, loop: Tools) -> None:
    made = await session(house, [*ALLOW_ALL, toolset("always_ask")], url_server(loop))
    call = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"stolen"}}}'
    twice = '{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"echo"}}'
    events = await house.turn(
        made,
        [
            step(tool("bash", command=curl(call))),
            step(tool("bash", command=curl(f"[{call}]"))),
            step(tool("bash", command=curl(twice))),
            step(tool("bash", command=curl('{"jsonrpc":"2.0","id":1,"method":"resources/list"}'))),
            step(tool("bash", command=f"{curl(call)} -H 'mcp-method: ping'")),
            step("Done."),
        ],
    )
    texts = [e.content[0].text for e in events if e.type == "agent.tool_result"]
    assert "was not permitted" in texts[0]
    assert "one at a time" in texts[1]
    assert "one way only" in texts[2]
    assert "not available here" in texts[3]
    assert "contradicts the body" in texts[4]
    assert loop.calls == []


async def test_allowed_call_passes_the_road_once_whatever_its_arguments_look_like(house: House, loop: Tools) -> None:
    made = await session(house, [toolset("always_ask")], url_server(loop))
    odd = {"i": 1.0, "big": 12345678901234567890, "f": 0.1, "t": 'ü"\\\n', "n": None, "l": [1, {"x": -0.0}], "e": {}}
    steps = [step(tool("mcp__loop__odd", payload=odd), tool("mcp__loop__odd", payload={"i": 2})), step("Done.")]
    events = await house.turn(made, steps)
    await house.answer(made, *(allow(call) for call in calls(events)))
    rest = await house.until_idle(made, len(events))
    assert [e.is_error for e in results(rest)] == [False, False], [e.content for e in results(rest)]
    assert len(loop.calls) == 2


async def test_huge_failing_and_picture_results_are_told_within_limits(house: House, loop: Tools) -> None:
    made = await session(house, [*ALLOW_ALL, toolset()], url_server(loop))
    steps = [
        step(tool("mcp__loop__huge", size=300_000)),
        step(tool("mcp__loop__huge", size=20 << 20)),
        step(tool("mcp__loop__picture")),
        step(tool("mcp__loop__failing")),
        step("Done."),
    ]
    events = await house.turn(made, steps)
    huge, endless, picture, failing = results(events)
    assert sum(len(block.text) for block in huge.content) < 110_000
    assert endless.is_error
    assert sum(len(block.text) for block in endless.content) < 110_000
    image = next(block for block in picture.content if block.type == "image")
    assert (image.source.type, image.source.media_type) == ("base64", "image/png")
    assert failing.is_error
    assert events[-1].stop_reason.type == "end_turn"


async def test_interrupted_call_is_closed_and_the_session_goes_on(house: House, loop: Tools) -> None:
    made = await session(house, [toolset()], url_server(loop))
    await house.say(made, [step(tool("mcp__loop__slow")), step("Never.")])
    await house.until_event(made, "agent.mcp_tool_use")
    await loop.slow_began.wait()
    await house.answer(made, {"type": "user.interrupt"})
    events = await house.until_idle(made)
    assert results(events)[0].is_error
    assert events[-1].stop_reason.type == "end_turn"
    after = await house.turn(made, [step(tool("mcp__loop__echo", text="again")), step("Fine.")])
    assert "echo again" in results(after)[0].content[0].text


async def test_server_that_is_not_there_is_told_once_and_the_session_goes_on_without_it(house: House) -> None:
    nowhere = {"type": "url", "name": "My Server (old)", "url": "http://127.0.0.1:9/mcp"}
    made = await session(house, [*ALLOW_ALL, toolset(name="My Server (old)")], nowhere)
    events = await house.turn(made, [step(tool("bash", command="echo still here")), step("Done.")])
    (error,) = errors(events)
    assert error.type == "mcp_connection_failed_error"
    assert error.mcp_server_name == "My Server (old)"
    assert error.retry_status.type == "retrying"
    assert "still here" in next(e for e in events if e.type == "agent.tool_result").content[0].text
    assert events[-1].stop_reason.type == "end_turn"


async def test_rules_of_the_environment_hold_for_servers_too(house: House, loop: Tools) -> None:
    named = {"type": "url", "name": "loop", "url": loop.url.replace("127.0.0.1", "localhost")}
    made = await house.client.beta.agents.create(
        name="Caller", model="claude-opus-5-5", tools=[toolset()], mcp_servers=[named]
    )
    for networking, reached in (
        ({"type": "limited", "allowed_hosts": []}, False),
        ({"type": "unrestricted"}, True),
    ):
        environment = await house.environment(networking=networking)
        one = await house.client.beta.sessions.create(agent=made.id, environment_id=environment)
        events = await house.turn(one.id, [step("Hello.")])
        # Besides, the session's user hears of each denied request of the road.
        told = [e.type for e in errors(events) if e.type != "unknown_error"]
        assert told == ([] if reached else ["mcp_connection_failed_error"])
        if not reached:
            assert "allow_mcp_servers" in errors(events)[0].message


async def test_redirects_and_servers_that_speak_no_mcp_are_told(house: House, loop: Tools) -> None:
    made = await session(house, [toolset()], url_server(loop))
    loop.answer = (307, [(b"location", b"http://127.0.0.1:1/elsewhere")])
    events = await house.turn(made, [step("Hello.")])
    assert "redirect" in errors(events)[0].message
    loop.answer = (200, [(b"content-type", b"text/html"), (b"content-length", b"0")])
    other = await session(house, [toolset()], url_server(loop))
    events = await house.turn(other, [step("Hello.")])
    assert [e.type for e in errors(events)] == ["mcp_connection_failed_error"]


async def test_session_gets_other_servers_while_it_lives(house: House, loop: Tools) -> None:
    made = await session(house, ALLOW_ALL)
    await house.turn(made, [step("Hello.")])
    assert "mcp__loop__echo" not in offered(house)
    await house.client.beta.sessions.update(made, agent={"tools": [toolset()], "mcp_servers": [url_server(loop)]})
    with pytest.raises(anthropic.BadRequestError, match="no mcp_toolset in tools refers to the server"):
        await house.client.beta.sessions.update(made, agent={"tools": ALLOW_ALL})
    events = await house.turn(made, [step(tool("mcp__loop__echo", text="new")), step("Done.")])
    assert "echo new" in results(events)[0].content[0].text
