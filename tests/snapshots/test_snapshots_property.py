"""Any tree, changed in any way, comes back as it was at each snapshot."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapkit import Bench, Skew, seen

from hostler.engine.homes import remove_tree
from hostler.snapshots.limits import PIECE_BYTES
from hostler.store.database import Database

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d e", b"new\nline", b"\xff\xfe", "ü".encode(), b"-rf", b"x" * 255]),
    st.binary(min_size=1, max_size=12).filter(lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")),
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
PARTS_ = st.sampled_from([b"workspace", b"outputs", b"repositories"])
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.binary(min_size=1, max_size=3), st.sampled_from([5_000, PIECE_BYTES, PIECE_BYTES + 1])).map(
        lambda each: (each[0] * each[1])[: each[1]]
    ),
)
MODES = st.sampled_from([0, 0o400, 0o600, 0o644, 0o755, 0o1777, 0o777])
TIMES = st.integers(-(1 << 31), 1 << 33).map(lambda seconds: seconds * 10**9 + abs(seconds) % 10**9)
STEPS = st.one_of(
    st.tuples(st.just("write"), PARTS_, PATHS, CONTENTS),
    st.tuples(st.just("hole"), PARTS_, PATHS, st.integers(0, 3 * PIECE_BYTES), st.binary(max_size=9)),
    st.tuples(st.just("folder"), PARTS_, PATHS),
    st.tuples(st.just("symlink"), PARTS_, PATHS, PATHS),
    st.tuples(st.just("link"), PARTS_, PATHS, PARTS_, PATHS),
    st.tuples(st.just("remove"), PARTS_, PATHS),
    st.tuples(st.just("move"), PARTS_, PATHS, PARTS_, PATHS),
    st.tuples(st.just("mode"), PARTS_, PATHS, MODES),
    st.tuples(st.just("time"), PARTS_, PATHS, TIMES),
    st.tuples(st.just("snapshot")),
)


def apply(home: Path, step: tuple[Any, ...]) -> None:
    """A step that isn't possible in this tree does nothing."""
    top = os.fsencode(home)
    kind, *rest = step
    path = top + b"/" + rest[0] + b"/" + rest[1]
    try:
        if kind in ("write", "hole", "folder", "symlink", "link", "move"):
            made = path if kind != "move" else top + b"/" + rest[2] + b"/" + rest[3]
            os.makedirs(os.path.dirname(made), exist_ok=True)
        if kind == "write":
            Path(os.fsdecode(path)).write_bytes(rest[2])
        elif kind == "hole":
            with open(path, "r+b" if os.path.exists(path) else "wb") as file:
                file.truncate(rest[2])
                file.seek(rest[2])
                file.write(rest[3])
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "symlink":
            os.symlink(rest[2], path)
        elif kind == "link":
            os.link(top + b"/" + rest[2] + b"/" + rest[3], path, follow_symlinks=False)
        elif kind == "move":
            os.rename(path, top + b"/" + rest[2] + b"/" + rest[3])
        elif kind == "mode":
            os.chmod(path, rest[2])
        elif kind == "time":
            os.utime(path, ns=(rest[2], rest[2]), follow_symlinks=False)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except OSError:
        pass


async def sequence(migrated_file: Path, folder: Path, steps: list[tuple[Any, ...]]) -> None:
    shutil.copyfile(migrated_file, folder / "hostler.db")
    database = await Database.open(f"sqlite:///{folder / 'hostler.db'}", clock_skew=(skew := Skew()))
    try:
        bench = Bench(database, skew, folder)
        session, home = await bench.session(), bench.home("one")
        kept: dict[str, dict[bytes, tuple[object, ...]]] = {}
        for step in [*steps, ("snapshot",)]:
            if step[0] == "snapshot":
                taken = await bench.snapshots.take(session, home, "checkpoint")
                kept[taken.id] = seen(home)
            else:
                apply(home, step)
        elsewhere = bench.home("two")
        for snapshot_id, expected in kept.items():
            await bench.worker().restore(session.id, elsewhere, snapshot_id)
            assert seen(elsewhere) == expected
        # Also what is found to be changed is only what did: another worker comes to the same.
        assert (await bench.worker().take(session, home, "turn")).id == snapshot_id
    finally:
        await database.close()


def check(migrated_file: Path, steps: list[tuple[Any, ...]]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hostler-tree-"))
    try:
        asyncio.run(sequence(migrated_file, folder, steps))
    finally:
        remove_tree(folder)


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=QUIET)
def test_every_tree_comes_back(migrated_file: Path, steps: list[tuple[Any, ...]]) -> None:
    check(migrated_file, steps)


@pytest.mark.slow
@given(steps=st.lists(STEPS, max_size=60))
@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
def test_every_tree_comes_back_many_times(migrated_file: Path, steps: list[tuple[Any, ...]]) -> None:
    check(migrated_file, steps)
