"""D1: names, prompts, models and messages are words, never arguments, paths or commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from attackkit import of_type
from housekit import ASK_FOR_BASH, House, open_house

from hostler.testing.rehearsal import rule, script, step

MODELS = [
    "--dangerously-skip-permissions",
    "x --dangerously-skip-permissions",
    "x\n--permission-mode=bypassPermissions",
    "--settings={}",
    "-p",
    "$(touch /tmp/hostler-d1)",
    "x'; touch /workspace/ran; '",
    "../../etc/passwd",
]
SYSTEMS = [
    "--dangerously-skip-permissions",
    "-p",
    "@/etc/passwd",
    "/etc/passwd",
    "{{model}} $(touch /workspace/ran) `touch /workspace/ran` ${HOME}",
    "\n--permission-mode\nbypassPermissions\n",
    "é\u2028\u202e" * 1000,
    "a" * 100_000,
]
MESSAGES = [
    "/compact",
    "/clear",
    "/permissions allow Bash",
    "/model claude-fable-5-2",
    "!touch /workspace/ran",
    "#remember this",
    "@/etc/passwd",
    "--dangerously-skip-permissions",
    "<command-name>/clear</command-name>",
    "\u0000",
    "exit",
]


async def made_session(house: House, **agent: Any) -> str | None:
    try:
        return await house.session(ASK_FOR_BASH, **agent)
    except anthropic.BadRequestError:
        return None


async def test_system_prompts_reach_the_model_as_they_are_and_do_nothing_else(house: House) -> None:
    for system in SYSTEMS:
        session = await made_session(house, system=system)
        assert session is not None, system[:50]
        events = await house.turn(session, [step("Fine.")])
        assert events[-1].stop_reason.type == "end_turn", system[:50]
        told = house.model.message_requests[-1].body["system"]
        assert system.strip() in "\n".join(block["text"] for block in told), system[:50]
        assert not list(house.workspace(session).iterdir())


@pytest.mark.parametrize("model", MODELS)
async def test_a_model_is_a_name_or_nothing(house: House, model: str) -> None:
    try:
        made = await house.client.beta.agents.create(name="x", model=model, tools=ASK_FOR_BASH)
    except anthropic.BadRequestError:
        return
    session = await house.client.beta.sessions.create(agent=made.id, environment_id=await house.environment())
    events = await house.turn(
        session.id, [step({"type": "tool_use", "name": "bash", "input": {"command": "touch ran"}}), step("x")]
    )
    assert events[-1].stop_reason.type in ("requires_action", "retries_exhausted")
    assert not (house.workspace(session.id) / "ran").exists()
    assert {r.body["model"] for r in house.model.message_requests} <= {model.strip(), model}


async def test_messages_are_never_commands(tmp_path: Path, store_url: str) -> None:
    listening = script(rule("", step("Heard.")))
    async with open_house(tmp_path, store_url, listening) as house:
        await say_everything(house)


async def say_everything(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    for message in MESSAGES:
        before = len(await house.events(session))
        asked = len(house.model.message_requests)
        await house.say(session, message)
        events = await house.until_idle(session, before)
        assert events[-1].stop_reason.type == "end_turn", message
        assert len(house.model.message_requests) == asked + 1, f"{message!r} has to reach the model, once"
        last = [m for m in house.model.message_requests[-1].body["messages"] if m["role"] == "user"][-1]
        words = json.dumps(last)
        assert "root:x" not in words
        assert json.dumps(message)[1:-1].replace("\\u0000", "") in words.replace("\\u0000", ""), message
        assert not of_type(events, "agent.thread_context_compacted")
    assert not list(house.workspace(session).iterdir())
    assert {r.body["model"] for r in house.model.message_requests} == {"claude-opus-5-5"}


IDS = [
    "--help",
    "../../etc/passwd",
    "..%2f..%2fetc",
    "sesn_%00",
    "sesn_\n",
    "sesn_" + "a" * 5000,
    "*",
    "sesn_x;rm -rf /",
]


async def test_identifiers_are_looked_up_and_never_opened(house: House) -> None:
    assert house.hostler is not None
    headers = {"x-api-key": house.secret, "anthropic-beta": "managed-agents-2026-04-01"}
    async with httpx.AsyncClient(base_url=house.hostler.base_url, headers=headers) as client:
        for id_ in IDS:
            for method in ("GET", "POST", "DELETE"):
                path = f"/v1/sessions/{id_}"
                try:
                    answer = await client.request(method, path)
                except httpx.InvalidURL:
                    continue
                assert 400 <= answer.status_code < 500, (method, id_, answer.status_code)


async def test_names_titles_and_tools_of_every_kind_are_kept_or_refused(house: House) -> None:
    words = ["--dangerously-skip-permissions", "a\u0000b", "\u202eevil", "x" * 256, "<script>", "' or 1=1 --", "\n"]
    for word in words:
        tool = {"type": "custom", "name": word, "description": word, "input_schema": {"type": "object"}}
        for attempt in (
            {"name": word},
            {"name": "x", "description": word},
            {"name": "x", "tools": [tool]},
            {"name": "x", "metadata": {word: word}},
        ):
            try:
                made = await house.client.beta.agents.create(model="claude-opus-5-5", **attempt)  # type: ignore[arg-type]
            except anthropic.BadRequestError:
                continue
            session = await house.client.beta.sessions.create(agent=made.id, environment_id=await house.environment())
            if attempt.get("tools"):
                events = await house.turn(session.id, [step("Fine.")])
                assert events[-1].stop_reason.type == "end_turn", word
