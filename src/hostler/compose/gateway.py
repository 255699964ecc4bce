"""How does the gateway follow from the settings: its upstreams, and who answers the questions around a request?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from hostler.compose.attempts import patience
from hostler.compose.metrics import exposed, open_metrics
from hostler.compose.rates import limited, open_throttle
from hostler.compose.routing import rule_router
from hostler.compose.telemetry import Traces
from hostler.compose.upstreams import entry_of, open_channel
from hostler.config import Settings
from hostler.domain.prices import Prices
from hostler.engine.model_port import Upstreams
from hostler.engine.purse import StoredPurse
from hostler.engine.throttle import RateThrottle
from hostler.gateway import Desk, Entry, MessagesChannel, ModelGateway, Roster, Upstream, probing
from hostler.gateway.channel import Channel
from hostler.gateway.desk import ONLY
from hostler.store.database import Database
from hostler.telemetry.metrics import Metrics
from hostler.testing import RehearsalModel

MakeDesk = Callable[[Settings, contextlib.AsyncExitStack], Awaitable[Desk]]
"""What is made ends with the stack."""


async def open_desk(settings: Settings, stack: contextlib.AsyncExitStack) -> Desk:
    """What the gateway's requests are put through. `stack` ends what is started for it, such as a rehearsal model."""
    channels, entries = await _upstreams(settings, stack)
    roster = Roster(entries, asyncio.get_running_loop().time, patience(settings))
    await stack.enter_async_context(probing(roster, channels, settings.attempts.probe_seconds))
    router, fitter = rule_router(settings)
    return Desk(channels, roster, router=router, fitter=fitter)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway of a server, and those of its parts that others ask, too."""

    roads: ModelGateway
    upstreams: Upstreams
    purse: StoredPurse
    throttle: RateThrottle
    metrics: Metrics
    """Of the whole server: they name its upstreams."""


async def open_gateway(
    settings: Settings,
    database: Database,
    prices: Prices,
    traces: Traces,
    desks: MakeDesk,
    stack: contextlib.AsyncExitStack,
) -> Gateway:
    """A desk of `desks` with budgets, rate limits, traces and metrics. It ends with `stack`."""
    throttle = await open_throttle(settings, database, stack)
    purse = StoredPurse(database, prices)
    desk = replace(limited(await desks(settings, stack), settings, throttle), purse=purse)
    desk = traces.watching(desk)
    metrics = open_metrics(desk.channels)
    stack.enter_context(exposed(settings, metrics))
    roads = ModelGateway(desk.watched_by(metrics))
    stack.push_async_callback(roads.close)
    return Gateway(roads, desk.upstreams, purse, throttle, metrics)


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
