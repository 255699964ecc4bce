"""What a session takes from its agent, what an update says, and which lists it is in: the matrix of the contract."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, custom, types

from hostler.testing.rehearsal import gate, step, text, tool

pytestmark = pytest.mark.one_database

SERVER: Any = {"type": "url", "name": "docs", "url": "https://mcp.docs.example/mcp"}
TOOLSET: Any = {"type": "mcp_toolset", "mcp_server_name": "docs"}


async def base(house: House) -> tuple[str, str]:
    """An agent with everything, and an environment."""
    agent = await house.client.beta.agents.create(
        name="Base",
        model={"id": "claude-opus-5-5", "effort": "low"},
        system="Be brief.",
        tools=[*ALLOW_ALL, custom("customer"), TOOLSET],
        mcp_servers=[SERVER],
    )
    return agent.id, await house.environment(networking={"type": "unrestricted"})


async def create(house: House, agent: str, environment: str, **overrides: Any) -> Any:
    choice: Any = {"type": "agent_with_overrides", "id": agent, **overrides}
    return await house.client.beta.sessions.create(agent=choice, environment_id=environment)


@pytest.mark.endpoint("sessions.create")
async def test_what_is_left_out_is_inherited_null_and_empty_clear_and_a_value_replaces(house: House) -> None:
    agent, environment = await base(house)
    whole = (await house.client.beta.agents.retrieve(agent)).to_dict()

    def differs(session: Any) -> set[str]:
        shown = session.agent.to_dict()
        assert (shown["id"], shown["version"]) == (agent, 1)
        return {key for key in shown if key in whole and shown[key] != whole[key]}

    assert differs(await create(house, agent, environment)) == set()
    for cleared in (None, ""):
        session = await create(house, agent, environment, system=cleared)
        assert differs(session) == {"system"}
        assert session.agent.system is None
    for none in (None, []):
        session = await create(house, agent, environment, tools=none, mcp_servers=none)
        assert differs(session) == {"tools", "mcp_servers"}
        assert (session.agent.tools, session.agent.mcp_servers) == ([], [])
    session = await create(house, agent, environment, tools=[custom("other"), TOOLSET])
    assert differs(session) == {"tools"}
    assert [t.type for t in session.agent.tools] == ["custom", "mcp_toolset"]
    # The agent itself is as it was.
    assert (await house.client.beta.agents.retrieve(agent)).to_dict() == whole


@pytest.mark.endpoint("sessions.create")
async def test_a_model_in_an_override_has_its_own_default_effort(house: House) -> None:
    agent, environment = await base(house)
    for model in ("claude-opus-5-5", {"id": "claude-opus-5-5", "effort": "max"}, {"id": "claude-opus-5-5"}):
        session = await create(house, agent, environment, model=model)
        assert session.agent.model.effort.type == "medium", model


@pytest.mark.endpoint("sessions.create")
async def test_overrides_that_do_not_fit_make_nothing(house: House) -> None:
    agent, environment = await base(house)
    wrong: list[tuple[Any, str]] = [
        ({"model": None}, "agent_model_required"),
        ({"mcp_servers": []}, "docs"),
        ({"mcp_servers": None}, "docs"),
        ({"tools": ALLOW_ALL}, "docs"),
        ({"name": "Other"}, "name"),
        ({"version": 2}, "version"),
    ]
    for overrides, said in wrong:
        with pytest.raises((anthropic.BadRequestError, anthropic.NotFoundError)) as refused:
            await create(house, agent, environment, **overrides)
        assert said in str(refused.value.body), overrides
        assert [s async for s in house.client.beta.sessions.list()] == [], overrides


@pytest.mark.endpoint("sessions.update")
async def test_an_update_tells_only_what_it_changed(house: House) -> None:
    session = await house.session()
    update = house.client.beta.sessions.update

    async def told(**fields: Any) -> list[dict[str, Any]]:
        before = len(await house.events(session))
        await update(session, **fields)
        return [
            {k: v for k, v in event.to_dict().items() if k not in ("id", "type", "processed_at")}
            for event in (await house.events(session))[before:]
        ]

    assert await told(title="T") == [{"title": "T"}]
    assert await told(title="T") == []
    assert await told(metadata={"a": "1", "b": "2"}) == [{"metadata": {"a": "1", "b": "2"}}]
    assert await told(metadata={"a": None, "c": "3"}, title="T") == [{"metadata": {"b": "2", "c": "3"}}]
    assert await told(metadata={"a": None}) == []
    [both] = await told(title=None, agent={"tools": ASK_FOR_BASH})
    assert set(both) == {"title", "agent"}
    assert both["title"] is None
    assert both["agent"] == (await house.client.beta.sessions.retrieve(session)).agent.to_dict()
    assert await told(agent={"tools": ASK_FOR_BASH}) == []
    assert await told() == []
    # The agent of other sessions is as it was.
    agent = await house.client.beta.agents.retrieve(both["agent"]["id"])
    assert agent.version == 1


@pytest.mark.endpoint("sessions.update")
async def test_metadata_cleared_to_nothing_is_not_told(house: House) -> None:
    session = await house.session()
    await house.client.beta.sessions.update(session, metadata={"a": "1"})
    cleared = await house.client.beta.sessions.update(session, metadata={"a": None})
    assert cleared.metadata == {}
    last = (await house.events(session))[-1]
    assert last.type == "session.updated"
    assert "metadata" not in last.to_dict()


@pytest.mark.endpoint("sessions.update")
async def test_title_and_metadata_can_be_changed_while_it_runs(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(gate("hold"), text("Done."))])
    await house.model.reached_gate("hold")
    changed = await house.client.beta.sessions.update(session, title="Now", metadata={"a": "1"})
    assert (changed.status, changed.title) == ("running", "Now")
    house.model.open_gate("hold")
    events = await house.until_idle(session)
    assert types(events).count("session.updated") == 1


@pytest.mark.endpoint("sessions.list")
async def test_a_session_is_found_by_its_memory_store_and_by_no_other(house: House) -> None:
    client = house.client.beta
    stores = [(await client.memory_stores.create(name=name)).id for name in ("one", "two")]
    agent = await client.agents.create(name="A", model="claude-opus-5-5")
    environment = await house.environment()
    with_store = await client.sessions.create(
        agent=agent.id,
        environment_id=environment,
        resources=[{"type": "memory_store", "memory_store_id": stores[0]}],
    )
    plain = await client.sessions.create(agent=agent.id, environment_id=environment)

    async def ids(**filters: Any) -> list[str]:
        return [s.id async for s in client.sessions.list(**filters)]

    assert await ids() == [plain.id, with_store.id]
    assert await ids(memory_store_id=stores[0]) == [with_store.id]
    assert await ids(memory_store_id=stores[1]) == []
    assert await ids(memory_store_id=stores[0], statuses=["running"]) == []
    assert await ids(deployment_id="depl_1") == []
    with pytest.raises(anthropic.BadRequestError, match="agent_version"):
        await ids(agent_version=1)
    assert await ids(agent_id=agent.id, agent_version=1) == [plain.id, with_store.id]
    assert await ids(agent_id=agent.id, agent_version=2) == []


@pytest.mark.endpoint("sessions.list")
async def test_filters_may_change_between_the_pages_of_one_list(house: House) -> None:
    made = [await house.session() for _ in range(3)]
    page = await house.client.beta.sessions.list(limit=2)
    assert [s.id for s in page.data] == made[:0:-1]
    running = await house.client.beta.sessions.list(limit=2, page=page.next_page or "", statuses=["running"])
    assert (running.data, running.next_page) == ([], None)


@pytest.mark.endpoint("sessions.events.send")
async def test_a_late_answer_is_a_bad_request_and_never_a_conflict(house: House) -> None:
    session = await house.session([custom("customer")])
    events = await house.turn(session, [step(tool("customer", q="x")), step("Done.")])
    calls = [e for e in events if e.type == "agent.custom_tool_use"]
    answer: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": calls[0].id, "content": []}
    await house.answer(session, {"type": "user.interrupt"})
    for wrong in (answer, {**answer, "custom_tool_use_id": "sevt_none"}):
        with pytest.raises(anthropic.BadRequestError):
            await house.answer(session, wrong)
    await house.until_no_process()


@pytest.mark.endpoint("sessions.delete", "sessions.events.stream")
async def test_every_open_stream_of_a_deleted_session_ends_with_its_deletion(house: House) -> None:
    session = await house.session()
    streams = house.client.beta.sessions.events.stream
    thread = (await house.client.beta.sessions.threads.list(session)).data[0]
    async with asyncio.timeout(60):
        async with (
            await streams(session) as one,
            await house.client.beta.sessions.threads.events.stream(thread.id, session_id=session) as other,
        ):
            await house.client.beta.sessions.delete(session)
            assert [event.type async for event in one] == ["session.deleted"]
            assert [event.type async for event in other] == ["session.deleted"]
