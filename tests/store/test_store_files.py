"""Files and their blobs: kept once, never half, never taken away while somebody refers to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from storekit import Skew, add_catalog, add_session

from hostler.domain.errors import NotFound, StoreDamaged, TooLarge
from hostler.store import files as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import NewFile, OutputRow
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import delete_session


def age(blobs: Blobs, blob: Blob, seconds: float = 7200.0) -> None:
    found = blobs.path(blob.sha256).stat()
    os.utime(blobs.path(blob.sha256), (found.st_atime - seconds, found.st_mtime - seconds))


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


async def test_same_bytes_are_kept_once_however_many_come_at_once(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        puts = [tasks.create_task(blobs.put_bytes(b"same" * 100_000)) for _ in range(20)]
    assert {put.result() for put in puts} == {Blob(sha256(b"same" * 100_000).hexdigest(), 400_000)}
    assert left(tmp_path) == [puts[0].result().sha256]
    assert await blobs.read_all(puts[0].result()) == b"same" * 100_000
    assert blobs.path(puts[0].result().sha256).stat().st_mode & 0o022 == 0


async def test_upload_that_is_too_large_or_cut_off_leaves_nothing(tmp_path: Path) -> None:
    blobs, never = Blobs(tmp_path), asyncio.Event()
    begun = asyncio.Event()

    async def cut() -> AsyncIterator[bytes]:
        yield b"x"
        begun.set()
        await never.wait()

    async def long() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"xx"

    with pytest.raises(TooLarge, match="larger than 5 bytes"):
        await blobs.put(long(), most=5)
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(blobs.put(cut(), most=100))
        await begun.wait()
        putting.cancel()
    assert left(tmp_path) == []
    assert (await blobs.put(long(), most=6)).size == 6


async def test_damaged_bytes_are_noticed_before_the_last_of_them_is_given(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blob = await blobs.put_bytes(os.urandom(600_000))
    path = blobs.path(blob.sha256)
    for damage in (path.read_bytes()[:-1] + b"\x00", path.read_bytes()[:-1], b""):
        path.write_bytes(damage)
        got = bytearray()

        async def read(into: bytearray = got) -> None:
            async for piece in blobs.read(blob):
                into.extend(piece)

        with pytest.raises(StoreDamaged):
            await read()
        assert len(got) < blob.size
    path.unlink()
    with pytest.raises(StoreDamaged):
        await blobs.read_all(blob)


async def test_sweep_takes_old_blobs_that_nobody_uses_and_what_a_crash_left(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    used, unused, young = [await blobs.put_bytes(content) for content in (b"used", b"unused", b"young")]
    for blob in (used, unused):
        age(blobs, blob)
    for name, seconds in ((".new-old", 7200), (".new-young", 0)):
        (tmp_path / name).write_bytes(b"half")
        found = (tmp_path / name).stat()
        os.utime(tmp_path / name, (found.st_mtime - seconds, found.st_mtime - seconds))

    async def ask(asked: Sequence[str]) -> Collection[str]:
        assert young.sha256 not in asked
        return {used.sha256}

    assert await blobs.sweep(ask) == 1
    assert left(tmp_path) == sorted([".new-young", used.sha256, young.sha256])


async def test_blob_that_comes_again_while_it_is_swept_stays(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blob = await blobs.put_bytes(b"again")
    age(blobs, blob)

    async def meanwhile(asked: Sequence[str]) -> Collection[str]:
        await blobs.put_bytes(b"again")
        return ()

    assert await blobs.sweep(meanwhile) == 0
    assert await blobs.read_all(blob) == b"again"


def new_file(number: int, **fields: object) -> NewFile:
    values = {
        "id": f"file_{number}",
        "workspace_id": DEFAULT_WORKSPACE,
        "filename": "a.txt",
        "mime_type": "text/plain",
        "size_bytes": 10 * number,
        "sha256": f"{number:064x}",
        "downloadable": False,
    }
    return NewFile(**(values | fields))  # type: ignore[arg-type]


async def test_bytes_of_expired_files_are_unused_and_their_rows_go_later(db: Database, skew: Skew) -> None:
    def make(conn: object) -> None:
        for number, expires in ((1, None), (2, 3600)):
            rows.create_file(conn, db.now(conn), new_file(number, expires_in_seconds=expires))  # type: ignore[arg-type]
        rows.create_file(conn, db.now(conn), new_file(3, sha256=f"{1:064x}", size_bytes=10))  # type: ignore[arg-type]

    await db.write(make)
    asked = [f"{number:064x}" for number in range(1, 600)]

    async def used() -> set[str]:
        return await db.read(lambda c: rows.used_blobs(c, db.now(c), asked))

    assert await used() == set(asked[:2])
    assert await db.read(lambda c: rows.files_bytes(c, DEFAULT_WORKSPACE, db.now(c))) == 30
    skew.seconds = 3600 + rows.EXPIRED_BLOB_SECONDS + 1
    assert await used() == {asked[0]}
    assert await db.read(lambda c: rows.files_bytes(c, DEFAULT_WORKSPACE, db.now(c))) == 10
    assert await db.read(lambda c: rows.get_file(c, DEFAULT_WORKSPACE, "file_2").expired(db.now(c)))
    assert await db.write(lambda c: rows.drop_expired(c, db.now(c), kept_seconds=86_400)) == 0
    skew.seconds += 86_400
    assert await db.write(lambda c: rows.drop_expired(c, db.now(c), kept_seconds=86_400)) == 1
    with pytest.raises(NotFound):
        await db.read(lambda c: rows.get_file(c, DEFAULT_WORKSPACE, "file_2"))


async def test_what_belongs_to_a_session_goes_with_it_and_nothing_else(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1")

    def make(conn: object) -> None:
        rows.create_file(conn, db.now(conn), new_file(1))  # type: ignore[arg-type]
        rows.create_file(conn, db.now(conn), new_file(2, session_id="sesn_1"))  # type: ignore[arg-type]
        rows.put_output(conn, "sesn_1", OutputRow("a", "1", "f", "file_2"))  # type: ignore[arg-type]
        rows.put_secret(conn, "sesn_1", "sesrsc_1", "hs1.k.w.s")  # type: ignore[arg-type]

    await db.write(make)
    await db.write(lambda c: delete_session(c, DEFAULT_WORKSPACE, "sesn_1"))
    found = await db.read(lambda c: rows.list_files(c, DEFAULT_WORKSPACE, limit=10))
    assert [row.id for row in found.rows] == ["file_1"]
    assert await db.read(lambda c: rows.session_outputs_of(c, "sesn_1")) == {}
    assert await db.read(lambda c: rows.get_secret(c, "sesn_1", "sesrsc_1")) is None
