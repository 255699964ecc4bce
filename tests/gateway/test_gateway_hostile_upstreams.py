"""What an upstream sends that is broken or hostile: it costs its own answers, and neither memory nor anybody's bill."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway_fakes import (
    DEADLINE,
    SSE_HEAD,
    Seen,
    Wire,
    answers_sse,
    bench,
    chunk,
    event,
    hello,
    sse_message,
)
from test_gateway_attempts import table

from hostler.gateway import UpstreamLimits
from hostler.gateway.sse import SseFramer

TEXT = sse_message([{"type": "text", "text": "hello"}])


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n", SSE_HEAD + b"".join(map(chunk, TEXT[:1])) + b"0\r\n"], ids=["head", "trailer"]
)
async def test_a_head_of_the_upstream_without_end_breaks_the_answer_off(tmp_path: Path, start: bytes) -> None:
    async def says_headers_for_ever(seen: Seen, wire: Wire) -> None:
        wire.write(start)
        for n in range(100):
            wire.write(b"x-%d: " % n + b"a" * 60_000 + b"\r\n")
        await wire.hung_up.wait()

    async with bench(tmp_path, says_headers_for_ever) as b:
        answer = await (await b.client()).post(hello())
        assert answer.status == 502 or not answer.whole
        async with asyncio.timeout(DEADLINE):
            await b.upstream.wires[0].hung_up.wait()


@pytest.mark.parametrize("said", ["1e15", str(10**18), str(10**30), "-5", "1.5", "true", '"7"', "1e308"])
async def test_a_count_that_no_answer_can_have_is_not_believed(tmp_path: Path, said: str) -> None:
    events = sse_message([{"type": "text", "text": "hello"}])
    events[-2] = events[-2].replace(b'"output_tokens": 7', b'"output_tokens": ' + said.encode())
    async with bench(tmp_path, answers_sse(events)) as b:
        assert (await (await b.client()).post(hello())).whole
        assert b.listener.records[0].usage.output_tokens <= 1 << 40


async def test_a_connection_that_is_refused_does_not_say_where(tmp_path: Path) -> None:
    async with table(tmp_path, refused=1) as t:
        answer = await (await t.client()).post(hello())
        assert answer.status == 502
        assert "127.0.0.1" not in answer.body.decode()


def test_an_event_without_end_is_looked_at_once() -> None:
    """By what it costs: bytes that are looked at, for pieces of any size."""

    class Counting(bytes):
        looked = 0

        def __add__(self, other: bytes) -> Counting:
            Counting.looked += len(self) + len(other)
            return Counting(bytes(self) + other)

        def __radd__(self, other: bytes) -> Counting:
            Counting.looked += len(self) + len(other)
            return Counting(other + bytes(self))

    framer = SseFramer(1 << 20)
    for _ in range(1_000):
        assert framer.feed(Counting(b"a" * 1_000)) == []
    assert Counting.looked < 10 << 20
    with pytest.raises(ValueError, match="too large"):
        framer.feed(b"a" * 100_000)


async def test_what_is_kept_back_of_a_stream_has_a_limit(tmp_path: Path) -> None:
    async def pings_for_ever(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD)
        for _ in range(100):
            wire.write(chunk(event("ping", padding="a" * 1_000)))
        await wire.hung_up.wait()

    async with bench(tmp_path, pings_for_ever, upstream_limits=UpstreamLimits(answer_bytes=50_000)) as b:
        answer = await (await b.client()).post(hello())
        assert answer.status == 502
