"""Which rate limits count for a request, and is there room in all of them?

Those of the upstream, of the model there, of the workspace and of the agent, for requests, input tokens and output
tokens: as the operator configured them, as administrators set them, and as the upstream says in its answers, which
only ever makes a limit narrower. Where there is no limit nothing is counted, and a request waits for nothing.

What workspaces and agents may, and what other servers were told, is read again when the database says that it changed,
and every half minute besides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from hostler.domain.clock import Clock, SystemClock
from hostler.domain.rates import KINDS, Bucket, Kind, Rates, Scope
from hostler.engine.model_port import Asked, OnWait, Target
from hostler.engine.rate_buckets import Need, SharedBuckets
from hostler.engine.rate_costs import Costs, Estimates, used
from hostler.engine.rate_headers import closed_for, limits_in
from hostler.engine.rate_queue import Pause, RateQueue, Waiting, pause
from hostler.engine.tasks import Tasks
from hostler.store import rates
from hostler.store.database import Database
from hostler.store.jsontext import cleaned
from hostler.store.rates import Learned
from hostler.store.sessions import Usage

_log = logging.getLogger("hostler.rates")

_LOOK_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.1
"""Between two looks, however often something changes."""
_SWEEP_LOOKS: Final = 40
"""Every how-many-eth look also removes what is left of those who are gone: about every twenty minutes."""
_MOST_PLANS: Final = 10_000
_MOST_LEARNED: Final = 400
"""Buckets of models. Which models are asked for is up to sessions, and they must not make this grow."""
_FORGET_SECONDS: Final = 600.0

Limits = tuple[tuple[Bucket, float | None], ...]


@dataclass(frozen=True, slots=True)
class RateTerms:
    """What the operator says."""

    limits: Mapping[str, Rates] = field(default_factory=dict)
    """By upstream, or `upstream/model`."""
    learn: bool = True
    burst_seconds: float = 60.0
    wait_seconds: float = 120.0
    notice_seconds: float = 1.0


@dataclass(slots=True)
class _Known:
    """What is in force, besides the configuration."""

    own: Mapping[tuple[str, str], Rates] = field(default_factory=dict)
    """By ids of workspace and agent; that of the agent is empty for a workspace's own."""
    learned: dict[Bucket, float | None] = field(default_factory=dict)
    """A minute's worth, of buckets of upstreams; None: it only was closed."""


@dataclass(frozen=True, slots=True)
class WaitingHere:
    """How many requests of a workspace wait on this server."""

    upstream: str
    workspace_id: str
    requests: int
    longest_seconds: float


