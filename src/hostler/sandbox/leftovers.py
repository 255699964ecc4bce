"""How does a sandbox end for certain, in this life of the worker or in the next?

Every sandbox has a directory of its own with a record in it, written before anything else of the sandbox exists. Ending
it needs nothing but that record, so `destroy` and the sweep after a crash are the same code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hostler.sandbox import cgroups
from hostler.sandbox.enter import children
from hostler.sandbox.launch import MARK

RECORD = "record.json"
END_WITHIN_SECONDS = 10.0
"""A killed process ends within milliseconds unless the kernel is stuck in a device."""


class SandboxNotEnded(Exception):
    """Processes of a sandbox were killed and are still there. The record stays, so that a later sweep tries again."""


@dataclass(frozen=True, slots=True)
class Record:
    """What there may be of one sandbox outside its directory."""

    sandbox_id: str
    session_id: str
    uid: int | None
    """Host user of its own; None: it has none, or shares one."""
    groups: tuple[str, ...]
    room_groups: tuple[str, ...] = ()
    """Groups that it shares with others (`sandbox.rooms`)."""

    def save(self, directory: Path) -> None:
        """Atomic: a record that is there is whole. Survives the worker's death, not the host's, as do processes."""
        new = directory / f".{RECORD}"
        new.write_text(json.dumps(asdict(self)))
        new.replace(directory / RECORD)

    @staticmethod
    def load(directory: Path) -> Record | None:
        """None when the worker died before it wrote the record, and so before there was anything to record."""
        try:
            data = json.loads((directory / RECORD).read_text())
        except FileNotFoundError:
            return None
        return Record(
            data["sandbox_id"],
            data["session_id"],
            data["uid"],
            tuple(data["groups"]),
            tuple(data.get("room_groups", ())),
        )


def end(record: Record, directory: Path, *, uid_is_ours: bool) -> int:
    """Kills, waits until all is gone, removes groups and directory; gives the number of processes. Blocks. Idempotent.

    `uid_is_ours`: the caller holds the lock of the record's uid, so every process of that uid is this sandbox's.
    Raises SandboxNotEnded after END_WITHIN_SECONDS.
    """
    close_entrances(directory)  # first: a chain of execs that is still above bash ends here by itself
    groups = [Path(group) for group in record.groups]
    uid = record.uid if uid_is_ours else None
    killed: set[int] = set()
    deadline = time.monotonic() + END_WITHIN_SECONDS
    pause = 0.0005
    while True:
        alive = cgroups.members(groups)
        cgroups.kill(groups)
        strays = frozenset(_kill_strays(record.sandbox_id, uid))
        killed |= alive | strays
        if not alive and not strays and cgroups.remove(groups):
            break
        if time.monotonic() > deadline:
            left = sorted(alive | strays)
            raise SandboxNotEnded(f"sandbox {record.sandbox_id}: processes {left} are still there after SIGKILL")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    shutil.rmtree(directory, ignore_errors=True)
    return len(killed)


def kill_user(uid: int) -> int:
    """Kills every process of that host user and waits until none is left; gives their number. Blocks.

    Raises SandboxNotEnded after END_WITHIN_SECONDS.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + END_WITHIN_SECONDS
    while found := frozenset(_kill_strays("no sandbox", uid)):
        killed |= found
        if time.monotonic() > deadline:
            raise SandboxNotEnded(f"processes {sorted(found)} of a room are still there after SIGKILL")
        time.sleep(0.001)
    return len(killed)


def close_entrances(directory: Path) -> None:
    """Nobody gets into the sandbox any more. Idempotent."""
    for name in ("launcher", "entrance"):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


def kill_marked(sandbox_id: str) -> int:
    """Kills the processes of launchers and entrances on the host; gives their number. Blocks."""
    return len(frozenset(_kill_strays(sandbox_id, None)))


def processes(record: Record) -> frozenset[int]:
    """What runs of a live sandbox now, in whatever group, the launcher's own chain included. Blocks."""
    found = set(cgroups.members(map(Path, record.groups))) | set(_strays(record.sandbox_id, record.uid))
    waiting = list(found)
    while waiting:
        for child in children(waiting.pop()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return frozenset(found)


def _strays(sandbox_id: str, uid: int | None) -> Iterator[int]:
    """What carries the sandbox's mark or has its uid."""
    mark = f"{MARK}={sandbox_id}".encode()
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return (pid for pid in pids if _belongs(pid, mark, uid))


def _kill_strays(sandbox_id: str, uid: int | None) -> Iterator[int]:
    """Kills what carries the sandbox's mark or has its uid, whatever group it is in."""
    mark = f"{MARK}={sandbox_id}".encode()
    for pid in _strays(sandbox_id, uid):
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                if _belongs(pid, mark, uid):  # again: now the pid can't change its owner under us
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    yield pid
            finally:
                os.close(handle)


def _belongs(pid: int, mark: bytes, uid: int | None) -> bool:
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                return True
    if uid is None:
        return False
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Not the owner of the directory: a process can make root its owner by being not dumpable.
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        dead = fields[b"State"].split()[0] in (b"Z", b"X")
        return not dead and str(uid).encode() in fields[b"Uid"].split()
    return False
