"""Which limit has a session run into, and what should its user be told?

The kernel enforces limits and tells nobody. Its counters, and what is left of the session's volume, are looked at when
a tool call has ended, when a turn has, and when the process is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from hostler.domain.events import Limit
from hostler.engine.sandbox_port import InGroups, Sandbox, SandboxLimits
from hostler.engine.volume_port import Room

LimitKind = Literal["memory", "pids", "disk", "files"]

FULL_BYTES: Final = 1 << 20
"""A volume with less room than this is full: a program that was refused a write leaves a little."""
FULL_FILES: Final = 8
CROWDED: Final = 0.75
"""Of the limit of processes: what a turn leaves running beyond this keeps the next one from running anything."""


@dataclass(frozen=True, slots=True)
class LimitHit:
    """A limit that was reached while the session goes on."""

    kind: LimitKind
    message: str
    limit: Limit


class LimitWatch:
    """For one process and its sandbox."""

    def __init__(self, sandbox: Sandbox, room: Callable[[], Room | None], limits: SandboxLimits) -> None:
        """`room` blocks for a moment."""
        self._sandbox = sandbox
        self._room = room
        self._limits = limits
        self._oom_kills = 0
        self._pids_refused = 0
        self.crowded = False
        """At the last look: processes could not be started, and those that are there leave no room for others."""

    async def look(self) -> list[LimitHit]:
        """What was reached since the last look; a volume is full each time for as long as it is."""
        stats = await (self._sandbox.glance() if isinstance(self._sandbox, InGroups) else self._sandbox.stats())
        hits = []
        if stats.oom_kills is not None and stats.oom_kills > self._oom_kills:
            self._oom_kills = stats.oom_kills
            hits.append(memory_hit(self._limits))
        if stats.pids_refused is not None and stats.pids_refused > self._pids_refused:
            self._pids_refused = stats.pids_refused
            hits.append(pids_hit(self._limits))
        most = self._limits.pids
        self.crowded = bool(most and stats.pids and self._pids_refused and stats.pids > CROWDED * most)
        room = await asyncio.to_thread(self._room)
        if room is not None and room.free_bytes < FULL_BYTES:
            hits.append(disk_hit(self._limits))
        elif room is not None and room.free_files < FULL_FILES:
            hits.append(files_hit(self._limits, room))
        return hits


def memory_hit(limits: SandboxLimits) -> LimitHit:
    most = None if limits.memory_bytes is None else limits.memory_bytes >> 20
    return LimitHit(
        "memory",
        f"The sandbox reached its memory limit{_of(most, 'MiB')}, and the kernel ended a process in it. "
        f"{_advice('use less memory at once', 'memory_mb')}",
        Limit("memory_limit_reached", "config.limits.memory_mb", most),
    )


def pids_hit(limits: SandboxLimits) -> LimitHit:
    return LimitHit(
        "pids",
        f"The sandbox reached its limit{_of(limits.pids, 'processes and threads')}: some could not be started. "
        f"{_advice('start fewer at once', 'pids')}",
        Limit("pids_limit_reached", "config.limits.pids", limits.pids),
    )


def disk_hit(limits: SandboxLimits) -> LimitHit:
    most = None if limits.disk_bytes is None else limits.disk_bytes >> 20
    return LimitHit(
        "disk",
        f"The session has used its disk limit{_of(most, 'MiB')}: nothing more can be written in /workspace, "
        f"/mnt/session/outputs and /home/agent/.claude. {_advice('remove files there', 'disk_mb')}",
        Limit("disk_limit_reached", "config.limits.disk_mb", most),
    )


def files_hit(limits: SandboxLimits, room: Room) -> LimitHit:
    most = None if limits.disk_bytes is None else limits.disk_bytes >> 20
    return LimitHit(
        "files",
        f"The session's disk can't hold more than {room.total_files} files and folders, and it has that many. "
        f"{_advice('remove some', 'disk_mb')}",
        Limit("disk_files_limit_reached", "config.limits.disk_mb", most),
    )


def _of(most: float | None, unit: str) -> str:
    return "" if most is None else f" of {most:g} {unit}"


def _advice(do: str, field: str) -> str:
    return f"The session goes on. Let it {do}, or raise config.limits.{field} of the environment for new sessions."