class RateThrottle:
    """Implements `Throttle`. `start` reads what is in force and keeps reading it; `close` writes what is owed."""

    def __init__(
        self,
        database: Database,
        terms: RateTerms,
        server: str,
        *,
        clock: Callable[[], float] | None = None,
        wall: Clock | None = None,
        pausing: Pause = pause,
    ) -> None:
        """`server`: a name that no other one has. `clock`: of this server alone, in seconds; None: the loop's."""
        self._database = database
        self._terms = terms
        self._clock = clock or asyncio.get_running_loop().time
        self._wall = wall or SystemClock()
        self._pausing = pausing
        self._tasks = Tasks()
        self._buckets = SharedBuckets(
            database, server, clock=self._clock, burst_seconds=terms.burst_seconds, on_room=self._wake
        )
        self._estimates = Estimates()
        self._queues: dict[str, RateQueue] = {}
        self._known = _Known()
        self._plans: dict[tuple[str, str, str, str], tuple[Limits, Limits]] = {}
        self._taken: dict[str, tuple[Target, tuple[Need, ...], Costs]] = {}
        self._stale = asyncio.Event()
        self._closing = False
        database.signals.on(rates.SIGNAL, self._stale.set)

    async def start(self) -> None:
        await self._look()
        self._tasks.spawn(self._keep(), "rates-look")

    async def close(self) -> None:
        """Nobody asks any more. What is owed is written."""
        self._closing = True
        self._stale.set()
        await self._tasks.close(grace_seconds=1.0)
        await self._buckets.close()

    # -------------------------------------------------------------------------------------------------- the Throttle

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        counted, gates = self._plan(asked, target)
        if not counted and not gates:
            return
        costs = self._estimates.before(asked, target)
        needs = tuple(Need(bucket, costs[bucket.kind], limit) for bucket, limit in counted)
        needs += tuple(Need(bucket, 0.0, None, counted=False) for bucket, _ in gates)
        queue = self._queues.get(target.upstream)
        if queue is None:
            queue = self._queues[target.upstream] = RateQueue(
                self._buckets,
                self._tasks,
                clock=self._clock,
                notice_seconds=self._terms.notice_seconds,
                pausing=self._pausing,
            )
        if len(queue) or not self._buckets.take_here(needs):
            now, caller = self._clock(), asked.caller
            deadline = now + self._terms.wait_seconds
            row = Waiting(asked.id, caller.workspace_id, caller.session_id, needs, now, deadline, told)
            if not await queue.wait(row):
                return
        self._taken[asked.id] = (target, needs, costs)

    def answered(
        self,
        asked: Asked,
        target: Target,
        status: int,
        headers: Mapping[bytes, bytes],
        usage: Usage,
        *,
        complete: bool,
    ) -> None:
        taken = self._taken.pop(asked.id, None)
        if taken is not None:
            _, needs, costs = taken
            came_to = used(costs, status, usage, complete=complete)
            for need in needs:
                if need.counted:
                    self._buckets.give_back(need.bucket, need.cost - came_to[need.bucket.kind])
        if status == 200 and complete:
            self._estimates.after(asked, target, usage)
        if status in (200, 429):
            self._learn(target, status, headers)

    def left(self, asked: Asked) -> None:
        for queue in self._queues.values():
            if len(queue) and queue.leave(asked.id):
                return
        taken = self._taken.pop(asked.id, None)
        if taken is not None:
            for need in taken[1]:
                if need.counted:
                    self._buckets.give_back(need.bucket, need.cost)

    # ------------------------------------------------------------------------------------------------- for the looks

    def waiting(self) -> list[WaitingHere]:
        """Who waits here, by upstream and workspace."""
        now = self._clock()
        found: dict[tuple[str, str], list[float]] = {}
        for upstream, queue in self._queues.items():
            for row in queue.waiting():
                found.setdefault((upstream, row.workspace_id), []).append(now - row.since)
        return [
            WaitingHere(upstream, workspace, len(times), max(times))
            for (upstream, workspace), times in sorted(found.items())
        ]

    # --------------------------------------------------------------------------------------------------- which count

    def _plan(self, asked: Asked, target: Target) -> tuple[Limits, Limits]:
        """The buckets that count, each with its configured limit; and those without a limit that may be closed."""
        caller = asked.caller
        key = (target.upstream, target.model, caller.workspace_id, caller.agent_id)
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            found = self._plans[key] = self._planned(target, caller.workspace_id, caller.agent_id)
        return found

    def _planned(self, target: Target, workspace_id: str, agent_id: str) -> tuple[Limits, Limits]:
        own, learned = self._known.own, self._known.learned
        model = _of_model(target)
        subjects: tuple[tuple[Scope, str, str, Rates], ...] = (
            ("upstream", target.upstream, "", self._terms.limits.get(target.upstream, {})),
            ("model", model, "", self._terms.limits.get(model, {})),
            ("workspace", workspace_id, workspace_id, own.get((workspace_id, ""), {})),
            ("agent", agent_id, workspace_id, own.get((workspace_id, agent_id), {}) if agent_id else {}),
        )
        counted: list[tuple[Bucket, float | None]] = []
        gates: list[tuple[Bucket, float | None]] = []
        for scope, subject, whose, limits in subjects:
            for kind in KINDS:
                bucket = Bucket(scope, subject, kind, whose)
                limit = limits.get(kind)
                if limit is not None or learned.get(bucket) is not None:
                    counted.append((bucket, None if limit is None else float(limit)))
                elif bucket in learned:
                    gates.append((bucket, None))
        return tuple(counted), tuple(gates)

    def _wake(self) -> None:
        for queue in self._queues.values():
            queue.wake()

    # ------------------------------------------------------------------------------------------------------- learning

    def _learn(self, target: Target, status: int, headers: Mapping[bytes, bytes]) -> None:
        if not self._terms.learn and status != 429:
            return
        model = _of_model(target)
        if self._terms.learn:
            for kind, said in limits_in(headers).items():
                bucket = Bucket("model", model, kind)
                known = self._known.learned.get(bucket)
                news = known != said.per_minute
                if news and not self._remember(bucket, said.per_minute):
                    return
                less = said.remaining is not None and self._buckets.overrates(bucket, said.remaining)
                if news or less:
                    self._buckets.told(bucket, said.per_minute, said.remaining if less else None, 0.0)
        closed = closed_for(headers, self._wall.now()) if status == 429 else 0.0
        if closed > 0:
            bucket = Bucket("model", model, "requests")
            if bucket in self._known.learned or self._remember(bucket, None):
                self._buckets.told(bucket, None, None, closed)

    def _remember(self, bucket: Bucket, per_minute: float | None) -> bool:
        """False: too many models are known."""
        known = self._known.learned
        if bucket not in known and len(known) >= _MOST_LEARNED:
            return False
        known[bucket] = per_minute
        self._plans.clear()
        return True

    # ---------------------------------------------------------------------------------------------- what others wrote

    async def _keep(self) -> None:
        looks = 0
        while not self._closing:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            looks += 1
            try:
                if self._closing:
                    return
                await self._look()
                await asyncio.sleep(_PAUSE_SECONDS)
                self._buckets.forget_idle(_FORGET_SECONDS)
                if looks % _SWEEP_LOOKS == 1:
                    await self._database.write(lambda conn: rates.sweep(conn, self._database.now(conn)))
            except Exception:
                _log.warning("rates.not_read", exc_info=True)

    async def _look(self) -> None:
        def unit(conn: Connection) -> tuple[dict[tuple[str, str], dict[Kind, int]], list[Learned]]:
            return rates.all_limits(conn), rates.learned(conn, self._database.now(conn))

        asked_at = self._clock()  # before the answer, whose seconds count from when it was made
        own, said = await self._database.read(unit)
        if not self._terms.learn and any(each.per_minute is not None for each in said):
            await self._database.write(rates.unlearn)  # from before it was switched off
        learned: dict[Bucket, float | None] = {
            bucket: None for bucket in self._known.learned if self._buckets.closed_until(bucket) > self._clock()
        }
        for each in said:
            if each.closed > 0:
                self._buckets.closed(each.bucket, asked_at + each.closed)
                learned.setdefault(each.bucket, None)
            if self._terms.learn and each.per_minute is not None:
                learned[each.bucket] = each.per_minute
        if (own, learned) != (self._known.own, self._known.learned):
            self._known = _Known(own, learned)
            self._plans.clear()
            self._buckets.unblock()


def _of_model(target: Target) -> str:
    return f"{target.upstream}/{cleaned(target.model, 256)}"
