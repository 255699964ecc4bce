"""Checkpoints, going back, forks and differences, over HTTP with the official client and the real harness."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import anthropic
import pytest
import sqlalchemy as sa
from bundlekit import exported
from housekit import ASK_FOR_BASH, DEADLINE, House
from test_several_servers import two_houses

from hostler.domain.checkpoints import CreateCheckpoint
from hostler.domain.errors import Conflict
from hostler.engine.checkpoints import Checkpoints
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.tables import events, sequences, sessions, transcript_entries
from hostler.store.tables_checkpoints import checkpoints
from hostler.store.tables_snapshots import snapshots
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import gate, step, tool


async def points(house: House, session: str) -> list[str]:
    found: Any = await house.client.get(f"/hostler/v1/sessions/{session}/checkpoints", cast_to=object)
    return [one["id"] for one in found["data"]]


async def post(house: House, path: str, **body: Any) -> dict[str, Any]:
    return await house.client.post(f"/hostler/v1/sessions/{path}", body=body, cast_to=dict[str, Any])


async def get(house: House, where: str, **query: Any) -> dict[str, Any]:
    return await house.client.get(f"/hostler/v1/sessions/{where}", cast_to=dict[str, Any], options={"params": query})


def told(house: House) -> str:
    """What the model was told with the last request."""
    return json.dumps(house.model.message_requests[-1].body["messages"])


def runs(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("{{last_tool_result}}")]


async def shell(house: House, session: str, command: str) -> str:
    """What a command says in the session's sandbox."""
    seen = await house.turn(session, runs(command))
    text = str(next(e for e in reversed(seen) if e.type == "agent.message").content[0].text)
    return text.removesuffix("\nShell cwd was reset to /workspace")


async def rows_of(house: House, session: str) -> list[Any]:
    """Everything that is kept of a session, byte by byte."""
    assert house.hostler is not None

    def unit(conn: sa.Connection) -> list[Any]:
        return [
            conn.execute(sa.select(sessions).where(sessions.c.id == session)).all(),
            conn.execute(sa.select(events).where(events.c.session_id == session).order_by(events.c.seq)).all(),
            conn.execute(sa.select(sequences).where(sequences.c.session_id == session)).all(),
            conn.execute(sa.select(snapshots).where(snapshots.c.session_id == session)).all(),
            conn.execute(
                sa.select(transcript_entries)
                .where(transcript_entries.c.project_key == session)
                .order_by(transcript_entries.c.subpath, transcript_entries.c.ordinal)
            ).all(),
        ]

    return await house.hostler.database.read(unit)


async def test_a_session_goes_back_with_its_files_and_forward_again(house: House) -> None:
    session = await house.session()
    await shell(house, session, "echo one > note.txt; mkdir d; ln -s ../note.txt d/link")
    first = await post(house, f"{session}/checkpoints", name="after one")
    assert (first["name"], first["reason"], first["stop_reason"]["type"]) == ("after one", "manual", "end_turn")
    await shell(house, session, "echo two > note.txt; echo more > other.txt; rm -r d")
    used = (await house.client.beta.sessions.retrieve(session)).usage
    before = await house.events(session)
    found = await get(house, f"{session}/diff", to="now", path="workspace/note.txt", **{"from": first["id"]})
    assert {(c["path"], c["how"]) for c in found["files"]["changes"]} == {
        ("workspace/d", "removed"),
        ("workspace/d/link", "removed"),
        ("workspace/note.txt", "changed"),
        ("workspace/other.txt", "added"),
    }
    assert found["text"]["unified"].splitlines()[2:] == ["@@ -1 +1 @@", "-one", "+two"]
    with pytest.raises(anthropic.BadRequestError, match=r"note\.txt is a file at neither point"):
        await get(house, f"{session}/diff", path="note.txt", **{"from": first["id"]})
    assert found["events"]["added_by_type"]["user.message"] == 1
    assert found["cost"]["output_tokens"] > 0

    done = await post(house, f"{session}/rewind", checkpoint_id=first["id"])
    # The log only grows, and says what happened in a way that every client knows.
    after = await house.events(session)
    assert [e.id for e in after[: len(before)]] == [e.id for e in before]
    (notice,) = after[len(before) :]
    assert notice.type == "session.error"
    assert notice.error.model_extra["hostler"]["type"] == "session_rewound"
    assert notice.error.model_extra["hostler"]["checkpoint_id"] == first["id"]
    assert await shell(house, session, "cat note.txt d/link; ls") == "one\none\nd\nnote.txt"
    assert "echo one" in told(house)
    assert "echo two" not in told(house)
    # Money that was spent stays spent.
    assert (await house.client.beta.sessions.retrieve(session)).usage.output_tokens > used.output_tokens

    # The point that was left can be gone back to, whatever was done since.
    await post(house, f"{session}/rewind", checkpoint_id=done["left_checkpoint_id"])
    assert await shell(house, session, "cat note.txt other.txt; ls") == "two\nmore\nnote.txt\nother.txt"
    assert "echo two" in told(house)
    assert "d/link" not in told(house).split("echo two")[1]
    listed = await get(house, f"{session}/checkpoints")
    assert [one["reason"] for one in listed["data"]] == ["rewind", "rewind", "manual"]
    rewinds = await get(house, f"{session}/rewinds")
    assert [one["checkpoint_id"] for one in rewinds["data"]] == [done["left_checkpoint_id"], first["id"]]


