"""Is there still room on this host to begin something new, and does the server keep up with what it has begun?

Looked at once a second, by the server itself. Where the disk or the memory runs short, or the event loop falls behind,
requests that would begin or keep something new are refused, for a moment, with 529: what runs goes on, can be read and
can be ended. A server that breaks because it took one more session serves nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hostler.domain.errors import Busy

log = logging.getLogger("hostler.guards")

BEAT_SECONDS: Final = 0.25
LOOK_SECONDS: Final = 1.0
KEPT_BEATS: Final = 240
"""A minute's."""
BEHIND_BEATS: Final = 4
"""So many beats in a row must be late: one long pause is over when it is seen."""
RETRY_SECONDS: Final = 5.0

Free = Callable[[], int | None]
"""Bytes that are free; None: nobody can tell. May block for a moment."""


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """When nothing new is begun."""

    disk_bytes: int = 512 << 20
    """Less than this is free on the disk of the state folder. 0: never."""
    memory_bytes: int = 256 << 20
    """Less than this of the host's memory is available. 0: never."""
    delay_seconds: float = 1.0
    """The event loop comes this much too late, again and again. 0: never."""


class Guards:
    """Of one server. Closed to nobody until `watch` has looked."""

    def __init__(self, terms: GuardTerms, disk: Free, memory: Free) -> None:
        self._terms = terms
        self._disk = disk
        self._memory = memory
        self._free: dict[str, int | None] = {"disk": None, "memory": None}
        self._delays: deque[float] = deque(maxlen=KEPT_BEATS)
        self._short: dict[str, str] = {}
        self._blind: set[str] = set()
        """What can't be asked now."""

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        looked = -math.inf
        while True:
            before = loop.time()
            if before - looked >= LOOK_SECONDS:
                looked = before
                await self.look()
                before = loop.time()
            await asyncio.sleep(BEAT_SECONDS)
            self.beat(loop.time() - before - BEAT_SECONDS)

    def beat(self, delay_seconds: float) -> None:
        """The loop came this much later than it was to."""
        self._delays.append(max(0.0, delay_seconds))
        limit = self._terms.delay_seconds
        last = list(self._delays)[-BEHIND_BEATS:]
        behind = 0 < limit <= min(last) and len(last) == BEHIND_BEATS
        self._set("loop", f"the server falls behind: its event loop is {last[-1]:.1f} s late" if behind else None)

    async def look(self) -> None:
        """Asks for disk and memory now."""
        for name, ask, least in (
            ("disk", self._disk, self._terms.disk_bytes),
            ("memory", self._memory, self._terms.memory_bytes),
        ):
            try:
                free = await asyncio.to_thread(ask)
            except OSError as error:  # What was known last still holds: a disk that can't be asked is no better one.
                self._free[name] = None
                if name not in self._blind:
                    self._blind.add(name)
                    log.error("guard_blind", extra={"guard": name, "reason": str(error)})
                continue
            self._blind.discard(name)
            self._free[name] = free
            short = free is not None and free < least
            self._set(name, f"{name} runs short: {(free or 0) >> 20} MiB are free" if short else None)

    def admit(self) -> None:
        """Raises Busy while nothing new is to be begun."""
        for why in self._short.values():
            raise Busy(
                f"{why}. Nothing new is begun until there is room; what runs goes on. Ask again, or ask the operator.",
                retry_after_seconds=RETRY_SECONDS,
            )

    def reasons(self) -> list[str]:
        """Why nothing new is begun. Empty: it is."""
        return [f"guards: {why}; nothing new is begun" for why in self._short.values()]

    def free(self, what: str) -> int | None:
        """Bytes that were free when it was looked at last, of `disk` or `memory`."""
        return self._free[what]

    @property
    def delay_seconds(self) -> float | None:
        """Of the event loop, as measured last."""
        return self._delays[-1] if self._delays else None

    def figures(self) -> Mapping[str, Any]:
        """What was seen last, and the delay of the event loop over the last minute, in milliseconds."""
        delays = sorted(self._delays)

        def at(part: float) -> float | None:
            return round(delays[min(len(delays) - 1, int(part * len(delays)))] * 1000, 1) if delays else None

        return {
            "admits": not self._short,
            "disk_free_bytes": self._free["disk"],
            "memory_available_bytes": self._free["memory"],
            "loop_delay_ms": {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)},
        }

    def _set(self, name: str, why: str | None) -> None:
        known = self._short.get(name)
        if why is None:
            if self._short.pop(name, None) is not None:
                log.warning("guard_open", extra={"guard": name})
            return
        self._short[name] = why
        if known is None:
            log.error("guard_closed", extra={"guard": name, "reason": why})
