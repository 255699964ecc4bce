"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from hostler.compose.attempts import patience
from hostler.config import Settings
from hostler.gateway import Desk, Entry, MessagesChannel, Roster, Upstream, probing
from hostler.gateway.desk import ONLY
from hostler.testing import RehearsalModel

MakeDesk = Callable[[Settings, contextlib.AsyncExitStack], Awaitable[Desk]]
"""What is made ends with the stack."""


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model."""
    if settings.rehearsing:
        rehearsal = await stack.enter_async_context(RehearsalModel())
        upstream = Upstream(rehearsal.url, "rehearsal")
    else:
        model = settings.model
        upstream = Upstream(model.base_url, settings.upstream_key or "none", auth=model.auth)
    channels = {ONLY: MessagesChannel(upstream)}
    roster = Roster([Entry(ONLY)], asyncio.get_running_loop().time, patience(settings))
    await stack.enter_async_context(probing(roster, channels, settings.attempts.probe_seconds))
    return Desk(channels, roster)
