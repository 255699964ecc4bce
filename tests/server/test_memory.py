"""Memory as an agent sees it: folders that are there in the next session too, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import asyncpg
import pytest
from housekit import ALLOW_ALL, DEADLINE, House

from hostler.testing.rehearsal import gate, step, text, tool

HERE = "cd /mnt/memory/user-preferences"


async def store(house: House, name: str = "User Preferences", **fields: Any) -> str:
    return (await house.client.beta.memory_stores.create(name=name, **fields)).id


async def session_with(house: House, *stores: str | dict[str, Any], system: str | None = None) -> str:
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL, **({"system": system} if system else {})
    )
    attached: Any = [
        {"type": "memory_store", **({"memory_store_id": one} if isinstance(one, str) else one)} for one in stores
    ]
    made = await house.client.beta.sessions.create(
        agent=agent.id, environment_id=await house.environment(), resources=attached
    )
    return made.id


async def memories(house: House, store_id: str) -> dict[str, str]:
    found: dict[str, str] = {}
    async for item in house.client.beta.memory_stores.memories.list(store_id, view="full"):
        assert item.type == "memory"
        assert item.content is not None
        found[item.path] = item.content
    return found


async def until(house: House, store_id: str, fits: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """The memories as soon as they are right: what a turn has written is saved right after its end was announced."""
    async with asyncio.timeout(DEADLINE):
        while not fits(found := await memories(house, store_id)):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
    return found


async def bash(house: House, session: str, command: str) -> str:
    """Run a command by the agent; what it said."""
    events = await house.turn(session, [step(tool("bash", command=command)), step("Done.")])
    said = next(e for e in events if e.type == "agent.tool_result")
    return "".join(block.text for block in said.content or ())


def folder(house: House, session: str, store_id: str) -> Path:
    return Path(house.settings["state_dir"]) / "sessions" / session / "memory" / store_id / "files"


@pytest.mark.endpoint("sessions.create", "memory_stores.memories.list", "memory_stores.memory_versions.list")
async def test_second_session_reads_what_the_first_has_written_also_after_a_restart(house: House) -> None:
    store_id = await store(house, description="What the user likes.")
    first = await session_with(house, store_id)
    await bash(house, first, "cd /mnt/memory/user-preferences && mkdir notes && echo tea > notes/drinks.md")
    assert await until(house, store_id, bool) == {"/notes/drinks.md": "tea\n"}
    await house.restart()
    second = await session_with(house, {"memory_store_id": store_id, "instructions": "Ask before you delete."})
    said = await bash(house, second, "cat /mnt/memory/user-preferences/notes/drinks.md")
    assert said == "tea"
    (version,) = [v async for v in house.client.beta.memory_stores.memory_versions.list(store_id)]
    assert version.operation == "created"
    assert version.created_by is not None
    assert version.created_by.to_dict() == {"type": "session_actor", "session_id": first}
    system = str(house.model.message_requests[-1].body["system"])
    for words in ("/mnt/memory/user-preferences", "What the user likes.", "Ask before you delete."):
        assert words in system
    shown = (await house.client.beta.sessions.retrieve(second)).resources[0].to_dict()
    assert shown == {
        "type": "memory_store",
        "memory_store_id": store_id,
        "access": "read_write",
        "name": "User Preferences",
        "description": "What the user likes.",
        "instructions": "Ask before you delete.",
        "mount_path": "/mnt/memory/user-preferences",
    }
    listed = [s.id async for s in house.client.beta.sessions.list(memory_store_id=store_id)]
    assert listed == [second, first]


async def test_change_rename_and_deletion_reach_the_store_and_keep_the_history(house: House) -> None:
    store_id, client = await store(house), house.client.beta.memory_stores
    made = {
        path: await client.memories.create(store_id, path=path, content=f"content of {path}")
        for path in ("/changed.md", "/moved.md", "/gone.md", "/same.md")
    }
    session = await session_with(house, store_id)
    cd = "cd /mnt/memory/user-preferences && "
    await bash(house, session, cd + "echo new > changed.md && mkdir -p a/b && mv moved.md a/b/moved.md && rm gone.md")
    found = await until(house, store_id, lambda m: "/gone.md" not in m)
    assert found == {
        "/changed.md": "new\n", "/a/b/moved.md": "content of /moved.md", "/same.md": "content of /same.md",
    }  # fmt: skip
    moved = await client.memories.retrieve(made["/moved.md"].id, memory_store_id=store_id)
    assert moved.path == "/a/b/moved.md"
    versions = [v async for v in client.memory_versions.list(store_id, session_id=session)]
    assert sorted((v.operation, v.path) for v in versions) == [
        ("deleted", "/gone.md"), ("modified", "/a/b/moved.md"), ("modified", "/changed.md"),
    ]  # fmt: skip


@pytest.mark.one_database
async def test_remote_changes_are_there_in_the_next_turn_of_the_same_process(house: House) -> None:
    store_id, client = await store(house), house.client.beta.memory_stores
    session = await session_with(house, store_id)
    await bash(house, session, "true")
    made = await client.memories.create(store_id, path="/from/outside.md", content="one")
    assert await bash(house, session, "cat /mnt/memory/user-preferences/from/outside.md") == "one"
    await client.memories.update(made.id, memory_store_id=store_id, content="two")
    assert await bash(house, session, "cat /mnt/memory/user-preferences/from/outside.md") == "two"
    await client.memories.delete(made.id, memory_store_id=store_id)
    assert await bash(house, session, "ls -A /mnt/memory/user-preferences | wc -l") == "0"


async def test_when_both_changed_the_store_wins_and_the_agents_text_is_still_there(house: House) -> None:
    store_id, client = await store(house), house.client.beta.memory_stores
    made = await client.memories.create(store_id, path="/plan.md", content="old")
    session = await session_with(house, store_id)
    await bash(house, session, "true")
    # The agent changes the file in a turn in the middle of which somebody else changes the memory.
    await house.say(session, [
        step(tool("bash", command="echo mine > /mnt/memory/user-preferences/plan.md")),
        step(gate("changed"), text("Done.")),
    ])  # fmt: skip
    await house.model.reached_gate("changed")
    await client.memories.update(made.id, memory_store_id=store_id, content="theirs")
    before = len(await house.events(session))
    house.model.open_gate("changed")
    await house.until_idle(session, before)
    said = await bash(house, session, f"{HERE}; cat plan.md; echo; cat .unsynced/plan.md .unsynced/README")
    assert said.startswith("theirs\nmine\n")
    assert "/plan.md: .unsynced/plan.md" in said
    assert await memories(house, store_id) == {"/plan.md": "theirs"}
    # When the agent has tidied up, nothing is left of it.
    await bash(house, session, "rm /mnt/memory/user-preferences/.unsynced/plan.md")
    assert await bash(house, session, "ls -A /mnt/memory/user-preferences") == "plan.md"


@pytest.mark.one_database
async def test_read_only_store_is_read_only_inside(house: House) -> None:
    store_id, client = await store(house), house.client.beta.memory_stores
    await client.memories.create(store_id, path="/rules.md", content="Be kind.")
    session = await session_with(house, {"memory_store_id": store_id, "access": "read_only"})
    said = await bash(house, session, f"{HERE}; cat rules.md; echo x > rules.md; rm -f rules.md; touch new")
    assert "Be kind." in said
    assert said.count("Read-only file system") == 3
    await bash(house, session, "true")  # by now the first turn was saved, if anything is
    assert await memories(house, store_id) == {"/rules.md": "Be kind."}
    assert "you may read" not in str(house.model.message_requests[-1].body["system"])


@pytest.mark.one_database
async def test_what_cannot_be_saved_is_said_and_harms_nothing(house: House) -> None:
    store_id = await store(house)
    session = await session_with(house, store_id)
    await bash(house, session, "\n".join([
        "cd /mnt/memory/user-preferences",
        "echo fine > fine.md",
        "head -c 200000 /dev/zero | tr '\\0' x > large.md",
        "printf '\\xff\\xfe' > binary",
        "mkfifo pipe",
        "ln -s /etc/passwd link",
        "ln -s /etc linked",
        "touch \"$(printf 'new\\nline')\" \"$(printf '\\xff')\"",
        "mkdir -p " + "/".join("abcdefghijklmnopqrstuvw"),
        "touch " + "/".join("abcdefghijklmnopqrstuvw") + "/x",
    ]))  # fmt: skip
    assert await until(house, store_id, bool) == {"/fine.md": "fine\n"}
    said = await bash(house, session, "cat /mnt/memory/user-preferences/.unsynced/README")
    for words in (
        "/large.md: it has 200000 bytes", "/binary: it is not UTF-8", "/pipe: it is not a regular file",
        "/link: it is not a regular file", "/linked: it is not a regular file", "U+000A", "20 segments",
    ):  # fmt: skip
        assert words in said, words
    assert await memories(house, store_id) == {"/fine.md": "fine\n"}


@pytest.mark.one_database
async def test_known_memories_behind_a_link_are_not_taken_for_deleted(house: House) -> None:
    store_id, client = await store(house), house.client.beta.memory_stores
    await client.memories.create(store_id, path="/notes/a.md", content="a")
    await client.memories.create(store_id, path="/b.md", content="b")
    session = await session_with(house, store_id)
    await bash(house, session, f"{HERE} && mv notes /tmp/n && ln -s /tmp/n notes && echo c > c.md")
    found = await until(house, store_id, lambda m: "/c.md" in m)
    assert found == {"/notes/a.md": "a", "/b.md": "b", "/c.md": "c\n"}


async def test_changes_of_a_turn_whose_server_died_before_it_saved_them_are_saved_later(house: House) -> None:
    store_id = await store(house)
    session = await session_with(house, store_id)
    await bash(house, session, "echo one > /mnt/memory/user-preferences/note.md")
    await until(house, store_id, bool)
    await house.stop()
    # As if the server had been killed between the end of a turn and saving: the folder is ahead of the store.
    with house.left_by_a_killed_server(session):
        files = folder(house, session, store_id)
        (files / "note.md").write_text("two\n")
        (files / "late.md").write_text("late\n")
    await house.start()  # which saves it without waiting for the session's next turn
    found = await until(house, store_id, lambda m: m.get("/note.md") == "two\n" and "/late.md" in m)
    assert found == {"/late.md": "late\n", "/note.md": "two\n"}
    assert await bash(house, session, "cat /mnt/memory/user-preferences/*.md") == "late\ntwo"


@pytest.mark.one_database
async def test_changes_of_a_turn_that_ended_while_saving_was_stuck_are_saved_by_the_next_server(
    house: House, store_url: str
) -> None:
    """On PostgreSQL somebody holds the store's row, so the turn ends and nothing is saved until the server is gone."""
    if store_url.startswith("sqlite"):
        pytest.skip("a lock on SQLite would keep the turn from ending, too")
    store_id = await store(house)
    session = await session_with(house, store_id)
    await bash(house, session, "true")
    holder = await asyncpg.connect(store_url)
    try:
        await holder.execute("BEGIN")
        await holder.execute("SELECT 1 FROM memory_stores WHERE id = $1 FOR UPDATE", store_id)
        await bash(house, session, "echo late > /mnt/memory/user-preferences/late.md")
        await house.stop()
        assert await holder.fetchval("SELECT count(*) FROM memories") == 0
    finally:
        await holder.close()
    await house.start()
    assert await bash(house, session, "cat /mnt/memory/user-preferences/late.md") == "late"
    assert await memories(house, store_id) == {"/late.md": "late\n"}


