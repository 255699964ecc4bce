"""Rate limits on the model road: through real sockets, with a scripted upstream and a database."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gateway_fakes import (
    DEADLINE,
    KEY,
    SSE_HEAD,
    Bench,
    FakeUpstream,
    Listener,
    Script,
    Seen,
    Store,
    Wire,
    answers_json,
    answers_sse,
    chunk,
    hello,
    request_bytes,
    sse_message,
)

from hostler.domain.rates import Rates
from hostler.engine.model_port import Asked, Caller, Choice, Ended, Grant, Upstreams
from hostler.engine.throttle import RateTerms, RateThrottle
from hostler.gateway import Backoff, Desk, Entry, MessagesChannel, ModelGateway, Patience, Roster, Upstream
from hostler.gateway.desk import OneUpstream
from hostler.store import rates
from hostler.store.database import Database
from hostler.store.sessions import Usage

MESSAGE = {
    "type": "message",
    "content": [],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 30, "output_tokens": 4},
}
TEXT = sse_message([{"type": "text", "text": "hello"}])
COUNT = "/v1/messages/count_tokens?beta=true"


@dataclass
class Heard:
    """A watcher that keeps who waits, and what was used."""

    waited: list[str] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, asked: Asked, choice: Choice, grant: Grant) -> None: ...

    def waits(self, asked: Asked, why: str, seconds: float) -> None:
        self.waited.append(why)
        self.told.set()

    def ended(self, asked: Asked, ended: Ended, usage: Usage) -> None:
        self.usages.append(usage)


@dataclass
class Limited:
    """A bench whose gateway keeps to limits."""

    bench: Bench
    throttle: RateThrottle
    database: Database
    heard: Heard

    async def left(self) -> dict[str, float | None]:
        """What is left in each bucket, by its name."""
        await self.throttle._buckets._write(everything=True)
        found = await self.database.read(
            lambda c: rates.buckets(c, self.database.now(c), "w1", upstreams=True, most=100)
        )
        return {row.bucket.key: row.level for row in found}


@asynccontextmanager
async def limited(
    migrated_file: Path,
    tmp_path: Path,
    script: Script,
    limits: dict[str, Rates] | None = None,
    upstreams: Upstreams | None = None,
    **terms: Any,
) -> AsyncIterator[Limited]:
    shutil.copyfile(migrated_file, tmp_path / "hostler.db")
    database = await Database.open(f"sqlite:///{tmp_path / 'hostler.db'}", migrate=False)
    throttle = RateThrottle(database, RateTerms(limits or {}, **terms), "server_1")
    await throttle.start()
    heard = Heard()
    async with FakeUpstream(script).running() as upstream:
        channel = MessagesChannel(Upstream(f"http://127.0.0.1:{upstream.port}", KEY))
        gateway = ModelGateway(
            Desk({"up": channel}, upstreams or OneUpstream("up"), throttle=throttle, watchers=(heard,))
        )
        listener = Listener(caller=Caller("sesn_1", "w1", agent_id="agent_1"))
        socket, store = tmp_path / "model.sock", Store()
        road = await gateway.open(
            "sesn_1", socket, listener, one_call_at_a_time=False, sequence=store, allowed_models=None
        )
        bench = Bench(upstream, gateway, road, socket, listener, store)
        try:
            yield Limited(bench, throttle, database, heard)
        finally:
            for client in bench.clients:
                await client.close()
            await gateway.close()
            assert throttle._taken == {}, "everything that was taken is settled"
            assert throttle.waiting() == []
            await throttle.close()
            await database.close()


async def until(true: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_request_without_room_is_told_which_limit_and_when_to_ask_again(
    tmp_path: Path, migrated_file: Path
) -> None:
    script = answers_json(200, MESSAGE)
    async with limited(migrated_file, tmp_path, script, {"up/claude-x": {"requests": 1}}, wait_seconds=0.0) as b:
        client = await b.bench.client()
        assert (await client.post(hello(stream=False))).status == 200
        refused = await client.post(hello(stream=False))
        assert refused.status == 429
        assert refused.json["error"]["type"] == "rate_limit_error"
        assert "the limit of 1 requests a minute for claude-x at the upstream up" in refused.json["error"]["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-should-retry"] == "true"
        assert (await client.post(hello(stream=False, model="claude-y"))).status == 200
        assert len(b.bench.upstream.seen) == 2
        assert len(b.bench.listener.records) == 2, "nothing was asked, so nothing is on the bill"


async def test_what_an_answer_used_is_counted_whether_it_streams_or_not(tmp_path: Path, migrated_file: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await (answers_sse(TEXT) if seen.json["stream"] else answers_json(200, MESSAGE))(seen, wire)

    # So many that what flows in during the test can be told from what is taken.
    limits: dict[str, Rates] = {"up": {"input_tokens": 100_000, "output_tokens": 60}}
    async with limited(migrated_file, tmp_path, script, limits, wait_seconds=500.0) as b:
        client = await b.bench.client()
        await client.post(hello(stream=False, max_tokens=8))
        assert b.heard.usages == [Usage(30, 4)]
        await client.post(hello(max_tokens=8))
        assert b.heard.usages[1] == Usage(11, 7)
        left = await b.left()
        assert left["upstream:output_tokens:up"] is not None
        assert left["upstream:output_tokens:up"] >= 60 - 11


async def test_counting_tokens_needs_no_room(tmp_path: Path, migrated_file: Path) -> None:
    script = answers_json(200, {"input_tokens": 12})
    async with limited(migrated_file, tmp_path, script, {"up": {"requests": 1}}, wait_seconds=0.0) as b:
        client = await b.bench.client()
        for _ in range(3):
            assert (await client.post(hello(stream=False), path=COUNT)).status == 200
        assert await b.left() == {}


async def test_whoever_hangs_up_while_waiting_leaves_at_once_and_takes_nothing(
    tmp_path: Path, migrated_file: Path
) -> None:
    script = answers_json(200, MESSAGE)
    limits: dict[str, Rates] = {"up": {"requests": 1}}
    async with limited(migrated_file, tmp_path, script, limits, notice_seconds=0.001) as b:
        await (await b.bench.client()).post(hello(stream=False))
        gone = await b.bench.client()
        gone.writer.write(request_bytes(hello(stream=False)))
        waits = asyncio.create_task((await b.bench.client()).post(hello(stream=False)))
        await until(lambda: sum(each.requests for each in b.throttle.waiting()) == 2)
        await b.heard.told.wait()
        assert b.heard.waited[0] == "waits for the limit of 1 requests a minute of the upstream up"
        await gone.close()
        waits.cancel()
        for client in b.bench.clients:
            await client.close()
        await until(lambda: b.throttle.waiting() == [])
        assert len(b.bench.upstream.seen) == 1


async def test_whoever_hangs_up_between_two_attempts_leaves_the_queue_at_once(
    tmp_path: Path, migrated_file: Path
) -> None:
    patience = Patience(retries=3, backoff=Backoff(base_seconds=0.002, longest_seconds=0.01))
    roster = Roster([Entry("up")], asyncio.get_running_loop().time, patience)
    script = answers_json(500, {"type": "error"})
    async with limited(migrated_file, tmp_path, script, {"up": {"requests": 1}}, upstreams=roster) as b:
        gone = await b.bench.client()
        gone.writer.write(request_bytes(hello(stream=False)))
        await until(lambda: len(b.bench.upstream.seen) == 1 and b.throttle.waiting())
        await gone.close()
        await until(lambda: b.throttle.waiting() == [])
        async with asyncio.timeout(DEADLINE):
            await b.bench.listener.told.wait()
        assert [record.status for record in b.bench.listener.records] == [500]


async def test_a_429_of_the_upstream_closes_the_model_until_its_retry_after(
    tmp_path: Path, migrated_file: Path
) -> None:
    script = answers_json(429, {"type": "error"}, headers="retry-after: 90\r\n")
    async with limited(migrated_file, tmp_path, script, wait_seconds=5.0) as b:
        client = await b.bench.client()
        assert (await client.post(hello(stream=False))).status == 429
        refused = await client.post(hello(stream=False))
        assert refused.status == 429
        assert "which asked for a pause of" in refused.json["error"]["message"]
        assert 80 <= int(refused.headers["retry-after"]) <= 90
        assert len(b.bench.upstream.seen) == 1


async def test_an_upstream_that_can_not_be_reached_costs_no_room(tmp_path: Path, migrated_file: Path) -> None:
    script = answers_json(200, MESSAGE)
    async with limited(migrated_file, tmp_path, script, {"up": {"input_tokens": 100}}, wait_seconds=500.0) as b:
        channel = MessagesChannel(Upstream("http://127.0.0.1:9", KEY))
        gateway = ModelGateway(Desk({"up": channel}, OneUpstream("up"), throttle=b.throttle))
        road = await gateway.open(
            "sesn_1", tmp_path / "2", b.bench.listener, one_call_at_a_time=False, sequence=Store(), allowed_models=None
        )
        client = await type(await b.bench.client()).connect(tmp_path / "2")
        assert (await client.post(hello(stream=False))).status == 502
        await client.close()
        await road.close()
        await gateway.close()
        assert await b.left() == {"upstream:input_tokens:up": 100.0}


@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_ends_early_keeps_what_was_taken(tmp_path: Path, migrated_file: Path, cut: bool) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        if cut:
            wire.write(SSE_HEAD + chunk(b"".join(TEXT[:3])))
            wire.transport.close()
        else:
            await answers_sse(TEXT[:3])(seen, wire)

    async with limited(migrated_file, tmp_path, script, {"up": {"output_tokens": 100}}) as b:
        await (await b.bench.client()).post(hello(max_tokens=400))
        left = (await b.left())["upstream:output_tokens:up"]
        assert left is not None
        assert left < 75, "half a minute's worth was taken for it, and nobody knows better"