async def test_a_fork_begins_at_the_point_and_the_original_stays_as_it_is(house: House) -> None:
    upload = await house.client.beta.files.upload(file=("given.txt", b"given"))
    made = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    session = (
        await house.client.beta.sessions.create(
            agent=made.id,
            environment_id=await house.environment(),
            resources=[{"type": "file", "file_id": upload.id, "mount_path": "/mnt/session/uploads/given.txt"}],
        )
    ).id
    await shell(house, session, "echo one > note.txt")
    first = await post(house, f"{session}/checkpoints")
    await shell(house, session, "echo two > note.txt")
    await post(house, f"{session}/checkpoints")
    before = await rows_of(house, session)

    fork = await post(house, f"{session}/fork", checkpoint_id=first["id"], title="another way", metadata={"a": "b"})
    assert fork["forked_from"]["session_id"] == session
    assert fork["usage"]["output_tokens"] == 0
    shown = await house.client.beta.sessions.retrieve(fork["id"])
    assert (shown.title, shown.metadata, shown.status) == ("another way", {"a": "b"}, "idle")
    copied, original = await house.events(fork["id"]), await house.events(session)
    assert [e.id for e in copied] == [e.id for e in original[: len(copied)]]
    assert len(copied) == first["seq"]
    (thread,) = [thread async for thread in house.client.beta.sessions.threads.list(fork["id"])]
    assert {e.session_thread_id for e in copied if "thread_status" in e.type} == {thread.id}
    assert await rows_of(house, session) == before

    assert await shell(house, fork["id"], "cat note.txt; echo mine > note.txt") == "one"
    assert "echo one" in told(house)
    assert "echo two" not in told(house)
    assert await rows_of(house, session) == before
    assert await shell(house, session, "cat note.txt") == "two"
    assert await shell(house, fork["id"], "cat note.txt") == "mine"
    difference = await get(house, f"{session}/diff", to=fork["id"], **{"from": first["id"]})
    assert [(c["path"], c["how"]) for c in difference["files"]["changes"]] == [("workspace/note.txt", "changed")]
    assert difference["events"]["removed"] == 0
    texts = [m["content"][0]["text"] for m in difference["events"]["messages"] if m["type"] == "agent.message"]
    assert texts == ["one", "mine"]
    # What it stands on may go: the fork has its own.
    await house.client.beta.sessions.delete(session)
    await house.client.beta.files.delete(upload.id)
    assert await shell(house, fork["id"], "cat note.txt /mnt/session/uploads/given.txt") == "mine\ngiven"


async def test_calls_that_wait_are_a_point_too(house: House) -> None:
    """Two calls of one answer: what the second is, only the gateway's state knows."""
    session = await house.session(ASK_FOR_BASH)
    steps = [
        step(tool("bash", command="echo first >> log.txt"), tool("bash", command="echo second >> log.txt")),
        step(tool("read", file_path="/workspace/log.txt")),
        step("{{last_tool_result}}"),
    ]
    asked = await house.turn(session, steps)
    waits_for = asked[-1].stop_reason.event_ids
    point = await post(house, f"{session}/checkpoints")
    assert point["stop_reason"]["event_ids"] == waits_for
    assert await allowed(house, session) == "first second"
    fork = await post(house, f"{session}/fork", checkpoint_id=point["id"])
    await post(house, f"{session}/rewind", checkpoint_id=point["id"])
    idle = (await house.events(session))[-1]
    assert (idle.type, idle.stop_reason.event_ids) == ("session.status_idle", waits_for)
    waiting = await house.client.get("/hostler/v1/approvals", cast_to=dict[str, Any])
    assert {(row["session_id"], row["event_id"]) for row in waiting["data"]} == {
        (again, event_id) for again in (session, fork["id"]) for event_id in waits_for
    }
    # They run once, in a workspace where they never ran.
    for again in (session, fork["id"]):
        assert await allowed(house, again) == "first second"


