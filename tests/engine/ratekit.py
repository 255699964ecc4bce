"""What the tests of rate limits arrange with: a clock turned by hand, which is the database's too, and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hostler.domain.clock import SystemClock
from hostler.domain.rates import Bucket, Rates
from hostler.engine.model_port import Asked, Caller, Target
from hostler.engine.throttle import RateTerms, RateThrottle
from hostler.store import rates
from hostler.store.database import Database
from hostler.store.rates import BucketRow
from hostler.store.sessions import Usage

DEADLINE = 60.0
TARGET = Target("up", "claude-x", "claude-x")
MODEL = "up/claude-x"


class Hands:
    """The time of the servers and of their database, which goes on only when it is turned."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self._turned = asyncio.Event()
        self._asleep: dict[object, asyncio.Event] = {}

    def __call__(self) -> float:
        return self.now

    def skew(self) -> float:
        return self.now - SystemClock().now().timestamp()

    def turn(self, seconds: float) -> None:
        self.now += seconds
        self._asleep.clear()
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def pause(self, woken: asyncio.Event, seconds: float) -> None:
        """For `RateThrottle`: what it does instead of sleeping."""
        until, me = self.now + seconds, object()
        while self.now < until and not woken.is_set():
            self._asleep[me] = woken
            async with asyncio.TaskGroup() as group:
                ways = [group.create_task(event.wait()) for event in (woken, self._turned)]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
            self._asleep.pop(me, None)

    async def asleep(self, queues: int = 1) -> None:
        """Until so many queues have done what could be done by now, and wait for the time."""
        await turns_of_the_loop(lambda: sum(not woken.is_set() for woken in self._asleep.values()) >= queues)


@dataclass
class World:
    """Servers that share a database. Each has connections of its own."""

    url: str
    hands: Hands
    told: list[str] = field(default_factory=list)
    number: int = 0

    @asynccontextmanager
    async def server(self, limits: Mapping[str, Rates] | None = None, **terms: Any) -> AsyncIterator[RateThrottle]:
        database = await Database.open(self.url, clock_skew=self.hands.skew, migrate=False)
        self.number += 1
        throttle = RateThrottle(
            database,
            RateTerms(limits or {}, **terms),
            f"server_{self.number}",
            clock=self.hands,
            pausing=self.hands.pause,
        )
        await throttle.start()
        try:
            yield throttle
        finally:
            await throttle.close()
            await database.close()

    def asked(
        self, workspace: str = "w1", *, agent: str = "a1", session: str = "sesn_1", size: int = 400, most: int = 80
    ) -> Asked:
        """Takes 1 request, 100 input tokens and 10 output tokens, unless somebody knows better."""
        self.number += 1
        caller = Caller(session, workspace, "env_1", agent, 1, "claude-x")
        return Asked(f"mreq_{self.number}", caller, "claude-x", {"max_tokens": most}, size, True)

    async def ask(self, throttle: RateThrottle, asked: Asked | None = None, target: Target = TARGET) -> Asked:
        asked = asked or self.asked()
        async with asyncio.timeout(DEADLINE):
            await throttle.wait(asked, target, lambda why, seconds: self.told.append(f"{why} ({seconds:.0f} s)"))
        return asked

    def answer(
        self,
        throttle: RateThrottle,
        asked: Asked,
        given: int = 100,
        made: int = 10,
        *,
        status: int = 200,
        complete: bool = True,
        target: Target = TARGET,
        **headers: str,
    ) -> None:
        said = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        usage = Usage(given, made) if status == 200 else Usage()
        throttle.answered(asked, target, status, said, usage, complete=complete)


async def buckets(database: Database, workspace: str = "w1") -> dict[Bucket, BucketRow]:
    rows = await database.read(lambda c: rates.buckets(c, database.now(c), workspace, upstreams=True, most=100))
    return {row.bucket: row for row in rows}


async def turns_of_the_loop(until: Callable[[], bool]) -> None:
    """Until it is so; the loop turns meanwhile, and the time does not."""
    async with asyncio.timeout(DEADLINE):
        while not until():  # noqa: ASYNC110
            await asyncio.sleep(0)
