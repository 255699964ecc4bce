"""What nobody uses goes, and nothing else, whoever works at the same time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

from snapkit import Bench, seen, write

from hostler.domain.errors import Conflict
from hostler.engine.snapshot_port import Swept
from hostler.objects.folder import FolderObjects

OLD = 100_000.0
"""Seconds after which everything is old enough."""


def age(bench: Bench) -> None:
    """By the clock of the database, and by that of the object store."""
    bench.skew.seconds += OLD
    for path in (bench.folder / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime - OLD, path.stat().st_mtime - OLD))


async def test_what_a_crash_left_of_a_memory_goes_once_it_is_old(bench: Bench) -> None:
    session = await bench.session()
    write(bench.home("one"), {"workspace/a": "text"})
    await bench.snapshots.take(session, bench.folder / "homes" / "one", "turn")
    memories = bench.folder / "memories-1"
    left, young = memories / ".new-left", memories / ".new-young"
    for file in (left, young):
        file.write_text("half")
    os.utime(left, (0, 0))
    await bench.sweep(memories=memories).sweep()
    assert sorted(path.name for path in memories.iterdir()) == sorted([young.name, session.id])


async def test_what_no_snapshot_uses_goes_once_it_is_old(bench: Bench) -> None:
    gone, stays = await bench.session(), await bench.session()
    for session, name in ((gone, "one"), (stays, "two")):
        write(bench.home(name), {"workspace/own": os.urandom(20_000), "workspace/both": b"both" * 1000})
        await bench.snapshots.take(session, bench.folder / "homes" / name, "turn")
    before = await bench.listed()
    await bench.snapshots.forget(gone.id)
    sweep = bench.sweep()
    assert await sweep.sweep() == Swept(0, 0, 0)
    age(bench)
    await bench.snapshots.take(stays, bench.folder / "homes" / "two", "turn")

    figures = await sweep.sweep(dry_run=True)
    assert await bench.listed() == {name: info for name, info in (await bench.listed()).items() if name in before}
    assert len(await bench.listed()) == 4
    assert await sweep.sweep() == figures
    # The pack of the session that is gone stays: the other one found a piece in it and didn't keep it again.
    assert (figures.objects, figures.nameless) == (1, 0)
    await bench.worker().restore(stays.id, bench.home("three"))
    assert seen(bench.folder / "homes" / "three") == seen(bench.folder / "homes" / "two")

    await bench.snapshots.forget(stays.id)
    assert (await sweep.sweep()).objects == 3
    assert await bench.listed() == {}
    # What the index said of pieces has gone with them.
    again = await bench.worker().take(stays, bench.folder / "homes" / "two", "turn")
    assert again.stored_bytes > 20_000
    await bench.worker().restore(stays.id, bench.home("four"))


class Waiting(FolderObjects):
    """A place that takes a manifest only when it is told to, and has the pack by then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.packed, self.reached, self.go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def put(self, name: str, data: bytes | Path) -> None:
        if "/manifests/" in name:
            self.reached.set()
            await self.go_on.wait()
        await super().put(name, data)
        self.packed.set()


async def test_a_sweep_while_a_snapshot_is_taken(bench: Bench) -> None:
    """What it relied on goes while it works: it notices, and keeps it anew."""
    first, second = await bench.session(), await bench.session()
    home = bench.home("one")
    write(home, {"workspace/a": os.urandom(20_000), "workspace/b": os.urandom(20_000)})
    await bench.snapshots.take(first, home, "turn")
    age(bench)
    place = Waiting(bench.folder / "objects")
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(bench.worker(objects=place).take(second, home, "turn"))
        await place.reached.wait()
        await bench.snapshots.forget(first.id)
        assert (await bench.sweep().sweep()).objects == 2
        place.go_on.set()
    assert taking.result().stored_bytes > 40_000
    restored = await bench.worker().restore(second.id, bench.home("two"))
    assert restored.damaged == ()
    assert seen(bench.folder / "homes" / "two") == seen(home)


async def test_what_was_put_too_long_ago_is_not_named(bench: Bench) -> None:
    """A worker that slept for hours between object and row: a sweep may have taken the object for a left-over."""
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": os.urandom(20_000)})
    place = Waiting(bench.folder / "objects")
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(bench.worker(objects=place).take(session, home, "turn"))
        await place.packed.wait()
        age(bench)
        assert (await bench.sweep().sweep()).nameless == 1
        place.go_on.set()
    taken = taking.result()
    assert (await bench.worker().restore(session.id, bench.home("two"))).snapshot == taken


