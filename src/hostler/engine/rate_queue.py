"""Who gets the room that there is in rate limits, and who waits for how long?

One queue for each upstream. Workspaces take turns (`fair_queue`). Who needs more of a bucket than there is holds its
place: nobody else takes from that bucket before, and whoever needs other buckets passes. One task serves a queue, while
anybody waits, with one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hostler.domain.rates import Bucket
from hostler.engine.fair_queue import FairQueue
from hostler.engine.model_port import OnWait, Throttled
from hostler.engine.rate_buckets import Need, Refused, SharedBuckets
from hostler.engine.tasks import Tasks

LOOK_SECONDS: Final = 5.0
"""Who waits asks again at least so often: other servers give back, and limits change."""

Pause = Callable[[asyncio.Event, float], Awaitable[None]]
"""Until the event is set, or so many seconds are over."""


async def pause(woken: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        pass


@dataclass(eq=False, slots=True)
class Waiting:
    """One request that waits."""

    id: str
    workspace_id: str
    session_id: str
    needs: Sequence[Need]
    since: float
    deadline: float
    told: OnWait
    done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """True: it is taken. False: it left."""
    notified: bool = False
    refused: Refused | None = None


class RateQueue:
    """Those who wait for one upstream. Belongs to one event loop."""

    def __init__(
        self,
        buckets: SharedBuckets,
        tasks: Tasks,
        *,
        clock: Callable[[], float],
        notice_seconds: float,
        pausing: Pause = pause,
    ) -> None:
        self._buckets = buckets
        self._tasks = tasks
        self._clock = clock
        self._notice_seconds = notice_seconds
        self._pausing = pausing
        self._fair = FairQueue()
        self._waiting: dict[str, Waiting] = {}
        self._woken = asyncio.Event()
        self._serving = False

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> list[Waiting]:
        return list(self._waiting.values())

    async def wait(self, row: Waiting) -> bool:
        """True: what it needs is taken. False: it left. Raises Throttled at its deadline. Cancelled: it left."""
        self._waiting[row.id] = row
        self.wake()
        if not self._serving:
            self._serving = True
            self._tasks.spawn(self._serve(), "rates-queue")
        try:
            return await row.done
        except asyncio.CancelledError:
            self.leave(row.id)
            if row.done.done() and not row.done.cancelled() and row.done.exception() is None and row.done.result():
                self._give_back(row)
            raise
        finally:
            self._waiting.pop(row.id, None)

    def leave(self, id_: str) -> bool:
        """Whoever waits under this name takes nothing. False: nobody does."""
        row = self._waiting.pop(id_, None)
        if row is None:
            return False
        if not row.done.done():
            row.done.set_result(False)
        self.wake()
        return True

    def wake(self) -> None:
        """Something changed: look again."""
        self._woken.set()

    # --------------------------------------------------------------------------------------------------- internals

    async def _serve(self) -> None:
        try:
            while self._waiting:
                self._woken.clear()
                await self._round()
                if self._waiting and not self._woken.is_set():
                    await self._pausing(self._woken, self._sleep_seconds())
        finally:
            self._serving = False
            self._fair.nobody_waits()
            for row in self.waiting():  # Only when it was closed on them.
                self._waiting.pop(row.id, None)
                if not row.done.done():
                    row.done.set_exception(Throttled("The server is stopping. Try again later.", 1.0))

    async def _round(self) -> None:
        """Serves whom it can, once around."""
        for row in self._fair.order(self.waiting(), self._is_blocked):
            if row.done.done():
                continue
            try:
                refused = None if self._buckets.take_here(row.needs) else await self._buckets.take(row.needs)
            except Exception as error:
                self._waiting.pop(row.id, None)
                if not row.done.done():
                    row.done.set_exception(error)
                continue
            if refused is not None:
                row.refused = refused
            elif row.done.done():  # It left meanwhile.
                self._give_back(row)
            else:
                self._waiting.pop(row.id, None)
                row.done.set_result(True)
                self._fair.granted(row.workspace_id, self._clock())
        self._look_at_times()

    def _is_blocked(self, row: Waiting) -> bool:
        return row.done.done() or self._buckets.blocked_until(row.needs) > self._clock()

    def _give_back(self, row: Waiting) -> None:
        for need in row.needs:
            if need.counted:
                self._buckets.give_back(need.bucket, need.cost)

    def _look_at_times(self) -> None:
        """Ends the waiting of those who have waited long enough, and tells those who wait for long."""
        now = self._clock()
        for row in self.waiting():
            if row.done.done():
                continue
            bucket, seconds, closed = self._why(row, now)
            if now >= row.deadline or now + closed > row.deadline:
                self._waiting.pop(row.id, None)
                row.done.set_exception(Throttled(_message(row, bucket, now, closed), max(1.0, seconds)))
            elif not row.notified and now - row.since >= self._notice_seconds:
                row.notified = True
                row.told(f"waits for {_reason(row, bucket, closed)}", seconds)

    def _why(self, row: Waiting, now: float) -> tuple[Bucket, float, float]:
        """Which bucket it waits for longest, for how many seconds more, and how many of them are certain."""
        last = max(row.needs, key=lambda need: self._buckets.blocked_until((need,)))
        return (
            last.bucket,
            max(0.0, self._buckets.blocked_until((last,)) - now),
            max(0.0, max(self._buckets.closed_until(need.bucket) for need in row.needs) - now),
        )

    def _sleep_seconds(self) -> float:
        now = self._clock()
        soonest = now + LOOK_SECONDS
        for row in self._waiting.values():
            soonest = min(soonest, row.deadline, max(now, self._buckets.blocked_until(row.needs)))
            if not row.notified:
                soonest = min(soonest, row.since + self._notice_seconds)
        return max(0.001, soonest - now)


def _reason(row: Waiting, bucket: Bucket, closed: float) -> str:
    if closed > 0:
        return f"the limits {bucket.whose}, which asked for a pause of {closed:.0f} s more"
    limit = _limit(row, bucket)
    return f"the limit of {limit}{bucket.words}"


def _limit(row: Waiting, bucket: Bucket) -> str:
    if row.refused is not None and row.refused.bucket == bucket:
        return f"{row.refused.per_minute:,.0f} "
    return next((f"{need.limit:,.0f} " for need in row.needs if need.bucket == bucket and need.limit), "")


def _message(row: Waiting, bucket: Bucket, now: float, closed: float) -> str:
    waited = now - row.since
    after = f" after {waited:.0f} s" if waited >= 1 else ""
    return f"There is no room{after} in {_reason(row, bucket, closed)}. Try again later."
