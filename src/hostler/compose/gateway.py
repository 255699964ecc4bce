"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hostler.compose.rates import check_limits
from hostler.config import Settings
from hostler.engine.model_port import Throttle
from hostler.gateway import Desk, Upstream, one_upstream
from hostler.testing import RehearsalModel


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack, throttle: Throttle) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model.

    Raises InvalidRequest for settings that fit no upstream.
    """
    desk = await _channels(settings, stack)
    check_limits(settings, desk.channels)
    return replace(desk, throttle=throttle)


async def _channels(settings: Settings, stack: contextlib.AsyncExitStack) -> Desk:
    if not settings.rehearsing:
        model = settings.model
        return one_upstream(Upstream(model.base_url, settings.upstream_key or "none", auth=model.auth))
    rehearsal = await stack.enter_async_context(RehearsalModel())
    return one_upstream(Upstream(rehearsal.url, "rehearsal"))
