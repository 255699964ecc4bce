"""What rules do on the road: which model is asked, with which fields; and what the real `claude` says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions, ClaudeSDKClient, ResultMessage
from gateway_fakes import (
    KEY,
    FakeUpstream,
    Listener,
    RoadClient,
    Seen,
    Store,
    Wire,
    answers_json,
    answers_sse,
    sse_message,
)

from hostler.engine.model_fit import ModelFit
from hostler.engine.model_port import Caller
from hostler.engine.models import Models
from hostler.engine.routing import RuleRouter
from hostler.engine.runs import RunSpec
from hostler.gateway import Entry, ModelGateway, Patience, Roster, Upstream, one_upstream
from hostler.gateway.desk import ONLY
from hostler.harness.claude import ClaudeHarness
from hostler.testing.rehearsal import RehearsalModel, prompt, step, tool

OPUS, SONNET, HAIKU, OLD_HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-haiku-4-5"
TEXT = sse_message([{"type": "text", "text": "hello"}])


@asynccontextmanager
async def road(
    tmp_path: Path,
    upstream: str,
    *rules: dict[str, Any],
    routing: dict[str, Any] | None = None,
    patience: Patience | None = None,
    **tags: str,
) -> AsyncIterator[Listener]:
    """A road at `model.sock` below `tmp_path` for a session whose agent has these rules."""
    fit = ModelFit(Models())
    router = RuleRouter(fit, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    roster = Roster([Entry(ONLY)], asyncio.get_running_loop().time, patience or Patience())
    desk = replace(one_upstream(Upstream(upstream, KEY)), upstreams=roster, router=router, fitter=fit)
    gateway = ModelGateway(desk)
    agent = {"routing": routing or {"rules": list(rules)}}
    listener = Listener(caller=Caller("sesn_1", agent=agent, tags=tags))
    await gateway.open(
        "sesn_1",
        tmp_path / "model.sock",
        listener,
        one_call_at_a_time=False,
        sequence=Store(),
        allowed_models=frozenset((OPUS,)),
    )
    try:
        yield listener
    finally:
        await gateway.close()


def rule(name: str, use: str, **when: Any) -> dict[str, Any]:
    return {"id": name, "when": when, "use": use}


async def test_chosen_model_is_asked_with_what_it_takes_and_all_else_as_it_came(tmp_path: Path) -> None:
    async with FakeUpstream(answers_sse(TEXT)).running() as upstream:
        rules = (
            rule("old", OLD_HAIKU, tags={"tier": "batch"}, max_bytes=1_000),
            rule("new", SONNET, tags={"tier": "batch"}),
        )
        async with road(tmp_path, f"http://127.0.0.1:{upstream.port}", *rules, tier="batch") as listener:
            client = await RoadClient.connect(tmp_path / "model.sock")
            said = [{"role": "user", "content": "hi"}, {"role": "system", "content": "It is late."}]
            body = {"model": OPUS, "stream": True, "max_tokens": 128_000, "messages": said, "metadata": {"a": "b"}}
            adaptive = {**body, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
            assert (await client.post(adaptive)).status == 200
            assert (await client.post({**adaptive, "metadata": {"a": "b" * 1_000}})).status == 200
            assert (await client.post({**body, "model": HAIKU})).status == 403  # What the road allows is asked first.
            await client.close()
        old, new = (seen.json for seen in upstream.seen)
        assert old == {
            **body,
            "model": OLD_HAIKU,
            "max_tokens": 64_000,
            "thinking": {"type": "enabled", "budget_tokens": 31_999},
            "output_config": {},
            "messages": [
                said[0],
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "<system-reminder>\nIt is late.\n</system-reminder>"}],
                },
            ],
        }
        assert new == {**adaptive, "model": SONNET, "metadata": {"a": "b" * 1_000}}
        first, second = listener.records
        assert (first.requested_model, first.model, first.rule) == (OPUS, OLD_HAIKU, "old")
        assert (second.model, second.rule) == (SONNET, "new")
        assert first.request_bytes == len(upstream.seen[1].body) - 1_000 + 1 - len(SONNET) + len(OPUS)


async def test_fallback_of_the_rules_answers_with_what_it_takes_when_the_chosen_model_can_not(tmp_path: Path) -> None:
    async def overloaded_but_old(seen: Seen, wire: Wire) -> None:
        if seen.json["model"] == OLD_HAIKU:
            await answers_sse(TEXT)(seen, wire)
        else:
            await answers_json(529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})(
                seen, wire
            )

    async with FakeUpstream(overloaded_but_old).running() as upstream:
        routing = {"rules": [rule("all", SONNET)], "fallbacks": [OLD_HAIKU]}
        patience = Patience(tries_before_fallback=1)
        async with road(tmp_path, f"http://127.0.0.1:{upstream.port}", routing=routing, patience=patience) as listener:
            client = await RoadClient.connect(tmp_path / "model.sock")
            body = {"model": OPUS, "stream": True, "max_tokens": 128_000, "messages": []}
            assert (await client.post(body)).status == 200
            await client.close()
        assert [(seen.json["model"], seen.json["max_tokens"]) for seen in upstream.seen] == [
            (SONNET, 128_000),
            (OLD_HAIKU, 64_000),
        ]
        assert [(record.model, record.rule, record.status) for record in listener.records] == [
            (SONNET, "all", 529),
            (OLD_HAIKU, "all", 200),
        ]


async def test_real_claude_says_which_sub_agent_asks_and_what_for(tmp_path: Path) -> None:
    """The headers that rules look at are those of the pinned release, with the environment that sessions give it."""
    rules = (
        rule("helpers", HAIKU, thread="sub_agent", agent_types=["custom"], purposes=["turn"]),
        rule("short", SONNET, purposes=["compaction"]),
    )
    spec = RunSpec("", False, OPUS, None, None, ())
    async with RehearsalModel() as model, road(tmp_path, model.url, *rules) as listener:
        environment = {
            **ClaudeHarness().environment(spec),
            "ANTHROPIC_UNIX_SOCKET": str(tmp_path / "model.sock"),
            "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"),
            "HOME": str(tmp_path),
            "PWD": str(tmp_path),
        }
        options = ClaudeAgentOptions(
            cwd=tmp_path,
            env=environment,
            model=OPUS,
            setting_sources=[],
            tools=["Agent"],
            agents={"looker": AgentDefinition(description="Looks.", prompt="You look.", model="inherit")},
            permission_mode="bypassPermissions",
        )
        call = tool("Agent", description="look", prompt=prompt([step("Seen.")]), subagent_type="looker")
        async with ClaudeSDKClient(options) as client:
            for said in (prompt([step(call), step("Done.")]), "/compact"):
                await client.query(said)
                async for message in client.receive_response():
                    if isinstance(message, ResultMessage):
                        assert not message.is_error, message
        asked = [
            (r.purpose, bool(r.thread), r.agent_type, r.requested_model, r.model, r.rule) for r in listener.records
        ]
        assert asked == [
            ("turn", False, "", OPUS, OPUS, ""),
            ("turn", True, "custom", OPUS, HAIKU, "helpers"),
            ("turn", False, "", OPUS, OPUS, ""),
            ("compaction", False, "", OPUS, SONNET, "short"),
        ]
        assert [request.body["model"] for request in model.message_requests] == [OPUS, HAIKU, OPUS, SONNET]
