"""What was kept comes back, on another worker, and only what changed travels."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa
from snapkit import Bench, seen, write

from hostler.domain.clock import SystemClock
from hostler.domain.errors import LeaseLost, NotFound
from hostler.engine.snapshot_port import ALWAYS, Shown
from hostler.sandbox.users import hand_over
from hostler.snapshots.remembered import Memories


def everything(home: Path) -> None:
    """One of each kind of thing that a session can leave."""
    workspace = home / "workspace"
    write(
        home,
        {
            "workspace/src/a.py": "print('a')\n" * 100,
            "workspace/empty": "",
            "workspace/with\nnewline": "n",
            "outputs/report.txt": "report",
            "repositories/one/.git/HEAD": "ref: refs/heads/main\n",
            "workspace/private": "p",
        },
    )
    (workspace / "big").write_bytes(os.urandom(9 << 20))
    with (workspace / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(16 << 20)
        file.write(b"island" * 5000)
        file.seek(32 << 20)
        file.write(b"other")
    (workspace / "run").write_bytes(b"#!/bin/sh\n")
    (workspace / "run").chmod(0o755)
    (workspace / "private").chmod(0)
    os.symlink("src/a.py", workspace / "link")
    os.symlink("/etc/passwd", workspace / "outside")
    os.symlink("nowhere", workspace / "broken")
    os.link(workspace / "src" / "a.py", workspace / "zweitname")
    os.link(workspace / "src" / "a.py", home / "outputs" / "third")
    with open(os.fsencode(workspace) + b"/not-utf8-\xff\xfe", "wb") as file:
        file.write(b"bytes")
    (workspace / "nested" / "empty folder").mkdir(parents=True)
    (workspace / "closed").mkdir()
    (workspace / "closed" / "inside").write_text("inside")
    deep = workspace
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    (deep / "leaf").write_text("deep")
    for path, when in (("src/a.py", 1_000_000_000), ("link", 1_200_000_000), ("nested", 3)):
        os.utime(workspace / path, ns=(when * 10**9 + 123, when * 10**9 + 123), follow_symlinks=False)
    (workspace / "closed").chmod(0)
    os.mkfifo(workspace / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(workspace / "sock"))
    listener.close()


async def test_every_kind_of_file_comes_back_on_another_worker(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    everything(home)
    taken = await bench.snapshots.take(session, home, "turn")
    before = seen(home)
    del before[b"workspace/pipe"], before[b"workspace/sock"]

    elsewhere = bench.home("two")
    write(elsewhere, {"workspace/old": "of somebody else"})
    restored = await bench.worker().restore(session.id, elsewhere)

    assert restored.snapshot == taken
    assert restored.damaged == ()
    assert seen(elsewhere) == before
    sparse = (elsewhere / "workspace" / "sparse").stat()
    assert sparse.st_size == 64 << 20
    assert sparse.st_blocks * 512 < 1 << 20
    assert taken.entries == len(before)
    assert not list(elsewhere.glob(".*"))


async def test_only_what_changed_is_kept_again(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {f"workspace/f{number}": os.urandom(20_000) for number in range(40)})
    first = await bench.snapshots.take(session, home, "turn")
    write(home, {"workspace/f7": b"changed", "workspace/new": os.urandom(5_000)})
    (home / "workspace" / "f8").unlink()
    second = await bench.snapshots.take(session, home, "turn")

    assert first.stored_bytes > 800_000
    assert second.stored_bytes < 15_000
    assert (second.number, second.parent_id) == (2, first.id)
    for worker in (bench.snapshots, bench.worker()):
        elsewhere = bench.home(f"two-{id(worker)}")
        await worker.restore(session.id, elsewhere)
        assert seen(elsewhere) == seen(home)


async def test_a_worker_that_remembers_nothing_keeps_nothing_twice(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {f"workspace/f{number}": os.urandom(20_000) for number in range(40)})
    await bench.snapshots.take(session, home, "turn")
    write(home, {"workspace/f7": b"changed"})
    assert (await bench.worker().take(session, home, "turn")).stored_bytes < 10_000


async def test_nothing_changed_is_the_same_snapshot(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": "a"})
    first = await bench.snapshots.take(session, home, "turn")
    objects = await bench.listed()
    assert await bench.snapshots.take(session, home, "hibernation") == first
    assert await bench.worker().take(session, home, "turn") == first
    assert await bench.listed() == objects
    named = await bench.snapshots.take(session, home, "checkpoint")
    assert (named.id, named.reason) == (first.id, "checkpoint")  # it stays for as long as a checkpoint does


@pytest.mark.parametrize("change", ["content", "mode", "time", "name", "link"])
async def test_every_change_is_seen(lite: Bench, change: str) -> None:
    """Also one of the same size with the old time: an agent can set that back."""
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/a": "one", "workspace/b": "two"})
    os.symlink("a", home / "workspace" / "link")
    first = await lite.snapshots.take(session, home, "turn")
    file = home / "workspace" / "a"
    match change:
        case "content":
            before = file.stat()
            with file.open("r+") as content:
                content.write("ONE")
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "mode":
            file.chmod(0o700)
        case "time":
            os.utime(file, ns=(1, 1))
        case "name":
            folder = (home / "workspace").stat()
            file.rename(home / "workspace" / "c")
            os.utime(home / "workspace", ns=(folder.st_atime_ns, folder.st_mtime_ns))
        case _:
            (home / "workspace" / "link").unlink()
            os.symlink("b", home / "workspace" / "link")
    second = await lite.snapshots.take(session, home, "turn")
    assert second.number == first.number + 1
    await lite.snapshots.restore(session.id, lite.home("two"))
    assert seen(lite.folder / "homes" / "two") == seen(home)


async def test_what_has_just_changed_is_read_again(lite: Bench) -> None:
    """A second change within a tick of the file system's clock leaves the signature that the first one made."""
    session, home, clock = await lite.session(), lite.home("one"), SystemClock()
    for _ in range(10):
        before = clock.now().timestamp()
        for number in range(20):
            write(home, {f"workspace/f{number}": "x"})
        await lite.snapshots.take(session, home, "turn")
        if clock.now().timestamp() - before < 0.4:
            break
    else:
        pytest.skip("this machine takes too long for a file to be one that has just changed")
    memory = Memories(lite.folder / "memories-1").load(session.id)
    assert memory is not None
    assert [path for path, known in memory.files.items() if known.signature.ctime_ns > before * 1e9] == []


