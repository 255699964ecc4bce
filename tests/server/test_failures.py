"""What becomes of a turn when something below it breaks: the stream, the context, the store, the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from housekit import ALLOW_ALL, DEADLINE, House, custom, open_house, result, types

from hostler.engine.runs import Ended, RunEvent
from hostler.harness.claude import ClaudeRun
from hostler.store.transcripts import TranscriptStore
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import gate, step, text, tool

TRIES = 7
"""How often the store asks PostgreSQL before it gives up."""


@pytest.mark.one_database
@pytest.mark.parametrize("failure", ["cut", "garbage", "sse_error"])
async def test_broken_answer_is_asked_for_again_and_nothing_runs_or_is_told_twice(house: House, failure: str) -> None:
    session = await house.session()
    broken: dict[str, Any] = {failure: 4}
    steps = [
        step(text("Working."), tool("bash", command="echo once >> log"), **broken, times=1),
        step("Done: {{last_tool_result}}"),
    ]
    events = await house.turn(session, steps)
    assert events[-1].stop_reason.type == "end_turn"
    assert types(events).count("agent.tool_use") == types(events).count("agent.tool_result") == 1
    assert [e.content[0].text.split(":")[0] for e in events if e.type == "agent.message"] == ["Working.", "Done"]
    assert (house.workspace(session) / "log").read_text() == "once\n"
    starts = [e.id for e in events if e.type == "span.model_request_start"]
    ends = [e.model_request_start_id for e in events if e.type == "span.model_request_end"]
    assert starts == ends


@pytest.mark.one_database
async def test_full_context_is_compacted_and_the_turn_goes_on(house: House) -> None:
    session = await house.session()
    tokens = {"tokens": 210_000, "maximum": 200_000}
    steps = [step(tool("bash", command="echo one")), step("After compaction.", prompt_too_long=tokens)]
    events = await house.turn(session, steps)
    assert "agent.thread_context_compacted" in types(events)
    assert events[-1].stop_reason.type == "end_turn"
    assert [e.content[0].text for e in events if e.type == "agent.message"][-1] == "After compaction."


async def test_transcript_that_cannot_be_stored_is_a_fault_of_the_session(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step("Fine.")])
    await house.say(session, [step(gate("broken"), text("Unheard."))])
    await house.model.reached_gate("broken")
    assert house.hostler is not None
    database = house.hostler.database
    await database.write(lambda c: c.execute(sa.text("ALTER TABLE transcript_entries RENAME TO gone")))
    house.model.open_gate("broken")
    events = await house.until_idle(session)
    await database.write(lambda c: c.execute(sa.text("ALTER TABLE gone RENAME TO transcript_entries")))
    errors = [e.error for e in events if e.type == "session.error"]
    assert errors
    assert events[-1].stop_reason.type == "retries_exhausted"
    after = await house.turn(session, [step("Fine again.")])
    assert after[-1].stop_reason.type == "end_turn"


def processes_of(house: House) -> list[int]:
    """The `claude` processes below this test."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == "claude":
                status = (entry / "stat").read_text()
                if _descends(int(entry.name), os.getpid()):
                    found.append(int(entry.name))
                del status
        except OSError:
            continue
    return found


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


async def test_killed_process_is_replaced_and_the_turn_ends(house: House) -> None:
    session = await house.session()
    steps = [
        step(tool("bash", command="echo once >> log")),
        step(gate("between"), text("Not heard."), tool("bash", command="echo twice >> log")),
        step("Done."),
    ]
    await house.say(session, steps)
    await house.model.reached_gate("between")
    victims = processes_of(house)
    assert victims
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # it ended with another
            os.kill(pid, signal.SIGKILL)
    house.model.open_gate("between")
    events = await house.until_idle(session)
    assert events[-1].stop_reason.type == "end_turn"
    told = next(e.error for e in events if e.type == "session.error")
    assert told.retry_status.type == "retrying"
    assert (house.workspace(session) / "log").read_text().splitlines().count("once") == 1
    prompts = [e for e in events if e.type == "user.message"]
    assert len(prompts) == 1


