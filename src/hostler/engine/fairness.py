"""How do many sessions share the processors of one host, when one of them takes all that it can get?

The limit on processors says how much a session may use when nobody else wants any. What it gets when others do is
decided here: a session that has kept a processor busy for the last second runs on what the others leave, until it is
calm again. So a turn that mostly waits for its model, as turns do, is not held up by a build or by a fork bomb next
door. Nobody starves: it is a weight and not a rank.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from hostler.engine.sandbox_port import InGroups, Sandbox

log = logging.getLogger("hostler.fairness")

SECONDS: Final = 1.0
"""How often is looked. With many sessions it is less often, so that looking costs next to nothing."""
SECONDS_EACH: Final = 0.02
BUSY: Final = 0.6
"""Processors: who uses more than this gives way."""
CALM: Final = 0.3
"""Who uses less does so no longer."""


@dataclass(slots=True)
class _Seen:
    cpu_seconds: float
    at: float
    gives_way: bool = False


class Fairness:
    """For the sandboxes of one worker. `run` once."""

    def __init__(self, live: Callable[[], Sequence[Sandbox]]) -> None:
        self._live = live
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            live = self._live()
            await asyncio.sleep(max(SECONDS, SECONDS_EACH * len(live)))
            await self.look()

    async def look(self) -> None:
        """Compare with the look before, and have busy sandboxes give way."""
        live = {sandbox.sandbox_id: sandbox for sandbox in self._live()}
        self._seen = {sandbox_id: seen for sandbox_id, seen in self._seen.items() if sandbox_id in live}
        for sandbox_id, sandbox in live.items():
            if isinstance(sandbox, InGroups):
                try:
                    await self._look_at(sandbox_id, sandbox)
                except Exception:  # it has ended meanwhile, or its engine doesn't answer: never a reason to end ours
                    log.debug("not_looked_at", exc_info=True, extra={"sandbox": sandbox_id})

    async def _look_at(self, sandbox_id: str, sandbox: InGroups) -> None:
        used, now = (await sandbox.glance()).cpu_seconds, monotonic()
        if used is None:
            return
        seen = self._seen.get(sandbox_id)
        if seen is None:
            self._seen[sandbox_id] = _Seen(used, now)
            return
        busy = (used - seen.cpu_seconds) / max(now - seen.at, 0.001)
        seen.cpu_seconds, seen.at = used, now
        gives_way = busy > (CALM if seen.gives_way else BUSY)
        if gives_way != seen.gives_way:
            await sandbox.yield_processors(gives_way)
            seen.gives_way = gives_way
