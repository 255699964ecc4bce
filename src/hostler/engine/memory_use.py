"""How much memory do live sandboxes really use, how much will one more use, and how much is there?

Each live sandbox is looked at about once a second: by its control group where it has one, else by the processes of its
program. What files hold in memory does not count, for the kernel gives that up. A process is expected to have grown to
what it needs in its first minute; how much that is, is learned from those before it in the same environment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from hostler.engine.sandbox_port import InGroups, Sandbox

log = logging.getLogger("hostler.memory")

MIB: Final = 1 << 20
EXPECTED_BYTES: Final = 180 * MIB
"""What a process needs of which nothing is known yet: `claude` with an empty conversation and its first tool call."""
LEAST_BYTES: Final = 64 * MIB
"""Nothing needs less, whatever was measured: somebody looked too early."""
START_SECONDS: Final = 60.0
"""A process has begun after that: what it uses then is what it needs."""
_REMEMBERED: Final = 32
"""Processes of one environment that count."""
_ENOUGH: Final = 3
"""Fewer than these teach only that more is needed than was thought."""
_ENVIRONMENTS: Final = 4096
_SHARE: Final = 0.9
"""Of the processes that are remembered, so many needed no more than what is expected."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """At one moment, in bytes: what this server and its sandboxes may use together, and what is left of that."""

    total_bytes: int
    available_bytes: int


class MemoryGauge(Protocol):
    """What the host says. Both block for some milliseconds at most."""

    def host(self) -> HostMemory | None:
        """Of the host, or of the control group that this server is in, whichever has less left. None: nobody knows."""
        ...

    def of_sandbox(self, sandbox_id: str) -> int | None:
        """What the host's processes use that this process has begun for the sandbox, and theirs. None: there are
        none."""
        ...


@dataclass(slots=True)
class _Process:
    """Of one live session."""

    environment_id: str
    expected: int
    began: float
    """Monotonic."""
    sandbox: Sandbox | None = None
    used: int | None = None
    """As last measured."""
    peak: int = 0
    known: bool = False
    """What it needed at its start was remembered."""


class MemoryUse:
    """Of the sandboxes of one worker. Use from one event loop."""

    def __init__(self, gauge: MemoryGauge, *, limit_bytes: int | None = None, reserve_bytes: int | None = None) -> None:
        """`limit_bytes`: what sandboxes may use together; None: what the host has. `reserve_bytes`: what is to stay
        free; None: a twentieth, and at least 128 MiB."""
        self._gauge = gauge
        self._limit = limit_bytes
        self._reserve = reserve_bytes
        self._processes: dict[str, _Process] = {}
        self._learned: dict[str, deque[int]] = {}
        self._host: HostMemory | None = None

    # -- who is live

    def begins(self, session_id: str, environment_id: str) -> None:
        """It was given a place; its process is about to start."""
        self._processes[session_id] = _Process(environment_id, self.expected(environment_id), monotonic())

    def ended(self, session_id: str) -> None:
        """Its process is gone."""
        process = self._processes.pop(session_id, None)
        if process is not None:
            self._remember(process)

    # -- what is known

    def expected(self, environment_id: str) -> int:
        """What one more process of this environment will use, in bytes."""
        learned = sorted(self._learned.get(environment_id, ()))
        if not learned:
            return EXPECTED_BYTES
        likely = learned[min(len(learned) - 1, int(_SHARE * len(learned)))]
        return max(likely, EXPECTED_BYTES if len(learned) < _ENOUGH else LEAST_BYTES)

    def used(self, session_id: str) -> int:
        """What would come back if its process ended; about, if it was not measured yet."""
        process = self._processes.get(session_id)
        return LEAST_BYTES if process is None or process.used is None else process.used

    @property
    def measured(self) -> Mapping[str, int | None]:
        """Bytes of each live session; None: not measured."""
        return {session_id: process.used for session_id, process in self._processes.items()}

    @property
    def reserve(self) -> int:
        """What is to stay free, in bytes."""
        if self._reserve is not None:
            return self._reserve
        total = self._limit or (0 if self._host is None else self._host.total_bytes)
        return max(128 * MIB, total // 20)

    async def refresh(self) -> None:
        """Asks the host again."""
        self._host = await asyncio.to_thread(self._gauge.host)

    def available(self) -> int | None:
        """What was left at the last `refresh`, the reserve included. None: nobody knows, so nothing is refused."""
        found = None if self._host is None else self._host.available_bytes
        if self._limit is None:
            return found
        left = self._limit - sum(process.used or 0 for process in self._processes.values())
        return left if found is None else min(left, found)

    def headroom(self) -> int | None:
        """What new processes may use, as of the last `refresh`: what those that have just begun will still take is not
        in it. None: nobody knows."""
        available = self.available()
        if available is None:
            return None
        now = monotonic()
        growing = (p for p in self._processes.values() if p.sandbox is None or now - p.began <= START_SECONDS)
        return available - self.reserve - sum(max(0, p.expected - (p.used or 0)) for p in growing)

    # -- measuring

    async def look(self, live: Mapping[str, Sandbox]) -> None:
        """Measures the sandboxes of these sessions."""
        for session_id, sandbox in live.items():
            process = self._processes.get(session_id)
            if process is None:
                continue
            if process.sandbox is not sandbox:  # a new process in the old place begins anew
                self._remember(process)
                process.sandbox, process.began, process.peak, process.known = sandbox, monotonic(), 0, False
            try:
                used = await self._used_by(sandbox)
            except Exception:  # it has ended meanwhile, or its engine doesn't answer
                log.debug("not_measured", exc_info=True, extra={"session": session_id})
                continue
            process.used = used
            if used is not None and not process.known:
                process.peak = max(process.peak, used)
            if monotonic() - process.began > START_SECONDS:
                self._remember(process)

    async def _used_by(self, sandbox: Sandbox) -> int | None:
        stats = await (sandbox.glance() if isinstance(sandbox, InGroups) else sandbox.stats())
        if stats.memory_bytes is not None:
            return max(0, stats.memory_bytes - (stats.file_cache_bytes or 0))
        return await asyncio.to_thread(self._gauge.of_sandbox, sandbox.sandbox_id)

    def _remember(self, process: _Process) -> None:
        if process.known or not process.peak:
            return
        process.known = True
        if process.environment_id not in self._learned and len(self._learned) >= _ENVIRONMENTS:
            del self._learned[next(iter(self._learned))]
        self._learned.setdefault(process.environment_id, deque(maxlen=_REMEMBERED)).append(process.peak)