async def allowed(house: House, session: str) -> str:
    """Allow everything that the session asks; the words of the file that it reads at the end."""
    while (stop := (await house.events(session))[-1].stop_reason).type == "requires_action":
        seen = len(await house.events(session))
        for event_id in stop.event_ids:
            await house.answer(session, {"type": "user.tool_confirmation", "tool_use_id": event_id, "result": "allow"})
        await house.until_idle(session, seen)
    said = [e.content[0].text for e in await house.events(session) if e.type == "agent.message"]
    return " ".join(re.findall("first|second", said[-1]))


@pytest.mark.one_database
async def test_memories_go_back_unless_somebody_else_has_changed_them(house: House) -> None:
    assert house.hostler is not None
    client = house.client
    store = await client.beta.memory_stores.create(name="Notes")
    made = await client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    session = (
        await client.beta.sessions.create(
            agent=made.id,
            environment_id=await house.environment(),
            resources=[{"type": "memory_store", "memory_store_id": store.id, "access": "read_write"}],
        )
    ).id
    await shell(house, session, "cd /mnt/memory/*; for n in mine theirs gone; do echo $n-1 > $n.md; done")
    point = await post(house, f"{session}/checkpoints")
    assert point["memories"] == {store.id: 3}
    await shell(house, session, "cd /mnt/memory/*; echo mine-2 > mine.md; echo new > new.md; rm gone.md")
    memories = {m.path: m async for m in client.beta.memory_stores.memories.list(store.id)}
    await client.beta.memory_stores.memories.update(
        memories["/theirs.md"].id, memory_store_id=store.id, content="theirs-2"
    )
    done = await post(house, f"{session}/rewind", checkpoint_id=point["id"])
    restored = {(m["path"], m["operation"]) for m in done["memories"]["restored"]}
    assert restored == {("/mine.md", "modified"), ("/new.md", "deleted"), ("/gone.md", "created")}
    assert [(m["path"], m["reason"]) for m in done["memories"]["left"]] == [("/theirs.md", "changed_by_others")]
    said = await shell(house, session, "cd /mnt/memory/*; ls; cat mine.md theirs.md gone.md")
    assert said == "gone.md\nmine.md\ntheirs.md\nmine-1\ntheirs-2gone-1"
    # Nothing of what was is lost.
    versions = [v async for v in client.beta.memory_stores.memory_versions.list(store.id)]
    assert [v.operation for v in versions].count("created") == 5
    done = await post(house, f"{session}/rewind", checkpoint_id=point["id"], force=True)
    assert [(m["path"], m["operation"]) for m in done["memories"]["restored"]] == [("/theirs.md", "modified")]


@pytest.mark.one_database
async def test_points_are_refused_where_there_are_none(house: House) -> None:
    session = await house.session()
    await house.say(session, [step(tool("bash", command="sleep 30"))])
    await house.until_event(session, "agent.tool_use")
    with pytest.raises(anthropic.ConflictError, match="Wait for session") as refused:
        await post(house, f"{session}/checkpoints")
    assert refused.value.response.headers["x-should-retry"] == "false"
    await house.answer(session, {"type": "user.interrupt"})
    await house.until_idle(session)
    for body in ({"name": ""}, {"name": "a\nb"}, {"what": 1}):
        with pytest.raises(anthropic.BadRequestError):
            await post(house, f"{session}/checkpoints", **body)
    with pytest.raises(anthropic.NotFoundError):
        await post(house, f"{session}/rewind", checkpoint_id="ckpt_none")
    point = await post(house, f"{session}/checkpoints")
    await house.client.delete(f"/hostler/v1/sessions/{session}/checkpoints/{point['id']}", cast_to=dict[str, Any])
    with pytest.raises(anthropic.NotFoundError):
        await get(house, f"{session}/checkpoints/{point['id']}")
    hosted, _, _ = await house.self_hosted()
    with pytest.raises(anthropic.BadRequestError, match="on your own machines"):
        await post(house, f"{hosted}/checkpoints")
    await house.client.beta.sessions.archive(session)
    with pytest.raises(anthropic.BadRequestError, match="Fork it from one of its checkpoints"):
        await post(house, f"{session}/checkpoints")
    with pytest.raises(anthropic.BadRequestError, match="says not when"):
        await house.environment(hosting={"checkpoints": {"keep": 3}})
    with pytest.raises(anthropic.BadRequestError, match="ephemeral"):
        await house.environment(hosting={"pattern": "ephemeral", "checkpoints": {"every_turns": 3}})


