"""T44, T50: memory stores of a session whose tools run elsewhere, fetched and kept by the official worker."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from housekit import ALLOW_ALL, DEADLINE, House
from test_self_hosted_losses import until_file
from workerkit import items, served_turn, until_state

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of its own for /mnt/memory")

# The worker keeps a store where the session says that it is mounted: an absolute path, so it gets a /mnt of its own.
IN_OWN_MNT = 'mount -t tmpfs none /mnt && exec "$@"'


async def memory_session(house: House, **resource: Any) -> tuple[str, str, str, str]:
    store = await house.client.beta.memory_stores.create(name="Notes")
    await house.client.beta.memory_stores.memories.create(store.id, path="/known.md", content="known before")
    session, environment, key = await house.self_hosted(
        ALLOW_ALL, resources=[{"type": "memory_store", "memory_store_id": store.id, **resource}]
    )
    return session, environment, key, store.id


async def start_worker(house: House, environment: str, key: str, workdir: Path) -> asyncio.subprocess.Process:
    assert house.hostler is not None
    workdir.mkdir()
    script = Path(__file__).with_name("lone_worker.py")
    return await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", IN_OWN_MNT, "sh"),
        *(sys.executable, str(script), house.hostler.base_url, environment, key, str(workdir)),
    )


@pytest.mark.slow
@pytest.mark.endpoint("memory_stores.memories.list", "memory_stores.memories.create")
async def test_memory_that_the_agent_writes_becomes_a_version_of_its_session(house: House, tmp_path: Path) -> None:
    session, environment, key, store = await memory_session(house)
    worker = await start_worker(house, environment, key, tmp_path / "elsewhere")
    try:
        events = await served_turn(
            house,
            session,
            [
                step(tool("bash", command="cat /mnt/memory/notes/known.md; echo learned > /mnt/memory/notes/new.md")),
                step("Ok."),
            ],
        )
        assert "known before" in next(e for e in events if e.type == "user.tool_result").content[0].text
        [item] = await items(house, environment, key)
        await house.client.beta.environments.work.stop(item.id, environment_id=environment)
        await until_state(house, environment, item.id, "stopped", 150)
    finally:
        worker.kill()
        await worker.wait()
    memories = house.client.beta.memory_stores.memories
    kept = {m.path: m async for m in memories.list(store, view="full") if m.type == "memory"}
    assert kept["/new.md"].content == "learned\n"
    versions = [v async for v in house.client.beta.memory_stores.memory_versions.list(store)]
    written = next(v for v in versions if v.path == "/new.md")
    assert written.created_by.type == "session_actor"
    assert written.created_by.session_id == session


async def test_memory_is_flushed_after_the_session_was_archived(house: House, tmp_path: Path) -> None:
    session, environment, key, store = await memory_session(house)
    worker = await start_worker(house, environment, key, tmp_path / "elsewhere")
    try:
        await served_turn(
            house,
            session,
            [step(tool("bash", command="touch begun; echo last > /mnt/memory/notes/last.md")), step("Ok.")],
        )
        await until_file(tmp_path / "elsewhere" / "begun")
        [item] = await items(house, environment, key)
        await house.client.beta.sessions.archive(session)
        await until_state(house, environment, item.id, "stopped")
    finally:
        worker.kill()
        await worker.wait()
    async with asyncio.timeout(DEADLINE):
        paths = [m.path async for m in house.client.beta.memory_stores.memories.list(store)]
    assert "/last.md" in paths


async def test_read_only_store_is_not_changed_by_a_worker(house: House, tmp_path: Path) -> None:
    session, environment, key, store = await memory_session(house, access="read_only")
    worker = await start_worker(house, environment, key, tmp_path / "elsewhere")
    try:
        await served_turn(
            house, session, [step(tool("bash", command="echo forged > /mnt/memory/notes/known.md; true")), step("Ok.")]
        )
        [item] = await items(house, environment, key)
        await house.client.beta.sessions.archive(session)
        await until_state(house, environment, item.id, "stopped")
    finally:
        worker.kill()
        await worker.wait()
    [known] = [m async for m in house.client.beta.memory_stores.memories.list(store, view="full")]
    assert known.content == "known before"