@pytest.mark.one_database
@pytest.mark.parametrize("source", ["text", "file"])
async def test_an_answer_that_was_given_is_heard_although_another_call_of_its_group_was_lost(
    house: House, source: str
) -> None:
    session = await house.session([*ALLOW_ALL, custom("lookup")])
    uploaded = await house.client.beta.files.upload(file=("answer.txt", b"ans-second", "text/plain"))
    file: dict[str, Any] = {"type": "document", "source": {"type": "file", "file_id": uploaded.id}}
    long = "touch begun; sleep 600"
    calls = [tool("lookup", key="first"), tool("bash", command=long), tool("lookup", key="second")]
    await house.say(session, [step(*calls), step("Done.")])
    events = await house.until_idle(session)
    first, second = (event for event in events if event.type == "agent.custom_tool_use")
    given = {"type": "text", "text": "ans-second"} if source == "text" else file
    await house.answer(session, {**result(second, ""), "content": [given]})
    await house.answer(session, result(first, "ans-first"))
    async with asyncio.timeout(DEADLINE):
        while not (house.workspace(session) / "begun").exists():  # noqa: ASYNC110 - nobody announces what runs
            await asyncio.sleep(0.01)
    for pid in processes_of(house):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    events = await house.until_idle(session, len(events))
    assert events[-1].stop_reason.type == "end_turn"
    asked = json.dumps(house.model.requests[-1].body["messages"])
    assert asked.count("ans-second") == asked.count("ans-first") == 1
    assert "outcome is unknown" in asked
    assert "interrupted before completion" not in asked


async def test_nothing_is_reachable_without_a_rule_and_the_denial_is_recorded(house: House) -> None:
    session = await house.session()
    look = (
        "curl -sS -m 5 -o /dev/null -w '%{http_code}' -x '' http://192.0.2.1/ ; "
        "curl -sS -m 30 http://example.com/ ; echo; env | grep -i _proxy | sort | head -1"
    )
    events = await house.turn(session, [step(tool("bash", command=look)), step("Ok.")])
    said = next(e for e in events if e.type == "agent.tool_result").content[0].text
    assert "host_not_allowed" in said
    assert house.hostler is not None
    rows = await house.hostler.database.read(
        lambda c: c.execute(sa.text("SELECT host, port, allowed, reason FROM egress_decisions")).all()
    )
    assert [(r.host, r.port, bool(r.allowed), r.reason) for r in rows] == [
        ("example.com", 80, False, "host_not_allowed")
    ]


async def test_a_database_that_goes_away_while_a_process_is_started_ends_no_turn(
    tmp_path: Path, server_cluster: PostgresCluster
) -> None:
    url = server_cluster.create_database("goes_away")
    async with open_house(tmp_path, url) as house, contextlib.AsyncExitStack() as stack:
        session = await house.session()
        await house.turn(session, [step("Here.")])
        await house.restart()
        holder = await asyncpg.connect(url)
        stack.push_async_callback(holder.close)
        killer = await asyncpg.connect(url)
        stack.push_async_callback(killer.close)
        lock = holder.transaction()
        await lock.start()
        await holder.execute("LOCK TABLE transcript_entries")  # a start reads it
        await house.say(session, [step("Still here.")])
        waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'transcript_entries'::regclass"
        assert house.hostler is not None
        gone: set[int] = set()
        async with asyncio.timeout(DEADLINE):
            while len(gone) < TRIES:
                for row in await killer.fetch(waiting):
                    gone.add(row["pid"])
                    await killer.execute("SELECT pg_terminate_backend($1)", row["pid"])
                await asyncio.sleep(0.005)
        await lock.rollback()
        events = await house.until_idle(session)
        assert [e.content[0].text for e in events if e.type == "agent.message"] == ["Here.", "Still here."]
        assert events[-1].stop_reason.type == "end_turn"


@pytest.mark.parametrize("told", ["the end is never heard", "nor does the transcript come"])
async def test_a_turn_that_is_cut_off_after_its_last_answer_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Between the answer and the end that the process tells of, the server is killed."""
    events, append = ClaudeRun.events, TranscriptStore.append

    async def without_end(run: ClaudeRun) -> AsyncIterator[RunEvent]:
        async for event in events(run):
            if isinstance(event, Ended) and event.how == "completed":
                await asyncio.Event().wait()
            yield event

    async def never(store: TranscriptStore, key: Any, entries: Any) -> None:
        if not any(entry.get("type") == "assistant" for entry in entries):
            await append(store, key, entries)

    session = await house.session()
    with monkeypatch.context() as patch:
        patch.setattr(ClaudeRun, "events", without_end)
        if told != "the end is never heard":
            patch.setattr(TranscriptStore, "append", never)
        await house.say(session, [step(tool("bash", command="echo once >> log; cat log")), step("Done.")])
        async with asyncio.timeout(DEADLINE):
            while not [e for e in await house.events(session) if e.type == "agent.message"]:  # noqa: ASYNC110 - it is an event
                await asyncio.sleep(0.05)
        await house.stop()
    asked = len(house.model.message_requests)
    await house.start()
    found = await house.until_idle(session)
    assert found[-1].stop_reason.type == "end_turn"
    assert [e.content[0].text for e in await house.events(session) if e.type == "agent.message"] == ["Done."]
    assert len(house.model.message_requests) == asked
    again = await house.turn(session, [step("Next.")])
    assert [e.content[0].text for e in again if e.type == "agent.message"] == ["Next."]
