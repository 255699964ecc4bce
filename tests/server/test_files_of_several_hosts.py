"""Do several hosts read each other's files? Each has a folder of its own; the object store is the same for all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import open_house
from objectskit import WaywardObjects
from test_homes_that_move import bash, leave, results

from hostler.domain.errors import Busy, StoreDamaged
from hostler.engine.shared_blobs import SharedBlobs
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.testing.rehearsal import step, tool

LARGE = os.urandom(5 << 20)


class Two:
    """Two hosts' blobs."""

    def __init__(self, place: Path, database: Database) -> None:
        self.objects = WaywardObjects(place / "objects")
        self._place = place
        self._database = database
        self.one = self.host("one")
        self.two = self.host("two")

    def host(self, name: str, cache_bytes: int = 1 << 30, young_seconds: float = 3600) -> SharedBlobs:
        return SharedBlobs(
            self._place / name,
            self._database,
            self.objects,
            cache_bytes=cache_bytes,
            young_seconds=young_seconds,
        )


@pytest_asyncio.fixture
async def two(tmp_path: Path, store_url: str) -> AsyncIterator[Two]:
    database = await Database.open(store_url)
    try:
        yield Two(tmp_path, database)
    finally:
        await database.close()


async def nothing(_: Sequence[str]) -> Collection[str]:
    return ()


async def test_what_one_host_takes_another_one_reads_and_has_from_then_on(two: Two) -> None:
    blob = await two.one.put_bytes(LARGE)
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(two.two.read_all(blob)) for _ in range(3)]
    assert all(read.result() == LARGE for read in reads)
    fetched = len(two.objects.read)
    assert fetched == 2, "pieces of 4 MiB, each once"
    assert await two.two.read_all(blob) == LARGE
    assert len(two.objects.read) == fetched
    assert two.two.path(blob.sha256).read_bytes() == LARGE


async def test_the_same_bytes_are_kept_once(two: Two) -> None:
    async with asyncio.TaskGroup() as tasks:
        for host in (two.one, two.two) * 3:
            tasks.create_task(host.put_bytes(b"same"))
    assert len([info async for info in two.objects.list("blobs/")]) == 1


async def test_what_is_damaged_on_the_way_is_never_given(two: Two) -> None:
    blob = await two.one.put_bytes(b"whole")
    two.objects.damaged |= set(two.objects.names)
    with pytest.raises(StoreDamaged):
        await two.two.here(blob)
    assert not two.two.path(blob.sha256).exists()
    with pytest.raises(StoreDamaged):
        await two.two.here(Blob("0" * 64, 5))


async def test_nothing_is_taken_that_could_not_be_kept(two: Two) -> None:
    two.objects.away = True
    with pytest.raises(Busy, match="object store"):
        await two.one.put_bytes(b"lost?")
    two.objects.away = False
    blob = await two.one.put_bytes(b"lost?")
    assert await two.two.read_all(blob) == b"lost?"


async def test_the_cache_is_bounded_and_loses_nothing(two: Two) -> None:
    small = two.host("small", cache_bytes=2 << 20)
    blobs = [await small.put_bytes(bytes([n]) * (1 << 20)) for n in range(5)]
    assert sum(small.path(blob.sha256).exists() for blob in blobs) <= 2
    for number, blob in enumerate(blobs):
        assert await small.read_all(blob) == bytes([number]) * (1 << 20)
    assert sum(small.path(blob.sha256).exists() for blob in blobs) <= 2


async def test_a_sweep_removes_what_nobody_uses_unless_somebody_has_just_put_it_again(two: Two) -> None:
    sweeper = two.host("sweeper", young_seconds=0)
    gone = await two.one.put_bytes(b"gone")
    kept = await two.one.put_bytes(b"kept")
    again = await two.one.put_bytes(b"again")
    meanwhile: list[Blob] = []

    async def used(asked: Sequence[str]) -> Collection[str]:
        if again.sha256 in asked:  # between the question and the removal
            meanwhile.append(await two.two.put_bytes(b"again"))
        return {kept.sha256}

    assert await sweeper.sweep(used) == 1
    assert meanwhile
    fresh = two.host("fresh")
    assert await fresh.read_all(kept) == b"kept"
    assert await fresh.read_all(again) == b"again"
    with pytest.raises(StoreDamaged):
        await fresh.read_all(gone)
    assert len([info async for info in two.objects.list("blobs/")]) == 2


async def test_a_host_that_was_alone_shares_what_it_has(two: Two, tmp_path: Path) -> None:
    blob = await Blobs(tmp_path / "one").put_bytes(b"from before")

    async def used(asked: Sequence[str]) -> Collection[str]:
        return asked

    await two.one.sweep(used)
    assert await two.two.read_all(blob) == b"from before"


@pytest.mark.endpoint("files.upload", "files.download", "sessions.create")
async def test_uploads_and_outputs_of_one_server_are_there_on_another(tmp_path: Path, store_url: str) -> None:
    shared = {"objects__url": f"file://{tmp_path}/objects", "secrets__key_file": str(tmp_path / "keys.json")}
    async with open_house(tmp_path / "one", store_url, **shared) as one:
        uploaded = await one.client.beta.files.upload(file=("notes.txt", b"remember"))
        agent = await one.client.beta.agents.create(
            name="A", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
        )
        session = await one.client.beta.sessions.create(
            agent=agent.id,
            environment_id=await one.environment(),
            resources=[{"type": "file", "file_id": uploaded.id, "mount_path": "/mnt/notes.txt"}],
        )
        await one.turn(session.id, bash("cat /mnt/notes.txt > /mnt/session/outputs/copy.txt; cat /mnt/notes.txt"))
        await leave(one)
        async with open_house(tmp_path / "two", store_url, **shared) as two:
            two.secret = one.secret
            two.client = two.new_client()
            events = await two.turn(session.id, [step(tool("bash", command="cat /mnt/notes.txt")), step("Done.")])
            assert results(events) == ["remember"]
            (output,) = [file async for file in two.client.beta.files.list(scope_id=session.id) if file.downloadable]
            assert await (await two.client.beta.files.download(output.id)).read() == b"remember"