async def test_two_keep_the_same_pieces_at_once(bench: Bench) -> None:
    sessions = [await bench.session() for _ in range(4)]
    home = bench.home("one")
    write(home, {f"workspace/f{number}": os.urandom(5_000) for number in range(30)})
    async with asyncio.TaskGroup() as tasks:
        for session in sessions:
            tasks.create_task(bench.worker().take(session, home, "turn"))
        tasks.create_task(bench.sweep().sweep())
    for number, session in enumerate(sessions):
        await bench.worker().restore(session.id, bench.home(f"back{number}"))
        assert seen(bench.folder / "homes" / f"back{number}") == seen(home)


async def test_two_workers_at_the_same_session_give_two_whole_snapshots(bench: Bench) -> None:
    """Nobody does that who holds a lease. Without one, both are numbered, or one of them is told to try again."""
    session, homes = await bench.session(), [bench.home("one"), bench.home("two")]
    for number, home in enumerate(homes):
        write(home, {"workspace/a": f"of {number}"})
    refused = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            for home in homes:
                tasks.create_task(bench.worker().take(session, home, "turn"))
    except* Conflict:
        refused = 1
    rows = await bench.rows(session.id)
    assert [row.number for row in rows] == list(range(2 - refused, 0, -1))
    for row in rows:
        await bench.worker().restore(session.id, bench.home(row.id), row.id)
        assert (bench.folder / "homes" / row.id / "workspace" / "a").read_text() in ("of 0", "of 1")


async def test_a_snapshot_that_is_removed_while_it_is_read_is_not_damaged(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": "old"})
    await bench.snapshots.take(session, home, "turn")
    rows = await bench.rows(session.id)

    class Slow(FolderObjects):
        """A place whose reader is overtaken by a newer snapshot and a sweep."""

        overtaken = False

        async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            if not self.overtaken:
                self.overtaken = True
                write(home, {"workspace/a": "new"})
                await bench.snapshots.take(session, home, "turn")
                await bench.remove(rows)
                age(bench)
                await bench.sweep().sweep()
            return await super().get(name, start, length)

    restored = await bench.worker(objects=Slow(bench.folder / "objects")).restore(session.id, bench.home("two"))
    assert restored.damaged == ()
    assert (bench.folder / "homes" / "two" / "workspace" / "a").read_text() == "new"


async def test_killed_between_objects_and_row_leaves_nothing_visible(lite: Bench) -> None:
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/a": os.urandom(40 << 20)})  # more than a pack: one is recorded before the end
    program = textwrap.dedent("""
        import asyncio, os, signal, sys
        from pathlib import Path
        from hostler.objects.folder import FolderObjects
        from hostler.snapshots.service import StoredSnapshots
        from hostler.store.database import Database
        from hostler.store.sessions import get_session

        class Killed(FolderObjects):
            async def put(self, name, data):
                await super().put(name, data)
                if "/manifests/" in name:
                    os.kill(os.getpid(), signal.SIGKILL)

        async def main(folder, session_id):
            database = await Database.open(f"sqlite:///{folder}/hostler.db")
            session = await database.read(lambda c: get_session(c, None, session_id))
            snapshots = StoredSnapshots(database, Killed(folder / "objects"), folder / "memories-1")
            await snapshots.take(session, folder / "homes" / "one", "turn")

        asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(lite.folder), session.id)
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    assert await lite.snapshots.latest(session.id) is None
    left = await lite.listed()
    assert len(left) >= 2
    assert (await lite.sweep().sweep()).objects == 0, "too young: somebody may be about to record it"
    age(lite)
    swept = await lite.sweep().sweep()
    assert swept.objects == len(left)
    assert swept.nameless >= 1
    assert await lite.listed() == {}

    taken = await lite.snapshots.take(session, home, "turn")
    assert (await lite.worker().restore(session.id, lite.home("two"))).snapshot == taken
    assert seen(lite.folder / "homes" / "two") == seen(home)


async def test_what_a_host_remembers_of_sessions_that_are_gone_goes(lite: Bench) -> None:
    gone, stays = await lite.session(), await lite.session()
    home = lite.home("one")
    write(home, {"workspace/a": "a"})
    for session in (gone, stays):
        await lite.snapshots.take(session, home, "turn")
    await lite.remove(await lite.rows(gone.id))
    await lite.sweep(memories=lite.folder / "memories-1").sweep()
    assert os.listdir(lite.folder / "memories-1") == [stays.id]
