"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hostler.compose.routing import rule_router
from hostler.config import Settings
from hostler.gateway import Desk, Upstream, one_upstream
from hostler.testing import RehearsalModel


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model."""
    router, fitter = rule_router(settings)
    if not settings.rehearsing:
        model = settings.model
        upstream = Upstream(model.base_url, settings.upstream_key or "none", auth=model.auth)
    else:
        rehearsal = await stack.enter_async_context(RehearsalModel())
        upstream = Upstream(rehearsal.url, "rehearsal")
    return replace(one_upstream(upstream), router=router, fitter=fitter)
