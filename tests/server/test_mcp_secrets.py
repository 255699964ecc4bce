"""The secret for an MCP server reaches that server and nobody else: not the sandbox, not a file, not the log."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from housekit import ALLOW_ALL, open_house
from mcpkit import OneSecret, mcp_server, toolset, url_server
from test_mcp import errors, results, session

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database

TOKEN = "tok-7f3e9a51c0d24b688e11"
SEARCH = (
    "seen=$(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'); "
    'n=7f3e; n=${n}9a51; grep -c $n <<< "$seen"; '
    "grep -rl $n /home /workspace /tmp /mnt /run /etc 2>/dev/null; echo searched"
)


async def test_secret_reaches_the_server_and_nothing_else(tmp_path: Path, store_url: str) -> None:
    async with mcp_server() as loop:
        loop.wanted = TOKEN
        settings = {"mcp_credentials": OneSecret(TOKEN), "egress__private_allowed": ["127.0.0.1"]}
        async with open_house(tmp_path, store_url, **settings) as house:
            made = await session(house, [*ALLOW_ALL, toolset()], url_server(loop))
            events = await house.turn(
                made,
                [
                    step(tool("mcp__loop__echo", text="hi")),
                    step(tool("mcp__loop__leak")),
                    step(tool("bash", command=SEARCH)),
                    step("Done."),
                ],
            )
            assert "echo hi" in results(events)[0].content[0].text
            assert "[redacted]" in results(events)[1].content[0].text
            found = next(e for e in events if e.type == "agent.tool_result").content[0].text
            assert found.split() == ["0", "searched"], found
            assert set(loop.bearers) == {f"Bearer {TOKEN}"}
            assert TOKEN not in "".join(event.to_json() for event in await house.events(made))
            assert not any(TOKEN in str(request.body) for request in house.model.message_requests)
            grep = ["grep", "-rlaF", TOKEN, str(tmp_path)]
            searched = await asyncio.to_thread(subprocess.run, grep, check=False, capture_output=True, text=True)
            assert searched.stdout == ""


@pytest.mark.parametrize("token", [None, "tok-that-is-wrong"])
async def test_missing_and_wrong_token_are_told_as_such_and_the_session_survives(
    tmp_path: Path, store_url: str, token: str | None
) -> None:
    async with mcp_server() as loop:
        loop.wanted = TOKEN
        settings = {"mcp_credentials": OneSecret(token), "egress__private_allowed": ["127.0.0.1"]}
        async with open_house(tmp_path, store_url, **settings) as house:
            made = await session(house, [*ALLOW_ALL, toolset()], url_server(loop))
            events = await house.turn(made, [step(tool("bash", command="echo alive")), step("Done.")])
            (error,) = errors(events)
            assert error.type == "mcp_authentication_failed_error"
            assert error.mcp_server_name == "loop"
            assert error.retry_status.type == "retrying"
            assert "alive" in next(e for e in events if e.type == "agent.tool_result").content[0].text
            offered = {tool["name"] for tool in house.model.message_requests[-1].body["tools"]}
            assert not any(name.startswith("mcp__") for name in offered), "no tool to log in with, either"


async def test_refused_token_is_renewed_and_the_same_request_is_made_again(tmp_path: Path, store_url: str) -> None:
    async with mcp_server() as loop:
        loop.wanted = TOKEN
        vault = OneSecret("tok-of-yesterday", renewed=TOKEN)
        settings = {"mcp_credentials": vault, "egress__private_allowed": ["127.0.0.1"]}
        async with open_house(tmp_path, store_url, **settings) as house:
            made = await session(house, [toolset()], url_server(loop))
            events = await house.turn(made, [step(tool("mcp__loop__echo", text="hi")), step("Done.")])
            assert errors(events) == []
            assert vault.refused == ["tok-of-yesterday"]
            loop.wanted = vault.renewed = "tok-of-tomorrow"
            events = await house.turn(made, [step(tool("mcp__loop__echo", text="later")), step("Done.")])
            assert "echo later" in results(events)[0].content[0].text
            assert [call for call in loop.calls if call[0] == "echo"] == [("echo", "hi"), ("echo", "later")]


async def test_secret_of_a_vault_reaches_the_server_and_a_changed_one_counts_at_once(
    tmp_path: Path, store_url: str
) -> None:
    """T36, with the real vaults."""
    async with mcp_server() as loop, open_house(tmp_path, store_url, egress__private_allowed=["127.0.0.1"]) as house:
        loop.wanted = TOKEN
        vaults = house.client.beta.vaults
        vault = (await vaults.create(display_name="Team")).id
        auth: Any = {"type": "static_bearer", "mcp_server_url": loop.url, "token": TOKEN}
        credential = (await vaults.credentials.create(vault, auth=auth)).id
        environment = await house.environment(networking={"type": "limited", "allow_mcp_servers": True})
        agent = await house.client.beta.agents.create(
            name="Caller", model="claude-opus-5-5", tools=[*ALLOW_ALL, toolset()], mcp_servers=[url_server(loop)]
        )
        made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, vault_ids=[vault])
        events = await house.turn(made.id, [step(tool("mcp__loop__echo", text="hi")), step("Done.")])
        assert "echo hi" in results(events)[0].content[0].text
        loop.wanted = "tok-of-the-next-month"
        changed: Any = {"type": "static_bearer", "token": loop.wanted}
        await vaults.credentials.update(credential, vault_id=vault, auth=changed)
        events = await house.turn(made.id, [step(tool("mcp__loop__echo", text="again")), step("Done.")])
        assert "echo again" in results(events)[0].content[0].text
        loop.wanted = "tok-that-nobody-has"
        other = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, vault_ids=[vault])
        events = await house.turn(other.id, [step(tool("bash", command="echo alive")), step("Done.")])
        assert [error.type for error in errors(events)] == ["mcp_authentication_failed_error"]
        assert "alive" in next(e for e in events if e.type == "agent.tool_result").content[0].text
