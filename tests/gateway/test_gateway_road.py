"""The model road through real sockets: what crosses, what is refused, what is recorded."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest
from gateway_fakes import (
    DEADLINE,
    KEY,
    SSE_HEAD,
    FakeUpstream,
    Listener,
    Purse,
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
    request_bytes,
    self_signed,
    sse_message,
)

from hostler.domain.prices import Prices
from hostler.engine.budget import priced
from hostler.engine.model_port import Caller
from hostler.gateway import ClientLimits, ModelGateway, Upstream, UpstreamLimits, UsageNotRecorded, one_upstream
from hostler.store.sessions import Usage

TEXT = sse_message([{"type": "text", "text": "hello"}])


async def test_stream_crosses_unchanged_and_its_usage_is_recorded(tmp_path: Path) -> None:
    usage = {
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 9,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7},
        "server_tool_use": {"web_search_requests": 3},
    }
    events = sse_message([{"type": "text", "text": "héllo"}], usage=usage)
    async with bench(tmp_path, answers_sse(events)) as b:
        answer = await (await b.client()).post(hello())
        assert (answer.status, answer.whole, answer.body) == (200, True, b"".join(events))
        assert answer.headers["request-id"] == "req_up"
        [record] = b.listener.records
        assert record.usage == Usage(11, 7, 5, 2, 7, 3)
        assert (record.session_id, record.model, record.status) == ("sesn_1", "claude-x", 200)
        assert record.stop_reason == "end_turn"
        assert record.first_byte_ms is not None
        assert record.duration_ms >= record.first_byte_ms


async def test_whole_message_crosses_and_its_usage_is_recorded(tmp_path: Path) -> None:
    message = {
        "type": "message",
        "content": [],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    async with bench(tmp_path, answers_json(200, message)) as b:
        answer = await (await b.client()).post(hello(stream=False))
        assert answer.json == message
        assert b.listener.records[0].usage == Usage(3, 4)


async def test_the_real_key_goes_out_and_nothing_of_the_sandbox_identity_does(tmp_path: Path) -> None:
    mine = (
        "X-Api-Key: sk-ant-attacker\r\nAuthorization: Bearer attacker\r\nCookie: a=b\r\n"
        "Anthropic-Organization: other\r\nProxy-Authorization: Basic x\r\n"
        "X-Forwarded-For: 1.2.3.4\r\nConnection: keep-alive, X-App\r\nTE: trailers\r\n"
        "Accept-Encoding: gzip\r\nAnthropic-Beta: some-beta\r\nX-Stainless-Timeout: 600\r\n"
    )
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        await (await b.client()).post(hello(), headers=mine)
        [seen] = b.upstream.seen
        assert seen.line == "POST /v1/messages?beta=true HTTP/1.1"
        assert seen.headers == {
            "host": f"127.0.0.1:{b.upstream.port}",
            "x-api-key": KEY,
            "accept-encoding": "identity",
            "content-type": "application/json",
            "anthropic-beta": "some-beta",
            "x-stainless-timeout": "600",
            "content-length": str(len(seen.body)),
        }
        assert seen.json == hello()


async def test_bearer_upstream_with_a_path_prefix(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_json(200, {})) as b:
        gateway = ModelGateway(
            one_upstream(Upstream(f"http://127.0.0.1:{b.upstream.port}/anthropic/", "tok", "bearer"))
        )
        road = await gateway.open(
            "s", tmp_path / "2", b.listener, one_call_at_a_time=False, sequence=b.store, allowed_models=None
        )
        client = await RoadClient.connect(tmp_path / "2")
        await client.post(hello())
        await client.close()
        await road.close()
        await gateway.close()
        assert b.upstream.seen[0].line.startswith("POST /anthropic/v1/messages?")
        assert b.upstream.seen[0].headers["authorization"] == "Bearer tok"
        assert "x-api-key" not in b.upstream.seen[0].headers


def test_the_key_is_not_in_the_repr_of_the_upstream() -> None:
    assert KEY not in repr(Upstream("https://api.example", KEY))


async def test_token_counting_crosses_and_is_not_a_model_request(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_json(200, {"input_tokens": 12})) as b:
        answer = await (await b.client()).post(hello(), path="/v1/messages/count_tokens?beta=true")
        assert answer.json == {"input_tokens": 12}
        assert b.listener.records == []


@pytest.mark.parametrize(
    ("line", "status", "kind"),
    [
        ("POST /v1/files", 403, "permission_error"),
        ("GET /v1/messages", 403, "permission_error"),
        ("DELETE /v1/messages", 403, "permission_error"),
        ("POST /v1/messages/batches", 403, "permission_error"),
        ("POST /v1/messages/../files", 403, "permission_error"),
        ("POST /v1/messages/", 403, "permission_error"),
        ("POST /v1/messages%2f..%2ffiles", 403, "permission_error"),
        ("POST /V1/messages", 404, "not_found_error"),
        ("POST //v1/messages", 404, "not_found_error"),
        ("POST /", 404, "not_found_error"),
        ("POST http://elsewhere/v1/messages", 404, "not_found_error"),
        ("POST /v1/messages?a=b#c", 403, "permission_error"),
        ("POST /v1/messages?a=%20/../files", 403, "permission_error"),
        ("OPTIONS *", 404, "not_found_error"),
        ("CONNECT example.com:443", 404, "not_found_error"),
    ],
)
async def test_other_paths_and_methods_are_refused_for_good(tmp_path: Path, line: str, status: int, kind: str) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).raw(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert answer.status == status
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == kind
        assert answer.json["request_id"] == answer.headers["request-id"]
        assert answer.headers["x-should-retry"] == "false"
        assert b.upstream.seen == []


@pytest.mark.parametrize(
    "head",
    [
        "Host: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2",
        "Host: a\r\nContent-Length: 2\r\nContent-Length: 2",
        "Host: a\r\nContent-Length: 2\r\nContent-Length: 3",
        "Host: a\r\nContent-Length: +2",
        "Host: a\r\nContent-Length: 2, 2",
        "Host: a\r\nContent-Length: -2",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: gzip, chunked",
        "Host: a\r\nTransfer-Encoding: xchunked",
        "Host: a\r\nTransfer-Encoding : chunked",
        "Host: a\r\nHost: b\r\nContent-Length: 2",
        "Content-Length: 2",
        "Host: a\r\nX-App: one\r\n two\r\nContent-Length: 2",
        "Host: a\r\nX-App: a\nX-Api-Key: b\r\nContent-Length: 2",
        "Host: a\r\nX-App: a\rX-Api-Key: b\r\nContent-Length: 2",
        "Host: a\r\nX-App: a\0b\r\nContent-Length: 2",
        "Host: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2",
        "Host: a\r\nContent-Length: 2\r\nContent-Encoding: gzip",
    ],
)
async def test_ambiguous_requests_never_reach_the_upstream(tmp_path: Path, head: str) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        client = await b.client()
        answer = await client.raw(f"POST /v1/messages HTTP/1.1\r\n{head}\r\n\r\n{{}}".encode())
        assert answer.status in (400, 415)
        assert answer.headers["connection"] == "close"
        assert b.upstream.seen == []


@pytest.mark.parametrize(
    "preface", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n"]
)
async def test_other_protocols_are_refused(tmp_path: Path, preface: bytes) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        assert (await (await b.client()).raw(preface)).status == 400


async def test_http_1_0_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).raw(b"POST /v1/messages HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        assert answer.status == 400


async def test_pipelined_requests_end_the_connection(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).raw(request_bytes(hello()) * 2)
        assert answer.status == 400
        assert b.upstream.seen == []


async def test_a_connection_serves_many_requests_and_so_does_its_upstream(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        client = await b.client()
        for _ in range(5):
            assert (await client.post(hello())).whole
        assert len(b.upstream.seen) == 5
        assert len(b.upstream.wires) == 1


async def test_chunked_request_bodies_are_taken(tmp_path: Path) -> None:
    raw = json.dumps(hello()).encode()
    body = chunk(raw[:10]) + chunk(raw[10:]) + b"0\r\n\r\n"
    head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        assert (await (await b.client()).raw(head + body)).status == 200
        assert b.upstream.seen[0].body == raw


@pytest.mark.parametrize("how", ["length", "chunked"])
async def test_a_body_beyond_the_limit_is_413(tmp_path: Path, how: str) -> None:
    async with bench(tmp_path, answers_sse(TEXT), client_limits=ClientLimits(body_bytes=1000)) as b:
        client = await b.client()
        if how == "length":
            answer = await client.post(b"x" * 1001)
        else:
            head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await client.raw(head + chunk(b"x" * 600) * 2)
        assert answer.status == 413
        assert answer.json["error"]["type"] == "request_too_large"


async def test_a_head_without_end_is_431(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        answer = await (await b.client()).raw(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000)
        assert answer.status == 431


async def test_a_client_that_trickles_is_dropped(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT), client_limits=ClientLimits(head_seconds=0.05)) as b:
        client = await b.client()
        client.writer.write(b"POST /v1/mess")
        async with asyncio.timeout(DEADLINE):
            assert await client.reader.read() == b""


async def test_connections_and_buffered_bytes_of_a_session_are_bounded(tmp_path: Path) -> None:
    limits = ClientLimits(connections=2, buffered_bytes=1500)
    async with bench(tmp_path, answers_sse(TEXT), client_limits=limits) as b:
        one, two = await b.client(), await b.client()
        one.writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1100\r\n\r\n" + b"x" * 1000)
        await one.writer.drain()
        assert (await two.post(b"x" * 1000)).status == 429
        three = await b.client()
        async with asyncio.timeout(DEADLINE):
            assert await three.reader.read() == b""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model":',
        b'{"model":1}',
        b'{"messages":[]}',
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"cheap","mo\\u0064el":"dear"}',
        b'{"model":"cheap"} {}',
        b'{"model":"cheap","x":NaN}',
        b'{"model":"\xff"}',
        b'{"model":"cheap","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_bodies_that_two_readers_could_take_differently_are_400(tmp_path: Path, body: bytes) -> None:
    async with bench(tmp_path, answers_sse(TEXT), allowed_models=frozenset({"cheap"})) as b:
        answer = await (await b.client()).post(body)
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
        assert b.upstream.seen == []


async def test_models_outside_the_list_and_the_api_s_own_mcp_are_403(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT), allowed_models=frozenset({"claude-x"})) as b:
        client = await b.client()
        assert (await client.post(hello(model="claude-y"))).status == 403
        assert (await client.post(hello(mcp_servers=[{"url": "https://evil.example"}]))).status == 403
        # Some upstreams make no difference between small letters and large ones.
        assert (await client.post(hello(Mcp_Servers=[{"url": "https://evil.example"}]))).status == 403
        assert (await client.post(hello(TOOLS=[{"Type": "Web_Fetch_20250910"}]))).status == 403
        assert (await client.post(hello(model="claude-y"), path="/v1/messages/count_tokens")).status == 403
        assert b.upstream.seen == []
        assert (await client.post(hello())).status == 200


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_errors_of_the_upstream_pass_with_their_retry_headers(tmp_path: Path, status: int) -> None:
    body = {"type": "error", "error": {"type": "some_error", "message": "m"}}
    more = "retry-after: 7\r\nretry-after-ms: 7000\r\nrequest-id: req_9\r\nx-should-retry: true\r\nset-cookie: a=b\r\n"
    async with bench(tmp_path, answers_json(status, body, more)) as b:
        answer = await (await b.client()).post(hello())
        assert (answer.status, answer.json) == (status, body)
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["retry-after-ms"] == "7000"
        assert answer.headers["request-id"] == "req_9"
        assert "set-cookie" not in answer.headers
        assert (b.listener.records[0].status, b.listener.records[0].usage) == (status, Usage())


async def test_an_unreachable_upstream_is_502_and_the_harness_need_not_ask_again(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        gateway = ModelGateway(one_upstream(Upstream("http://127.0.0.1:1", KEY)))
        await gateway.open(
            "s", tmp_path / "2", b.listener, one_call_at_a_time=False, sequence=b.store, allowed_models=None
        )
        client = await RoadClient.connect(tmp_path / "2")
        answer = await client.post(hello())
        await client.close()
        await gateway.close()
        assert (answer.status, answer.json["error"]["type"]) == (502, "api_error")
        assert answer.headers["x-should-retry"] == "false"  # whatever could be tried has been
        assert b.listener.records[0].status == 0


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_is_verified(tmp_path: Path, trusted: bool) -> None:
    tls, certificate = self_signed(tmp_path)
    async with FakeUpstream(answers_sse(TEXT), tls=tls).running() as fake:
        upstream = Upstream(f"https://127.0.0.1:{fake.port}", KEY, ca_file=str(certificate) if trusted else None)
        gateway = ModelGateway(one_upstream(upstream))
        await gateway.open(
            "s", tmp_path / "2", Listener(), one_call_at_a_time=False, sequence=Store(), allowed_models=None
        )
        client = await RoadClient.connect(tmp_path / "2")
        answers = [await client.post(hello()) for _ in range(2)]
        await client.close()
        await gateway.close()
    assert [answer.status for answer in answers] == ([200, 200] if trusted else [502, 502])
    assert len(fake.seen) == (2 if trusted else 0)


async def test_deltas_cross_at_once_and_the_end_waits_for_the_record(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + chunk(b"".join(TEXT[:3])))
        await go.wait()
        wire.write(chunk(b"".join(TEXT[3:])) + b"0\r\n\r\n")

    async with bench(tmp_path, script) as b:
        client = await b.client()
        client.writer.write(request_bytes(hello()))
        assert (await client.head())[0] == 200
        assert await client.piece() == b"".join(TEXT[:3])
        assert b.listener.records == []
        go.set()
        assert await client.piece() == b"".join(TEXT[3:-1])
        assert await client.piece() == TEXT[-1]
        assert len(b.listener.records) == 1
        assert await client.piece() == b""


async def test_events_cut_anywhere_by_the_network_arrive_whole(tmp_path: Path) -> None:
    stream = b"".join(TEXT)
    turn = asyncio.Event()

    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD)
        for at in range(0, len(stream), 7):
            wire.write(chunk(stream[at : at + 7]))
            await asyncio.sleep(0)
        wire.write(b"0\r\n\r\n")
        turn.set()

    async with bench(tmp_path, script) as b:
        answer = await (await b.client()).post(hello())
        assert answer.body == stream
        assert b.listener.records[0].usage == Usage(11, 7)


async def test_crlf_streams_and_comments_cross(tmp_path: Path) -> None:
    events = [b": ping\r\n\r\n", *(e.replace(b"\n", b"\r\n") for e in TEXT)]
    async with bench(tmp_path, answers_sse(events)) as b:
        answer = await (await b.client()).post(hello())
        assert answer.body == b"".join(events)
        assert b.listener.records[0].usage == Usage(11, 7)


async def test_a_hang_up_aborts_the_upstream_at_once_and_is_recorded(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + chunk(b"".join(TEXT[:2])))

    async with bench(tmp_path, script) as b:
        client = await b.client()
        client.writer.write(request_bytes(hello()))
        await client.head()
        await client.piece()
        await client.close()
        async with asyncio.timeout(DEADLINE):
            await b.upstream.wires[0].hung_up.wait()
            await b.listener.told.wait()
        [record] = b.listener.records
        assert (record.status, record.stop_reason) == (499, None)
        assert record.usage == Usage(11, 1)


async def test_a_hang_up_before_the_first_byte_aborts_too(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        return

    async with bench(tmp_path, script) as b:
        client = await b.client()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await b.upstream.asked.wait()
            await client.close()
            await b.upstream.wires[0].hung_up.wait()
            await b.listener.told.wait()
        assert b.listener.records[0].status == 499
        assert b.listener.records[0].first_byte_ms is None


async def test_a_request_that_may_not_be_made_never_goes_out_and_is_not_answered(tmp_path: Path) -> None:
    """The listener stops the run that made it; an answer would become part of the conversation."""
    purse = Purse(empty=True)
    async with bench(tmp_path, answers_json(200, {"input_tokens": 12}), purse=purse) as b:
        held = await b.client()
        held.writer.write(request_bytes(hello()))
        # Counting tokens costs nothing, and what comes later on another connection is answered meanwhile.
        counted = await (await b.client()).post(hello(), path="/v1/messages/count_tokens?beta=true")
        assert counted.json == {"input_tokens": 12}
        await held.close()
        purse.empty = False
        await (await b.client()).post(hello(stream=False))
        assert [seen.line.split()[1].split("?")[0] for seen in b.upstream.seen] == [
            "/v1/messages/count_tokens",
            "/v1/messages",
        ]
        assert len(b.listener.records) == 1


async def test_a_cut_stream_is_cut_for_the_client_and_recorded(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + chunk(b"".join(TEXT[:3])))
        wire.transport.close()

    async with bench(tmp_path, script) as b:
        answer = await (await b.client()).post(hello())
        assert (answer.status, answer.whole, answer.body) == (200, False, b"".join(TEXT[:3]))
        assert (b.listener.records[0].status, b.listener.records[0].usage) == (200, Usage(11, 1))


@pytest.mark.parametrize("said", [b"", SSE_HEAD + chunk(TEXT[0])])
async def test_a_silent_upstream_has_a_deadline(tmp_path: Path, said: bytes) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(said)

    limits = UpstreamLimits(first_byte_seconds=0.05, silence_seconds=0.05)
    async with bench(tmp_path, script, upstream_limits=limits) as b:
        answer = await (await b.client()).post(hello())
        assert answer.status == 502 or (said and not answer.whole)
        assert len(b.listener.records) == 1


async def test_an_idle_connection_that_the_upstream_closed_is_replaced(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        client = await b.client()
        await client.post(hello())

        async def dies(seen: Seen, wire: Wire) -> None:
            b.upstream.script = answers_sse(TEXT)
            wire.transport.abort()

        b.upstream.script = dies
        assert (await client.post(hello())).whole
        assert len(b.upstream.wires) == 2
        assert len(b.listener.records) == 2


async def test_bytes_that_nobody_asked_for_never_become_an_answer(tmp_path: Path) -> None:
    poison = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 6\r\n\r\npoison"

    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + b"".join(chunk(e) for e in TEXT) + b"0\r\n\r\n" + poison)

    async with bench(tmp_path, script) as b:
        client = await b.client()
        for _ in range(3):
            assert (await client.post(hello())).body == b"".join(TEXT)
        assert len(b.upstream.wires) == 3


async def test_a_compressed_answer_is_refused_since_its_usage_is_unreadable(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_json(200, {}, "content-encoding: gzip\r\n")) as b:
        assert (await (await b.client()).post(hello())).status == 502


async def test_a_response_whose_usage_is_not_recorded_ends_in_an_error(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT), listener=Listener(fail_records=2)) as b:
        answer = await (await b.client()).post(hello())
        assert not answer.whole
        assert answer.events[-1]["type"] == "error"
        assert TEXT[-1] not in answer.body
        second = await (await b.client()).post(hello())
        assert second.status == 503
        assert len(b.upstream.seen) == 1, "no model request while the cost of an earlier one isn't written down"
        third = await (await b.client()).post(hello())
        assert third.whole
        assert len(b.listener.records) == 2, "the first one's record was not lost"


async def test_a_whole_message_whose_usage_is_not_recorded_is_503(tmp_path: Path) -> None:
    message = {"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 4}}
    async with bench(tmp_path, answers_json(200, message), listener=Listener(fail_records=1)) as b:
        assert (await (await b.client()).post(hello(stream=False))).status == 503


async def test_closing_hands_back_the_records_that_nobody_took(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT), listener=Listener(fail_records=9)) as b:
        await (await b.client()).post(hello())
        with pytest.raises(UsageNotRecorded) as caught:
            await b.road.close()
        assert caught.value.records[0].usage == Usage(11, 7)


async def test_closing_a_road_ends_what_is_under_way_and_still_records_it(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + chunk(TEXT[0]))

    async with bench(tmp_path, script) as b:
        client = await b.client()
        client.writer.write(request_bytes(hello()))
        await client.head()
        await b.road.close()
        await b.road.close()
        assert b.listener.records[0].status == 499
        assert not b.socket.exists()
        with pytest.raises(OSError):
            await RoadClient.connect(b.socket)


async def test_a_left_over_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        assert stat.S_IMODE(os.stat(b.socket).st_mode) == 0o666
        (tmp_path / "file").write_text("mine")
        with pytest.raises(FileExistsError):
            await b.gateway.open(
                "s", tmp_path / "file", b.listener, one_call_at_a_time=False, sequence=b.store, allowed_models=None
            )
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("of", ["this answer", "the one before"])
async def test_a_slow_reader_slows_the_upstream_down(tmp_path: Path, of: str) -> None:
    """Of the one before: what a client has not read of one answer it still has to read when the next one begins."""
    large = {"id": "m", "type": "message", "content": [{"type": "text", "text": "y" * 3_000_000}], "usage": {}}
    piece = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 60_000})
    pieces = 400

    async def script(seen: Seen, wire: Wire) -> None:
        if not seen.json["stream"]:
            await answers_json(200, large)(seen, wire)
            return
        wire.transport.set_write_buffer_limits(high=1)
        wire.write(SSE_HEAD + chunk(TEXT[0]))
        for _ in range(pieces):
            wire.write(chunk(piece))
        wire.write(b"0\r\n\r\n")

    async with bench(tmp_path, script) as b:
        client = await b.client()
        if of == "the one before":
            client.writer.write(request_bytes(hello(stream=False)))
            _, before = await client.head()
            b.upstream.asked.clear()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await b.upstream.asked.wait()
        if of == "this answer":
            await client.head()
        for _ in range(2000):
            await asyncio.sleep(0)  # Turns of the loop, so that everything that can move has moved.
        assert b.upstream.wires[-1].transport.get_write_buffer_size() > 5_000_000
        if of == "the one before":
            await client.reader.readexactly(int(before["content-length"]))
            await client.head()
        received = 0
        while part := await client.piece():
            received += len(part)
        assert received == len(TEXT[0]) + pieces * len(piece)


async def test_who_asks_is_told_by_the_socket_and_by_nothing_that_is_sent(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_sse(TEXT)) as b:
        other = Listener(caller=Caller("sesn_2"))
        await b.gateway.open(
            "sesn_2", tmp_path / "2", other, one_call_at_a_time=False, sequence=b.store, allowed_models=frozenset({"m"})
        )
        second = await RoadClient.connect(tmp_path / "2")
        lie = hello(metadata={"user_id": '{"session_id": "sesn_1"}'})
        refused = await second.post(lie, headers="X-Claude-Code-Session-Id: sesn_1\r\n")
        assert refused.status == 403, "the other session's list of models is not this one's"
        await second.post({**lie, "model": "m"}, headers="X-Claude-Code-Session-Id: sesn_1\r\n")
        await second.close()
        assert [r.session_id for r in other.records] == ["sesn_2"]
        assert b.listener.records == []


@pytest.mark.parametrize(("speed", "unpriced"), [("standard", 0), (None, 0), ("fast", 1)])
async def test_a_speed_that_has_no_price_is_recorded_as_unpriced(
    tmp_path: Path, speed: str | None, unpriced: int
) -> None:
    events = sse_message([{"type": "text", "text": "Hi"}], usage={"speed": speed})
    async with bench(tmp_path, answers_sse(events)) as b:
        client = await b.client()
        await client.post(hello())
        used = b.listener.records[0].usage
        assert used == Usage(11, 7, unpriced_requests=unpriced)
        assert bool(priced(Prices(), "claude-opus-5-5", used).list_cost_nanos) is not bool(unpriced)
