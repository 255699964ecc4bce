"""From when on do the files that a worker has of a session count? From when `confirm` has returned, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from snapkit import Bench, write
from sqlalchemy import Connection

from hostler.domain.errors import LeaseLost
from hostler.engine import copies as engine_copies
from hostler.engine.copies import Copies, PutRight
from hostler.engine.home_notes import MARK, HomeNotes
from hostler.engine.runs import Notice
from hostler.store.homes import get_home
from hostler.store.sessions import SessionRow


class Disk:
    """Remembers what was in a home when it was written to the disk. Fails as often as it is told to.

    `plain`: it is the host's own, which is not told to write.
    """

    def __init__(self, fails: int = 0, *, plain: bool = False) -> None:
        self.fails = fails
        self.plain = plain
        self.written: list[set[str]] = []

    def __call__(self, home: Path) -> bool:
        if self.fails:
            self.fails -= 1
            raise OSError(5, "Input/output error", str(home))
        if not self.plain:
            self.written.append({str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()})
        return not self.plain


def copies(bench: Bench, name: str, disk: Disk, boot: str = "boot 1") -> Copies:
    async def forget(session_id: str) -> None:
        raise AssertionError(f"nobody asked to forget {session_id}")

    return Copies(bench.database, bench.worker(), HomeNotes(bench.folder / f"notes-{name}", boot), forget, disk)


def nothing_lost(_: Connection, told: Sequence[Notice]) -> None:
    raise AssertionError(f"nothing was lost: {told}")


async def kept_elsewhere(bench: Bench) -> SessionRow:
    """A session whose files another worker had, and has kept."""
    session = await bench.session()
    theirs, home = copies(bench, "theirs", Disk()), bench.home("theirs")
    lease = await bench.lease(session, "theirs", ttl=5)
    await theirs.settle(session, lease, home, nothing_lost)
    write(home, {"workspace/one": "1", "outputs/two": "2"})
    await theirs.keep(session, lease, home, "hibernation", last=True)
    bench.skew.seconds += 10
    return session


async def counting(bench: Bench, session: SessionRow) -> str:
    row = await bench.database.read(lambda c: get_home(c, session.id))
    assert row is not None
    return row.copy


async def restored(bench: Bench, session: SessionRow, disk: Disk, home: Path) -> PutRight:
    """By a worker that has none of them; they count, and need not be on the disk."""
    ours = copies(bench, "ours", disk)
    right = await ours.put_right(
        session, await bench.lease(session, "ours", ttl=5), home, await ours.known(session.id), nothing_lost
    )
    await right.confirm()
    bench.skew.seconds += 10
    return right


async def is_restored_anew(bench: Bench, session: SessionRow, home: Path, boot: str) -> bool:
    """By the same worker, in a later life, after a change of the files that no snapshot has."""
    write(home, {"workspace/one": "changed"})
    ours = copies(bench, "ours", Disk(), boot)
    await ours.settle(session, await bench.lease(session, "ours", ttl=5), home, nothing_lost)
    return (home / "workspace/one").read_text() == "1"


async def test_files_that_were_restored_count_from_when_that_is_confirmed(bench: Bench) -> None:
    session = await kept_elsewhere(bench)
    before, ours, home = await counting(bench, session), copies(bench, "ours", Disk()), bench.home("ours")
    lease = await bench.lease(session, "ours")
    right = await ours.put_right(session, lease, home, await ours.known(session.id), nothing_lost)
    assert (home / "workspace/one").read_text() == "1"
    assert ours.notes.read(session.id, home) is None
    assert await counting(bench, session) == before
    await right.confirm()
    note = ours.notes.read(session.id, home)
    assert note is not None
    assert note.dirty
    assert await counting(bench, session) == note.copy_name == (home / MARK).read_text()


@pytest.mark.parametrize("flushed", [False, True])
async def test_files_that_need_not_be_on_the_disk_count_until_the_host_goes_down(bench: Bench, flushed: bool) -> None:
    session, disk, home, at_once = await kept_elsewhere(bench), Disk(), bench.home("ours"), asyncio.Event()
    right = await restored(bench, session, disk, home)
    if flushed:
        assert right.flush is not None
        at_once.set()
        await right.flush(at_once)
        assert disk.written == [{"workspace/one", "outputs/two", MARK}]
    assert await is_restored_anew(bench, session, home, "boot 2") != flushed


async def test_files_that_need_not_be_on_the_disk_count_when_only_the_server_dies(bench: Bench) -> None:
    session, home = await kept_elsewhere(bench), bench.home("ours")
    await restored(bench, session, Disk(), home)
    assert not await is_restored_anew(bench, session, home, "boot 1")


@pytest.mark.parametrize("kind", [{"fails": 1}, {"plain": True}], ids=["broken", "plain"])
async def test_files_of_which_nobody_knows_whether_they_are_on_the_disk_count_until_the_host_goes_down(
    bench: Bench, kind: dict[str, int]
) -> None:
    session, home, at_once = await kept_elsewhere(bench), bench.home("ours"), asyncio.Event()
    right = await restored(bench, session, Disk(**kind), home)
    assert right.flush is not None
    at_once.set()
    await right.flush(at_once)
    assert await is_restored_anew(bench, session, home, "boot 2")


async def test_files_that_the_kernel_has_had_time_to_write_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_copies, "KERNEL_SECONDS", 0.01)
    session, home = await kept_elsewhere(bench), bench.home("ours")
    right = await restored(bench, session, Disk(plain=True), home)
    assert right.flush is not None
    await right.flush(asyncio.Event())
    assert not await is_restored_anew(bench, session, home, "boot 2")


async def test_files_are_written_when_the_home_is_left_or_the_kernel_has_done_it(bench: Bench) -> None:
    session, disk, at_once = await kept_elsewhere(bench), Disk(), asyncio.Event()
    right = await restored(bench, session, disk, bench.home("ours"))
    assert right.flush is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await right.flush(at_once)
    assert disk.written == []
    at_once.set()
    await right.flush(at_once)
    assert len(disk.written) == 1


async def test_files_of_a_worker_that_has_lost_the_session_meanwhile_do_not_count(bench: Bench) -> None:
    session = await kept_elsewhere(bench)
    before, ours, home = await counting(bench, session), copies(bench, "ours", Disk()), bench.home("ours")
    lease = await bench.lease(session, "ours", ttl=5)
    right = await ours.put_right(session, lease, home, await ours.known(session.id), nothing_lost)
    bench.skew.seconds += 10
    await bench.lease(session, "somebody else")
    with pytest.raises(LeaseLost):
        await right.confirm()
    assert await counting(bench, session) == before
    again = await ours.put_right(session, lease, home, await ours.known(session.id), nothing_lost)
    assert not again.unkept
    assert ours.notes.read(session.id, home) is None  # restored anew: what was here was nothing


async def test_files_that_are_here_already_are_noted_as_used_before_anything_runs(bench: Bench) -> None:
    session = await kept_elsewhere(bench)
    ours, home = copies(bench, "ours", Disk()), bench.home("ours")
    lease = await bench.lease(session, "ours")
    await ours.settle(session, lease, home, nothing_lost)
    await ours.rest(session.id)
    copy = await counting(bench, session)
    right = await ours.put_right(session, lease, home, await ours.known(session.id), nothing_lost)
    note = ours.notes.read(session.id, home)
    assert note is not None
    assert not note.dirty
    assert right.flush is None  # nothing was restored
    await right.confirm()
    note = ours.notes.read(session.id, home)
    assert note is not None
    assert note.dirty
    assert not right.unkept
    assert await counting(bench, session) == copy
