"""What waits for people, over all sessions; counted quotas; where sessions went; how the server stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import ASK_FOR_BASH, House, allow, custom, deny, open_house, result, types

from hostler import compose
from hostler.domain.errors import InvalidRequest
from hostler.domain.quotas import UNLIMITED
from hostler.engine.quotas import WorkspaceQuotas
from hostler.store import keys, ledger, waiting
from hostler.testing.rehearsal import step, tool


async def get(client: anthropic.AsyncAnthropic, path: str, **query: Any) -> Any:
    return await client.get(f"/hostler/v1{path}", cast_to=object, options={"params": query})


async def inbox(house: House, **query: Any) -> list[Any]:
    answer = await get(house.client, "/approvals", **query)
    rows: list[Any] = answer["data"]
    return rows


async def test_inbox_holds_what_waits_over_all_sessions_oldest_first(house: House) -> None:
    assert await inbox(house) == []
    first = await house.session([*ASK_FOR_BASH, custom("customer")])
    await house.client.beta.sessions.update(first, title="The first")
    steps = [step(tool("bash", command="echo one"), tool("customer", q="x")), step("Done.")]
    await house.turn(first, steps)
    second = await house.session(ASK_FOR_BASH)
    await house.turn(second, [step(tool("bash", command="echo two")), step("Done.")])

    rows = await inbox(house)
    assert [(row["session_id"], row["kind"], row["tool_name"]) for row in rows] == [
        *sorted(
            [(first, "confirmation", "bash"), (first, "custom_tool", "customer")],
            key=lambda row: [r["tool_name"] for r in rows].index(row[2]),
        ),
        (second, "confirmation", "bash"),
    ]
    bash = next(row for row in rows if row["tool_name"] == "bash")
    assert bash["session_title"] == "The first"
    assert bash["input"] == {"command": "echo one"}
    assert 0 <= rows[-1]["age_seconds"] <= rows[0]["age_seconds"] < 60
    log = await house.events(first)
    assert bash["event_id"] == next(event.id for event in log if event.type == "agent.tool_use")

    # Pages.
    page = await get(house.client, "/approvals", limit=2)
    rest = await get(house.client, "/approvals", limit=2, page=page["next_page"])
    assert [row["event_id"] for row in (*page["data"], *rest["data"])] == [row["event_id"] for row in rows]
    assert rest["next_page"] is None

    # A part of the answers takes a part away, and the rest keeps its age.
    calls = {event.name: event for event in log if event.type in ("agent.tool_use", "agent.custom_tool_use")}
    await house.answer(first, allow(calls["bash"]))
    left = await inbox(house)
    assert [row["tool_name"] for row in left if row["session_id"] == first] == ["customer"]
    assert next(row for row in left if row["session_id"] == first)["waiting_since"] == rows[0]["waiting_since"]

    # The last answer, an archive and a deletion empty it.
    await house.answer(first, result(calls["customer"], "none"))
    assert [row["session_id"] for row in await inbox(house)] == [second]
    await house.until_idle(first)
    await house.client.beta.sessions.archive(second)
    assert await inbox(house) == []


@pytest.mark.parametrize("way", ["interrupt", "delete", "deny"])
async def test_what_does_not_wait_any_more_leaves_the_inbox(house: House, way: str) -> None:
    session = await house.session(ASK_FOR_BASH)
    events = await house.turn(session, [step(tool("bash", command="echo one")), step("Done.")])
    assert len(await inbox(house)) == 1
    if way == "interrupt":
        await house.answer(session, {"type": "user.interrupt"})
    elif way == "delete":
        await house.client.beta.sessions.delete(session)
    else:
        call = next(event for event in events if event.type == "agent.tool_use")
        await house.answer(session, deny(call, "no"))
    assert await inbox(house) == []


async def test_inbox_outlives_a_restart(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    await house.turn(session, [step(tool("bash", command="echo one")), step("Done.")])
    before = await inbox(house)
    await house.restart()
    (row,) = await inbox(house)
    assert {**row, "age_seconds": 0} == {**before[0], "age_seconds": 0}


async def test_inbox_of_another_workspace_is_empty(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    await house.turn(session, [step(tool("bash", command="echo one")), step("Done.")])
    async with await other_client(house) as stranger:
        assert (await get(stranger, "/approvals"))["data"] == []
        with pytest.raises(anthropic.NotFoundError):
            await get(stranger, f"/sessions/{session}/egress")


async def other_client(house: House) -> anthropic.AsyncAnthropic:
    assert house.hostler is not None
    database = house.hostler.database

    def make(conn: Any) -> str:
        now = database.now(conn)
        return keys.create_key(conn, now, keys.create_workspace(conn, now, "other").id, "k")[1]

    return anthropic.AsyncAnthropic(base_url=house.hostler.base_url, api_key=await database.write(make), max_retries=0)


# ---------------------------------------------------------------------------------------------------------- quotas


async def set_quotas(house: House, **limits: int) -> None:
    path = f"/hostler/v1/workspaces/{keys.DEFAULT_WORKSPACE}/quotas"
    await house.client.post(path, cast_to=object, body=limits)


async def test_live_sessions_are_limited_and_archiving_makes_room(house: House) -> None:
    await set_quotas(house, live_sessions=2)
    made = [await house.session(), await house.session()]
    with pytest.raises(anthropic.RateLimitError, match="archive or delete some") as caught:
        await house.session()
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
    body: Any = caught.value.body
    assert body["error"]["details"]["error_code"] == "live_sessions_exceeded"
    assert len([s async for s in house.client.beta.sessions.list()]) == 2
    await house.client.beta.sessions.archive(made[0])
    made.append(await house.session())
    await house.client.beta.sessions.delete(made[1])
    await house.session()


async def test_sessions_of_a_day_are_limited_whatever_becomes_of_them(house: House) -> None:
    await set_quotas(house, sessions_per_day=2)
    for _ in range(2):
        await house.client.beta.sessions.delete(await house.session())
    with pytest.raises(anthropic.RateLimitError, match="tomorrow"):
        await house.session()
    used = await get(house.client, f"/workspaces/{keys.DEFAULT_WORKSPACE}/quotas")
    assert used["used"]["sessions_per_day"] == 2
    await set_quotas(house, sessions_per_day=3)
    await house.session()


async def test_sessions_made_at_once_do_not_pass_the_limit_together(house: House) -> None:
    await set_quotas(house, live_sessions=3)
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
    environment = await house.environment()
    outcomes: list[bool] = []

    async def make() -> None:
        try:
            await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)
            outcomes.append(True)
        except anthropic.RateLimitError:
            outcomes.append(False)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(12):
            tasks.create_task(make())
    assert sorted(outcomes) == [False] * 9 + [True] * 3


async def test_storage_is_the_sum_of_its_counters_and_is_limited(house: House) -> None:
    assert house.hostler is not None
    database = house.hostler.database
    limits = {**UNLIMITED, "storage_bytes": 100}
    quotas = WorkspaceQuotas(database, limits, storage=(lambda conn, workspace: 60, lambda conn, workspace: 30))
    await database.write(lambda conn: quotas.admit_bytes(conn, keys.DEFAULT_WORKSPACE, 10))
    with pytest.raises(InvalidRequest, match="101 bytes of the 100") as caught:
        await database.write(lambda conn: quotas.admit_bytes(conn, keys.DEFAULT_WORKSPACE, 11))
    assert caught.value.code == "storage_quota_exceeded"
    assert (await database.read(lambda conn: quotas.used_in(conn, 0.0, keys.DEFAULT_WORKSPACE)))["storage_bytes"] == 90


async def test_files_and_memories_count_as_storage_and_are_refused_beyond_it(house: House) -> None:
    await set_quotas(house, storage_bytes=100)
    file = await house.client.beta.files.upload(file=("a.txt", b"x" * 60))
    store = await house.client.beta.memory_stores.create(name="Notes")
    memories = house.client.beta.memory_stores.memories
    memory = await memories.create(store.id, path="/a", content="y" * 30)
    used = await get(house.client, f"/workspaces/{keys.DEFAULT_WORKSPACE}/quotas")
    assert used["used"]["storage_bytes"] == 90

    async def refused(attempt: Any) -> None:
        with pytest.raises(anthropic.BadRequestError, match="delete something") as caught:
            await attempt
        body: Any = caught.value.body
        assert body["error"]["details"]["error_code"] == "storage_quota_exceeded"

    await refused(house.client.beta.files.upload(file=("b.txt", b"x" * 11)))
    await refused(memories.create(store.id, path="/b", content="y" * 11))
    await refused(memories.update(memory.id, memory_store_id=store.id, content="z" * 11))
    await house.client.beta.files.delete(file.id)
    await memories.create(store.id, path="/b", content="y" * 11)


def test_preset_gives_the_contracts_numbers_and_numbers_come_before_it() -> None:
    from hostler.config import load

    assert compose.quota_defaults(load({"HOME": "/nonexistent"})) == UNLIMITED
    loaded = load({"HOME": "/nonexistent", "HOSTLER_QUOTAS__PRESET": "contract", "HOSTLER_QUOTAS__LIVE_SESSIONS": "5"})
    found = compose.quota_defaults(loaded)
    assert (found["create_requests_per_minute"], found["read_requests_per_minute"]) == (300, 1200)
    assert found["live_sessions"] == 5
    more = load({"HOME": "/nonexistent"}, quotas__preset="contract", quotas__read_requests_per_minute=7)
    assert compose.quota_defaults(more)["read_requests_per_minute"] == 7


# ------------------------------------------------------------------------------------------------ egress and health


async def test_egress_of_a_session_is_shown_and_outlives_it(house: House) -> None:
    session = await house.session()
    command = "curl -s -m 5 http://example.com/; true"
    assert "session.status_idle" in types(await house.turn(session, [step(tool("bash", command=command)), step("ok")]))
    shown = await get(house.client, f"/sessions/{session}/egress")
    assert [(row["host"], row["allowed"], row["type"]) for row in shown["data"]] == [
        ("example.com", False, "egress_decision")
    ]
    await house.client.beta.sessions.delete(session)
    assert await get(house.client, f"/sessions/{session}/egress") == shown
    with pytest.raises(anthropic.NotFoundError):
        await get(house.client, "/sessions/sesn_none/egress")


async def test_egress_comes_in_pages(house: House) -> None:
    session = await house.session()
    assert house.hostler is not None
    database = house.hostler.database
    for port in range(1, 6):
        await database.write(
            lambda c, p=port: ledger.record_egress(  # type: ignore[misc]
                c, database.now(c), session_id=session, method="CONNECT", host="h", port=p, allowed=True, reason="r"
            )
        )
    ports: list[int] = []
    page = ""
    while page is not None:
        answer = await get(house.client, f"/sessions/{session}/egress", limit=2, page=page)
        ports += [row["port"] for row in answer["data"]]
        page = answer["next_page"]
    assert ports == [5, 4, 3, 2, 1]


async def test_health_names_what_is_missing_and_notices_a_draining_worker(house: House) -> None:
    assert house.hostler is not None
    health = await get(house.client, "/health")
    assert health["worker"] == {"ok": True}
    assert health["sandbox"]["missing"] == list(house.hostler.label.missing)
    assert health["reasons"] == [f"sandbox: {promise}" for promise in house.hostler.label.missing]
    assert health["status"] == ("degraded" if house.hostler.label.missing else "ok")
    house.hostler.worker.drain()
    drained = await get(house.client, "/health")
    assert (drained["status"], drained["worker"]) == ("degraded", {"ok": False})
    assert any(reason.startswith("worker:") for reason in drained["reasons"])
    assert str(house.settings["state_dir"]) not in str(drained)


async def test_inbox_is_read_by_its_index(house: House) -> None:
    assert house.hostler is not None
    database = house.hostler.database
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL scans tables that are small, whatever indexes they have")

    def plan(conn: Any) -> str:
        said: list[str] = []
        import sqlalchemy as sa

        def explain(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if statement.startswith("SELECT waiting_calls"):
                rows = conn.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                said.extend(row[3] for row in rows)

        sa.event.listen(conn, "before_cursor_execute", explain)
        try:
            waiting.page_of_waiting(conn, keys.DEFAULT_WORKSPACE, limit=10)
        finally:
            sa.event.remove(conn, "before_cursor_execute", explain)
        return "\n".join(said)

    shown = await database.read(plan)
    assert "SEARCH waiting_calls USING INDEX ix_waiting_calls_oldest" in shown
    assert "SCAN" not in shown
    assert "TEMP B-TREE" not in shown


async def test_an_upload_that_is_over_the_quota_anyway_leaves_no_bytes_behind(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, quotas__storage_bytes=100) as house:
        with pytest.raises(anthropic.BadRequestError, match="storage_bytes"):
            await house.client.beta.files.upload(file=("large.bin", b"x" * (3 << 20)))
        blobs = Path(house.settings["state_dir"]) / "blobs"
        assert not [file for file in blobs.rglob("*") if file.is_file() and file.stat().st_size > 1 << 20]
