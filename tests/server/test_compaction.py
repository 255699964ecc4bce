"""Long conversations: archived before they are compacted, shortened as the agent's policy says, and told once."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import anthropic
import pytest
import sqlalchemy as sa
from housekit import DEADLINE, House, open_house, types

from hostler.domain.clock import rfc3339_of
from hostler.domain.schedules import parse_schedule
from hostler.engine.compaction_clock import CompactionClock
from hostler.engine.records import Records
from hostler.store.tables import sessions, work
from hostler.store.tables_archives import compaction_schedules
from hostler.store.tables_archives import compactions as compactions_table
from hostler.testing.rehearsal import RehearsalModel, Script, gate, step, text, tool

ASKED = "CRITICAL: Respond with TEXT ONLY"
"""How the harness begins to ask for a summary."""
SERVER = Path(__file__).parents[1] / "attacks" / "lone_server.py"
FULL = {"input_tokens": 90_000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
ROOMY = {**FULL, "input_tokens": 9_000}


async def compact(house: House, session: str, **body: Any) -> dict[str, Any]:
    return await house.client.post(f"/hostler/v1/sessions/{session}/compact", body=body, cast_to=dict[str, Any])


async def read(house: House, session: str, path: str, **query: Any) -> dict[str, Any]:
    return await house.client.get(
        f"/hostler/v1/sessions/{session}/{path}", options={"params": query}, cast_to=dict[str, Any]
    )


async def newest(house: House, session: str) -> dict[str, Any]:
    """The newest compaction. It has its end before the session is idle."""
    row = (await read(house, session, "compactions"))["data"][0]
    assert row["ended_at"]
    return dict(row)


def summaries(house: House) -> list[str]:
    """What the model was asked for a summary with, request by request."""
    found = []
    for request in house.model.message_requests:
        last = json.dumps(request.body["messages"][-2:])
        if ASKED in last:
            found.append(last)
    return found


async def test_asked_for_compaction_archives_everything_first_and_is_told_once(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step(tool("bash", command="echo the-word-is-plum")), step("Done with that.")])
    before = len(await house.events(session))
    asked = await compact(house, session, instructions="Look at the plums.")
    assert (asked["state"], asked["trigger"]) == ("waiting", "manual")
    events = await house.until_idle(session, before)
    assert types(events).count("agent.thread_context_compacted") == 1
    assert events[-1].stop_reason.type == "end_turn"

    row = await newest(house, session)
    assert (row["id"], row["state"]) == (asked["id"], "completed")
    assert row["before_tokens"] > row["after_tokens"] > 0
    assert row["requests"] == 1
    assert row["input_tokens"] > 0
    assert "Look at the plums." in summaries(house)[0]

    (archive,) = (await read(house, session, "archives"))["data"]
    assert archive["id"] == row["archive_id"]
    found = await read(house, session, "archives/search", q="WORD-is-plum")
    assert [entry["role"] for entry in found["data"]] == ["user", "assistant", "user"]
    entries: list[dict[str, Any]] = []
    page = await read(house, session, f"archives/{archive['id']}", limit=5)
    while True:
        entries += page["data"]
        if page["next_page"] is None:
            break
        page = await read(house, session, f"archives/{archive['id']}", limit=5, page=page["next_page"])
    assert [entry["number"] for entry in entries] == list(range(archive["entries"]))
    assert any(entry["text"] == "Done with that." for entry in entries)
    with pytest.raises(anthropic.NotFoundError):
        await read(house, session, "archives/arch_unknown")
    with pytest.raises(anthropic.BadRequestError, match="q: is required"):
        await read(house, session, "archives/search")


class LoneServer:
    """A server in a process of its own, to be killed and started again on the same state."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._told: dict[str, str] = {}

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(SERVER), json.dumps(self._settings), stdin=PIPE, stdout=PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            self._told = json.loads(await self._process.stdout.readline())

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """In peace, so that nothing of it stays mounted."""
        if self._process is None or self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    def _client(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url=self._told["url"], api_key=self._told["key"], _strict_response_validation=True
        )

    async def session(self, policy: dict[str, Any]) -> str:
        async with self._client() as client:
            agent = await client.beta.agents.create(
                name="Coder", model="claude-opus-5-5", extra_body={"compaction": policy}
            )
            environment = await client.beta.environments.create(
                name="env", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
            )
            made = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
            return made.id

    async def say(self, session: str, words: str) -> None:
        content: list[Any] = [{"type": "text", "text": words}]
        async with self._client() as client:
            await client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": content}])

    async def until_idle(self, session: str, times: int) -> list[Any]:
        """All events, once the session has gone idle so often."""
        async with self._client() as client, asyncio.timeout(DEADLINE):
            async with await client.beta.sessions.events.stream(session) as stream:
                while True:
                    seen = [event async for event in client.beta.sessions.events.list(session, limit=1000)]
                    if types(seen).count("session.status_idle") >= times:
                        return seen
                    async for event in stream:
                        if event.type == "session.status_idle":
                            break

    async def call(self, verb: str, session: str, path: str) -> dict[str, Any]:
        async with self._client() as client:
            where = f"/hostler/v1/sessions/{session}/{path}"
            if verb == "POST":
                return await client.post(where, body={}, cast_to=dict[str, Any])
            return await client.get(where, cast_to=dict[str, Any])


