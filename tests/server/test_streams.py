"""Streams of a running session: nothing lost, nothing twice, previews only where asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic.lib.sessions import accumulate_managed_agents_event
from housekit import House, types

from hostler.testing.rehearsal import gate, prompt, step, text, thinking, tool


async def collect(stream: Any, until: str = "session.status_idle") -> list[Any]:
    seen = []
    async with asyncio.timeout(60):
        async for event in stream:
            seen.append(event)
            if event.type == until:
                break
    return seen


@pytest.mark.endpoint("sessions.events.stream")
async def test_subscribing_then_sending_misses_nothing(house: House) -> None:
    session = await house.session()
    async with await house.client.beta.sessions.events.stream(session) as stream:
        await house.say(session, [step(tool("bash", command="echo 1")), step("Done.")])
        streamed = await collect(stream)
    listed = await house.events(session)
    assert [e.id for e in streamed] == [e.id for e in listed]


async def test_stream_and_list_together_are_complete_wherever_the_stream_begins(house: House) -> None:
    session = await house.session()
    for number in range(25):
        sending = asyncio.create_task(house.turn(session, [step(f"Answer {number}.")]))
        async with asyncio.timeout(60):
            for _ in range(number):
                await asyncio.sleep(0)
            async with await house.client.beta.sessions.events.stream(session) as stream:
                history = await house.events(session)
                live: list[Any] = []
                ended = [e for e in history if e.type == "session.status_idle"]
                if len(ended) <= number:
                    live = await collect(stream)
        await sending
        known = {e.id for e in history}
        union = [e.id for e in history] + [e.id for e in live if e.id not in known]
        listed = [e.id for e in await house.events(session)]
        assert union == listed
        assert len(set(listed)) == len(listed)


async def test_reader_comes_back_with_the_last_sequence_and_gets_the_rest(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step("One.")])
    sequence: list[int] = []
    raw = house.client.beta.sessions.events.with_streaming_response
    async with raw.stream(session, extra_headers={"Last-Event-ID": "3"}) as response:
        async with asyncio.timeout(60):
            async for line in response.iter_lines():
                if line.startswith("id:"):
                    sequence.append(int(line[3:]))
                if line == "event: session.status_idle":
                    break
    count = len(await house.events(session))
    assert sequence == list(range(4, count + 1))
    # A sequence of another log, or of this one before it came back from a backup: what is new comes all the same.
    async with raw.stream(session, extra_headers={"Last-Event-ID": "999"}) as response:
        await house.say(session, [step("Two.")])
        async with asyncio.timeout(60):
            async for line in response.iter_lines():
                if line.startswith("id:"):
                    assert int(line[3:]) == count + 1
                    break


@pytest.mark.one_database
@pytest.mark.endpoint("sessions.events.stream")
async def test_previews_add_up_to_the_message(house: House) -> None:
    session = await house.session()
    asked = await house.client.beta.sessions.events.stream(session, event_deltas=["agent.message", "agent.thinking"])
    plain = await house.client.beta.sessions.events.stream(session)
    async with asked, plain:
        await house.say(session, [step(thinking("Hm."), text("A sentence in many pieces.", chunk=3))])
        with_previews, without = await collect(asked), await collect(plain)
    assert not {"event_start", "event_delta"} & set(types(without))
    starts = [e.event.id for e in with_previews if e.type == "event_start"]
    assert len(starts) == len(set(starts)) == 2
    final = next(e for e in with_previews if e.type == "agent.message")
    preview = None
    for event in with_previews[: with_previews.index(final)]:
        preview = accumulate_managed_agents_event(preview, event)
    assert preview is not None
    assert preview.id == final.id
    assert preview.content[0].text == final.content[0].text == "A sentence in many pieces."
    order = [e.type for e in with_previews if getattr(e, "type", "") in ("span.model_request_start", "event_start")]
    assert order[0] == "span.model_request_start"
    positions = [i for i, e in enumerate(with_previews) if e.type == "event_delta"]
    assert max(positions) < with_previews.index(final)
    with pytest.raises(anthropic.BadRequestError):
        await house.client.beta.sessions.events.stream(session, event_deltas=["agent.tool_use"])  # type: ignore[list-item]


@pytest.mark.one_database
async def test_reader_that_joins_in_the_middle_of_a_response_gets_no_previews_of_it(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(text("Begun. ", chunk=2), gate("middle"), text("Ended."))])
    await house.model.reached_gate("middle")
    await house.until_event(session, "span.model_request_start")
    async with await house.client.beta.sessions.events.stream(session, event_deltas=["agent.message"]) as stream:
        house.model.open_gate("middle")
        seen = await collect(stream)
    started = {e.event.id for e in seen if e.type == "event_start"}
    assert all(e.event_id in started for e in seen if e.type == "event_delta")


@pytest.mark.endpoint("sessions.events.list")
async def test_list_filters_by_type_time_and_order(house: House) -> None:
    session = await house.session()
    events = await house.turn(session, [step(tool("bash", command="true")), step("Done.")])
    listing = house.client.beta.sessions.events.list

    async def ids(**filters: Any) -> list[str]:
        return [e.id async for e in listing(session, **filters)]

    assert await ids(types=["agent.message", "agent.tool_use"]) == [
        e.id for e in events if e.type in ("agent.message", "agent.tool_use")
    ]
    assert await ids(order="desc", limit=3) == [e.id for e in reversed(events)]
    middle = events[len(events) // 2]
    later = await ids(created_at_gt=middle.processed_at)
    assert later == [e.id for e in events if e.processed_at > middle.processed_at]
    assert await ids(created_at_lte=middle.processed_at) == [
        e.id for e in events if e.processed_at <= middle.processed_at
    ]


@pytest.mark.one_database
async def test_waiting_input_is_shown_to_streams_and_again_when_it_is_applied(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(gate("hold"), text("First."))])
    await house.model.reached_gate("hold")
    async with await house.client.beta.sessions.events.stream(session) as stream:
        second = await house.say(session, prompt([step("Second.")]))
        house.model.open_gate("hold")
        seen = await collect(stream)
        seen += await collect(stream)
    told = [e for e in seen if getattr(e, "id", None) == second]
    assert [e.processed_at is None for e in told] == [True, False]


@pytest.mark.one_database
@pytest.mark.endpoint("sessions.threads.events.stream")
async def test_primary_threads_stream_is_the_sessions(house: House) -> None:
    session = await house.session()
    thread = (await house.client.beta.sessions.threads.list(session)).data[0].id
    async with await house.client.beta.sessions.threads.events.stream(thread, session_id=session) as stream:
        await house.say(session, [step("Hi.")])
        streamed = await collect(stream)
    assert [e.id for e in streamed] == [e.id for e in await house.events(session)]


@pytest.mark.timeout(600)
async def test_no_event_is_missed_in_five_hundred_races_of_subscribing_and_sending(house: House) -> None:
    session = await house.session()
    client = house.client
    for number in range(500):
        title = f"Title {number}"
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(client.beta.sessions.events.stream(session))
            tasks.create_task(client.beta.sessions.update(session, title=title))
        stream = opening.result()
        async with asyncio.timeout(60), stream:
            listed = (await client.beta.sessions.events.list(session, order="desc", limit=1)).data
            if not (listed and getattr(listed[0], "title", None) == title):
                assert [e.title async for e in first_of(stream)] == [title]
    assert len(await house.events(session)) == 500


async def first_of(stream: Any) -> Any:
    async for event in stream:
        yield event
        return
