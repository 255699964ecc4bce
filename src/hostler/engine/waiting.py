"""How long does a session keep its process when a turn has ended, and how well does it have to be meanwhile?

`hybrid`: until it was idle for as long as its environment says; what is under way (`engine.idle`) counts as not idle.
`long_running`: for as long as the server runs; the process is looked at between turns, and replaced when it is sick.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from hostler.engine.health import Finding, Health
from hostler.engine.idle import left_running
from hostler.engine.lodging import Lodging
from hostler.engine.profile import Profile
from hostler.engine.runner_parts import RunnerParts
from hostler.engine.runs import Notice

log = logging.getLogger("hostler.waiting")

LOOK_AGAIN_SECONDS: Final = 5.0
"""How soon a session that something keeps awake is looked at again."""

SOON_SECONDS: Final = 0.2
"""How long the files of a turn that has ended wait to be kept, so that a message that comes at once need not wait for
that. A program answers within milliseconds, a person later than this."""


class Waiting:
    """For one session under one lease."""

    def __init__(
        self,
        session_id: str,
        parts: RunnerParts,
        lodging: Lodging,
        wake: asyncio.Event,
        is_wanted: Callable[[], Awaitable[bool]],
        is_retired: Callable[[], bool],
        on_idle: Callable[[], None],
        tell: Callable[[Notice], None],
    ) -> None:
        """`on_idle` is called when the process begins to wait: from then on it can make room for others."""
        self.since: float | None = None
        """Monotonic time since when the process waits and may be ended to make room; None while it may not."""
        self._session_id = session_id
        self._parts = parts
        self._lodging = lodging
        self._wake = wake
        self._is_wanted = is_wanted
        self._is_retired = is_retired
        self._on_idle = on_idle
        self._tell = tell
        self._health = Health()

    async def out(self, profile: Profile) -> bool:
        """Until something is to be done: True. False: the process is to be let go, and the session with it."""
        began = monotonic()
        if profile.pattern != "long_running":
            self.since = began
            self._on_idle()
        try:
            seconds = (
                self._parts.health_seconds if profile.idle_timeout_seconds is None else profile.idle_timeout_seconds
            )
            while not await self._wanted_within(seconds):
                if self._is_retired():
                    return False
                if profile.pattern == "long_running":
                    if await self.replaced(profile):
                        return True
                elif not await self._is_kept_awake(profile, began):
                    return False
                else:
                    seconds = LOOK_AGAIN_SECONDS
            return not self._is_retired()
        finally:
            self.since = None

    async def wanted_soon(self) -> bool:
        """When a turn has just ended: whether something is to be done at once. False: there is time for its files."""
        return not self._is_retired() and await self._wanted_within(SOON_SECONDS) and not self._is_retired()

    async def _wanted_within(self, seconds: float) -> bool:
        """True as well when the session is to be given back."""
        try:
            async with asyncio.timeout(seconds):
                while not self._is_retired() and not await self._is_wanted():
                    await self._wake.wait()
                    self._wake.clear()
        except TimeoutError:
            return False
        return True

    async def _is_kept_awake(self, profile: Profile, began: float) -> bool:
        if self._parts.awake.reasons(self._session_id):
            return True
        process = self._lodging.process
        if not profile.idle_timeout_seconds or process is None or not self._lodging.touched:
            return False
        if monotonic() - began >= profile.idle_timeout_seconds + self._parts.background_seconds:
            return False
        return bool(await left_running(process.sandbox))

    async def replaced(self, profile: Profile) -> bool:
        """Between two turns: whether the process was sick, and is gone. Only what stays is looked at."""
        process = self._lodging.process
        if process is None or profile.pattern != "long_running":
            return False
        try:
            room = await asyncio.to_thread(self._lodging.room)
            found = await self._health.look(process, profile.sandbox_limits, room, used=self._lodging.used)
        except OSError:
            log.exception("health_unknown", extra={"session": self._session_id})
            return False
        if found is not None:
            await self._replace(found)
        return found is not None

    async def _replace(self, found: Finding) -> None:
        log.warning("process_replaced", extra={"session": self._session_id, "reason": found.kind})
        self._lodging.busy = found.kind == "hung"
        try:
            await self._lodging.close()
        finally:
            self._lodging.busy = False
        self._tell(found.notice)
