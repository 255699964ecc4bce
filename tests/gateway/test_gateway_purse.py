"""What does the gateway do with what the purse says?"""

from __future__ import annotations

from pathlib import Path

from gateway_fakes import Purse, Seen, Wire, answers_json, answers_sse, bench, hello, sse_message

from hostler.engine.model_port import Grant

USED = {"id": "m", "type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}


async def test_a_prompt_is_counted_with_what_belongs_to_it_and_nobody_writes_that_down(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        counting = "count_tokens" in seen.line
        await answers_json(200, {"input_tokens": 321} if counting else USED)(seen, wire)

    purse = Purse(counts=True)
    async with bench(tmp_path, script, purse=purse) as b:
        body = hello(stream=False, max_tokens=9, system="be brief", temperature=0.5, metadata={"user_id": "u"})
        assert (await (await b.client()).post(body)).status == 200
        assert purse.counted == [321]
        counted = b.upstream.seen[0]
        assert counted.line.split()[1] == "/v1/messages/count_tokens?beta=true"
        assert sorted(counted.json) == ["messages", "model", "system"]
        assert len(b.listener.records) == 1


async def test_an_upstream_that_does_not_count_is_no_failure(tmp_path: Path) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        if "count_tokens" in seen.line:
            wire.transport.close()
        else:
            await answers_json(200, USED)(seen, wire)

    purse = Purse(counts=True)
    async with bench(tmp_path, script, purse=purse) as b:
        assert (await (await b.client()).post(hello(stream=False))).status == 200
        assert purse.counted == [None]


async def test_what_was_granted_is_what_is_sent(tmp_path: Path) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    purse = Purse(grant=Grant("grnt_1", 5, 2048, {"thinking": thinking}, 2048))
    async with bench(tmp_path, answers_json(200, USED), purse=purse) as b:
        await (await b.client()).post(
            hello(stream=False, max_tokens=9000, thinking={**thinking, "budget_tokens": 8000})
        )
        assert (b.upstream.seen[0].json["max_tokens"], b.upstream.seen[0].json["thinking"]) == (2048, thinking)
        assert b.listener.records[0].grant == purse.grant
        assert purse.released == []


async def test_a_request_on_a_stale_connection_counts_as_an_attempt_of_its_own_and_is_paid_for_again(
    tmp_path: Path,
) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        if len(wire.fake.seen) == 2:
            wire.transport.close()
        else:
            await answers_json(200, USED)(seen, wire)

    purse = Purse(grant=Grant("grnt_1", 5))
    async with bench(tmp_path, script, purse=purse) as b:
        client = await b.client()
        for _ in range(2):
            assert (await client.post(hello(stream=False))).status == 200
        assert len(purse.asked) == 3
        assert [(r.attempt, r.last, r.complete) for r in b.listener.records] == [
            (1, True, True),
            (1, False, False),
            (2, True, True),
        ]


async def test_what_was_set_aside_for_a_body_that_cannot_be_written_is_given_back(tmp_path: Path) -> None:
    purse = Purse(grant=Grant("grnt_1", 5, 2048, {"thinking": object()}, 2048))
    async with bench(tmp_path, answers_json(200, USED), purse=purse) as b:
        assert (await (await b.client()).post(hello(stream=False))).status == 500
        assert (b.upstream.seen, b.listener.records) == ([], [])
        assert purse.released == [purse.grant]


async def test_an_answer_without_usage_is_not_complete(tmp_path: Path) -> None:
    async with bench(tmp_path, answers_json(200, {"hello": "there"})) as b:
        await (await b.client()).post(hello(stream=False))
        assert not b.listener.records[0].complete


async def test_a_stream_that_ends_before_its_last_event_may_have_cost_more(tmp_path: Path) -> None:
    events = sse_message([{"type": "text", "text": "hi"}])
    for some, complete in ((events, True), (events[:-1], False), (events[:3], False)):
        async with bench(tmp_path, answers_sse(some)) as b:
            await (await b.client()).post(hello())
            assert b.listener.records[0].complete is complete
