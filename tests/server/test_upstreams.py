"""A session whose model is in a cloud: the real `claude`, real tools, and a cloud that checks every request."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from housekit import House, types

from hostler.testing.clouds import BedrockFront, VertexFront
from hostler.testing.rehearsal import RehearsalModel, step, text, tool

WORK = [
    step(text("I'll write."), tool("bash", command="echo hello > note.txt; cat note.txt")),
    step("It says: {{last_tool_result}}"),
]


@asynccontextmanager
async def house_with(tmp_path: Path, store_url: str, model: RehearsalModel, *upstreams: dict[str, Any]) -> Any:
    settings = {"state_dir": str(tmp_path / "state"), "server__port": 0, "store__url": store_url}
    house = House({**settings, "upstreams": list(upstreams), "model__retries": 0}, model)
    await house.start()
    try:
        yield house
    finally:
        await house.stop()


def bedrock(front: BedrockFront, **more: Any) -> dict[str, Any]:
    found = {"name": "aws", "kind": "bedrock", "region": front.region, "base_url": front.url}
    return {**found, "inference_profiles": "eu", **more}


def aws_environment(monkeypatch: pytest.MonkeyPatch, front: BedrockFront) -> None:
    key, secret, token = front.new_keys()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)


async def shows_its_work(house: House) -> list[Any]:
    """A turn with a tool. Returns its events."""
    session = await house.session()
    events = await house.turn(session, WORK)
    assert "session.error" not in types(events)
    said = [block.text for event in events if event.type == "agent.message" for block in event.content]
    assert said[-1].startswith("It says: hello")
    usage = (await house.client.beta.sessions.retrieve(session)).usage
    assert usage is not None
    assert usage.output_tokens
    return events


@pytest.mark.slow
@pytest.mark.one_database
async def test_a_turn_on_bedrock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_url: str) -> None:
    async with RehearsalModel() as model, BedrockFront(model.url) as front:
        aws_environment(monkeypatch, front)
        async with house_with(tmp_path, store_url, model, bedrock(front)) as house:
            await shows_its_work(house)
        targets = {seen.target for seen in front.requests}
        assert targets == {"/model/eu.anthropic.claude-opus-5-5/invoke-with-response-stream"}
        assert len(model.message_requests) == len(front.requests) >= 2


@pytest.mark.slow
@pytest.mark.one_database
async def test_a_turn_on_vertex(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_url: str) -> None:
    async with RehearsalModel() as model, VertexFront(model.url) as front:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(front.write_credentials(tmp_path / "account.json")))
        vertex = {"name": "google", "kind": "vertex", "project": front.project, "region": front.region}
        async with house_with(tmp_path, store_url, model, {**vertex, "base_url": front.base_url}) as house:
            await shows_its_work(house)
        assert {seen.target.rpartition("/")[2] for seen in front.requests} == {"claude-opus-5-5:streamRawPredict"}
        assert len(front.tokens) == 1
