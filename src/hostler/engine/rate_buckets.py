"""What does this server hold of the buckets that all servers share?

A take goes to the database, which lets nobody have what another took. Where there is plenty (half of a bucket stays)
a server takes a twentieth of it ahead, so that roomy limits cost one round trip for many requests. What it holds goes
back after two seconds. So servers together can use more in any time than what flowed in and what a bucket holds by at
most one such block each, and by what their requests under way were estimated too high; never more in the long run.

What was used besides what was taken is owed: it goes to the database with the next take, before anybody is let in, or
after a quarter of a second. Only the debts of that moment are lost when a server dies.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from hostler.domain.rates import Bucket
from hostler.engine.tasks import Tasks
from hostler.store import rates
from hostler.store.database import Database
from hostler.store.rates import UNLIMITED, Said, Wish

_log = logging.getLogger("hostler.rates")

AHEAD_SHARE: Final = 0.05
HOLD_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 1.0
_AT_ONCE: Final = 64
"""Buckets in one statement."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one request needs of one bucket."""

    bucket: Bucket
    cost: float
    limit: float | None
    """A minute's worth as configured; None: only what the upstream says counts."""
    counted: bool = True
    """False: there is no limit, but the upstream may have asked for a pause."""


@dataclass(slots=True)
class _Held:
    bucket: Bucket
    limit: float | None = None
    spare: float = 0.0
    """Held and not used. Less than nothing: owed."""
    since: float = 0.0
    """When it was taken, or came to be owed."""
    blocked_until: float = 0.0
    """Somebody needs more of it than there is: nobody else asks before."""
    closed_until: float = 0.0
    level: float = math.inf
    """Of the shared bucket, as of `seen_at`."""
    capacity: float = math.inf
    per_minute: float = UNLIMITED
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no room now."""

    bucket: Bucket
    """The one that has room last."""
    seconds: float
    closed: float
    """Seconds for which it is certain."""
    per_minute: float


class SharedBuckets:
    """Belongs to one event loop. `close` it at the end: what is owed by then is written.

    server   its name among those that share the database.
    clock    seconds, of this server alone.
    on_room  is called when something was given back that somebody may wait for.
    """

    def __init__(
        self,
        database: Database,
        server: str,
        *,
        clock: Callable[[], float],
        burst_seconds: float = 60.0,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._server = server
        self._clock = clock
        self._burst_seconds = burst_seconds
        self._on_room = on_room
        self._held: dict[Bucket, _Held] = {}
        self._said: list[Said] = []
        self._tasks = Tasks()
        self._keeper_wakes = asyncio.Event()
        self._closing = False
        self._keeping = False

    async def close(self) -> None:
        """What is held goes back, what is owed is written."""
        self._closing = True
        self._keeper_wakes.set()
        await self._tasks.close(grace_seconds=10.0)
        try:
            await self._write(everything=True)
        except Exception:
            _log.exception("rates.not_written")

    # ------------------------------------------------------------------------------------------------------ taking

    def take_here(self, needs: Sequence[Need]) -> bool:
        """Take it from what this server holds already, of all or of none."""
        now = self._clock()
        held = [self._of(need.bucket) for need in needs]
        for each, need in zip(held, needs, strict=True):
            if each.closed_until > now or each.blocked_until > now:
                return False
            if need.counted and (each.spare < need.cost or each.limit != need.limit):
                return False
        for each, need in zip(held, needs, strict=True):
            if need.counted:
                each.spare -= need.cost
        return True

    async def take(self, needs: Sequence[Need]) -> Refused | None:
        """Take it from what all share, unless `blocked_until` says that it is closed. None: it is taken."""
        wishes = []
        needs = [need for need in needs if need.counted]
        if not needs:
            return None
        for need in needs:
            held = self._of(need.bucket)
            held.limit = need.limit
            wishes.append(Wish(need.bucket, need.cost, held.spare, need.limit))
            held.spare = 0.0
        try:
            outcomes = await self._database.write(lambda conn: self._take_in(conn, wishes, self._server, AHEAD_SHARE))
        except BaseException:
            for wish in wishes:
                self._move(self._of(wish.bucket), wish.back)
            raise
        now = self._clock()
        by_key = {need.bucket.key: need for need in needs}
        worst: Refused | None = None
        for outcome in outcomes:
            held = self._of(by_key[outcome.bucket].bucket)
            held.level, held.capacity, held.per_minute = outcome.level, outcome.capacity, outcome.per_minute
            held.seen_at = now
            held.closed_until = max(held.closed_until, now + outcome.closed) if outcome.closed else held.closed_until
            if outcome.taken:
                held.level -= by_key[outcome.bucket].cost + outcome.ahead
                self._move(held, outcome.ahead)
            elif worst is None or outcome.wait > worst.seconds:
                worst = Refused(held.bucket, outcome.wait, outcome.closed, outcome.per_minute)
        if worst is not None:
            self._of(worst.bucket).blocked_until = now + max(worst.seconds, 0.001)
        return worst

    def blocked_until(self, needs: Sequence[Need]) -> float:
        """By this server's clock: before that nobody with such needs is to ask. In the past: they may."""
        return max(self._until(need.bucket) for need in needs)

    def closed_until(self, bucket: Bucket) -> float:
        """The same, as far as the upstream has said so."""
        return self._of(bucket).closed_until

    def give_back(self, bucket: Bucket, amount: float) -> None:
        """Less than nothing: so much was used besides what was taken."""
        if amount:
            held = self._of(bucket)
            self._move(held, amount)
            if amount > 0 and held.blocked_until > self._clock() and held.spare > 0:
                held.blocked_until = 0.0
                self._on_room()

    def unblock(self) -> None:
        """What limits there are has changed: whoever waits asks again."""
        for held in self._held.values():
            held.blocked_until = 0.0
        self._on_room()

    # ------------------------------------------------------------------------------------------- what upstreams say

    def told(self, bucket: Bucket, per_minute: float | None, remaining: float | None, closed: float) -> None:
        """An upstream said this of one of its limits. It is written down for all servers."""
        held, now = self._of(bucket), self._clock()
        if closed > 0:
            held.closed_until = max(held.closed_until, now + closed)
        if remaining is not None:
            held.level, held.seen_at = remaining, now
        self._said.append(Said(bucket, per_minute, remaining, closed, held.limit))
        self._wake_keeper()

    def closed(self, bucket: Bucket, until: float) -> None:
        """Another server was told so. `until`: on this server's clock."""
        held = self._of(bucket)
        held.closed_until = max(held.closed_until, until)
        self._on_room()

    def overrates(self, bucket: Bucket, remaining: float) -> bool:
        """Whether this server believes that clearly more is left in a bucket than its upstream says."""
        held = self._held.get(bucket)
        if held is None or held.per_minute >= UNLIMITED:
            return True
        grown = (self._clock() - held.seen_at) * held.per_minute / 60.0
        return min(held.capacity, held.level + grown) > remaining + AHEAD_SHARE * held.capacity

    # --------------------------------------------------------------------------------------------------- internals

    def _until(self, bucket: Bucket) -> float:
        held = self._of(bucket)
        return max(held.blocked_until, held.closed_until)

    def _of(self, bucket: Bucket) -> _Held:
        held = self._held.get(bucket)
        if held is None:
            held = self._held[bucket] = _Held(bucket)
        return held

    def _move(self, held: _Held, amount: float) -> None:
        if amount:
            if held.spare == 0.0 or (held.spare > 0.0) != (held.spare + amount > 0.0):
                held.since = self._clock()
            held.spare += amount
            if held.spare < 0.0:
                self._keeper_wakes.set()
            self._wake_keeper()

    def _take_in(
        self, conn: Connection, wishes: Sequence[Wish], server: str, share: float = 0.0
    ) -> list[rates.Outcome]:
        now = self._database.now(conn)
        return rates.take(conn, now, wishes, server=server, hold_seconds=self._burst_seconds, share=share)

    # One task while anything is held or owed, with one timer.

    def _wake_keeper(self) -> None:
        if self._closing:
            return
        if self._said:
            self._keeper_wakes.set()
        if not self._keeping:
            self._keeping = True
            self._tasks.spawn(self._keep(), "rates-keeper")

    async def _keep(self) -> None:
        try:
            while not self._closing:
                due = self._due()
                if due is None:
                    return
                if due > 0:
                    try:
                        async with asyncio.timeout(due):
                            await self._keeper_wakes.wait()
                    except TimeoutError:
                        pass
                    self._keeper_wakes.clear()
                    continue
                try:
                    await self._write()
                except Exception:
                    _log.warning("rates.not_written", exc_info=True)
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._keeping = False

    def _due(self) -> float | None:
        """Seconds until something is to be written. None: nothing is held or owed."""
        if self._said:
            return 0.0
        now = self._clock()
        moments = [self._due_at(held) - now for held in self._held.values() if held.spare]
        return max(0.0, min(moments)) if moments else None

    @staticmethod
    def _due_at(held: _Held) -> float:
        return held.since + (HOLD_SECONDS if held.spare > 0 else SETTLE_SECONDS)

    async def _write(self, *, everything: bool = False) -> None:
        now = self._clock()
        said, self._said = self._said, []
        due = [
            held
            for held in self._held.values()
            if held.spare and (everything or self._due_at(held) <= now + SETTLE_SECONDS / 2)
        ]
        due.sort(key=lambda held: held.bucket.key)
        wishes = [Wish(held.bucket, 0.0, held.spare, held.limit) for held in due]
        for held in due:
            held.spare = 0.0

        def unit(conn: Connection) -> None:
            for begin in range(0, len(wishes), _AT_ONCE):
                self._take_in(conn, wishes[begin : begin + _AT_ONCE], "")
            if said:
                rates.learn(conn, self._database.now(conn), said)

        if not wishes and not said:
            return
        try:
            await self._database.write(unit)
        except BaseException:
            self._said = [*said, *self._said]
            for held, wish in zip(due, wishes, strict=True):
                held.spare += wish.back
            raise

    def forget_idle(self, seconds: float) -> None:
        """What nobody used for so long is not remembered."""
        now = self._clock()
        idle = [
            bucket
            for bucket, held in self._held.items()
            if not held.spare and max(held.seen_at, held.since, held.blocked_until, held.closed_until) < now - seconds
        ]
        for bucket in idle:
            del self._held[bucket]