@pytest.mark.one_database
async def test_checkpoints_are_taken_by_themselves_and_the_oldest_go(house: House) -> None:
    made = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5")
    environment = await house.environment(hosting={"checkpoints": {"every_turns": 2, "keep": 2}})
    session = (await house.client.beta.sessions.create(agent=made.id, environment_id=environment)).id
    by_hand = None
    for turn in range(9):
        await house.turn(session, [step("Said.")])
        if turn == 0:
            by_hand = await post(house, f"{session}/checkpoints")
    await house.client.beta.sessions.archive(session)
    await house.until_no_process()
    assert house.hostler is not None
    query = sa.select(checkpoints.c.reason, checkpoints.c.seq).order_by(checkpoints.c.created_at)
    found = await house.hostler.database.read(lambda c: c.execute(query).all())
    assert by_hand is not None
    a_turn = by_hand["seq"]
    # By hand after the first; then every second, of which two are kept.
    assert [(reason, seq // a_turn) for reason, seq in found] == [("manual", 1), ("automatic", 7), ("automatic", 9)]


@pytest.mark.one_database
async def test_an_export_takes_nothing_away_that_can_be_gone_back_to(house: House) -> None:
    made = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5")
    environment = await house.environment(hosting={"checkpoints": {"every_turns": 1, "keep": 1}})
    session = (await house.client.beta.sessions.create(agent=made.id, environment_id=environment)).id
    await house.turn(session, [step("Said.")])
    async with asyncio.timeout(DEADLINE):
        while not (before := await points(house, session)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for _ in range(2):
        assert (await exported(house, session)).status == 200
    assert await points(house, session) == before


async def test_a_session_goes_back_through_a_server_that_does_not_have_it(
    tmp_path: Path, server_cluster: PostgresCluster
) -> None:
    """The one that has its idle process hears of it at once: polling is slowed down so far that it explains nothing."""
    async with two_houses(tmp_path, server_cluster) as pair:
        session = await pair.working.session()
        await shell(pair.working, session, "echo one > note.txt")
        first = await post(pair.working, f"{session}/checkpoints")
        await shell(pair.working, session, "echo two > note.txt")
        await post(pair.working, f"{session}/checkpoints")  # and now its process has nothing to do
        async with asyncio.timeout(DEADLINE):
            await post(pair.other, f"{session}/rewind", checkpoint_id=first["id"])
        assert await shell(pair.working, session, "cat note.txt") == "one"


@pytest.mark.one_database
async def test_a_session_whose_process_was_lost_goes_back_as_often_as_anybody_wants(house: House) -> None:
    """What the harness said last is kept beside its transcript, and begun anew after a loss."""
    session = await house.session()
    await shell(house, session, "echo one")
    point = await post(house, f"{session}/checkpoints")
    await post(house, f"{session}/rewind", checkpoint_id=point["id"])
    assert house.hostler is not None
    await house.say(session, [step(tool("bash", command="echo two")), step(gate("lost"), "Done.")])
    await house.model.reached_gate("lost")
    sandbox = house.hostler.worker.sandbox_of(session)
    assert sandbox is not None
    await sandbox.destroy()
    house.model.open_gate("lost")
    await house.until_idle(session)
    await post(house, f"{session}/rewind", checkpoint_id=point["id"])
    assert await shell(house, session, "echo three") == "three"
    assert "echo two" not in told(house)


@pytest.mark.one_database
async def test_what_no_worker_does_in_time_is_not_done_later(house: House) -> None:
    assert house.hostler is not None
    session = await house.session()
    await house.turn(session, [step("Said.")])
    database = house.hostler.database
    house.hostler.worker.drain()
    await house.until_no_process()
    waiting = Checkpoints(database, house.hostler.hub, patience_seconds=0.2)
    with pytest.raises(Conflict, match="no worker could do this"):
        await waiting.create(DEFAULT_WORKSPACE, session, CreateCheckpoint())
    await house.restart()
    await house.turn(session, [step("Said again.")])
    assert (await get(house, f"{session}/checkpoints"))["data"] == []
