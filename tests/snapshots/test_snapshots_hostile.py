"""What an agent leaves to harm its host, and what a manifest says that nobody here has written."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from snapkit import Bench, seen, write

from hostler.engine.snapshot_port import SnapshotDamaged, SnapshotTooLarge
from hostler.snapshots.descending import Folders, open_top
from hostler.snapshots.limits import SnapshotLimits
from hostler.snapshots.manifest import ManifestWrong, decode
from hostler.snapshots.packs import Reader
from hostler.snapshots.scan import Scan
from hostler.snapshots.segments import object_name
from hostler.snapshots.service import SnapshotTerms
from hostler.store.snapshots import NewSnapshot, StoredObject, create_snapshot, keep_objects

SECRET = "of the host, and nobody else's"


def scanned(home: Path) -> Scan:
    scan = Scan(SnapshotLimits())
    scan.look(home)
    return scan


def read(scan: Scan) -> tuple[bytes, list[str]]:
    """All bytes of all files, and the paths that were read."""
    reader = Reader(scan, [each for each in scan.found if each.kind == "file"])
    found = b""
    while batch := reader.batch():
        found += b"".join(piece.content for piece in batch)
    reader.close()
    scan.close()
    return found, sorted(reader.contents)


@pytest.mark.parametrize("swapped", ["file", "folder", "device"])
def test_what_is_swapped_between_looking_and_reading_is_not_followed(tmp_path: Path, swapped: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text(SECRET)
    home = tmp_path / "home"
    write(home, {"workspace/d/a": "mine", "workspace/z": "kept"})
    scan = scanned(home)
    if swapped == "file":
        (home / "workspace" / "d" / "a").unlink()
        os.symlink(tmp_path / "outside" / "a", home / "workspace" / "d" / "a")
    elif swapped == "folder":
        shutil.rmtree(home / "workspace" / "d")
        os.symlink(tmp_path / "outside", home / "workspace" / "d")
    else:
        (home / "workspace" / "d" / "a").unlink()
        os.mkfifo(home / "workspace" / "d" / "a")  # opening one for reading would wait for ever
    assert read(scan) == (b"kept", ["workspace/z"])
    assert scan.left.reasons


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text(SECRET)
    (tmp_path / "home").mkdir()
    os.symlink(tmp_path / "outside", tmp_path / "home" / "workspace")
    with pytest.raises(OSError):  # the engine made the parts: this is no matter of an agent
        scanned(tmp_path / "home")


def test_links_in_the_tree_are_names_and_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(SECRET)
    home = tmp_path / "home"
    write(home, {"workspace/a": "mine"})
    for number, target in enumerate([tmp_path / "outside", "/", "..", "../../outside", "loop4"]):
        os.symlink(target, home / "workspace" / f"loop{number}")
    assert read(scanned(home)) == (b"mine", ["workspace/a"])


async def test_programs_that_run_as_others_come_back_as_plain_ones(lite: Bench) -> None:
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/su": "#!/bin/sh"})
    (home / "workspace" / "su").chmod(0o6755)
    await lite.snapshots.take(session, home, "turn")
    await lite.snapshots.restore(session.id, home)
    assert (home / "workspace" / "su").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (SnapshotLimits(entries=50), "max_entries"),
        (SnapshotLimits(content_bytes=1 << 20), "max_mb"),
        (SnapshotLimits(depth=20), "nested"),
        (SnapshotLimits(logical_bytes=1 << 30), "sizes"),
    ],
)
async def test_too_much_is_told_and_leaves_the_last_one(lite: Bench, limits: SnapshotLimits, named: str) -> None:
    session, home = await lite.session(), lite.home("one")
    worker = lite.worker(terms=SnapshotTerms(limits))
    write(home, {"workspace/a": "small"})
    first = await worker.take(session, home, "turn")
    for number in range(60):
        write(home, {f"workspace/many/{number}": "x"})
    write(home, {"workspace/" + "d/" * 30 + "leaf": "deep", "workspace/large": os.urandom(2 << 20)})
    with (home / "workspace" / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SnapshotTooLarge, match=named):
        await worker.take(session, home, "turn")
    assert await worker.latest(session.id) == first


async def test_folders_that_forbid_everything_are_kept_without_root(lite: Bench) -> None:
    """A worker that isn't root owns them, and looks into them all the same; then they are as they were."""
    program = textwrap.dedent("""
        import asyncio, os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from snapkit import Bench, Skew, seen, write
        from hostler.store.database import Database

        async def main(folder):
            skew = Skew()
            database = await Database.open(f"sqlite:///{folder}/mine.db", clock_skew=skew)
            bench = Bench(database, skew, folder)
            session, home = await bench.session(), bench.home("one")
            write(home, {"workspace/closed/inner/file": "inside", "workspace/unreadable": "secret"})
            def shut(top, mode):
                paths = ["unreadable", "closed", "closed/inner"]
                for path in paths if mode else reversed(paths):
                    (top / "workspace" / path).chmod(mode)
            shut(home, 0)
            for _ in range(2):
                await bench.snapshots.take(session, home, "turn")
            assert (home / "workspace/closed").stat().st_mode & 0o777 == 0
            await bench.worker().restore(session.id, bench.home("two"))
            for top in (home, folder / "homes/two"):
                assert (top / "workspace/closed").stat().st_mode & 0o777 == 0
                shut(top, 0o700)
            assert seen(home) == seen(folder / "homes/two")
            await database.close()

        asyncio.run(main(Path(sys.argv[1])))
    """)
    mine = lite.folder / "mine"
    mine.mkdir()
    command = [sys.executable, "-c", program, str(mine), str(Path(__file__).parent)]
    if os.geteuid() == 0:
        os.chown(mine, 65534, 65534)
        for above in (lite.folder, *lite.folder.parents):
            if above.stat().st_mode & 0o5 != 0o5:
                above.chmod(above.stat().st_mode | 0o5)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr


