"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from hostler.compose.attempts import patience
from hostler.compose.upstreams import entry_of, open_channel
from hostler.config import Settings
from hostler.gateway import Desk, Entry, MessagesChannel, Roster, Upstream, probing
from hostler.gateway.channel import Channel
from hostler.gateway.desk import ONLY
from hostler.testing import RehearsalModel

MakeDesk = Callable[[Settings, contextlib.AsyncExitStack], Awaitable[Desk]]
"""What is made ends with the stack."""


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model."""
    channels, entries = await _upstreams(settings, stack)
    roster = Roster(entries, asyncio.get_running_loop().time, patience(settings))
    await stack.enter_async_context(probing(roster, channels, settings.attempts.probe_seconds))
    return Desk(channels, roster)


async def _upstreams(
    settings: Settings, stack: contextlib.AsyncExitStack
) -> tuple[dict[str, Channel], tuple[Entry, ...]]:
    """The channels by the name of their upstream, and what each upstream has."""
    if settings.rehearsing:
        rehearsal = await stack.enter_async_context(RehearsalModel())
        return {ONLY: MessagesChannel(Upstream(rehearsal.url, "rehearsal"))}, (Entry(ONLY),)
    if not settings.upstreams:
        model = settings.model
        upstream = Upstream(model.base_url, settings.upstream_key or "none", auth=model.auth)
        return {ONLY: MessagesChannel(upstream)}, (Entry(ONLY),)
    channels = {upstream.name: open_channel(upstream, settings) for upstream in settings.upstreams}
    return channels, tuple(entry_of(upstream) for upstream in settings.upstreams)
