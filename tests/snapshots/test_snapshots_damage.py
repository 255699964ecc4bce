"""A snapshot that is damaged is never given to a session, and nothing new relies on it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from snapkit import Bench, damaged, seen, write

from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.snapshot_port import Snapshot, SnapshotDamaged
from hostler.objects.folder import FolderObjects
from hostler.store.sessions import SessionRow


async def two_states(bench: Bench) -> tuple[SessionRow, Path, Snapshot, Snapshot]:
    session, home = await bench.session(), bench.home("one")
    write(home, {f"workspace/f{number}": os.urandom(3000) for number in range(5)})
    first = await bench.snapshots.take(session, home, "turn")
    write(home, {"workspace/f2": os.urandom(100_000)})
    return session, home, first, await bench.snapshots.take(session, home, "turn")


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def other(path: Path) -> Path:
    """An object of the same kind that is whole."""
    return next(each for each in path.parent.parent.rglob("*/*") if each.name != path.name)


DAMAGES = {
    "a byte of a pack": ("pack", lambda path: damaged(flip, path)),
    "half a pack": ("pack", lambda path: damaged(cut, path)),
    "no pack": ("pack", Path.unlink),
    "a byte of the manifest": ("manifest", lambda path: damaged(flip, path)),
    "half a manifest": ("manifest", lambda path: damaged(cut, path)),
    "no manifest": ("manifest", Path.unlink),
    "an empty pack": ("pack", lambda path: path.write_bytes(b"")),
    "another manifest": ("manifest", lambda path: path.write_bytes(other(path).read_bytes())),
    "another pack": ("pack", lambda path: path.write_bytes(other(path).read_bytes() + bytes(200_000))),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_one_before_comes_back_loudly(lite: Bench, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    session, home, first, second = await two_states(lite)
    kind, do = DAMAGES[damage]
    do(lite.object_files(kind)[-1])
    before = seen(home)
    with pytest.raises(SnapshotDamaged):
        await lite.worker().restore(session.id, home, second.id)
    assert seen(home) == before, "what can't be made whole must not replace anything"

    elsewhere = lite.home("two")
    write(elsewhere, {"workspace/left": "over"})
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        restored = await lite.worker().restore(session.id, elsewhere)
    assert restored.snapshot == first
    assert restored.damaged == (second.id,)
    assert [record.snapshot for record in caplog.records if record.msg == "snapshot_damaged"] == [second.id]
    assert len((elsewhere / "workspace" / "f2").read_bytes()) == 3000
    assert not (elsewhere / "workspace" / "left").exists()
    assert sorted(os.listdir(elsewhere)) == ["outputs", "workspace"]

    # What goes on from there doesn't need what is damaged, and a second damage finds the right one before.
    write(elsewhere, {"workspace/new": "later"})
    third = await lite.worker().take(session, elsewhere, "turn")
    assert (await lite.worker().restore(session.id, lite.home("three"))).snapshot == third
    assert seen(lite.folder / "homes" / "three") == seen(elsewhere)


async def test_nothing_left_is_told(bench: Bench) -> None:
    session, _, first, second = await two_states(bench)
    for path in bench.object_files("pack"):
        path.unlink()
    elsewhere = bench.home("two")
    restored = await bench.worker().restore(session.id, elsewhere)
    assert restored.snapshot is None
    assert restored.damaged == (second.id, first.id)
    assert os.listdir(elsewhere / "workspace") == []


async def test_an_intact_home_makes_good_what_was_damaged(bench: Bench) -> None:
    """Once the damage was noticed: what the worker remembers to be kept is read and kept anew."""
    session, home, first, _ = await two_states(bench)
    bench.object_files("pack")[0].unlink()
    with pytest.raises(SnapshotDamaged):
        await bench.worker().restore(session.id, bench.home("two"), first.id)
    write(home, {"workspace/new": "n"})
    third = await bench.snapshots.take(session, home, "turn")
    restored = await bench.worker().restore(session.id, bench.home("three"))
    assert (restored.snapshot, restored.damaged) == (third, ())
    assert seen(bench.folder / "homes" / "three") == seen(home)


@pytest.mark.parametrize("kind", ["pack", "manifest"])
async def test_what_is_damaged_is_not_the_same_again(bench: Bench, kind: str) -> None:
    """A home in which nothing has changed is kept anew, once it is known that the latest can't be read."""
    session, home, _, second = await two_states(bench)
    bench.object_files(kind)[-1].unlink()
    assert await bench.snapshots.take(session, home, "turn") == second  # nobody has noticed
    with pytest.raises(SnapshotDamaged):
        await bench.worker().restore(session.id, bench.home("two"), second.id)
    third = await bench.snapshots.take(session, home, "turn")
    assert third.number == 3
    restored = await bench.worker().restore(session.id, bench.home("three"))
    assert (restored.snapshot, restored.damaged) == (third, ())
    assert seen(bench.folder / "homes" / "three") == seen(home)


class Away(FolderObjects):
    """A place that can't be reached while `away`."""

    away = True

    async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if self.away:
            raise ObjectsUnavailable("the network is down")
        return await super().get(name, start, length)


async def test_a_place_that_is_away_is_no_damage(bench: Bench) -> None:
    session, home, _, second = await two_states(bench)
    away = Away(bench.folder / "objects")
    worker = bench.worker(objects=away)
    before = seen(home)
    with pytest.raises(ObjectsUnavailable):
        await worker.restore(session.id, home)
    assert seen(home) == before
    away.away = False
    assert (await worker.restore(session.id, home)).snapshot == second


@pytest.mark.parametrize("memory", ["damaged", "old", "of another version"])
async def test_what_is_remembered_wrongly_is_not_believed(lite: Bench, memory: str) -> None:
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/a": "a"})
    await lite.snapshots.take(session, home, "turn")
    (file,) = (lite.folder / "memories-1").iterdir()
    remembered = file.read_bytes()
    write(home, {"workspace/a": "b", "workspace/c": "c"})
    if memory == "damaged":
        damaged(flip, file)
    elif memory == "of another version":
        file.write_bytes(remembered.replace(b'"version":1', b'"version":9'))
    else:
        await lite.snapshots.take(session, home, "turn")
        write(home, {"workspace/c": "d"})
        file.write_bytes(remembered)
    await lite.snapshots.take(session, home, "turn")
    await lite.worker().restore(session.id, lite.home("two"))
    assert seen(lite.folder / "homes" / "two") == seen(home)
