"""A session's model is on Vertex AI: what Google is asked, and what the harness gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from clouds_kit import BETAS, cloudy, said
from gateway_fakes import FakeUpstream, answers_json

from hostler.gateway.upstream import UpstreamUnreachable
from hostler.gateway.vertex import endpoint
from hostler.testing.clouds import VertexFront
from hostler.testing.rehearsal import RehearsalModel, prompt, step, text

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])
MODELS = "/v1/projects/rehearsal/locations/europe-west1/publishers/anthropic/models"


@pytest.fixture
async def front(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[VertexFront]:
    """With the key file of a service account in the environment."""
    async with RehearsalModel() as model, VertexFront(model.url) as front:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(front.write_credentials(tmp_path / "account.json")))
        yield front


def vertex(front: VertexFront, **more: Any) -> dict[str, Any]:
    found = {"name": "google", "kind": "vertex", "project": front.project, "region": front.region}
    return {**found, "base_url": front.base_url, **more}


async def test_a_stream_is_asked_for_with_a_token_and_crosses(front: VertexFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        answer = await road.ask(said(prompt([step(text("héllo"))]), model="claude-haiku-4-5"), headers=BETAS)
        assert (answer.status, answer.whole) == (200, True), answer.body
        assert [event["type"] for event in answer.events][-1] == "message_stop"
        [seen] = front.requests
        assert seen.target == f"{MODELS}/claude-haiku-4-5@20251001:streamRawPredict"
        assert seen.json == {
            "stream": True,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": prompt([step(text("héllo"))])}],
            "anthropic_version": "vertex-2023-10-16",
        }
        assert seen.headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
        [record] = road.listener.records
        assert (record.model, record.upstream, record.status) == ("claude-haiku-4-5", "google", 200)
        assert record.usage.output_tokens > 0


async def test_a_whole_message_and_its_usage(front: VertexFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        answer = await road.ask(said(prompt([step(text("all"))]), stream=False))
        assert answer.json["content"][0]["text"] == "all"
        assert front.requests[0].target == f"{MODELS}/claude-opus-5-5:rawPredict"
        assert road.listener.records[0].usage.output_tokens == answer.json["usage"]["output_tokens"] > 0


async def test_nothing_of_the_sandbox_reaches_google_but_the_request(front: VertexFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        await road.ask(headers="X-Api-Key: mine\r\nAuthorization: Bearer mine\r\nX-Claude-Code-Session-Id: mine\r\n")
        names = {"host", "accept", "content-type", "authorization", "accept-encoding", "content-length"}
        assert set(front.requests[0].headers) == names
        assert "mine" not in str(front.requests[0].headers)


@pytest.mark.parametrize("stream", [True, False])
async def test_errors_of_the_model_cross_unchanged(front: VertexFront, tmp_path: Path, stream: bool) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        answer = await road.ask(said(prompt([step(error=529, message="busy", retry_after=3)]), stream=stream))
        assert (answer.status, answer.json["error"]) == (529, {"type": "overloaded_error", "message": "busy"})
        assert (answer.headers["retry-after"], answer.headers["request-id"][:4]) == ("3", "req_")
        assert road.listener.records[0].upstream_request_id == answer.headers["request-id"]


async def test_an_error_within_a_stream_crosses_unchanged(front: VertexFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        answer = await road.ask(said(prompt([step(text("one two three"), sse_error=4, message="why")])))
        assert answer.events[-1]["error"] == {"type": "overloaded_error", "message": "why"}


@pytest.mark.parametrize(
    ("status", "name", "kind", "listed"),
    [
        (429, "RESOURCE_EXHAUSTED", "rate_limit_error", False),
        (403, "PERMISSION_DENIED", "permission_error", True),
        (503, "UNAVAILABLE", "overloaded_error", False),
        (400, "FAILED_PRECONDITION", "invalid_request_error", True),
        (500, "INTERNAL", "api_error", False),
    ],
)
async def test_errors_of_google_become_those_of_the_messages_api(
    front: VertexFront, tmp_path: Path, status: int, name: str, kind: str, listed: bool
) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6.2s"}]
    error = {"error": {"code": status, "message": "Quota exceeded", "status": name, "details": details}}
    async with FakeUpstream(answers_json(status, [error] if listed else error)).running() as fake:
        async with cloudy(tmp_path, vertex(front, base_url=f"http://127.0.0.1:{fake.port}")) as road:
            answer = await road.ask()
            assert (answer.status, answer.json["type"]) == (status, "error")
            assert answer.json["error"] == {"type": kind, "message": "Quota exceeded"}
            assert answer.headers["retry-after"] == "7"


async def test_a_token_is_replaced_before_it_runs_out_and_kept_until_then(front: VertexFront, tmp_path: Path) -> None:
    front.lifetime = 0
    async with cloudy(tmp_path, vertex(front)) as road:
        assert (await road.ask()).status == 200
        front.lifetime = 3600
        for _ in range(3):
            assert (await road.ask()).status == 200
        first, *others = [seen.headers["authorization"] for seen in front.requests]
        assert first not in others
        assert len(set(others)) == 1
        assert len(front.tokens) == 2


async def test_a_token_near_its_end_is_used_while_the_next_one_is_fetched(front: VertexFront, tmp_path: Path) -> None:
    front.lifetime = 60
    async with cloudy(tmp_path, vertex(front)) as road:
        await road.ask()
        front.lifetime = 3600
        await road.ask()
        assert front.requests[1].headers["authorization"] == front.requests[0].headers["authorization"]
        while len(front.tokens) < 2:
            await road.channels["google"].probe()
        assert (await road.ask()).status == 200


async def test_a_token_that_ran_out_all_the_same_is_replaced_by_the_next_attempt(
    front: VertexFront, tmp_path: Path
) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        assert (await road.ask()).status == 200
        front.tokens.clear()
        answer = await road.ask()
        assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")
        assert (await road.ask()).status == 200


async def test_a_token_that_never_worked_is_refused_as_such(front: VertexFront, tmp_path: Path) -> None:
    error = {"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}}
    async with FakeUpstream(answers_json(401, error)).running() as fake:
        async with cloudy(tmp_path, vertex(front, base_url=f"http://127.0.0.1:{fake.port}")) as road:
            answer = await road.ask()
            assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")


async def test_without_credentials_the_harness_hears_that_and_no_more(
    monkeypatch: pytest.MonkeyPatch, front: VertexFront, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    async with cloudy(tmp_path, vertex(front)) as road:
        answer = await road.ask()
        assert answer.status == 503
        said_to_it = answer.json["error"]["message"]
        assert said_to_it.startswith("The gateway has no credentials for its upstream google now.")
        with pytest.raises(UpstreamUnreachable):
            await road.channels["google"].probe()


async def test_tokens_are_counted(front: VertexFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, vertex(front)) as road:
        counted = {"model": "claude-opus-4-5", "messages": said()["messages"]}
        answer = await road.ask(counted, "/v1/messages/count_tokens?beta=true")
        assert answer.status == 200
        assert answer.json["input_tokens"] > 0
        [seen] = front.requests
        assert seen.target == f"{MODELS}/count-tokens:rawPredict"
        assert seen.json["model"] == "claude-opus-4-5@20251101"


async def test_requests_are_those_that_the_official_client_makes(front: VertexFront, tmp_path: Path) -> None:
    body = said("Ünïcode", stop_sequences=["\n"])
    version = {"anthropic_version": "vertex-2023-10-16"}
    async with cloudy(tmp_path, vertex(front)) as road:
        await road.ask(body)
        await road.ask({"model": "claude-opus-5-5", "messages": body["messages"]}, "/v1/messages/count_tokens")
    async with anthropic.AsyncAnthropicVertex(
        base_url=front.base_url, region=front.region, project_id=front.project
    ) as client:
        stream = await client.messages.create(**body, extra_body=version)
        assert [event.type async for event in stream][-1] == "message_stop"
        await client.messages.count_tokens(model="claude-opus-5-5", messages=body["messages"], extra_body=version)
    ours, our_count, theirs, their_count = front.requests
    assert (ours.target, ours.json) == (theirs.target, theirs.json)
    assert (our_count.target, our_count.json) == (their_count.target, their_count.json)


@pytest.mark.parametrize("region", ["global", "us", "eu", "europe-west1"])
async def test_hosts_of_regions_are_those_of_the_official_client(region: str) -> None:
    client = anthropic.AnthropicVertex(region=region, project_id="p", access_token="t")
    assert endpoint(region) == str(client.base_url).rstrip("/")
    client.close()