def scripted(summary: Any) -> Script:
    """Answers `summary` when it is asked for one. "Work" fills the context at its first step."""
    full: dict[str, Any] = {"usage": FULL}
    calls = [step(tool("bash", command=f"echo {number}"), **full) for number in range(5)]
    return Script.model_validate(
        {
            "rules": [
                {"when": ASKED, "steps": [summary]},
                {"when": "continued from a previous conversation", "steps": [step("Went on.", usage=ROOMY)]},
                {"when": "Work", "steps": [*calls, step("Worked.", **full)]},
                {"when": ".*", "regex": True, "steps": [step("I see.", usage=ROOMY)]},
            ]
        }
    )


@pytest.mark.one_database
async def test_facts_and_tagged_messages_stay_although_the_summary_forgets_them(tmp_path: Path, store_url: str) -> None:
    policy = {
        "strategy": "smart_retention",
        "threshold_tokens": 70_000,
        "facts": ["The customer's number is 4711.", "Vera decides."],
        "keep_days": 1,
    }
    forgetful = step("<summary>Somebody asked for work. Vera decides.</summary>")
    async with open_house(tmp_path, store_url, scripted(forgetful)) as house:
        session = await house.session(extra_body={"compaction": policy})
        await house.turn(session, "Use only blue paint. #keep")
        events = await house.turn(session, "Work, please.")
        assert types(events).count("agent.thread_context_compacted") == 1
        assert events[-1].stop_reason.type == "end_turn"
        (asked,) = summaries(house)
        assert "The customer's number is 4711." in asked
        row = await newest(house, session)
        assert (row["state"], row["trigger"], row["strategy"]) == ("completed", "auto", "smart_retention")
        assert row["archive_id"] in asked
        kept = row["kept"]
        assert (kept["facts"], kept["facts_added"], kept["tagged"], kept["tagged_added"]) == (2, 1, 1, 1)
        assert kept["recent"] > 0

        await house.restart()  # what stays is in the transcript, not in the process
        events = await house.turn(session, "And now?")
        context = json.dumps(house.model.message_requests[-1].body["messages"])
        assert "Somebody asked for work." in context
        assert "4711" in context
        assert context.count("Use only blue paint. #keep") == 1
        assert row["archive_id"] in context
        assert types(events).count("agent.thread_context_compacted") == 0


@pytest.mark.one_database
async def test_summary_that_always_fails_is_a_state_and_not_a_loop(tmp_path: Path, store_url: str) -> None:
    failing = step(error=400, message="Never.", times="always")
    async with open_house(tmp_path, store_url, scripted(failing)) as house:
        session = await house.session(extra_body={"compaction": {"threshold_tokens": 70_000}})
        await house.turn(session, "Hello.")
        events = await house.turn(session, "Work.")
        assert events[-1].stop_reason.type == "end_turn"
        assert "agent.thread_context_compacted" not in types(events)
        (told,) = [event.error for event in events if event.type == "session.error"]
        assert told.hostler["type"] == "compaction_failed"
        tries = len(summaries(house))
        assert 0 < tries <= 8  # one try: the harness drops features from a request that was refused
        row = await newest(house, session)
        assert (row["state"], row["requests"]) == ("failed", tries)
        assert "Never." in row["reason"]

        await house.turn(session, "Work again.")
        assert len(summaries(house)) == tries
        first = (await read(house, session, "compaction"))["retry_at"]
        before = len(await house.events(session))
        await compact(house, session)  # a person need not wait
        events = await house.until_idle(session, before)
        assert len(summaries(house)) > tries
        state = await read(house, session, "compaction")
        assert (state["failures"], state["last"]["state"], state["last"]["trigger"]) == (2, "failed", "manual")
        assert state["retry_at"] > first
        assert events[-1].stop_reason.type == "end_turn"


