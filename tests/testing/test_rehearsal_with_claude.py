"""The rehearsal model answers the real `claude`, and tools really run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookContext,
    HookInput,
    HookJSONOutput,
    HookMatcher,
    ResultError,
    ResultMessage,
    ToolUseBlock,
    create_sdk_mcp_server,
    query,
)
from claude_agent_sdk import tool as sdk_tool

from hostler.testing.rehearsal import RehearsalModel, prompt, step, text, thinking, tool


async def _allow(_input: HookInput, _tool: str | None, _context: HookContext) -> HookJSONOutput:
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}}


def _options(model: RehearsalModel, home: Path, **more: object) -> ClaudeAgentOptions:
    (home / "cfg").mkdir(parents=True, exist_ok=True)
    (home / "ws").mkdir(exist_ok=True)
    (home / "tmp").mkdir(exist_ok=True)
    # The SDK merges this over the inherited environment, so what could lead the program elsewhere is emptied.
    inherited = {name: "" for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE_"))}
    environment = {
        **inherited,
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "sk-ant-rehearsal",
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "cfg"),
        "TMPDIR": str(home / "tmp"),
        "CLAUDE_CODE_TMPDIR": str(home / "tmp"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    return ClaudeAgentOptions(
        cwd=home / "ws",
        env=environment,
        setting_sources=[],
        hooks={"PreToolUse": [HookMatcher(matcher=None, hooks=[_allow])]},
        **more,  # type: ignore[arg-type]
    )


async def _turn(said: str, options: ClaudeAgentOptions) -> tuple[list[ToolUseBlock], ResultMessage]:
    calls: list[ToolUseBlock] = []
    result: ResultMessage | None = None
    async for message in query(prompt=said, options=options):
        if isinstance(message, AssistantMessage):
            calls += [block for block in message.content if isinstance(block, ToolUseBlock)]
        if isinstance(message, ResultMessage):
            result = message
    assert result is not None
    return calls, result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


async def test_claude_runs_the_tools_of_the_script_and_their_results_reach_the_model(home: Path) -> None:
    async with RehearsalModel() as model:
        said = prompt(
            [
                step(thinking("I should look."), text("First."), tool("bash", command="echo marker-$((40 + 2))")),
                step(tool("write", file_path=str(home / "ws" / "note.txt"), content="said: {{last_tool_result}}")),
                step(text("The note is written. {{last_tool_result}}")),
            ],
            "Please do this.",
        )
        calls, result = await _turn(said, _options(model, home))
        assert [call.name for call in calls] == ["Bash", "Write"]
        assert (home / "ws" / "note.txt").read_text() == "said: marker-42"
        assert result.subtype == "success"
        assert result.result is not None
        assert result.result.startswith("The note is written. ")
        assert "note.txt" in result.result
        assert [request.step for request in model.message_requests] == [0, 1, 2]
        assert result.usage is not None
        assert result.usage["cache_read_input_tokens"] > 0


async def test_claude_without_a_script_does_a_small_piece_of_real_work(home: Path) -> None:
    async with RehearsalModel() as model:
        calls, result = await _turn("Hello, what can you do?", _options(model, home))
        assert [call.name for call in calls] == ["Bash", "Write", "Bash"]
        assert (home / "ws" / "hello.py").exists()
        assert result.result is not None
        assert "Hello from Python" in result.result
        assert "rehearsal model" in result.result
        assert len(model.message_requests) == 4


async def test_claude_recovers_from_each_broken_stream_and_calls_no_tool_twice(home: Path) -> None:
    async with RehearsalModel() as model:
        log = home / "ws" / "log"
        steps = [
            step(tool("bash", command=f"echo {failure} >> {log}"), **{failure: 4})
            for failure in ("cut", "garbage", "sse_error")
        ]
        steps.append(step(tool("bash", command=f"echo overloaded >> {log}"), error=529))
        steps.append(step(text("All done.")))
        _, result = await _turn(prompt(steps), _options(model, home))
        assert result.result == "All done."
        assert log.read_text().split() == ["cut", "garbage", "sse_error", "overloaded"]


async def test_claude_shows_a_person_what_is_wrong_with_the_script(home: Path) -> None:
    async with RehearsalModel() as model:
        said = '```rehearse\n[{"content": [{"type": "txet"}]}]\n```'
        with pytest.raises(ResultError, match=r"steps\[0\]\.content\[0\]: a block's `type` is one of text"):
            await _turn(said, _options(model, home))


async def test_claude_goes_on_with_the_script_after_it_compacted_a_conversation_that_was_too_long(home: Path) -> None:
    async with RehearsalModel() as model:
        steps = [
            step(tool("bash", command="echo one")),
            step(tool("bash", command="echo two"), prompt_too_long=True),
            step("Then {{last_tool_result}}."),
        ]
        calls, result = await _turn(prompt(steps), _options(model, home))
        assert [call.input["command"] for call in calls] == ["echo one", "echo two"]
        assert result.result == "Then two."
        origins = [request.origin for request in model.message_requests]
        assert origins.count("housekeeping") == 1
        assert "default" not in origins


async def test_claude_runs_parallel_calls_custom_tools_and_searches(home: Path) -> None:
    @sdk_tool("lookup", "Looks a key up.", {"key": str})
    async def lookup(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": f"value of {arguments['key']}"}]}

    async with RehearsalModel() as model:
        steps = [
            step(tool("bash", command="echo 1"), tool("web_search", query="cats"), tool("lookup", key="k")),
            step("Found: {{last_tool_result}}"),
        ]
        servers = {"custom": create_sdk_mcp_server("custom", tools=[lookup])}
        calls, result = await _turn(prompt(steps), _options(model, home, mcp_servers=servers))
        assert [call.name for call in calls] == ["Bash", "WebSearch", "mcp__custom__lookup"]
        assert result.result == "Found: value of k"


async def test_claude_follows_a_script_that_the_user_sends_in_the_middle_of_a_turn(home: Path) -> None:
    async with RehearsalModel() as model:
        wait = "until test -e go; do sleep 0.05; done"
        first = prompt([step(tool("bash", command=wait)), step("first script done")])
        second = prompt([step(tool("bash", command="echo B1")), step("second script done")], "Do this too.")
        async with ClaudeSDKClient(_options(model, home)) as client:
            await client.query(first)
            results: list[str | None] = []
            async with asyncio.timeout(60):
                async for message in client.receive_messages():
                    if isinstance(message, AssistantMessage) and len(model.message_requests) == 1:
                        await client.query(second)
                        await client.set_permission_mode("default")  # answered after the message was taken in
                        (home / "ws" / "go").touch()
                    if isinstance(message, ResultMessage):
                        results.append(message.result)
                        if results[-1] == "second script done":
                            break
        assert results[-1] == "second script done"