@pytest.mark.one_database
async def test_what_cannot_be_attached_makes_no_session(house: House) -> None:
    gone, archived = await store(house), await store(house)
    await house.client.beta.memory_stores.delete(gone)
    await house.client.beta.memory_stores.archive(archived)
    twice = await store(house)
    with pytest.raises(anthropic.NotFoundError, match=gone):
        await session_with(house, gone)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        await session_with(house, archived)
    with pytest.raises(anthropic.BadRequestError, match="twice"):
        await session_with(house, twice, twice)
    assert [s async for s in house.client.beta.sessions.list()] == []


@pytest.mark.one_database
async def test_session_goes_on_when_its_store_is_deleted_and_says_that_nothing_is_saved(house: House) -> None:
    store_id, other = await store(house), await store(house)
    session = await session_with(house, store_id, other, system="Be brief.")
    await bash(house, session, "echo 1 > /mnt/memory/user-preferences/a; echo 2 > /mnt/memory/user-preferences-2/b")
    await until(house, other, bool)
    assert "Be brief." in str(house.model.message_requests[-1].body["system"])
    await house.client.beta.memory_stores.delete(store_id)
    await house.restart()
    said = await bash(house, session, f"{HERE}; cat a .unsynced/README")
    assert said.startswith("1\n")
    assert "the memory store was deleted" in said
    assert await memories(house, other) == {"/b": "2\n"}