@pytest.mark.one_database
async def test_a_summary_that_was_asked_for_twice_is_one_request(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, scripted(step("<summary>Short.</summary>", error=529))) as house:
        session = await house.session(extra_body={"compaction": {"threshold_tokens": 70_000}})
        await house.turn(session, "Hello.")
        events = await house.turn(session, "Work.")
        assert "agent.thread_context_compacted" in types(events)
        assert len(summaries(house)) == 2
        assert (await newest(house, session))["requests"] == 1


@pytest.mark.one_database
async def test_nothing_is_compacted_that_could_not_be_archived(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, scripted(step("<summary>Short.</summary>"))) as house:
        session = await house.session(extra_body={"compaction": {"threshold_tokens": 70_000}})
        await house.turn(session, "Hello.")
        assert house.hostler is not None
        database = house.hostler.database
        await database.write(lambda c: c.execute(sa.text("ALTER TABLE archive_chunks RENAME TO gone")))
        events = await house.turn(session, "Work.")
        await database.write(lambda c: c.execute(sa.text("ALTER TABLE gone RENAME TO archive_chunks")))
        assert summaries(house) == []
        assert "agent.thread_context_compacted" not in types(events)
        (told,) = [event.error for event in events if event.type == "session.error"]
        assert told.hostler["type"] == "compaction_blocked"
        row = await newest(house, session)
        assert (row["state"], row["archive_id"], row["requests"]) == ("blocked", None, 0)
        assert (await read(house, session, "archives"))["data"] == []

        before = len(await house.events(session))
        await compact(house, session)
        events = await house.until_idle(session, before)
        assert "agent.thread_context_compacted" in types(events)
        assert (await read(house, session, "compaction"))["failures"] == 0


async def test_compaction_that_nobody_was_told_of_before_the_crash_is_told_once_and_not_made_again(
    tmp_path: Path, store_url: str
) -> None:
    async with open_house(tmp_path, store_url, scripted(step("<summary>Short.</summary>"))) as house:
        session = await house.session()
        await house.turn(session, "Hello.")
        before = len(await house.events(session))
        asked = await compact(house, session)
        await house.until_idle(session, before)
        assert house.hostler is not None
        database = house.hostler.database

        def forget(conn: sa.Connection) -> None:
            """As if the server had died when the transcript knew of it and the log did not."""
            state = json.loads(conn.execute(sa.select(sessions.c.state)).scalar_one())
            ask = {"id": asked["id"], "trigger": "manual", "instructions": None}
            turn = {"id": "turn_lost", "prompts": [], "phase": "handed", "ask": ask}
            state |= {"boundary": None, "status": "running", "stop_reason": None, "turn": turn}
            conn.execute(sessions.update().values(state=json.dumps(state), status="running"))
            conn.execute(compactions_table.update().values(state="running", boundary=None, ended_at=None))
            conn.execute(work.update().values(wanted=True))

        before = len(await house.events(session))
        house.hostler.worker.drain()
        await house.until_no_process()
        await database.write(forget)
        await house.restart()
        events = await house.until_idle(session, before)
        assert types(events).count("agent.thread_context_compacted") == 1
        row = await newest(house, session)
        assert (row["id"], row["state"], row["archive_id"] is None) == (asked["id"], "completed", False)
        assert row["before_tokens"] > row["after_tokens"]
        assert len(summaries(house)) == 1
        events = await house.turn(session, "And now?")
        assert "agent.thread_context_compacted" not in types(events)


