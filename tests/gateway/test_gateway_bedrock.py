"""A session's model is on Amazon Bedrock: what AWS is asked, and what the harness gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from clouds_kit import BETAS, Cloudy, cloudy, no_aws, said

from hostler.testing.clouds import BedrockFront
from hostler.testing.rehearsal import RehearsalModel, prompt, step, text


@pytest.fixture
async def front(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BedrockFront]:
    """With keys for a session in the environment."""
    no_aws(monkeypatch)
    async with RehearsalModel() as model, BedrockFront(model.url) as front:
        key, secret, token = front.new_keys()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        yield front


def bedrock(front: BedrockFront, **more: Any) -> dict[str, Any]:
    found = {"name": "aws", "kind": "bedrock", "region": front.region, "base_url": front.url}
    return {**found, "inference_profiles": "eu", **more}


async def test_a_stream_is_asked_for_signed_and_comes_as_the_messages_api_says_it(
    front: BedrockFront, tmp_path: Path
) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([step(text("héllo"))], "hi"), system="Be kind."), headers=BETAS)
        assert (answer.status, answer.whole) == (200, True), answer.body
        assert answer.headers["content-type"].startswith("text/event-stream")
        kinds = [event["type"] for event in answer.events]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert (
            "".join(e["delta"].get("text", "") for e in answer.events if e["type"] == "content_block_delta") == "héllo"
        )
        assert answer.events[-1] == {"type": "message_stop"}
        [seen] = front.requests
        assert seen.target == "/model/eu.anthropic.claude-opus-5-5/invoke-with-response-stream"
        assert seen.json == {
            "max_tokens": 100,
            "messages": [{"role": "user", "content": prompt([step(text("héllo"))], "hi")}],
            "system": "Be kind.",
            "anthropic_version": "bedrock-2023-05-31",
            "anthropic_beta": ["interleaved-thinking-2025-05-14", "effort-2025-11-24"],
        }
        [record] = road.listener.records
        assert (record.model, record.upstream, record.status) == ("claude-opus-5-5", "aws", 200)
        assert record.usage.output_tokens > 0 and record.usage.input_tokens > 0
        assert record.upstream_request_id == answer.headers["request-id"]
