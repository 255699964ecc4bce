"""How often may a workspace ask? Token buckets in the memory of this process, one for reading and one for the rest.

A bucket holds a minute's worth and fills up evenly, so a client that was quiet may burst. All API keys of a workspace
share its two buckets. Each environment key and each session's token has two of its own with the same limits, so that
workers and clients can't starve each other. Two processes don't know of each other's buckets: behind a balancer, each
grants the whole limit. A changed limit is felt within a second.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from hostler.domain.errors import TooManyRequests
from hostler.domain.principals import Principal
from hostler.domain.quotas import Quotas

REMEMBER_SECONDS: Final = 1.0
MOST_BUCKETS: Final = 10_000
"""Those unused for the longest are forgotten first, and are full again when they come back."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Throttle:
    """Counts requests, and raises TooManyRequests for those that are too many."""

    def __init__(
        self, limits_of: Callable[[str], Awaitable[Quotas]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._limits: OrderedDict[str, tuple[Quotas, float]] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, bool], _Bucket] = OrderedDict()

    async def admit(self, principal: Principal, verb: str) -> None:
        """Count one request. Raises TooManyRequests, with the seconds until there is room for one more."""
        reads = verb in ("GET", "HEAD")
        limits = await self._limits_for(principal.workspace)
        per_minute = limits["read_requests_per_minute" if reads else "create_requests_per_minute"]
        if not per_minute:
            return
        whose = principal.workspace if principal.kind == "api_key" else f"{principal.kind}:{principal.id}"
        wait = self._take((whose, reads), per_minute)
        if wait > 0:
            raise TooManyRequests(
                f"too many {'reading' if reads else 'changing'} requests: this workspace may send {per_minute} a "
                "minute; wait as long as retry-after says",
                retry_after_seconds=wait,
            )

    def _take(self, name: tuple[str, bool], per_minute: int) -> float:
        """Take one token, or say how many seconds are missing for one."""
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(float(per_minute), now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        per_second = per_minute / 60.0
        bucket.tokens = min(float(per_minute), bucket.tokens + (now - bucket.at) * per_second)
        bucket.at = now
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / per_second
        bucket.tokens -= 1.0
        return 0.0

    async def _limits_for(self, workspace: str) -> Quotas:
        known = self._limits.get(workspace)
        now = self._clock()
        if known is not None and known[1] > now:
            return known[0]
        limits = await self._limits_of(workspace)
        self._limits[workspace] = (limits, now + REMEMBER_SECONDS)
        self._limits.move_to_end(workspace)
        while len(self._limits) > MOST_BUCKETS:
            self._limits.popitem(last=False)
        return limits
