"""The life of a session as the official client sees it, on the whole server."""

from __future__ import annotations

import asyncio
import re

import anthropic
import pytest
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, types

from hostler.testing.rehearsal import gate, prompt, step, text, tool

ORDER = re.compile(
    r"user.message session.status_running session.thread_status_running "
    r"(span.model_request_start (agent.thinking )?(agent.message )?(agent.tool_use )*span.model_request_end "
    r"(agent.tool_result )*)+session.thread_status_idle session.usage session.status_idle $"
)


def message(steps: list) -> dict:
    return {"type": "user.message", "content": [{"type": "text", "text": prompt(steps)}]}


@pytest.mark.endpoint("sessions.create", "sessions.events.list")
async def test_session_with_initial_events_is_running_when_created(house: House) -> None:
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment()
    session = await house.client.beta.sessions.create(
        agent=agent.id,
        environment_id=environment,
        title="First",
        metadata={"team": "blue"},
        initial_events=[message([step(tool("bash", command="echo hi")), step("Said.")])],
    )
    assert session.status == "running"
    events = await house.until_idle(session.id)
    assert ORDER.match(" ".join(types(events)) + " "), types(events)
    shown = await house.client.beta.sessions.retrieve(session.id)
    assert (shown.status, shown.title, shown.metadata) == ("idle", "First", {"team": "blue"})
    assert shown.stats.active_seconds is not None
    assert 0 < shown.stats.active_seconds <= (shown.stats.duration_seconds or 0)


async def test_one_invalid_initial_event_and_nothing_is_created(house: House) -> None:
    session = await house.session()
    shown = await house.client.beta.sessions.retrieve(session)
    with pytest.raises(anthropic.BadRequestError, match=r"initial_events\[1\]"):
        await house.client.beta.sessions.create(
            agent=shown.agent.id,
            environment_id=shown.environment_id,
            initial_events=[message([step("x")]), {"type": "user.interrupt"}],  # type: ignore[list-item]
        )
    assert [s.id async for s in house.client.beta.sessions.list()] == [session]


@pytest.mark.endpoint("sessions.archive", "sessions.delete", "sessions.update", "sessions.retrieve")
async def test_running_session_refuses_archive_delete_and_change_until_it_is_idle(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(gate("hold"), text("Done."))])
    await house.model.reached_gate("hold")
    sessions = house.client.beta.sessions
    for refused in (
        sessions.archive(session),
        sessions.delete(session),
        sessions.update(session, agent={"tools": []}),
    ):
        with pytest.raises(anthropic.BadRequestError, match="running"):
            await refused
    await house.answer(session, {"type": "user.interrupt"})
    await house.until_idle(session)
    archived = await sessions.archive(session)
    assert archived.status == "terminated"
    assert (await sessions.archive(session)).archived_at == archived.archived_at
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        await house.say(session, [step("x")])
    assert types(await house.events(session))[-1] == "session.status_terminated"
    assert [s.id async for s in sessions.list()] == []
    assert [s.id async for s in sessions.list(include_archived=True)] == [session]


@pytest.mark.endpoint("sessions.delete", "sessions.events.stream")
async def test_deleting_ends_open_streams_and_removes_every_file(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step(tool("bash", command="mkdir -p deep; echo x > deep/file")), step("Ok.")])
    workspace = house.workspace(session)
    assert (workspace / "deep" / "file").exists()
    async with asyncio.timeout(60), await house.client.beta.sessions.events.stream(session) as stream:
        deleted = await house.client.beta.sessions.delete(session)
        assert (deleted.id, deleted.type) == (session, "session_deleted")
        assert [event.type async for event in stream] == ["session.deleted"]
    with pytest.raises(anthropic.NotFoundError):
        await house.client.beta.sessions.retrieve(session)
    async with asyncio.timeout(60):
        while workspace.exists():  # noqa: ASYNC110 - removal follows the answer, announced by nothing
            await asyncio.sleep(0.02)


@pytest.mark.endpoint("sessions.update")
async def test_update_tells_what_changed_and_the_next_turn_has_the_new_tools(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step("Hi.")])
    updated = await house.client.beta.sessions.update(session, title="New", agent={"tools": ASK_FOR_BASH})
    assert updated.title == "New"
    last = (await house.events(session))[-1]
    assert (last.type, last.title) == ("session.updated", "New")
    before = len(await house.events(session))
    await house.client.beta.sessions.update(session, title="New")
    assert len(await house.events(session)) == before
    events = await house.turn(session, [step(tool("bash", command="true")), step("Ok.")])
    assert events[-1].stop_reason.type == "requires_action"


