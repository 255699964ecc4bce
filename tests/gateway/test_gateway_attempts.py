"""Failures of upstreams through real sockets: what the harness sees of them, who is asked, and what is written down."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from gateway_fakes import (
    DEADLINE,
    KEY,
    SSE_HEAD,
    FakeUpstream,
    Listener,
    RoadClient,
    Script,
    Seen,
    Store,
    Wire,
    answers_json,
    answers_sse,
    chunk,
    event,
    hello,
    request_bytes,
    sse_message,
)

from hostler.engine.model_port import Asked, Choice, Count, Grant, OnWait, Target, Throttled
from hostler.gateway import Backoff, BreakerTerms, Desk, Entry, MessagesChannel, ModelGateway, Patience, Roster
from hostler.gateway.desk import NoLimits
from hostler.gateway.http1 import Request
from hostler.gateway.upstream import Upstream
from hostler.gateway.usage import UsageTap
from hostler.store.sessions import Usage

TEXT = sse_message([{"type": "text", "text": "hello"}])
QUICK = Patience(
    retries=3,
    total_seconds=20.0,
    first_event_seconds=10.0,
    backoff=Backoff(base_seconds=0.002, longest_seconds=0.01),
    breaker=BreakerTerms(failures=50, least=1000),
)
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def then(*scripts: Script) -> Script:
    """The first for the first request, and so on; the last one for the rest."""
    left = list(scripts)

    async def script(seen: Seen, wire: Wire) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(seen, wire)

    return script


def says(*data: bytes, end: bytes = b"0\r\n\r\n") -> Script:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + b"".join(map(chunk, data)) + end)
        if not end:
            wire.transport.close()

    return script


async def resets(seen: Seen, wire: Wire) -> None:
    wire.transport.abort()


async def hangs(seen: Seen, wire: Wire) -> None:
    await wire.hung_up.wait()


async def begins_and_hangs(seen: Seen, wire: Wire) -> None:
    wire.write(SSE_HEAD + chunk(event("ping")))
    await wire.hung_up.wait()


async def is_a_web_page(seen: Seen, wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<h1>hi!</")


BEFORE_THE_FIRST_EVENT: Mapping[str, tuple[Script, int]] = {
    "429 with retry-after": (answers_json(429, ERROR, "retry-after: 0.01\r\n"), 429),
    "429": (answers_json(429, ERROR), 429),
    "529": (answers_json(529, ERROR), 529),
    "500": (answers_json(500, ERROR), 500),
    "408": (answers_json(408, ERROR), 408),
    "reset": (resets, 0),
    "hang": (hangs, 0),
    "hang after a ping": (begins_and_hangs, 200),
    "error event": (says(event("error", error=ERROR["error"])), 529),
    "error event after a ping": (says(event("ping"), event("error", error={"type": "api_error", "message": "m"})), 500),
    "error in a 200": (answers_json(200, ERROR), 529),
    "web page": (is_a_web_page, 200),
    "garbage": (says(b"event: content_block_delta\ndata: {\xff\xfe\n\n"), 200),
    "empty stream": (says(), 200),
    "cut before the first event": (says(TEXT[0][:40], end=b""), 200),
}
"""With the status that is written down."""


@dataclass
class Router:
    models: tuple[str, ...]

    async def choose(self, asked: Asked) -> Choice:
        return Choice(self.models or (asked.model,))


@dataclass
class Purse:
    """Implements `Purse`; sets the same aside each time, and keeps what is given back."""

    counts: bool = False
    counted: list[int | None] = field(default_factory=list)
    released: list[Grant] = field(default_factory=list)

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: asyncio.Event) -> Grant:
        if self.counts:
            self.counted.append(await count(models[0]))
        return Grant("grant_1", 1000)

    async def release(self, grant: Grant) -> None:
        self.released.append(grant)


@dataclass
class RoomFor(NoLimits):
    """So many attempts have room."""

    attempts: int = 99

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        self.attempts -= 1
        if self.attempts < 0:
            raise Throttled("The limit of tokens is reached.", 9.0)


class NeverRoom(NoLimits):
    """Lets nobody through, and knows who queues."""

    def __init__(self) -> None:
        self.queued = asyncio.Event()
        self.gone = asyncio.Event()
        self.over = asyncio.Event()

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        self.queued.set()
        await self.gone.wait()
        self.over.set()

    def left(self, asked: Asked) -> None:
        self.gone.set()


class Books(NoLimits):
    """Books what is answered, if room was taken for it."""

    def __init__(self) -> None:
        self.taken = False
        self.booked: list[bool] = []

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        self.taken = True

    def answered(self, *what: object, **more: object) -> None:
        self.booked.append(self.taken)
        self.taken = False

    def left(self, asked: Asked) -> None:
        self.taken = False


@dataclass
class Table:
    upstreams: dict[str, FakeUpstream]
    roster: Roster
    listener: Listener
    purse: Purse
    gateway: ModelGateway
    socket: Path
    stack: AsyncExitStack

    async def client(self) -> RoadClient:
        client = await RoadClient.connect(self.socket)
        self.stack.push_async_callback(client.close)
        return client

    def asked(self) -> dict[str, int]:
        return {name: len(upstream.seen) for name, upstream in self.upstreams.items()}

    def settled(self) -> None:
        """What was set aside is settled once, with the last record, or given back."""
        last = [record for record in self.listener.records if record.last]
        assert len(last) + len(self.purse.released) == 1
        assert all(record.grant.id == "grant_1" for record in self.listener.records)


@asynccontextmanager
async def table(
    tmp_path: Path,
    *scripts: Script,
    patience: Patience = QUICK,
    models: tuple[str, ...] = (),
    room: int | NoLimits = 99,
    refused: int = 0,
) -> AsyncIterator[Table]:
    """Upstreams `u0`, `u1`, … in this order. `refused`: so many upstreams before them that nobody listens at."""
    async with AsyncExitStack() as stack:
        names = [f"u{n}" for n in range(len(scripts))]
        upstreams = {
            name: await stack.enter_async_context(FakeUpstream(script).running())
            for name, script in zip(names, scripts, strict=True)
        }
        addresses = {f"gone{n}": "http://127.0.0.1:1" for n in range(refused)}
        addresses |= {name: f"http://127.0.0.1:{upstream.port}" for name, upstream in upstreams.items()}
        entries = [Entry(name, order) for order, name in enumerate(addresses)]
        roster = Roster(entries, asyncio.get_running_loop().time, patience, chance=lambda: 0.5)
        purse, listener = Purse(), Listener()
        throttle = room if isinstance(room, NoLimits) else RoomFor(room)
        channels = {name: MessagesChannel(Upstream(address, KEY)) for name, address in addresses.items()}
        gateway = ModelGateway(Desk(channels, roster, Router(models), purse=purse, throttle=throttle))
        stack.push_async_callback(gateway.close)
        socket = tmp_path / "model.sock"
        await gateway.open("sesn_1", socket, listener, one_call_at_a_time=False, sequence=Store(), allowed_models=None)
        yield Table(upstreams, roster, listener, purse, gateway, socket, stack)


@pytest.mark.parametrize("kind", BEFORE_THE_FIRST_EVENT)
async def test_nothing_of_a_failure_before_the_first_event_is_seen_and_the_next_attempt_answers(
    tmp_path: Path, kind: str
) -> None:
    script, status = BEFORE_THE_FIRST_EVENT[kind]
    patience = replace(QUICK, first_event_seconds=1.0) if "hang" in kind else QUICK
    async with table(tmp_path, then(script, answers_sse(TEXT)), patience=patience) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.whole, answer.body) == (200, True, b"".join(TEXT))
        first, second = t.listener.records
        assert (first.status, first.last, first.attempt, first.usage) == (status, False, 1, Usage())
        assert (second.status, second.last, second.attempt, second.complete) == (200, True, 2, True)
        assert first.request_id == second.request_id
        assert t.listener.order == ["waiting", "record", "going on", "record"]
        assert t.listener.waits[0].status == status
        t.settled()


@pytest.mark.parametrize("kind", BEFORE_THE_FIRST_EVENT)
async def test_another_upstream_answers_without_a_pause(tmp_path: Path, kind: str) -> None:
    script, _ = BEFORE_THE_FIRST_EVENT[kind]
    patience = replace(QUICK, first_event_seconds=1.0) if "hang" in kind else QUICK
    async with table(tmp_path, script, answers_sse(TEXT), patience=patience) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.body) == (200, b"".join(TEXT))
        assert t.asked() == {"u0": 1, "u1": 1}
        assert t.listener.waits == []
        second = t.listener.records[1]
        assert second.upstream == "u1"
        assert second.why.startswith("after claude-x at u0: ")
        t.settled()


async def test_a_refused_connection_is_one_failure_of_many(tmp_path: Path) -> None:
    async with table(tmp_path, answers_sse(TEXT), refused=2) as t:
        assert (await (await t.client()).post(hello())).status == 200
        assert [(r.upstream, r.status, r.complete) for r in t.listener.records] == [
            ("gone0", 0, True),
            ("gone1", 0, True),
            ("u0", 200, True),
        ]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_fallback_model_answers_and_is_written_down_as_such(tmp_path: Path, stream: bool) -> None:
    good = answers_sse(TEXT) if stream else answers_json(200, {"type": "message", "content": []})
    bad = answers_json(529, ERROR)
    async with table(tmp_path, then(bad, bad, good), models=("claude-x", "claude-small")) as t:
        assert (await (await t.client()).post(hello(stream=stream))).status == 200
        assert [seen.json["model"] for seen in t.upstreams["u0"].seen] == ["claude-x", "claude-x", "claude-small"]
        last = t.listener.records[-1]
        assert (last.requested_model, last.model, last.attempt) == ("claude-x", "claude-small", 3)
        assert last.why == "after claude-x at u0: status 529"
        t.settled()


async def test_a_whole_answer_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    async def cut(seen: Seen, wire: Wire) -> None:
        wire.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"type": "me')
        wire.transport.close()

    whole = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    async with table(tmp_path, then(cut, answers_json(200, whole))) as t:
        answer = await (await t.client()).post(hello(stream=False))
        assert answer.json["type"] == "message"
        assert [(r.status, r.complete, r.last) for r in t.listener.records] == [(200, False, False), (200, True, True)]
        t.settled()


# ------------------------------------------------------------------------------------------------- what is not retried


async def test_an_answer_that_breaks_off_in_the_middle_is_the_harness_own_matter(tmp_path: Path) -> None:
    async with table(tmp_path, says(*TEXT[:3], end=b""), answers_sse(TEXT)) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.whole, answer.body) == (200, False, b"".join(TEXT[:3]))
        assert t.asked() == {"u0": 1, "u1": 0}
        [record] = t.listener.records
        assert (record.complete, record.last) == (False, True)
        t.settled()


async def test_an_error_event_in_the_middle_crosses_as_it_is(tmp_path: Path) -> None:
    broken = [*TEXT[:3], event("error", error=ERROR["error"])]
    async with table(tmp_path, says(*broken), answers_sse(TEXT)) as t:
        answer = await (await t.client()).post(hello())
        assert answer.body == b"".join(broken)
        assert t.asked() == {"u0": 1, "u1": 0}
        t.settled()


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_what_is_the_requests_fault_crosses_with_its_headers(tmp_path: Path, status: int) -> None:
    async with table(tmp_path, answers_json(status, ERROR, "x-should-retry: false\r\n"), answers_sse(TEXT)) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.json) == (status, ERROR)
        assert t.asked() == {"u0": 1, "u1": 0}
        t.settled()


# -------------------------------------------------------------------------------------------------- when all has failed


@pytest.mark.parametrize("kind", ["429", "529", "500", "reset", "error event", "garbage"])
async def test_the_harness_is_told_not_to_repeat_what_was_given_up(tmp_path: Path, kind: str) -> None:
    script, status = BEFORE_THE_FIRST_EVENT[kind]
    async with table(tmp_path, script) as t:
        answer = await (await t.client()).post(hello())
        assert answer.status == (status if status >= 400 else 502)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["content-type"] == "application/json"
        assert answer.json["type"] == "error"
        tries = len(t.listener.records)
        assert tries == 4
        if status < 400:
            assert "asked 4 times" in answer.json["error"]["message"]
        assert [r.last for r in t.listener.records] == [False] * (tries - 1) + [True]
        assert "going on" not in t.listener.order, "the end of the turn says it"
        t.settled()


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_of_all_upstreams_are_the_answer(tmp_path: Path, status: int) -> None:
    async with table(tmp_path, answers_json(status, ERROR), answers_json(status, ERROR)) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.headers["x-should-retry"]) == (status, "false")
        assert t.asked() == {"u0": 1, "u1": 1}
        t.settled()


async def test_a_model_that_no_upstream_has_is_said_so_and_nothing_is_kept_aside(tmp_path: Path) -> None:
    async with table(tmp_path) as t:
        answer = await (await t.client()).post(hello())
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        assert "claude-x" in answer.json["error"]["message"]
        t.settled()


@pytest.mark.parametrize("room", [0, 1])
async def test_no_room_before_or_between_attempts_settles_what_was_set_aside(tmp_path: Path, room: int) -> None:
    async with table(tmp_path, answers_json(529, ERROR), room=room) as t:
        answer = await (await t.client()).post(hello())
        assert answer.status == (529 if room else 429)
        t.settled()


@pytest.mark.parametrize("kind", BEFORE_THE_FIRST_EVENT)
async def test_every_attempt_has_its_room_in_the_limits(tmp_path: Path, kind: str) -> None:
    script, _ = BEFORE_THE_FIRST_EVENT[kind]
    patience = replace(QUICK, retries=30, first_event_seconds=1.0 if "hang" in kind else 10.0)
    books = Books()
    async with table(tmp_path, then(script, answers_sse(TEXT)), patience=patience, room=books, refused=1) as t:
        assert (await (await t.client()).post(hello())).status == 200
    assert books.booked == [True, True], "whom nobody could connect to has used nothing"


async def test_how_counting_ends_says_nothing_of_messages(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        refused = answers_json(429, ERROR, "retry-after: 50\r\n")
        await (refused if "count_tokens" in seen.line else answers_sse(TEXT))(seen, wire)

    books = Books()
    async with table(tmp_path, script, room=books) as t:
        client = await t.client()
        assert (await client.post(hello(), path="/v1/messages/count_tokens")).status == 429
        assert books.booked == []
        assert (await client.post(hello())).status == 200
        assert t.listener.order == ["record"]
        assert t.listener.records[0].waited_ms < 1000
    assert books.booked == [True]


async def test_a_message_that_is_none_is_asked_for_again(tmp_path: Path) -> None:
    wrong = {"type": "message", "content": 5, "stop_reason": "end_turn", "usage": {"input_tokens": 3}}
    right = {**wrong, "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}}
    async with table(tmp_path, then(answers_json(200, wrong), answers_json(200, right))) as t:
        answer = await (await t.client()).post(hello(stream=False))
        assert (answer.status, json.loads(answer.body)) == (200, right)
        t.settled()


@pytest.mark.parametrize("parts", [{}, {"cache_creation": {}}, {"cache_creation": None}])
def test_what_more_was_written_to_the_cache_counts_though_its_parts_are_not_said(parts: dict[str, object]) -> None:
    tap = UsageTap()
    written = {"ephemeral_5m_input_tokens": 600, "ephemeral_1h_input_tokens": 400}
    begun = {"usage": {"cache_creation_input_tokens": 1000, "cache_creation": written}}
    tap.observe_event(b"message_start", json.dumps({"message": begun}).encode())
    same = {"usage": {"cache_creation_input_tokens": 1000, "output_tokens": 1, **parts}}
    tap.observe_event(b"message_delta", json.dumps(same).encode())
    assert (tap.usage.cache_creation_5m_input_tokens, tap.usage.cache_creation_1h_input_tokens) == (600, 400)
    more = {"usage": {"cache_creation_input_tokens": 30_000, "output_tokens": 9, **parts}}
    tap.observe_event(b"message_delta", json.dumps(more).encode())
    assert (tap.usage.cache_creation_5m_input_tokens, tap.usage.cache_creation_1h_input_tokens) == (29_600, 400)


async def test_counting_tokens_waits_for_nobody(tmp_path: Path) -> None:
    async with table(tmp_path, then(answers_json(529, ERROR, "retry-after: 50\r\n"), answers_sse(TEXT))) as t:
        answer = await (await t.client()).post(hello(), path="/v1/messages/count_tokens")
        assert (answer.status, answer.headers["x-should-retry"]) == (529, "false")
        assert t.listener.order == []


@pytest.mark.parametrize("refused", [0, 1, 2])
async def test_a_prompt_is_counted_where_somebody_can_be_connected_to(tmp_path: Path, refused: int) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        counting = "count_tokens" in seen.line
        await (answers_json(200, {"input_tokens": 321}) if counting else answers_sse(TEXT))(seen, wire)

    async with table(tmp_path, script, refused=refused) as t:
        t.purse.counts = True
        assert (await (await t.client()).post(hello())).status == 200
        assert t.purse.counted == [321]


async def test_nobody_counts_where_nobody_can_be_connected_to(tmp_path: Path) -> None:
    async with table(tmp_path, refused=2) as t:
        t.purse.counts = True
        assert (await (await t.client()).post(hello())).status >= 500
        assert t.purse.counted == [None]


# ------------------------------------------------------------------------------------------------- while it waits


async def test_a_hang_up_while_a_request_waits_ends_all_of_it(tmp_path: Path) -> None:
    async with table(tmp_path, answers_json(429, ERROR, "retry-after: 9\r\n")) as t:
        client = await t.client()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await t.listener.waited.wait()
            await client.close()
            await t.listener.told.wait()
        [record] = t.listener.records
        assert (record.status, record.last) == (429, True)
        assert t.asked() == {"u0": 1}
        assert "going on" not in t.listener.order
        t.settled()


async def test_a_hang_up_while_a_request_queues_for_room_ends_all_of_it(tmp_path: Path) -> None:
    room = NeverRoom()
    async with table(tmp_path, answers_sse(TEXT), room=room) as t:
        client = await t.client()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await room.queued.wait()
            await client.close()
            await room.over.wait()
            await t.gateway.close()
        assert t.asked() == {"u0": 0}
        assert t.listener.records == []
        t.settled()


async def test_closing_the_road_while_a_request_waits_ends_all_of_it(tmp_path: Path) -> None:
    async with table(tmp_path, answers_json(429, ERROR, "retry-after: 9\r\n")) as t:
        client = await t.client()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await t.listener.waited.wait()
            await t.gateway.close()
        assert [(r.status, r.last) for r in t.listener.records] == [(429, True)]
        t.settled()


async def test_a_hang_up_while_the_trial_of_a_breaker_runs_leaves_it_to_the_next(tmp_path: Path) -> None:
    terms = BreakerTerms(failures=1, open_seconds=0.01)
    patience = replace(QUICK, retries=0, breaker=terms)
    async with table(tmp_path, then(answers_json(500, ERROR), hangs, answers_sse(TEXT)), patience=patience) as t:
        assert (await (await t.client()).post(hello())).status == 500
        client = await t.client()
        t.upstreams["u0"].asked.clear()
        t.listener.told.clear()
        client.writer.write(request_bytes(hello()))
        async with asyncio.timeout(DEADLINE):
            await t.upstreams["u0"].asked.wait()
            await client.close()
            await t.listener.told.wait()
        assert (await (await t.client()).post(hello())).status == 200
        assert t.roster.health()[0].troubles == ()


async def test_a_request_of_a_sub_agent_that_fails_lets_the_session_go_on(tmp_path: Path) -> None:
    async with table(tmp_path, answers_json(529, ERROR)) as t:
        await (await t.client()).post(hello(), headers="x-claude-code-agent-id: a1\r\n")
        assert t.listener.order[-2:] == ["going on", "record"]


async def test_an_attempt_that_cannot_be_written_down_is_written_before_the_last_one(tmp_path: Path) -> None:
    async with table(tmp_path, then(answers_json(529, ERROR), answers_sse(TEXT))) as t:
        t.listener.fail_records = 1
        answer = await (await t.client()).post(hello())
        assert answer.status == 200
        assert [(r.attempt, r.last) for r in t.listener.records] == [(1, False), (2, True)]


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (answers_sse(TEXT), True),
        (answers_json(200, {"type": "message", "content": [], "usage": {}}), False),
        (then(answers_json(529, ERROR), resets, answers_sse(TEXT), answers_json(529, ERROR), answers_sse(TEXT)), True),
        (answers_json(400, ERROR), True),
    ],
    ids=["a stream", "a message", "after others", "an error"],
)
async def test_a_request_is_gone_with_its_answer_and_not_only_when_garbage_is_collected(
    tmp_path: Path, script: Script, stream: bool
) -> None:
    """It may have 32 MB."""
    async with table(tmp_path, script) as t:
        client = await t.client()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await client.post(hello(stream=stream))
            await client.post(hello(stream=stream))  # now the one before is over for everybody
            left = Counter(type(found) for found in gc.get_objects())
        finally:
            gc.enable()
        assert left[Request] <= 1
        assert left[Asked] <= 1
