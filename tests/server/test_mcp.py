"""MCP servers: their tools run through our road, wait for approvals, and fail without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from housekit import ALLOW_ALL, House, open_house, types
from mcpkit import Tools, mcp_server, toolset, url_server

from hostler.testing.rehearsal import step, tool


@pytest_asyncio.fixture
async def loop() -> AsyncIterator[Tools]:
    async with mcp_server() as tools:
        yield tools


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, egress__private_allowed=["127.0.0.1"]) as opened:
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