@pytest.mark.endpoint("sessions.create")
async def test_overrides_replace_parts_of_the_agent_for_one_session(house: House) -> None:
    agent = await house.client.beta.agents.create(
        name="A", model={"id": "claude-opus-5-5", "effort": "low"}, system="Be brief.", tools=ALLOW_ALL
    )
    environment = await house.environment()

    async def create(**overrides: object):  # type: ignore[no-untyped-def]
        choice = {"type": "agent_with_overrides", "id": agent.id, **overrides}
        return await house.client.beta.sessions.create(agent=choice, environment_id=environment)  # type: ignore[arg-type]

    plain = await create()
    assert (plain.agent.system, plain.agent.version) == ("Be brief.", 1)
    other = await create(model={"id": "claude-haiku-5-5", "effort": "max"}, system=None, tools=[])
    assert (other.agent.id, other.agent.model.id) == (agent.id, "claude-haiku-5-5")
    assert other.agent.model.effort.type != "max"
    assert (other.agent.system, other.agent.tools) == (None, [])
    with pytest.raises(anthropic.BadRequestError) as refused:
        await create(model=None)
    assert "agent_model_required" in str(refused.value.body)
    with pytest.raises(anthropic.NotFoundError):
        await create(skills=[{"type": "custom", "skill_id": "skill_x"}])


@pytest.mark.endpoint("sessions.list")
async def test_list_filters_by_agent_status_and_time(house: House) -> None:
    first, second = await house.session(), await house.session()
    shown = [await house.client.beta.sessions.retrieve(s) for s in (first, second)]
    sessions = house.client.beta.sessions

    async def ids(**filters: object) -> list[str]:
        return [s.id async for s in sessions.list(**filters)]  # type: ignore[arg-type]

    assert await ids() == [second, first]
    assert await ids(order="asc") == [first, second]
    assert await ids(agent_id=shown[0].agent.id) == [first]
    assert await ids(statuses=["running"]) == []
    assert await ids(statuses=["idle"], limit=1) == [second, first]
    assert await ids(created_at_gt=shown[0].created_at) == [second]
    assert await ids(deployment_id="depl_none") == []
    assert await ids(memory_store_id="memstore_none") == []
    page = await sessions.list(limit=1)
    after = await sessions.list(limit=1, page=page.next_page or "")
    assert [s.id for s in after.data] == [first]
    assert after.prev_page is not None
    assert [s.id for s in (await sessions.list(limit=1, page=after.prev_page)).data] == [second]
    with pytest.raises(anthropic.BadRequestError):
        await sessions.list(limit=1, page=page.next_page or "", order="asc")


@pytest.mark.endpoint(
    "sessions.threads.list",
    "sessions.threads.retrieve",
    "sessions.threads.archive",
    "sessions.threads.events.list",
)
async def test_every_session_has_its_primary_thread(house: House) -> None:
    session = await house.session()
    events = await house.turn(session, [step("Hi.")])
    threads = [t async for t in house.client.beta.sessions.threads.list(session)]
    assert [t.parent_thread_id for t in threads] == [None]
    thread = threads[0]
    first = next(e for e in events if e.type.startswith("session.thread_status"))
    assert first.session_thread_id == thread.id
    assert thread.usage is not None
    logged = [e.id async for e in house.client.beta.sessions.threads.events.list(thread.id, session_id=session)]
    assert logged == [e.id for e in events]
    again = await house.client.beta.sessions.threads.retrieve(thread.id, session_id=session)
    assert again.status == "idle"
    with pytest.raises(anthropic.BadRequestError):
        await house.client.beta.sessions.threads.archive(thread.id, session_id=session)


async def test_archived_agent_and_environment_take_no_new_sessions_and_running_ones_go_on(house: House) -> None:
    session = await house.session()
    shown = await house.client.beta.sessions.retrieve(session)
    await house.client.beta.agents.archive(shown.agent.id)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        await house.client.beta.sessions.create(agent=shown.agent.id, environment_id=shown.environment_id)
    await house.client.beta.environments.archive(shown.environment_id)
    assert (await house.turn(session, [step("Going on.")]))[-1].stop_reason.type == "end_turn"


async def test_session_keeps_the_agent_version_it_began_with(house: House) -> None:
    session = await house.session(system="Old.")
    shown = await house.client.beta.sessions.retrieve(session)
    await house.client.beta.agents.update(shown.agent.id, system="New.", version=1)
    await house.turn(session, [step("Hi.")])
    assert "Old." in str(house.model.message_requests[-1].body["system"])


async def test_another_workspaces_session_does_not_exist(house: House) -> None:
    session = await house.session()
    assert house.hostler is not None
    database = house.hostler.database
    from hostler.store import keys

    other = await database.write(lambda c: keys.create_workspace(c, database.now(c), "Other"))
    _, secret = await database.write(lambda c: keys.create_key(c, database.now(c), other.id, "theirs"))
    theirs = house.client.with_options(api_key=secret)
    sessions = theirs.beta.sessions
    for attempt in (
        sessions.retrieve(session),
        sessions.archive(session),
        sessions.delete(session),
        sessions.update(session, title="x"),
        sessions.events.send(session, events=[{"type": "user.interrupt"}]),
        sessions.events.stream(session),
        sessions.threads.retrieve("sthr_x", session_id=session),
    ):
        with pytest.raises(anthropic.NotFoundError):
            await attempt
    with pytest.raises(anthropic.NotFoundError):
        await sessions.events.list(session)
    assert [s.id async for s in sessions.list()] == []