# -- manifests that lie

PACK, PIECE, OTHER = "ab" * 32, "cd" * 32, "ef" * 32
HEAD = {"format": "hostler-snapshot", "version": 1, "id": "snap_x"}
TOP = ["workspace", "folder", 0o700, 0, 0, [], None]


def manifest(entries: list[Any], *, pieces: list[Any] | None = None, head: dict[str, Any] | None = None) -> bytes:
    pieces = [[PIECE, 4, 0, 50, 13]] if pieces is None else pieces
    lines = (head or HEAD, [[PACK, 1000]], pieces, entries)
    return zstandard.ZstdCompressor().compress("\n".join(map(json.dumps, lines)).encode())


def entry(path: str, kind: str = "file", **fields: Any) -> list[Any]:
    values = {"mode": 0o600, "mtime_ns": 0, "size": 0, "spans": [], "target": None} | fields
    return [path, kind, *values.values()]


LIES: dict[str, list[Any]] = {
    "absolute": [TOP, entry("/etc/cron.d/x")],
    "up": [TOP, entry("workspace/../../x")],
    "dots": [TOP, entry("workspace/..")],
    "dot": [TOP, entry("workspace/.")],
    "empty name": [TOP, entry("workspace//x")],
    "nothing": [TOP, entry("")],
    "another part": [entry("harness", "folder")],
    "a file as a part": [entry("workspace")],
    "a link as a part": [entry("workspace", "symlink", target="/etc")],
    "twice": [TOP, entry("workspace/a"), entry("workspace/a")],
    "the same folder twice": [TOP, TOP],
    "below a link": [TOP, entry("workspace/l", "symlink", target="/etc"), entry("workspace/l/x")],
    "below a file": [TOP, entry("workspace/f"), entry("workspace/f/x")],
    "before its folder": [TOP, entry("workspace/d/x"), entry("workspace/d", "folder")],
    "a nul": [TOP, entry("workspace/a\0b")],
    "a device": [TOP, entry("workspace/null", "device")],
    "setuid": [TOP, entry("workspace/su", mode=0o4755)],
    "a link to nothing": [TOP, entry("workspace/l", "symlink", target="")],
    "a link without a target": [TOP, entry("workspace/l", "symlink")],
    "a file with a target": [TOP, entry("workspace/l", target="/etc/passwd")],
    "another name of a file outside": [TOP, entry("workspace/h", "hardlink", target="/etc/shadow")],
    "another name of what comes later": [
        TOP,
        entry("workspace/h", "hardlink", target="workspace/z"),
        entry("workspace/z"),
    ],
    "another name of a link": [
        TOP,
        entry("workspace/a", "symlink", target="/etc/shadow"),
        entry("workspace/h", "hardlink", target="workspace/a"),
    ],
    "shorter than its content": [TOP, entry("workspace/f", size=3, spans=[[0, 4, 0]])],
    "a piece of another size": [TOP, entry("workspace/f", size=9, spans=[[0, 5, 0]])],
    "a hole that goes back": [TOP, entry("workspace/f", size=9, spans=[[-4, 4, 0]])],
    "a piece that isn't there": [TOP, entry("workspace/f", size=4, spans=[[0, 4, 7]])],
    "a size that no file has": [TOP, entry("workspace/f", size=1 << 70)],
    "a folder with content": [TOP, entry("workspace/d", "folder", size=4, spans=[[0, 4, 0]])],
    "a long name": [TOP, entry("workspace/" + "x" * 256)],
    "too few fields": [TOP, ["workspace/a", "file"]],
    "no text": [TOP, [7, "file", 0, 0, 0, [], None]],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_leads_out_is_refused(lie: str) -> None:
    with pytest.raises(ManifestWrong):
        decode(manifest(LIES[lie]))


def test_an_honest_manifest_is_taken() -> None:
    honest = [
        TOP,
        entry("workspace/f", size=9, spans=[[5, 4, 0]]),
        entry("workspace/h", "hardlink", target="workspace/f"),
    ]
    assert [each.path for each in decode(manifest(honest)).entries] == ["workspace", "workspace/f", "workspace/h"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no frame",
        manifest([TOP], head={**HEAD, "version": 2}),
        manifest([TOP], head={**HEAD, "format": "tar"}),
        manifest([TOP], pieces=[[PIECE, 4, 0, 995, 13]]),
        manifest([TOP], pieces=[[PIECE, 64 << 20, 0, 5, 13]]),
        manifest([TOP], pieces=[["../../x", 4, 0, 5, 13]]),
        manifest([TOP])[:-4],
        zstandard.ZstdCompressor().compress(b"[" * 100_000),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"{}"),
    ],
    ids=range(10),
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestWrong):
        decode(data)


