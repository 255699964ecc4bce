"""How do the rate limits on the road to the model follow from the settings?"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.rates import KINDS
from hostler.engine.model_port import Throttle
from hostler.engine.throttle import RateTerms, RateThrottle
from hostler.gateway import Desk
from hostler.store.database import Database


def rate_terms(settings: Settings) -> RateTerms:
    """What the operator says."""
    told = settings.rates
    return RateTerms(
        {
            name: {kind: value for kind in KINDS if (value := getattr(limit, f"{kind}_per_minute", 0))}
            for name, limit in told.limits.items()
        },
        learn=told.learn,
        burst_seconds=told.burst_seconds,
        wait_seconds=told.wait_seconds,
        notice_seconds=told.notice_seconds,
    )


def check_limits(settings: Settings, upstreams: Collection[str]) -> None:
    """Raises InvalidRequest when a limit is one of an upstream that there is not: it would limit nothing."""
    for name in settings.rates.limits:
        if name.partition("/")[0] not in upstreams:
            known = ", ".join(sorted(upstreams))
            raise InvalidRequest(
                f'option rates.limits."{name}": there is no such upstream; use one of {known}, '
                "alone or with a model: upstream/model"
            )


def limited(desk: Desk, settings: Settings, throttle: Throttle) -> Desk:
    """The desk, with rate limits. Raises InvalidRequest as `check_limits`."""
    check_limits(settings, desk.channels)
    return replace(desk, throttle=throttle)


async def open_throttle(settings: Settings, database: Database, stack: contextlib.AsyncExitStack) -> RateThrottle:
    """Keeps to the limits, until `stack` ends it."""
    throttle = RateThrottle(database, rate_terms(settings), new_id("server"))
    stack.push_async_callback(throttle.close)
    await throttle.start()
    return throttle
