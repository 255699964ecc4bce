"""Held calls on a real road: what the harness sees, what the upstream sees, what is announced and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gateway_fakes import (
    SSE_HEAD,
    Answer,
    Listener,
    RoadClient,
    Seen,
    Store,
    Wire,
    answers_json,
    answers_sse,
    bench,
    chunk,
    event,
    hello,
    sse_message,
)

from hostler.engine.ports import HeldCall
from hostler.gateway import close_held_text

CALLS = [{"type": "tool_use", "id": i, "name": "Bash", "input": {"command": f"écho {i}"}} for i in ("a", "b", "c")]
PARALLEL = sse_message([{"type": "text", "text": "three"}, *CALLS], stop_reason="tool_use")


def message_of(answer: Answer) -> dict[str, Any]:
    """Puts a streamed answer together as a client does; checks that its indexes are 0, 1, 2, …"""
    if answer.headers["content-type"] == "application/json":
        message: dict[str, Any] = answer.json
        return message
    assert answer.whole
    message, parts = {}, {}
    for e in answer.events:
        match e["type"]:
            case "message_start":
                message = dict(e["message"], content=[])
            case "content_block_start":
                assert e["index"] == len(message["content"])
                message["content"].append(dict(e["content_block"]))
                parts[e["index"]] = ""
            case "content_block_delta":
                parts[e["index"]] += e["delta"].get("text", "") + e["delta"].get("partial_json", "")
            case "content_block_stop":
                block = message["content"][e["index"]]
                if block["type"] == "text":
                    block["text"] = parts[e["index"]]
                else:
                    block["input"] = json.loads(parts[e["index"]])
            case "message_delta":
                message.update(e["delta"])
    assert answer.events[-1]["type"] == "message_stop"
    return message


async def turn(client: RoadClient, history: list[dict[str, Any]], *, stream: bool = True) -> dict[str, Any]:
    """One request with this history; the answer is appended to it."""
    answer = await client.post({"model": "claude-x", "stream": stream, "messages": history, "max_tokens": 9})
    assert answer.status == 200
    message = message_of(answer)
    history.append({"role": "assistant", "content": message["content"]})
    return message


def result(call_id: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": f"did {call_id}"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("restart", [True, False])
async def test_three_parallel_calls_come_one_by_one_and_go_up_as_three(
    tmp_path: Path, stream: bool, restart: bool
) -> None:
    content = [{"type": "text", "text": "three"}, *CALLS]
    whole = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 1}}
    script = answers_sse(PARALLEL) if stream else answers_json(200, whole)
    store, history = Store(), [{"role": "user", "content": "go"}]
    async with bench(tmp_path, script, one_call_at_a_time=True, store=store) as b:
        client = await b.client()
        first = await turn(client, history, stream=stream)
        assert first["content"] == content[:2]
        assert first["stop_reason"] == "tool_use"
        assert b.listener.calls == [[HeldCall(c["id"], c["name"], c["input"]) for c in CALLS[1:]]]  # type: ignore[arg-type]
        assert b.listener.order == ["record", "held"]
        for call in CALLS[1:]:
            history.append({"role": "user", "content": [result(str(history[-1]["content"][-1]["id"]))]})
            if restart:
                await client.close()
                await b.road.close()
                b.road = await b.gateway.open(
                    "sesn_1", b.socket, b.listener, one_call_at_a_time=True, sequence=store, allowed_models=None
                )
                client = await b.client()
            served = await turn(client, history, stream=stream)
            assert served["content"] == [call]
            assert served["id"].startswith("msg_hostler_held_")
            assert (served["model"], served["stop_reason"]) == ("claude-x", "tool_use")
            assert served["usage"] == {
                "input_tokens": 0,
                "output_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            }
        assert len(b.upstream.seen) == 1
        assert len(b.listener.records) == 1, "a held call is shown without asking the model"
        history.append({"role": "user", "content": [result("c")]})
        await turn(client, history, stream=stream)
        assert b.upstream.seen[1].json["messages"] == [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": [result("a"), result("b"), result("c")]},
        ]
        assert b.upstream.seen[1].json["max_tokens"] == 9


async def test_synthetic_responses_never_share_an_id(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(PARALLEL), one_call_at_a_time=True) as b:
        client = await b.client()
        history: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
        await turn(client, history)
        history.append({"role": "user", "content": [result("a")]})
        ids = {(await turn(client, list(history)))["id"] for _ in range(3)}
        assert len(ids) == 3


async def test_a_block_after_a_held_call_takes_the_free_index(tmp_path: Path) -> None:
    events = sse_message([CALLS[0], CALLS[1], {"type": "text", "text": "after"}], stop_reason="tool_use")
    async with bench(tmp_path, answers_sse(events), one_call_at_a_time=True) as b:
        message = await turn(await b.client(), [{"role": "user", "content": "go"}])
        assert message["content"] == [CALLS[0], {"type": "text", "text": "after"}]
        assert [c.tool_use_id for c in b.listener.calls[0]] == ["b"]


async def test_responses_with_one_call_or_none_cross_byte_for_byte(tmp_path: Path) -> None:
    events = sse_message([{"type": "text", "text": "x"}, CALLS[0]], stop_reason="tool_use")
    async with bench(tmp_path, answers_sse(events), one_call_at_a_time=True) as b:
        answer = await (await b.client()).post(hello())
        assert answer.body == b"".join(events)
        assert b.listener.calls == []
        assert b.store.state is None


async def test_without_one_call_at_a_time_everything_crosses(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(PARALLEL)) as b:
        assert (await (await b.client()).post(hello())).body == b"".join(PARALLEL)


async def test_requests_that_need_no_rewriting_go_up_byte_for_byte(tmp_path: Path) -> None:
    raw = b'{ "model":"claude-x",\n "stream":true, "messages": [{"role":"user","content":"\\ud83d half"}],"x":1e2}'
    async with bench(tmp_path, answers_sse(PARALLEL), one_call_at_a_time=True) as b:
        await (await b.client()).post(raw)
        assert b.upstream.seen[0].body == raw


async def test_only_the_history_is_rewritten_and_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    done = '{"role":"assistant","content":[{"type":"tool_use","id":"z","name":"n","input":{"x":"\\ud83d"}}]}'
    back = '{"type":"tool_result","tool_use_id":"z","content":"é"},{"type":"text","text":"%s"}'
    back = back.replace("%s", "Continue from where you left off.")
    history = '{ "a": 1.50, "messages" : [DONE,{"role":"user","content":[BACK]}] , "model":"claude-x"}'
    raw = history.replace("DONE", done).replace("BACK", back)
    async with bench(tmp_path, answers_json(200, {}), one_call_at_a_time=True) as b:
        await (await b.client()).post(raw.encode())
        sent = b.upstream.seen[0].body.decode()
        assert sent.startswith('{ "a": 1.50, "messages" : [{')
        assert sent.endswith('] , "model":"claude-x"}')
        assert '"\\ud83d"' in sent
        assert "Continue" not in sent


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("broken", ["store", "listener"])
async def test_calls_that_nobody_announced_are_never_shown(tmp_path: Path, stream: bool, broken: str) -> None:
    whole = {"type": "message", "content": CALLS, "stop_reason": "tool_use", "usage": {}}
    script = answers_sse(PARALLEL) if stream else answers_json(200, whole)
    listener = Listener(fail_calls=1 if broken == "listener" else 0)
    store = Store(fail=broken == "store")
    async with bench(tmp_path, script, one_call_at_a_time=True, listener=listener, store=store) as b:
        answer = await (await b.client()).post(hello(stream=stream))
        if stream:
            assert not answer.whole
            assert answer.events[-1]["type"] == "error"
            assert b"message_delta" not in answer.body
        else:
            assert answer.status == 503
        assert len(b.listener.records) == 1, "the model was asked, and that is written down"


@pytest.mark.parametrize("cut", [-1, -2, -5])
async def test_a_cut_parallel_response_announces_nothing(tmp_path: Path, cut: int) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + b"".join(chunk(e) for e in PARALLEL[:cut]) + b"0\r\n\r\n")

    async with bench(tmp_path, script, one_call_at_a_time=True) as b:
        answer = await (await b.client()).post(hello())
        assert not answer.whole
        assert b"message_delta" not in answer.body
        assert b.listener.calls == []
        assert b.store.state is None


async def test_a_held_call_cut_by_a_token_limit_is_executed_as_empty(tmp_path: Path) -> None:
    events = sse_message([CALLS[0]], stop_reason="max_tokens")
    delta = {"type": "input_json_delta", "partial_json": '{"command": "ec'}
    events[-2:-2] = [
        event("content_block_start", index=1, content_block={**CALLS[1], "input": {}, "caller": {"type": "direct"}}),
        event("content_block_delta", index=1, delta=delta),
        event("content_block_stop", index=1),
    ]
    async with bench(tmp_path, answers_sse(events), one_call_at_a_time=True) as b:
        client, history = await b.client(), [{"role": "user", "content": "go"}]
        assert (await turn(client, history))["stop_reason"] == "max_tokens"
        history.append({"role": "user", "content": [result("a")]})
        served = await turn(client, history)
        assert served["content"] == [{**CALLS[1], "input": {}, "caller": {"type": "direct"}}]


async def test_token_counting_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(PARALLEL), one_call_at_a_time=True) as b:
        client, history = await b.client(), [{"role": "user", "content": "go"}]
        await turn(client, history)
        history.append({"role": "user", "content": [result("a")]})
        before = b.store.state
        await client.post({"model": "claude-x", "messages": history}, path="/v1/messages/count_tokens")
        assert b.upstream.seen[-1].json["messages"] == history
        assert b.store.state == before


async def test_calls_that_were_closed_while_no_road_was_open_are_skipped(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(PARALLEL), one_call_at_a_time=True) as b:
        client, history = await b.client(), [{"role": "user", "content": "go"}]
        await turn(client, history)
        await client.close()
        await b.road.close()
        b.store.state = close_held_text(b.store.state, {"b": ([{"type": "text", "text": "no"}], True)})
        b.road = await b.gateway.open(
            "sesn_1", b.socket, b.listener, one_call_at_a_time=True, sequence=b.store, allowed_models=None
        )
        client = await b.client()
        history.append({"role": "user", "content": [result("a")]})
        assert (await turn(client, history))["content"] == [CALLS[2]]
        history.append({"role": "user", "content": [result("c")]})
        await turn(client, history)
        closed = {
            "type": "tool_result",
            "tool_use_id": "b",
            "content": [{"type": "text", "text": "no"}],
            "is_error": True,
        }
        assert b.upstream.seen[1].json["messages"][2]["content"] == [result("a"), closed, result("c")]