async def test_memory_that_came_just_before_a_crash_and_was_deleted_since_does_not_come_back(house: House) -> None:
    """What was being laid out is written down before the files are, so that they aren't taken for the agent's own."""
    store_id, client = await store(house), house.client.beta.memory_stores
    made = await client.memories.create(store_id, path="/a.md", content="a")
    session = await session_with(house, store_id)
    await bash(house, session, "true")
    await house.stop()
    # As if the server had died with the file in place, before it noted that it was.
    with house.left_by_a_killed_server(session):
        manifest = folder(house, session, store_id).parent / "manifest.json"
        known = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**known, "known": {}, "coming": known["known"]}))
    await house.start()
    await house.client.beta.memory_stores.memories.delete(made.id, memory_store_id=store_id)
    assert await bash(house, session, "ls -A /mnt/memory/user-preferences | wc -l") == "0"
    assert await memories(house, store_id) == {}


@pytest.mark.one_database
async def test_workspace_that_may_keep_no_more_is_told_so_and_its_agent_too(house: House) -> None:
    await house.stop()
    house.settings["quotas__storage_bytes"] = 10
    await house.start()
    store_id, client = await store(house), house.client.beta.memory_stores
    made = await client.memories.create(store_id, path="/a.md", content="12345")
    with pytest.raises(anthropic.BadRequestError, match="storage_bytes") as refused:
        await client.memories.update(made.id, memory_store_id=store_id, content="123456")
    assert refused.value.body["error"]["details"] == {"error_code": "storage_quota_exceeded"}  # type: ignore[index]
    session = await session_with(house, store_id)
    await bash(house, session, f"{HERE}; echo 123456 > b.md; echo 7 > c.md")
    assert await until(house, store_id, lambda m: len(m) == 2) == {"/a.md": "12345", "/c.md": "7\n"}
    said = await bash(house, session, f"{HERE}; cat .unsynced/README b.md")
    assert "/b.md: this would make" in said
    assert "\n123456" in said
