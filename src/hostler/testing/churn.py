"""Does it leave anything on the host when many sandboxes are made and ended?

Each sandbox here is left in the worst way: with processes that have detached themselves, files in every place that it
can write to, and its volume full of work. What is counted is what belongs to these sandboxes, however many others the
host runs; and, for a host on which nothing else happens, everything.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hostler.engine.volume_port import Volumes
from hostler.testing.sandboxes.ground import Ground

MESS = """
exec >/dev/null 2>&1 </dev/null
for way in nohup setsid; do $way sh -c 'exec sleep 7777' & done
( ( trap '' TERM HUP INT; exec sleep 7777 ) & )
for place in /workspace /mnt/session/outputs /home/agent/.claude /tmp /dev/shm; do
  mkdir -p $place/deep/er; head -c 100000 /dev/zero > $place/deep/er/file; ln -s /etc/passwd $place/link
  chmod 0 $place/deep
done
"""
DISK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Traces:
    """How many of each there are."""

    processes: int
    mounts: int
    control_groups: int
    namespaces: int
    loop_devices: int
    files: int

    def __str__(self) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {count}" for name, count in asdict(self).items())


def traces(root: Path, *, sandboxes: Collection[str] | None, uids: range) -> Traces:
    """What there is now below `root`, of users in `uids`, and of sandboxes with these ids.

    `sandboxes` None: everything of this host, but files only below `root`.
    """
    all_ = sandboxes is None
    ids = frozenset(sandboxes or ())
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    pids = [pid for pid in pids if _lives(pid)]
    ours = [pid for pid in pids if all_ or _user(pid) in uids or str(root).encode() in _command(pid)]
    mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    groups = (entry for _, folders, _ in os.walk("/sys/fs/cgroup") for entry in folders)
    return Traces(
        processes=len(ours),
        mounts=sum(all_ or str(root) in line for line in mounts),
        control_groups=sum(all_ or entry.rpartition("-")[2] in ids for entry in groups),
        namespaces=len({space for pid in ours for space in _namespaces(pid)}),
        loop_devices=sum(all_ or file.startswith(str(root)) for file in _loops()),
        files=sum(len(folders) + len(files) for _, folders, files in os.walk(root)),
    )


async def churn(ground: Ground, volumes: Volumes, count: int, at_once: int) -> list[str]:
    """Makes `count` sandboxes, `at_once` at a time, each on a volume of its own, and ends and removes them. Their ids.

    `volumes` must have its homes in `sessions` of the ground.
    """
    ids: list[str] = []

    async def some(mine: range) -> None:
        for number in mine:
            ids.append(await _one(ground, volumes, f"churn{number}"))

    async with asyncio.TaskGroup() as tasks:
        for start in range(at_once):
            tasks.create_task(some(range(start, count, at_once)))
    return ids


async def _one(ground: Ground, volumes: Volumes, name: str) -> str:
    home = ground.root / "sessions" / name
    await asyncio.to_thread(volumes.enter, home, DISK_BYTES)
    kept = {"workspace": home / "workspace", "outputs": home / "outputs", "harness_state": home / "harness"}
    for folder in kept.values():
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        sandbox = await ground.provider.create(ground.spec(name, **kept))
        try:
            process = await ground.holding(sandbox)
            await ground.run(sandbox.entrance, "/bin/sh", "-c", MESS)
            await sandbox.stats()
        finally:
            await sandbox.destroy()
        await process.communicate()
    finally:
        await asyncio.to_thread(volumes.leave, home, looked_through=True)
        await asyncio.to_thread(volumes.remove, home)
        home.rmdir()
        for socket_name in ("model.sock", "egress.sock"):
            ground.listener(ground.place(name) / socket_name).close()
        shutil.rmtree(ground.place(name))
    return sandbox.sandbox_id


def _lives(pid: int) -> bool:
    """One that has ended and that its parent hasn't asked about yet is none any more: that is the parent's business."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    return False


def _user(pid: int) -> int:
    with suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid
    return -1


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _namespaces(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/ns"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                yield os.readlink(f"{folder}/{name}")


def _loops() -> Iterator[str]:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            yield file.read_text().strip()
