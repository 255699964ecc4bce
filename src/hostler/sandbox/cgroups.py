"""How are memory, processes and processor time of a sandbox limited, counted, and its last process found?

By control groups, directly: no service manager is needed. Each sandbox gets a group below the group of the worker
itself, so that a limit on the worker holds for its sandboxes too. Version 1 (one hierarchy per controller) and
version 2 (one for all) differ only in file names here. Where the host lets us make no group, `NoCgroups` says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from hostler.engine.sandbox_port import SandboxLimits, SandboxStats

CPU_PERIOD_US = 100_000
"""Length of the accounting period of the processor limit, the kernel's own default."""

OPTIONAL = frozenset({"memory.memsw.limit_in_bytes", "memory.swappiness", "memory.swap.max"})
"""Files that a kernel without swap accounting doesn't have."""

NOTHING_KNOWN = SandboxStats(None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one sandbox: its directories (several under version 1), and what is to be written where."""

    directories: tuple[Path, ...] = ()
    settings: tuple[tuple[Path, str], ...] = ()

    @property
    def entrances(self) -> tuple[Path, ...]:
        """Files to which the launcher writes `0` to join."""
        return tuple(directory / "cgroup.procs" for directory in self.directories)


class Cgroups(Protocol):
    """One version of control groups on this host."""

    @property
    def kind(self) -> Literal["cgroup_v1", "cgroup_v2", "none"]: ...

    @property
    def missing(self) -> tuple[str, ...]:
        """Limits that can't be kept, each in a sentence."""
        ...

    def plan(self, name: str, limits: SandboxLimits) -> Group:
        """What `make` will make. Changes nothing, so that it can be recorded before it exists."""
        ...

    def stats(self, group: Group) -> SandboxStats: ...


def make(group: Group) -> None:
    """Creates the group and sets its limits. OSError when the host refuses; what was made is left to `remove`."""
    for directory in group.directories:
        directory.mkdir(exist_ok=True)
    for file, value in group.settings:
        if file.name not in OPTIONAL or file.exists():
            file.write_text(value)


def make_nested(outer: Group, inner: Group) -> None:
    """The same for a group in which others are, and one of these. `outer` may be there already."""
    make(outer)
    for directory in outer.directories:
        wanted = directory / "cgroup.subtree_control"
        if wanted.exists():  # version 2 passes controllers on only when it is told to
            wanted.write_text(" ".join(f"+{name}" for name in (directory / "cgroup.controllers").read_text().split()))
    make(inner)


def members(directories: Iterable[Path]) -> frozenset[int]:
    """Live processes in any of the directories. A directory that is gone has none."""
    found: set[int] = set()
    for directory in directories:
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
    return frozenset(found - {0})


def kill(directories: Iterable[Path]) -> None:
    """Kills what is in the directories now: all at once under version 2, one by one under version 1."""
    for directory in directories:
        try:
            (directory / "cgroup.kill").write_text("1")
        except OSError:
            for pid in members([directory]):
                _kill_member(directory, pid)


def _kill_member(directory: Path, pid: int) -> None:
    """Kills the process only if it is (still) in the group: between listing and killing a pid can get a new owner."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if pid in members([directory]):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def remove(directories: Iterable[Path]) -> bool:
    """Removes the directories; true when none is left. False: some process is still (or just was) in one."""
    gone = True
    for directory in directories:
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            gone = False
    return gone


WEIGHTS = {"cpu.shares": ("1024", "32"), "cpu.weight": ("100", "3")}
"""Of version 1 and version 2: the kernel's own default, and a thirtieth of it."""


def weigh(group: Group, *, low: bool) -> None:
    """How much it counts against others that want the same processors. A group that is gone is left alone."""
    for directory in group.directories:
        for name, (usual, little) in WEIGHTS.items():
            with contextlib.suppress(OSError), (directory / name).open("r+") as file:
                file.write(little if low else usual)


def glance(group: Group) -> SandboxStats:
    """Whatever version it is of."""
    second = any((directory / "cgroup.controllers").exists() for directory in group.directories)
    return (CgroupsV2(Path(), frozenset()) if second else CgroupsV1({})).stats(group)


# ------------------------------------------------------------------------------------------------------- the versions

_SENTENCES = {
    "memory": "A sandbox may use all memory of the host: no memory control group can be made.",
    "pids": "A sandbox may start any number of processes: no pids control group can be made.",
    "cpu": "A sandbox may use all processors of the host: no cpu control group can be made.",
}


@dataclass(frozen=True, slots=True)
class CgroupsV1:
    """One directory per controller hierarchy. Controllers: memory, pids, cpu, and cpuacct for counting."""

    parents: Mapping[str, Path]
    """Controller to the worker's own directory in its hierarchy; only those in which a group can be made."""
    kind: Literal["cgroup_v1"] = "cgroup_v1"

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(sentence for controller, sentence in _SENTENCES.items() if controller not in self.parents)

    def plan(self, name: str, limits: SandboxLimits) -> Group:
        own = {controller: parent / name for controller, parent in self.parents.items()}
        settings: list[tuple[Path, str]] = []
        if "memory" in own and limits.memory_bytes is not None:
            limit = str(limits.memory_bytes)
            settings.append((own["memory"] / "memory.limit_in_bytes", limit))
            # Swap would be memory beyond the limit: counted where the kernel can count it, else avoided.
            settings.append((own["memory"] / "memory.memsw.limit_in_bytes", limit))
            settings.append((own["memory"] / "memory.swappiness", "0"))
        if "cpu" in own and limits.cpus is not None:
            settings.append((own["cpu"] / "cpu.cfs_period_us", str(CPU_PERIOD_US)))
            settings.append((own["cpu"] / "cpu.cfs_quota_us", str(_quota(limits.cpus))))
        if "pids" in own and limits.pids is not None:
            settings.append((own["pids"] / "pids.max", str(limits.pids)))
        return Group(tuple(dict.fromkeys(own.values())), tuple(settings))

    def stats(self, group: Group) -> SandboxStats:
        cpu = _number(group, "cpuacct.usage")
        oom = _keyed(group, "memory.oom_control").get("oom_kill")
        memory = _keyed(group, "memory.stat")
        return SandboxStats(
            memory_bytes=_number(group, "memory.usage_in_bytes"),
            memory_peak_bytes=_number(group, "memory.max_usage_in_bytes"),
            cpu_seconds=None if cpu is None else cpu / 1e9,
            pids=_number(group, "pids.current"),
            oom_kills=oom,
            pids_refused=_keyed(group, "pids.events").get("max"),
            file_cache_bytes=_both(memory.get("total_active_file"), memory.get("total_inactive_file")),
        )


@dataclass(frozen=True, slots=True)
class CgroupsV2:
    """One directory for everything, below a directory whose controllers are passed on."""

    parent: Path
    controllers: frozenset[str]
    kind: Literal["cgroup_v2"] = "cgroup_v2"

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(sentence for controller, sentence in _SENTENCES.items() if controller not in self.controllers)

    def plan(self, name: str, limits: SandboxLimits) -> Group:
        own = self.parent / name
        settings: list[tuple[Path, str]] = []
        if "memory" in self.controllers and limits.memory_bytes is not None:
            settings.append((own / "memory.max", str(limits.memory_bytes)))
            settings.append((own / "memory.swap.max", "0"))
        if "cpu" in self.controllers and limits.cpus is not None:
            settings.append((own / "cpu.max", f"{_quota(limits.cpus)} {CPU_PERIOD_US}"))
        if "pids" in self.controllers and limits.pids is not None:
            settings.append((own / "pids.max", str(limits.pids)))
        return Group((own,), tuple(settings))

    def stats(self, group: Group) -> SandboxStats:
        cpu, memory = _keyed(group, "cpu.stat").get("usage_usec"), _keyed(group, "memory.stat")
        return SandboxStats(
            memory_bytes=_number(group, "memory.current"),
            memory_peak_bytes=_number(group, "memory.peak"),
            cpu_seconds=None if cpu is None else cpu / 1e6,
            pids=_number(group, "pids.current"),
            oom_kills=_keyed(group, "memory.events").get("oom_kill"),
            pids_refused=_keyed(group, "pids.events").get("max"),
            file_cache_bytes=_both(memory.get("active_file"), memory.get("inactive_file")),
        )


@dataclass(frozen=True, slots=True)
class NoCgroups:
    """No group can be made. Everything works, nothing is limited or counted."""

    missing: tuple[str, ...] = field(default=tuple(_SENTENCES.values()))
    kind: Literal["none"] = "none"

    def plan(self, name: str, limits: SandboxLimits) -> Group:
        return Group()

    def stats(self, group: Group) -> SandboxStats:
        return NOTHING_KNOWN


def _both(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _quota(cpus: float) -> int:
    return max(1000, round(cpus * CPU_PERIOD_US))  # the kernel takes no quota below 1 ms


def _text(group: Group, name: str) -> str | None:
    for directory in group.directories:
        with contextlib.suppress(OSError):
            return (directory / name).read_text()
    return None


def _number(group: Group, name: str) -> int | None:
    text = _text(group, name)
    return int(text) if text is not None else None


def _keyed(group: Group, name: str) -> dict[str, int]:
    lines = (line.split() for line in (_text(group, name) or "").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}
