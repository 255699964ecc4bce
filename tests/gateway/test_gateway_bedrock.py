"""A session's model is on Amazon Bedrock: what AWS is asked, and what the harness gets."""

from __future__ import annotations

import gc
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from clouds_kit import BETAS, cloudy, no_aws, said
from gateway_fakes import FakeUpstream, Purse, Seen, Wire, chunk, sse_message

from hostler.engine.model_port import Target
from hostler.gateway.bedrock import BedrockChannel
from hostler.gateway.errors import Refusal
from hostler.gateway.relay import Relay
from hostler.gateway.upstream import UpstreamUnreachable
from hostler.store.sessions import Usage
from hostler.testing.clouds import BedrockFront
from hostler.testing.clouds.bedrock import frame
from hostler.testing.rehearsal import RehearsalModel, prompt, step, text

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


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
        assert record.usage.output_tokens > 0
        assert record.usage.input_tokens > 0
        assert record.upstream_request_id == answer.headers["request-id"]


async def test_a_whole_message_and_its_usage(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([step(text("all"))]), stream=False))
        assert answer.json["content"][0]["text"] == "all"
        assert front.requests[0].target.endswith("/invoke")
        assert "stream" not in front.requests[0].json
        assert road.listener.records[0].usage.output_tokens == answer.json["usage"]["output_tokens"] > 0


async def test_a_large_body_is_signed_too(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        assert (await road.ask(said("x" * (2 << 20)))).status == 200


async def test_nothing_of_the_sandbox_reaches_aws_but_the_request(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        mine = "X-Api-Key: sk-x\r\nAuthorization: AWS4-HMAC-SHA256 mine\r\nX-Amz-Security-Token: mine\r\n"
        await road.ask(headers=f"{mine}X-Claude-Code-Session-Id: 1\r\nX-Stainless-Os: L\r\nTraceparent: 00-1-1-01\r\n")
        assert set(front.requests[0].headers) == {
            "host",
            "accept",
            "content-type",
            "x-amz-date",
            "x-amz-security-token",
            "authorization",
            "accept-encoding",
            "content-length",
        }
        assert "mine" not in str(front.requests[0].headers)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("said_by_model", "status", "kind"),
    [(429, 429, "rate_limit_error"), (529, 503, "overloaded_error"), (400, 400, "invalid_request_error")],
)
async def test_errors_before_the_first_byte_are_those_of_the_messages_api(
    front: BedrockFront, tmp_path: Path, said_by_model: int, status: int, kind: str, stream: bool
) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([step(error=said_by_model, message="why")]), stream=stream))
        assert (answer.status, answer.json["type"], answer.json["error"]) == (
            status,
            "error",
            {"type": kind, "message": "why"},
        )
        assert answer.json["request_id"] == answer.headers["request-id"]
        assert (road.listener.records[0].status, road.listener.records[0].complete) == (status, True)


async def test_an_exception_within_a_stream_is_its_error_event(front: BedrockFront, tmp_path: Path) -> None:
    broken = step(text("one two three four"), sse_error=4, type="rate_limit_error", message="slow down")
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([broken])))
        assert answer.status == 200
        assert [event["type"] for event in answer.events][-1] == "error"
        assert answer.events[-1]["error"] == {"type": "rate_limit_error", "message": "slow down"}


async def test_an_exception_that_comes_first_is_an_answer_with_a_status(front: BedrockFront, tmp_path: Path) -> None:
    """Bedrock says 200 before it knows: nothing has been said yet, so the request can be tried again."""
    broken = step(text("x"), sse_error=0, type="rate_limit_error", message="slow down")
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([broken])))
        assert (answer.status, answer.json["error"]["type"]) == (429, "rate_limit_error")
        assert road.listener.records[0].status == 429


