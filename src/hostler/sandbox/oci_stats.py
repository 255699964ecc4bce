"""What does one container use? Its control groups say it, where this host shows them, and the engine otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hostler.engine.sandbox_port import SandboxStats
from hostler.sandbox.cgroup_detection import own_groups
from hostler.sandbox.cgroups import NOTHING_KNOWN, CgroupsV1, CgroupsV2, Group
from hostler.sandbox.oci_engine import Engine, EngineError


async def stats(engine: Engine, container: str, groups: Group) -> SandboxStats:
    """`groups`: what `groups_of` found when the container was started."""
    found = of_groups(groups)
    state = await engine.inspect(container)
    if state is None:
        return found
    if found.pids is None and state["State"].get("Running"):
        try:
            found = _of_engine(await engine.stats(container))
        except EngineError:
            found = NOTHING_KNOWN  # it has just ended
    if state["State"].get("OOMKilled") and not found.oom_kills:
        found = replace(found, oom_kills=1)
    return found


def groups_of(inspected: dict[str, Any]) -> Group:
    """Directories of a running container's control groups; none where this process doesn't see them."""
    pid, container = inspected["State"].get("Pid") or 0, str(inspected["Id"])
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
        if container not in text:  # its number is another process's here: the engine is outside of our namespace
            return Group()
        found = [hierarchy.own for hierarchy in own_groups(text, Path("/proc/self/mountinfo").read_text())]
    except OSError:
        return Group()
    return Group(tuple(dict.fromkeys(own for own in found if container in str(own) and own.is_dir())))


def of_groups(groups: Group) -> SandboxStats:
    """What the groups say by themselves. Blocks."""
    if not groups.directories:
        return NOTHING_KNOWN
    # An engine also makes a directory in a second version that has no controllers: the first one counts then.
    first = any((directory / "memory.usage_in_bytes").exists() for directory in groups.directories)
    version = CgroupsV1({}) if first else CgroupsV2(groups.directories[0], frozenset())
    return version.stats(groups)


def _of_engine(said: dict[str, Any]) -> SandboxStats:
    memory, cpu = said.get("memory_stats") or {}, (said.get("cpu_stats") or {}).get("cpu_usage") or {}
    used = cpu.get("total_usage")
    return SandboxStats(
        memory_bytes=memory.get("usage"),
        memory_peak_bytes=memory.get("max_usage"),
        cpu_seconds=None if used is None else used / 1e9,
        pids=(said.get("pids_stats") or {}).get("current"),
        oom_kills=None,
    )
