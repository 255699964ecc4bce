"""What was kept comes back, on another worker, and only what changed travels."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from snapkit import Bench, seen, write


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