async def test_a_stream_that_is_cut_breaks_off_and_keeps_what_it_had_used(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask(said(prompt([step(text("one two three four"), cut=4)])))
        assert (answer.status, answer.whole) == (200, False)
        [record] = road.listener.records
        assert (record.status, record.complete, record.stop_reason) == (200, False, None)
        assert record.usage.input_tokens > 0


async def test_a_stream_whose_bytes_were_changed_is_no_answer(front: BedrockFront, tmp_path: Path) -> None:
    chunks = [frame(CHUNK, wrapped(e)) for e in sse_events()]
    chunks[3] = chunks[3][:-5] + b"\0" + chunks[3][-4:]

    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(HEAD + b"".join(chunk(piece) for piece in chunks) + b"0\r\n\r\n")

    async with FakeUpstream(script).running() as fake:
        async with cloudy(tmp_path, bedrock(front, base_url=f"http://127.0.0.1:{fake.port}")) as road:
            answer = await road.ask()
            assert answer.status == 502  # All of it came at once: nothing had been shown when the fault was found.
            [record] = road.listener.records
            assert (record.status, record.complete, record.usage.input_tokens) == (200, False, 11)


@pytest.mark.parametrize("kept", [0, 1, -1])
async def test_a_stream_that_ends_within_a_message_is_no_answer(front: BedrockFront, tmp_path: Path, kept: int) -> None:
    """The end of the HTTP answer is in order each time; what is in it is not."""
    whole = b"".join(frame(CHUNK, wrapped(e)) for e in sse_events())[:kept]

    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(HEAD + (chunk(whole) if whole else b"") + b"0\r\n\r\n")

    async with FakeUpstream(script).running() as fake:
        async with cloudy(tmp_path, bedrock(front, base_url=f"http://127.0.0.1:{fake.port}")) as road:
            answer = await road.ask()
            assert answer.status == 502 or not answer.whole
            [record] = road.listener.records
            assert (record.status, record.complete, record.stop_reason) == (200, False, None)


async def test_a_stream_crosses_whatever_pieces_the_network_gives(front: BedrockFront, tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        whole = HEAD + b"".join(chunk(frame(CHUNK, wrapped(e))) for e in sse_events()) + b"0\r\n\r\n"
        for at in range(0, len(whole), 7):
            wire.write(whole[at : at + 7])

    async with FakeUpstream(script).running() as fake:
        async with cloudy(tmp_path, bedrock(front, base_url=f"http://127.0.0.1:{fake.port}")) as road:
            answer = await road.ask()
            assert answer.events == sse_events()
            assert road.listener.records[0].usage == Usage(11, 7)


async def test_keys_that_run_out_are_replaced_before_they_do(
    monkeypatch: pytest.MonkeyPatch, front: BedrockFront, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", front.credentials_url)
    front.lifetime = 50.0
    async with cloudy(tmp_path, bedrock(front)) as road:
        assert (await road.ask()).status == 200
        front.lifetime = 3600.0
        for _ in range(3):
            assert (await road.ask()).status == 200
        tokens = [seen.headers["x-amz-security-token"] for seen in front.requests]
        assert tokens[0] != tokens[1] == tokens[2] == tokens[3]


async def test_keys_that_ran_out_all_the_same_are_replaced_by_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, front: BedrockFront, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", front.credentials_url)
    async with cloudy(tmp_path, bedrock(front)) as road:
        assert (await road.ask()).status == 200
        front.end_keys()
        answer = await road.ask()
        assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")
        assert (await road.ask()).status == 200


async def test_keys_that_never_worked_are_refused_as_such(
    monkeypatch: pytest.MonkeyPatch, front: BedrockFront, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask()
        assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")
        assert "does not match" in answer.json["error"]["message"]


async def test_without_keys_the_harness_hears_that_and_no_more(
    monkeypatch: pytest.MonkeyPatch, front: BedrockFront, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    async with cloudy(tmp_path, bedrock(front)) as road:
        answer = await road.ask()
        assert answer.status == 502
        said_to_it = answer.json["error"]["message"]
        assert said_to_it.startswith("The gateway has no credentials for its upstream aws now.")
        with pytest.raises(UpstreamUnreachable):
            await road.channels["aws"].probe()
        assert front.requests == []


async def test_a_key_of_bedrock_is_sent_and_nothing_signed(front: BedrockFront, tmp_path: Path) -> None:
    async with RehearsalModel() as model, BedrockFront(model.url, api_key="bedrock-key") as keyed:
        async with cloudy(tmp_path, bedrock(keyed, api_key="bedrock-key")) as road:
            assert (await road.ask()).status == 200
            assert keyed.requests[0].headers["authorization"] == "Bearer bedrock-key"
            assert "x-amz-date" not in keyed.requests[0].headers
            await road.channels["aws"].probe()


async def test_tokens_are_counted_where_aws_counts_them(front: BedrockFront, tmp_path: Path) -> None:
    arn = "arn:aws:bedrock:eu-central-1:1:application-inference-profile/x"
    async with cloudy(
        tmp_path, bedrock(front, inference_profiles="", models={"a": "eu.anthropic.claude-opus-5-5", "b": arn})
    ) as road:
        counting = "/v1/messages/count_tokens?beta=true"
        answer = await road.ask({"model": "a", "messages": said()["messages"]}, counting, BETAS)
        assert (answer.status, set(answer.json)) == (200, {"input_tokens"})
        assert answer.json["input_tokens"] > 0
        assert front.requests[0].target == "/model/anthropic.claude-opus-5-5/count-tokens"
        answer = await road.ask({"model": "b", "messages": said()["messages"]}, counting)
        assert (answer.status, answer.headers["x-should-retry"]) == (501, "false")
        assert len(front.requests) == 1
        assert (await road.ask(said(model="b"))).status == 200
        assert front.requests[1].target == f"/model/{arn.replace('/', '%2F')}/invoke-with-response-stream"


async def test_a_model_that_cannot_be_counted_is_asked_within_the_bound_of_its_size(
    front: BedrockFront, tmp_path: Path
) -> None:
    arn = "arn:aws:bedrock:eu-central-1:1:application-inference-profile/x"
    purse = Purse(counts=True)
    async with cloudy(tmp_path, bedrock(front, inference_profiles="", models={"b": arn}), purse=purse) as road:
        assert (await road.ask(said(model="b"))).status == 200
        assert purse.counted == [None]


async def test_an_upstream_is_asked_for_its_models_only(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        assert (await road.ask(said(model="claude-of-nobody"))).status != 200
        assert front.requests == []


async def test_nothing_is_left_of_a_request_that_was_refused_before_anybody_was_asked(
    front: BedrockFront, tmp_path: Path
) -> None:
    """Its deadline is ten minutes away, and a program in a sandbox can make many."""
    async with cloudy(tmp_path, bedrock(front)) as road:
        assert (await road.ask(said(model="claude-of-nobody"))).status == 404
    gc.collect()
    assert [each for each in gc.get_objects() if type(each) is Relay] == []


async def test_betas_that_pass_are_the_operators_choice(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front, betas=["interleaved-thinking-2025-05-14"])) as road:
        await road.ask(headers=BETAS)
        assert front.requests[0].json["anthropic_beta"] == ["interleaved-thinking-2025-05-14"]
    async with cloudy(tmp_path, bedrock(front, betas=[])) as road:
        await road.ask(headers=BETAS)
        assert "anthropic_beta" not in front.requests[1].json


async def test_a_newer_version_of_the_api_keeps_its_name(front: BedrockFront, tmp_path: Path) -> None:
    async with cloudy(tmp_path, bedrock(front)) as road:
        await road.ask(headers="Anthropic-Version: 2026-10-21\r\n")
        assert front.requests[0].json["anthropic_version"] == "2026-10-21"


@pytest.mark.parametrize("model", ["a/../../b", "../x", "a b", "x;y", "é", ""])
async def test_no_name_of_a_model_becomes_another_path(front: BedrockFront, model: str) -> None:
    channel = BedrockChannel("aws", front.region, base_url=front.url)
    with pytest.raises(Refusal) as refused:
        await channel.prepare(Target("aws", model, model), b"/v1/messages", [], b"{}", {"model": model})
    assert refused.value.status == 404
    await channel.close()


async def test_the_request_is_the_one_that_the_official_client_makes(front: BedrockFront, tmp_path: Path) -> None:
    body = said("Ünïcode", stop_sequences=["\n"], output_config={"effort": "low"})
    async with cloudy(tmp_path, bedrock(front)) as road:
        await road.ask(body, headers="Anthropic-Beta: interleaved-thinking-2025-05-14\r\n")
    async with anthropic.AsyncAnthropicBedrock(base_url=front.url, aws_region=front.region) as client:
        asked = {name: value for name, value in body.items() if name not in ("model", "stream")}
        stream = await client.beta.messages.create(
            **asked,
            stream=True,
            model="eu.anthropic.claude-opus-5-5",
            betas=["interleaved-thinking-2025-05-14"],
            extra_body={"anthropic_version": "bedrock-2023-05-31"},
        )
        assert [event.type async for event in stream][-1] == "message_stop"
    ours, theirs = front.requests
    assert (ours.target, ours.json) == (theirs.target, theirs.json)
    assert ours.headers["authorization"].split("/")[0] == theirs.headers["authorization"].split("/")[0]


CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n"


def sse_events() -> list[dict[str, Any]]:
    return [json.loads(e.partition(b"data: ")[2]) for e in sse_message([{"type": "text", "text": "hello"}])]


def wrapped(event: dict[str, Any]) -> bytes:
    return json.dumps({"bytes": b64encode(json.dumps(event).encode()).decode(), "p": "abc"}).encode()
