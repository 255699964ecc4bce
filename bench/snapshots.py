"""What does keeping a session's files cost? Everything in the same run, alternating, on the same file system.

    .venv/bin/python bench/snapshots.py [--rounds 15] [--place /var/tmp]

A workspace of 2,000 files and 200 MB, in which ten files change in each round. Against it: the whole folder through
`tar` and `zstd -1`, and `git add -A && git commit` of a work tree that changes the same way. Figures are medians.
Every snapshot is taken by a service that was just made: nothing is remembered but what lies on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random  # noqa: TID251 - the same bytes in every run
from time import monotonic

import uvloop

from hostler.objects.folder import FolderObjects
from hostler.snapshots.service import StoredSnapshots
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, SessionRow, create_session

FILES, BYTES, CHANGED = 2_000, 200_000_000, 10


class Tree:
    """A workspace with files of very different sizes; some of it is text, some doesn't compress."""

    def __init__(self, top: Path, seed: int) -> None:
        self._random = Random(seed)
        self._words = [self._random.randbytes(self._random.randrange(2, 9)).hex() for _ in range(5_000)]
        sizes = [self._random.paretovariate(1.1) for _ in range(FILES)]
        scale = BYTES / sum(min(size, 200) for size in sizes)
        self.files = []
        for number, size in enumerate(sizes):
            path = top / f"d{number % 41}" / f"e{number % 7}" / f"file{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.files.append((path, int(min(size, 200) * scale)))
            self._write(*self.files[-1])

    def change(self) -> None:
        for path, size in self._random.sample(self.files, CHANGED):
            self._write(path, size)

    def _write(self, path: Path, size: int) -> None:
        if self._random.random() < 0.25:
            path.write_bytes(self._random.randbytes(size))
            return
        words = self._random.choices(self._words, k=size // 10 + 1)
        path.write_bytes(" ".join(words).encode()[:size])


async def session_of(database: Database) -> SessionRow:
    def unit(conn):  # type: ignore[no-untyped-def]
        now = database.now(conn)
        create_agent(conn, now, id="agent_1", workspace_id=DEFAULT_WORKSPACE, name="a", body={})
        create_environment(conn, now, id="env_1", workspace_id=DEFAULT_WORKSPACE, name="e", body={})
        new = NewSession("sesn_1", DEFAULT_WORKSPACE, "agent_1", 1, "env_1", "sthr_1", {}, {}, "{}")
        return create_session(conn, now, new)

    return await database.write(unit)


@contextmanager
def timed(into: list[float], busy: list[float] | None = None) -> Iterator[None]:
    """Milliseconds that pass, and those of processor time of this process and its children."""
    begun, before = monotonic(), sum(os.times()[:4])
    yield
    into.append((monotonic() - begun) * 1000)
    if busy is not None:
        busy.append((sum(os.times()[:4]) - before) * 1000)


def run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tar(top: Path, into: Path) -> None:
    run("sh", "-c", f"tar c . | zstd -1 -q -f -o {into} && sync {into}", cwd=top)


def commit(top: Path) -> None:
    run("git", "add", "-A", cwd=top)
    run("git", "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-q", "-m", "x", cwd=top)


async def measure(rounds: int, place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hostler-bench-", dir=place) as root:
        ground = Path(root)
        ours, theirs = ground / "home", ground / "theirs"
        tree, same = Tree(ours / "workspace", 1), Tree(theirs, 1)
        run("git", "init", "-q", cwd=theirs)
        database = await Database.open(f"sqlite:///{ground / 'hostler.db'}")
        session = await session_of(database)
        objects = FolderObjects(ground / "objects")

        def service() -> StoredSnapshots:
            return StoredSnapshots(database, objects, ground / "memories")

        first: list[float] = []
        with timed(first):
            kept = await service().take(session, ours, "turn")
        with timed(first):
            tar(ours, ground / "first.tar.zst")
        with timed(first):
            commit(theirs)
        await asyncio.sleep(1)
        taken: list[float] = []
        tarred: list[float] = []
        committed: list[float] = []
        nothing: list[float] = []
        busy: tuple[list[float], list[float], list[float]] = ([], [], [])
        stored = []
        for _ in range(rounds):
            tree.change()
            same.change()
            with timed(taken, busy[0]):
                snapshot = await service().take(session, ours, "turn")
            stored.append(snapshot.stored_bytes)
            with timed(nothing):
                assert await service().take(session, ours, "turn") == snapshot
            with timed(tarred, busy[1]):
                tar(ours, ground / "again.tar.zst")
            with timed(committed, busy[2]):
                commit(theirs)
        restored: list[float] = []
        untarred: list[float] = []
        for number in range(3):
            with timed(restored):
                (ground / f"back{number}").mkdir()
                await service().restore(session.id, ground / f"back{number}")
            with timed(untarred):
                (ground / f"tar{number}").mkdir()
                run("sh", "-c", f"zstd -dcq {ground / 'again.tar.zst'} | tar x", cwd=ground / f"tar{number}")
        run("diff", "-r", str(ours / "workspace"), str(ground / "back0" / "workspace"), cwd=ground)
        await database.close()

        mid = statistics.median
        mib = 1 << 20
        print(f"{FILES} files, {kept.logical_bytes / mib:.0f} MiB; {CHANGED} changed in each of {rounds} rounds")
        print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        row("snapshot after the change", mid(taken), ("limit", 150.0), ("tar", mid(tarred)), ("git", mid(committed)))
        row("  the fastest of them", min(taken), ("tar", min(tarred)), ("git", min(committed)))
        mine, tars, gits = (mid(each) for each in busy)
        row("  processor time", mine, ("tar", tars), ("git", gits))
        row("snapshot, nothing changed", mid(nothing))
        row("first snapshot", first[0], ("tar", first[1]), ("git", first[2]))
        row("restore", mid(restored), ("tar", mid(untarred)))
        tarball = (ground / "again.tar.zst").stat().st_size
        size = sum(path.stat().st_size for path in (theirs / ".git").rglob("*") if path.is_file())
        every = sum(path.stat().st_size for path in (ground / "objects").rglob("*") if path.is_file())
        print(f"first snapshot kept      {kept.stored_bytes / mib:8.1f} MiB   one tar {tarball / mib:.1f} MiB")
        print(f"each later one added     {mid(stored) / mib:8.1f} MiB")
        print(f"all {rounds + 1} together         {every / mib:8.1f} MiB   git {size / mib:.1f} MiB")


def row(what: str, ours: float, *others: tuple[str, float]) -> None:
    beside = "   ".join(f"{name} {value:.0f} ms ({ours / max(value, 1):.2f} x)" for name, value in others)
    print(f"{what:26}{ours:8.1f} ms   {beside}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--place", type=Path, default=Path("/var/tmp"), help="a folder on a disk, not in memory")
    chosen = parser.parse_args()
    needed: list[Callable[[], str | None]] = [lambda: shutil.which("zstd"), lambda: shutil.which("git")]
    if not all(find() for find in needed):
        raise SystemExit("needs the programs zstd and git")
    uvloop.run(measure(chosen.rounds, chosen.place))


if __name__ == "__main__":
    main()
