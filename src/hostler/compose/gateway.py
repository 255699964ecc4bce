"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hostler.config import Settings
from hostler.engine.model_port import Purse
from hostler.gateway import Desk, Upstream, one_upstream
from hostler.testing import RehearsalModel


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack, purse: Purse) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model."""
    if not settings.rehearsing:
        model = settings.model
        desk = one_upstream(Upstream(model.base_url, settings.upstream_key or "none", auth=model.auth))
        return replace(desk, purse=purse)
    rehearsal = await stack.enter_async_context(RehearsalModel())
    return replace(one_upstream(Upstream(rehearsal.url, "rehearsal")), purse=purse)