async def test_a_worker_without_the_lease_keeps_nothing(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": "of the worker that slept"})
    lease = await bench.lease(session, ttl=10)
    bench.skew.seconds += 11
    with pytest.raises(LeaseLost):
        await bench.snapshots.take(session, home, "turn", lease)
    assert await bench.snapshots.latest(session.id) is None

    newer = await bench.lease(session, "another")
    taken = await bench.worker().take(session, home, "turn", newer)
    assert await bench.snapshots.latest(session.id) == taken


async def test_without_a_snapshot_the_parts_are_empty(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": "a", "outputs/b": "b", "repositories/r/c": "c", "memory/kept": "not a part"})
    restored = await bench.snapshots.restore(session.id, home)
    assert restored.snapshot is None
    assert restored.damaged == ()
    assert sorted(os.listdir(home)) == ["memory", "outputs", "workspace"]
    assert os.listdir(home / "workspace") == os.listdir(home / "outputs") == []


async def test_going_back_to_an_earlier_one(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    taken = []
    for number in range(3):
        write(home, {"workspace/a": f"state {number}"})
        taken.append(await bench.snapshots.take(session, home, "turn"))
    restored = await bench.snapshots.restore(session.id, home, taken[0].id)
    assert restored.snapshot == taken[0]
    assert (home / "workspace" / "a").read_text() == "state 0"
    write(home, {"workspace/a": "another way"})
    on = await bench.snapshots.take(session, home, "turn")
    assert (on.number, on.parent_id) == (4, taken[0].id)  # what it falls back to is where it came from
    with pytest.raises(NotFound):
        await bench.snapshots.restore((await bench.session()).id, home, taken[0].id)


async def test_a_fork_shares_every_piece(bench: Bench) -> None:
    session, fork, home = await bench.session(), await bench.session(), bench.home("one")
    write(home, {"workspace/a": os.urandom(50_000)})
    origin = await bench.snapshots.take(session, home, "checkpoint")
    objects = await bench.listed()
    shared = await bench.snapshots.share(origin.id, fork)
    assert (shared.session_id, shared.number, shared.stored_bytes) == (fork.id, 1, 0)
    assert await bench.listed() == objects

    await bench.snapshots.forget(session.id)
    bench.skew.seconds += 100_000
    await bench.sweep(young_seconds=10).sweep()
    await bench.worker().restore(fork.id, bench.home("two"))
    assert seen(bench.folder / "homes" / "two") == seen(home)


async def test_a_snapshot_that_is_removed_while_it_is_shared_is_not(bench: Bench) -> None:
    """Its row was read, and then it went: nothing would hold its objects any more."""
    session, fork, home = await bench.session(), await bench.session(), bench.home("one")
    write(home, {"workspace/a": "text"})
    origin = await bench.snapshots.take(session, home, "checkpoint")
    await bench.database.write(lambda c: c.execute(sa.text("DELETE FROM snapshot_uses")))
    with pytest.raises(NotFound):
        await bench.snapshots.share(origin.id, fork)


async def test_another_workspace_shares_nothing(bench: Bench) -> None:
    here, there = await bench.session(), await bench.session(await bench.workspace())
    home = bench.home("one")
    write(home, {"workspace/a": os.urandom(50_000)})
    first = await bench.snapshots.take(here, home, "turn")
    second = await bench.worker().take(there, home, "turn")
    assert second.stored_bytes > 50_000
    with pytest.raises(NotFound):
        await bench.snapshots.share(first.id, there)
    with pytest.raises(NotFound):
        await bench.snapshots.changes(first.id, second.id)


async def test_what_differs_between_two(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    write(home, {f"workspace/{name}": name for name in ("gone", "longer", "mode", "same", "touched", "linked")})
    odd = Path(os.fsdecode(os.fsencode(home) + b"/workspace/\xff"))
    odd.write_bytes(b"1")
    first = await bench.snapshots.take(session, home, "turn")
    (home / "workspace" / "gone").unlink()
    write(home, {"workspace/longer": "longer than before", "workspace/dir/new": "new"})
    (home / "workspace" / "mode").chmod(0o700)
    os.utime(home / "workspace" / "touched", ns=(5, 5))
    os.link(home / "workspace" / "linked", home / "workspace" / "again")
    (home / "workspace" / "linked").touch()
    odd.write_bytes(b"22")
    second = await bench.snapshots.take(session, home, "turn")
    assert [
        (c.path, c.how, c.before_bytes, c.after_bytes) for c in await bench.worker().changes(first.id, second.id)
    ] == [
        ("workspace/again", "added", None, 6),
        ("workspace/dir", "added", None, None),
        ("workspace/dir/new", "added", None, 3),
        ("workspace/gone", "removed", 4, None),
        ("workspace/longer", "changed", 6, 18),
        ("workspace/mode", "mode", 4, 4),
        ("workspace/\\xff", "changed", 1, 2),
    ]
    assert await bench.snapshots.content(second.id, "workspace/longer", 6) == b"longer"
    assert await bench.snapshots.content(second.id, "workspace/\\xff", 6) == b"22"
    assert await bench.snapshots.content(second.id, "workspace/gone", 6) is None


async def test_the_last_few_stay_and_those_that_are_needed(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    needed: set[str] = set()
    worker = bench.worker(held=[lambda conn, ids: needed & set(ids)])
    taken = []
    for number in range(7):
        write(home, {"workspace/a": f"state {number}"})
        taken.append(await worker.take(session, home, "turn"))
        if number == 1:
            needed.add(taken[1].id)
    there = [row.id for row in await bench.rows(session.id)]
    assert there == [taken[number].id for number in (6, 5, 4, 1)]
    assert (await bench.rows(session.id))[2].parent_id == taken[1].id
    needed.clear()
    await worker.trim(session.id, [taken[5].id])
    assert [row.id for row in await bench.rows(session.id)] == [taken[number].id for number in (6, 5, 4)]


async def test_many_small_snapshots_need_few_packs(lite: Bench) -> None:
    """Each turn adds a pack; what is in the emptiest is kept anew before they are too many."""
    session, home = await lite.session(), lite.home("one")
    for number in range(120):
        write(home, {f"workspace/f{number}": f"content {number}"})
        await lite.snapshots.take(session, home, "turn")
    latest = (await lite.rows(session.id))[0]
    assert len(await lite.used(latest.id)) < 60
    await lite.worker().restore(session.id, lite.home("two"))
    assert seen(lite.folder / "homes" / "two") == seen(home)


async def test_a_snapshot_is_read_without_a_home(bench: Bench) -> None:
    session, home = await bench.session(), bench.home("one")
    everything(home)
    taken = await bench.snapshots.take(session, home, "turn")
    expected = {path: each for path, each in seen(home).items() if each[0] != "other"}
    async with bench.worker().opened(taken.id) as snapshot:
        assert [os.fsencode(entry.path) for entry in snapshot.entries] == sorted(expected, key=lambda p: p.split(b"/"))
        for entry in snapshot.entries:
            if entry.kind in ("file", "hardlink"):
                content = b"".join([piece async for piece in snapshot.content(entry.path)])
                assert content == expected[os.fsencode(entry.path)][3]
        with pytest.raises(NotFound):
            await anext(aiter(snapshot.content("workspace/link")))


async def test_the_sandbox_is_given_all_that_came_back(lite: Bench) -> None:
    """Also files with several names, which are given away only when they were another sandbox's."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    session, home = await lite.session(), lite.home("one")
    everything(home)
    await lite.snapshots.take(session, home, "turn")
    elsewhere = lite.home("two")
    await lite.worker().restore(session.id, elsewhere)
    assert {(elsewhere / part).stat().st_uid for part in ("workspace", "outputs")} == {0}
    for part in ("workspace", "outputs"):
        hand_over(elsewhere / part, 300_123, always_walk=False)
    for path in [*(elsewhere / "workspace").rglob("*"), *(elsewhere / "outputs").rglob("*")]:
        assert path.lstat().st_uid == 300_123, path


OWNER = 300_123


async def nobody_else() -> None:
    """The folders that are shown stay the worker's own."""


async def given_away(home: Path) -> int:
    """What is known of folders that a sandbox was made of."""
    for part in ALWAYS:
        os.chown(home / part, OWNER, OWNER)
    return OWNER


@pytest.mark.parametrize("by", ["the latest", "nothing"])
async def test_folders_that_are_shown_stay_and_get_all_that_was_kept_with_its_owner(lite: Bench, by: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    session, home = await lite.session(), lite.home("one")
    everything(home)
    expected = seen(home)
    del expected[b"workspace/pipe"], expected[b"workspace/sock"]
    if by == "nothing":
        expected = {}
    else:
        await lite.snapshots.take(session, home, "turn")
    elsewhere = lite.home("two")
    write(elsewhere, {"workspace/closed/f": "of before", "workspace/old": "of before", "outputs/old": "of before"})
    shown = {part: os.open(elsewhere / part, os.O_RDONLY) for part in ALWAYS}
    try:
        await lite.worker().restore(session.id, elsewhere, shown=lambda: given_away(elsewhere))
        assert seen(elsewhere) == expected
        for part, folder in shown.items():
            assert os.listdir(folder) == os.listdir(elsewhere / part)
            assert os.path.samestat(os.fstat(folder), (elsewhere / part).stat())
            for path in [elsewhere / part, *(elsewhere / part).rglob("*")]:
                assert (path.lstat().st_uid, path.lstat().st_gid) == (OWNER, OWNER), path
    finally:
        for folder in shown.values():
            os.close(folder)
    assert not list(elsewhere.glob(".*"))


async def test_nothing_is_put_into_a_shown_folder_before_it_is_its_users(lite: Bench) -> None:
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/a": "a"})
    await lite.snapshots.take(session, home, "turn")
    elsewhere = lite.home("two")
    write(elsewhere, {"workspace/old": "of before"})
    asked, made = asyncio.Event(), asyncio.Event()

    async def shown() -> None:
        asked.set()
        await made.wait()

    restoring = asyncio.create_task(lite.worker().restore(session.id, elsewhere, shown=shown))
    await asked.wait()
    assert os.listdir(elsewhere / "workspace") == ["old"]
    made.set()
    await restoring
    assert os.listdir(elsewhere / "workspace") == ["a"]


@pytest.mark.parametrize("shown", [None, nobody_else], ids=["hidden", "shown"])
async def test_on_a_volume_without_room_for_both_the_old_files_go_first(lite: Bench, shown: Shown | None) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system")
    session, home = await lite.session(), lite.folder / "volume"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=711", "tmpfs", str(home)], check=True)  # noqa: ASYNC221
    try:
        write(home, {"workspace/large": os.urandom(15 << 20), "outputs/o": "o"})
        taken = await lite.snapshots.take(session, home, "turn")
        kept = seen(home)
        write(home, {"workspace/large": os.urandom(16 << 20)})
        assert (await lite.worker().restore(session.id, home, shown=shown)).snapshot == taken
        assert seen(home) == kept
        assert sorted(os.listdir(home)) == ["outputs", "workspace"]
    finally:
        subprocess.run(["umount", str(home)], check=True)  # noqa: ASYNC221
