"""A server that is killed while it imports a session has all of it or nothing, and nothing is left that stays.

Killed for real, before or after each of the transactions of the import, or while the bundle is still arriving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import httpx2
import pytest
from housekit import DEADLINE
from test_cut_rewinds import run, server

from hostler.objects.folder import FolderObjects
from hostler.snapshots.sweeping import SnapshotSweep
from hostler.store.database import Database
from hostler.testing.rehearsal import RehearsalModel


async def bundle_of(client: anthropic.AsyncAnthropic) -> bytes:
    """Of a session that is gone."""
    agent = await client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    environment = await client.beta.environments.create(name="mine")
    session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    await run(client, session.id, "head -c 3000000 /dev/urandom > big; echo one > note.txt; ls")
    got = await client.get(f"/hostler/v1/sessions/{session.id}/bundle", cast_to=httpx2.Response)
    await client.beta.sessions.delete(session.id)
    return got.content


async def swept(state: Path) -> int:
    """What stays of objects once nobody needs them, however young."""
    database = await Database.open(f"sqlite:///{state / 'hostler.db'}")
    objects = FolderObjects(state / "objects")
    try:
        await SnapshotSweep(database, objects, young_seconds=-1.0).sweep()
        return len([info async for info in objects.list("snapshots/")])
    finally:
        await database.close()


async def killed_at(tmp_path: Path, number: int, when: str) -> bool:
    """One round. False: the import was over before that transaction, so nothing was killed."""
    state = tmp_path / "state"
    async with RehearsalModel() as model:
        settings = {"state_dir": str(state), "server__port": 0, "model__base_url": model.url}
        file = tmp_path / "die"
        async with server(settings, file) as client:
            bundle = await bundle_of(client)
        assert await swept(state) == 0
        async with server(settings, file) as client:
            fresh = file.with_suffix(".new")
            fresh.write_text(f"{number} {when}")
            fresh.rename(file)
            try:
                await send(client, bundle)
                killed = False
            except httpx2.TransportError:
                killed = True
        file.unlink()
        assert list((state / "bundles").iterdir()) == []
        async with server(settings, file) as client:
            found = [one.id async for one in client.beta.sessions.list()]
            for one in found:
                assert await run(client, one, "cat note.txt; stat -c %s big") == "one\n3000000"
            assert killed or len(found) == 1
        left = await swept(state)
        assert (left > 0) == bool(found)
    return killed


async def send(client: anthropic.AsyncAnthropic, bundle: bytes | AsyncIterator[bytes]) -> None:
    headers = {"authorization": f"Bearer {client.api_key}", "content-type": "application/zstd"}
    async with httpx2.AsyncClient(base_url=str(client.base_url), headers=headers, timeout=DEADLINE) as http:
        answer = await http.post("/hostler/v1/sessions/import", content=bundle)
    assert answer.status_code == 200, answer.text


async def test_a_server_that_is_killed_in_the_middle_of_an_import_has_nothing_of_it(tmp_path: Path) -> None:
    assert await killed_at(tmp_path, 3, "before")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_every_transaction(tmp_path: Path, when: str) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        print(when, number, flush=True)
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = await killed_at(folder, number, when)
    assert number > 3


@pytest.mark.slow
async def test_killed_while_the_bundle_arrives(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with RehearsalModel() as model:
        settings = {"state_dir": str(state), "server__port": 0, "model__base_url": model.url}
        file = tmp_path / "die"
        async with server(settings, file) as client:
            bundle = await bundle_of(client)
            fresh = file.with_suffix(".new")
            half, waiting = asyncio.Event(), asyncio.Event()

            async def chunks() -> AsyncIterator[bytes]:
                yield bundle[: len(bundle) // 2]
                half.set()
                await waiting.wait()
                yield bundle[len(bundle) // 2 :]

            sending = asyncio.create_task(send(client, chunks()))
            await half.wait()
            fresh.write_text("1 before")
            fresh.rename(file)
            with pytest.raises(anthropic.APIConnectionError):
                await client.beta.agents.create(name="dies", model="claude-opus-5-5")
            waiting.set()
            with pytest.raises(httpx2.TransportError):
                await sending
        file.unlink()
        assert list((state / "bundles").iterdir()) == []
        async with server(settings, file) as client:
            assert [one.id async for one in client.beta.sessions.list()] == []
        assert await swept(state) == 0
