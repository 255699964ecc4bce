"""What a program in a sandbox sends to harm others: all memory, all time, an upstream's name, or its own budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from gateway_fakes import (
    DEADLINE,
    SSE_HEAD,
    Purse,
    Seen,
    Wire,
    answers_sse,
    bench,
    chunk,
    event,
    hello,
    request_bytes,
    sse_message,
)

from hostler.gateway import UpstreamLimits

TEXT = sse_message([{"type": "text", "text": "hello"}])


@pytest.mark.parametrize(
    "hidden",
    [
        b'"tools":[{"type":"web_fetch_20250910","name":"a","type":"custom"}]',
        b'"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":50,"max_uses":1}]',
        b'"thinking":{"type":"enabled","budget_tokens":90000,"budget_tokens":1024}',
        b'"Model":"another"',
    ],
)
async def test_a_key_given_twice_further_inside_or_in_other_letters_is_400_too(tmp_path: Path, hidden: bytes) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).post(b'{"model":"m","messages":[],' + hidden + b"}")
        assert answer.status == 400
        assert "each key stands once" in answer.json["error"]["message"]
        assert not b.upstream.seen


async def test_headers_behind_a_chunked_body_have_a_limit_and_say_nothing(tmp_path: Path) -> None:
    body = json.dumps(hello()).encode()
    head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n"
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).raw(head + b"x-claude-code-agent-id: forged\r\n\r\n")
        assert answer.status == 200
        assert "x-claude-code-agent-id" not in b.upstream.seen[0].headers
        assert b.listener.records[0].thread == ""
        client = await b.client()
        client.writer.write(head)
        answer = await client.raw(b"x-a: " + b"b" * (1 << 20))
        assert answer.status == 431


async def test_a_harness_that_stops_reading_does_not_speak_against_the_upstream(tmp_path: Path) -> None:
    async def says_much(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + chunk(TEXT[0]))
        text = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a" * 100_000})
        for _ in range(40):
            wire.write(chunk(text))
        await wire.hung_up.wait()

    limits = UpstreamLimits(first_byte_seconds=0.8, silence_seconds=0.1)
    async with bench(tmp_path, says_much, upstream_limits=limits) as b:
        client = await b.client()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await b.listener.told.wait()
        [record] = b.listener.records
        assert record.status == 499


async def test_the_body_of_many_values_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).post(b'{"model":"m","messages":[' + b"[]," * 2_000_000 + b"[]]}")
        assert (answer.status, answer.json["error"]["type"]) == (413, "request_too_large")


async def test_more_output_than_any_model_writes_is_not_asked_for(tmp_path: Path) -> None:
    purse = Purse()
    async with bench(tmp_path, answers_sse(TEXT), purse=purse) as b:
        client = await b.client()
        for most in (10**7, 10**30, 10**4_000):
            answer = await client.post(hello(max_tokens=most))
            assert (answer.status, answer.json["error"]["message"][:10]) == (400, "max_tokens")
        assert not purse.asked
        assert (await client.post(hello(max_tokens=1_000_000))).status == 200
