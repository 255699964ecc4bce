"""How much memory does this host have left for sandboxes, and how much do the processes of one use?

Implements `engine.memory_use.MemoryGauge` by reading `/proc` and the control groups that this process is in: a limit
on any group above the worker holds for its sandboxes, too.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final

from hostler.engine.memory_use import HostMemory
from hostler.sandbox.cgroup_detection import own_groups
from hostler.sandbox.launch import MARK

_NO_LIMIT: Final = 1 << 60
"""Version 1 writes a number a little below 2^63 where there is no limit."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class ProcMemory:
    """Of the host that this process runs on. The folders are those of the host, unless a test has others."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._groups: list[Path] | None = None

    def host(self) -> HostMemory | None:
        meminfo = _keyed(self._proc / "meminfo", " kB", 1024)
        total, available = meminfo.get("MemTotal"), meminfo.get("MemAvailable")
        if total is None or available is None:
            return None
        for group in self._limited():
            limit = _limit(group)
            used = _first(group, "memory.current", "memory.usage_in_bytes")
            if limit is None or used is None:
                continue
            files = _files(group)
            total, available = min(total, limit), min(available, limit - used + files)
        return HostMemory(total, available)

    def _limited(self) -> list[Path]:
        """The groups above this process that could have a limit on memory, its own first."""
        if self._groups is None:
            found = []
            own, mounts = self._proc / "self" / "cgroup", self._proc / "self" / "mountinfo"
            with suppress(OSError, ValueError):
                for hierarchy in own_groups(own.read_text(), mounts.read_text()):
                    if hierarchy.controllers and "memory" not in hierarchy.controllers:
                        continue
                    group = hierarchy.own
                    while _has_memory(group):
                        found.append(group)
                        group = group.parent
            self._groups = found
        return self._groups

    def of_sandbox(self, sandbox_id: str) -> int | None:
        children: dict[int, list[int]] = defaultdict(list)
        for entry in self._proc.iterdir():
            if entry.name.isdigit() and (parent := _parent(entry)) is not None:
                children[parent].append(int(entry.name))
        mark = f"{MARK}={sandbox_id}".encode()
        tops = [pid for pid in children[os.getpid()] if mark in _environment(self._proc / str(pid))]
        if not tops:
            return None
        total, todo = 0, tops
        while todo:
            pid = todo.pop()
            total += _share(self._proc / str(pid))
            todo += children[pid]
        return total


def _has_memory(group: Path) -> bool:
    return (group / "memory.stat").exists()


def _limit(group: Path) -> int | None:
    limit = _first(group, "memory.max", "memory.limit_in_bytes")
    return None if limit is None or limit >= _NO_LIMIT else limit


def _files(group: Path) -> int:
    """What holds parts of files, and is given up when memory is needed."""
    stat = _keyed(group / "memory.stat")
    if "total_inactive_file" in stat:
        return stat["total_inactive_file"] + stat.get("total_active_file", 0)
    return stat.get("inactive_file", 0) + stat.get("active_file", 0)


def _first(group: Path, *names: str) -> int | None:
    """The number in the first of these files that is there; None: there is none, or it says `max`."""
    for name in names:
        with suppress(OSError, ValueError):
            return int((group / name).read_text())
    return None


def _keyed(file: Path, unit: str = "", factor: int = 1) -> dict[str, int]:
    found = {}
    with suppress(OSError):
        for line in file.read_text().splitlines():
            words = line.removesuffix(unit).replace(":", " ").split()
            if len(words) == 2 and words[1].isdigit():
                found[words[0]] = int(words[1]) * factor
    return found


def _parent(entry: Path) -> int | None:
    with suppress(OSError, IndexError, ValueError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return None


def _environment(entry: Path) -> list[bytes]:
    with suppress(OSError):
        return (entry / "environ").read_bytes().split(b"\0")
    return []


def _share(entry: Path) -> int:
    """Proportional share of its memory without what holds parts of files; all that is resident where that is not
    told."""
    detail = _keyed(entry / "smaps_rollup", " kB", 1024)
    if "Pss_Anon" in detail:
        return detail["Pss_Anon"] + detail.get("Pss_Shmem", 0)
    if "Pss" in detail:
        return detail["Pss"]
    with suppress(OSError, IndexError, ValueError):
        return int((entry / "statm").read_text().split()[1]) * _PAGE
    return 0