@pytest.mark.parametrize("store_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
async def test_kill_between_archive_and_compaction_loses_nothing_and_tells_it_once(
    tmp_path: Path, store_url: str
) -> None:
    slow = step(gate("summary"), text("<summary>After all.</summary>"))
    async with RehearsalModel(scripted(slow)) as model:
        server = LoneServer(
            {
                "state_dir": str(tmp_path / "state"),
                "server__port": 0,
                "store__url": store_url,
                "model__base_url": model.url,
            }
        )
        try:
            await server.start()
            session = await server.session({"strategy": "hybrid"})
            await server.say(session, "Hello.")
            await server.until_idle(session, 1)
            asked = await server.call("POST", session, "compact")
            await model.reached_gate("summary")
            (archive,) = (await server.call("GET", session, "archives"))["data"]
            assert archive["entries"] > 0  # durable before anybody was asked for a summary
            await server.kill()

            await server.start()
            model.open_gate("summary")
            events = await server.until_idle(session, 2)
            assert types(events).count("agent.thread_context_compacted") == 1
            (row,) = (await server.call("GET", session, "compactions"))["data"]
            assert (row["id"], row["state"]) == (asked["id"], "completed")
            kept = (await server.call("GET", session, "archives"))["data"]
            assert archive in kept
            await server.say(session, "Still there?")
            events = await server.until_idle(session, 3)
            assert types(events).count("user.message") == 2
            context = json.dumps(model.message_requests[-1].body["messages"])
            assert "After all." in context
        finally:
            await server.stop()


@pytest.mark.one_database
async def test_message_waits_for_a_compaction_and_an_interrupt_ends_it(tmp_path: Path, store_url: str) -> None:
    slow = step(gate("summary"), text("<summary>Slow.</summary>"))
    async with open_house(tmp_path, store_url, scripted(slow)) as house:
        session = await house.session()
        with pytest.raises(anthropic.BadRequestError, match="Nothing was said"):
            await compact(house, session)
        await house.turn(session, "Hello.")
        before = len(await house.events(session))
        await compact(house, session)
        await house.model.reached_gate("summary")
        with pytest.raises(anthropic.ConflictError, match="waits or runs already"):
            await compact(house, session)
        await house.say(session, "Are you there?")
        await house.client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
        events = await house.until_idle(session, before)
        house.model.open_gate("summary")
        assert types(events).count("session.status_idle") == 2
        assert [e.content[0].text for e in events if e.type == "agent.message"] == ["I see."]
        assert "agent.thread_context_compacted" not in types(events)
        row = await newest(house, session)
        assert (row["state"], row["retry_at"]) == ("failed", None)
        assert row["reason"].startswith("interrupted")


@pytest.mark.one_database
async def test_summary_is_billed_like_any_request_and_none_is_made_beyond_the_budget(
    tmp_path: Path, store_url: str
) -> None:
    dear = {**ROOMY, "input_tokens": 0, "output_tokens": 20_000}  # 40 cents
    async with open_house(tmp_path, store_url, scripted(step("<summary>Dear.</summary>", usage=dear))) as house:
        agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
        budget: Any = {"type": "limit", "max_list_cost": {"amount": "30", "currency": "USD"}}
        made = await house.client.beta.sessions.create(
            agent=agent.id, environment_id=await house.environment(), budget=budget
        )
        session = made.id
        await house.turn(session, "Hello.")
        before = len(await house.events(session))
        await compact(house, session)
        events = await house.until_idle(session, before)
        assert "agent.thread_context_compacted" in types(events)
        usage = (await house.client.beta.sessions.retrieve(session)).usage
        assert int(usage.to_dict()["list_cost"]["amount"]) >= 40
        assert (await newest(house, session))["output_tokens"] == 20_000
        with pytest.raises(anthropic.BadRequestError, match="budget"):
            await compact(house, session)
        assert len(summaries(house)) == 1


async def test_scheduled_compaction_wakes_a_hibernated_session_once_for_each_date(
    tmp_path: Path, store_url: str
) -> None:
    script = scripted(step("<summary>The month.</summary>"))
    async with open_house(tmp_path, store_url, script, turns__idle_timeout_seconds=0.0) as house:
        session = await house.session(extra_body={"compaction": {"schedule": "monthly", "strategy": "hybrid"}})
        await house.turn(session, "Hello.")
        await house.until_no_process()
        assert house.hostler is not None
        database, records = house.hostler.database, Records(house.hostler.database, house.hostler.hub)
        monthly = parse_schedule("monthly")
        now = await database.read(database.now)
        assert (await read(house, session, "compaction"))["next_due_at"] == rfc3339_of(monthly.after(now))

        async def three_months_pass() -> None:
            """As if no server had run: three dates have gone by."""
            first = monthly.after(now - 100 * 86_400)
            await database.write(lambda c: c.execute(compaction_schedules.update().values(next_at=first)))
            async with asyncio.TaskGroup() as servers:
                for _ in range(3):
                    servers.create_task(CompactionClock(database, records).look())

        before = len(await house.events(session))
        await three_months_pass()
        events = await house.until_idle(session, before)
        await house.until_no_process()
        assert "user.message" not in types(events)
        assert types(events).count("agent.thread_context_compacted") == 1
        (row,) = (await read(house, session, "compactions"))["data"]
        assert (row["state"], row["trigger"]) == ("completed", "scheduled")
        assert row["due_at"] == rfc3339_of(monthly.last(now, after=monthly.after(now - 40 * 86_400)))
        assert "Write at most about 2000 tokens" in summaries(house)[0]

        await database.write(lambda c: c.execute(compactions_table.update().values(due_at="an earlier date")))
        await three_months_pass()  # nothing was said since: it stays asleep
        (skipped, _) = (await read(house, session, "compactions"))["data"]
        assert (skipped["state"], skipped["reason"]) == ("skipped", "nothing was said since the last compaction")
        assert len(summaries(house)) == 1
        state = await read(house, session, "compaction")
        assert state["next_due_at"] == rfc3339_of(monthly.after(now))