async def test_a_manifest_that_lies_touches_nothing(bench: Bench) -> None:
    """Even where it is what the row says: digests tell damage, not intent."""
    session, home = await bench.session(), bench.home("one")
    write(home, {"workspace/a": "as it was"})
    good = await bench.snapshots.take(session, home, "turn")
    data = manifest([TOP, entry("workspace/l", "symlink", target=str(bench.folder)), entry("workspace/l/x")])
    name = hashlib.sha256(data).hexdigest()
    await bench.objects.put(object_name(session.workspace_id, "manifest", name), data)
    new = NewSnapshot("snap_lie", session.workspace_id, session.id, good.id, "turn", 1, 0, 0, name, "c" * 64)

    def unit(conn: Any) -> None:
        keep_objects(conn, 1.0, session.workspace_id, [StoredObject(name, "manifest", len(data))], [])
        create_snapshot(conn, 1.0, new, [name])

    await bench.database.write(unit)
    before = seen(home)
    with pytest.raises(SnapshotDamaged):
        await bench.snapshots.restore(session.id, home, "snap_lie")
    assert seen(home) == before
    assert not (bench.folder / "x").exists()
    restored = await bench.snapshots.restore(session.id, home)
    assert restored.damaged == ("snap_lie",)
    assert restored.snapshot == good


def test_descending_never_goes_up_or_through_a_link(tmp_path: Path) -> None:
    write(tmp_path, {"top/a/b/c": "c", "out/c": SECRET})
    os.symlink(tmp_path / "out", tmp_path / "top" / "link")
    top = open_top(tmp_path / "top")
    folders = Folders(top)
    look: Callable[[str], object] = folders.open
    for path in ("link", "a/b", "a", "a/b", ""):
        if path == "link":
            with pytest.raises(OSError):
                look(path)
        else:
            assert os.path.samestat(os.fstat(folders.open(path)), (tmp_path / "top" / path).stat())
    folders.close()
    os.close(top)
