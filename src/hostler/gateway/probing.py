"""Is an upstream back that is left alone?

While a breaker is open, its upstream is looked at without a request of a user, when its channel has a way to (`probe`).
What it says only moves the next trial: that a server is there does not mean that its model answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from hostler.engine.tasks import Tasks
from hostler.gateway.channel import Channel
from hostler.gateway.roster import Roster

_DEADLINE: Final = 10.0
"""Seconds for one probe."""


@asynccontextmanager
async def probing(roster: Roster, channels: Mapping[str, Channel], every_seconds: float) -> AsyncIterator[None]:
    """Looks while the block runs, each `every_seconds`. 0: not at all."""
    tasks = Tasks()
    able = {name for name, channel in channels.items() if callable(getattr(channel, "probe", None))}
    if every_seconds > 0 and able:
        tasks.spawn(_look(roster, channels, able, every_seconds), "upstream-probes")
    try:
        yield
    finally:
        await tasks.close(grace_seconds=0.0)


async def _look(roster: Roster, channels: Mapping[str, Channel], able: set[str], every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        for name in roster.ill:
            if name in able and await _is_well(channels[name]):
                roster.is_back(name)


async def _is_well(channel: Channel) -> bool:
    """A probe that raises, takes too long or says False tells of an upstream that is still ill."""
    probe = getattr(channel, "probe", None)
    if probe is None:
        return False
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DEADLINE):
            return await probe() is not False
    return False


__all__ = ["probing"]
