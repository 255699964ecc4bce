"""How is what many want at once done for all of them together?

One after the other, `Together` does what has been wanted so far: what comes while it is busy, and in the turns of the
loop that follow, waits for the next time. So the price of a transaction is shared by those who wait for it, whoever is
alone waits for three empty turns of the loop only, and what is done for somebody has begun after they asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from hostler.engine.tasks import Tasks

T = TypeVar("T")
R = TypeVar("R")

_MOST_AT_ONCE: Final = 256
_ENOUGH: Final = 32
"""Wishes for which it pays to begin at once: a transaction costs as much as writing eight records."""
_QUIET_TURNS: Final = 3
"""Turns of the loop in which nobody came: whoever was under way when the last transaction ended has come by then."""
_GATHER_SECONDS: Final = 0.001
_CLOSE_SECONDS: Final = 10.0


class Together(Generic[T, R]):
    """See the module. Belongs to one event loop. Close it once nobody wants anything any more."""

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], name: str) -> None:
        """`work` gives a result for each wish, in their order, or the error that is about this one alone. What it
        raises is everybody's."""
        self._work = work
        self._name = name
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._tasks = Tasks()
        self._busy = False

    async def do(self, wish: T) -> R:
        """Returns or raises what became of it. A caller who is cancelled takes nothing back."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, done))
        if not self._busy:
            self._busy = True
            self._tasks.spawn(self._run(), self._name)
        return await done

    async def close(self) -> None:
        """What waits is still done."""
        await self._tasks.close(grace_seconds=_CLOSE_SECONDS)

    async def _run(self) -> None:
        """Until nobody waits."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while self._waiting:
                await self._gather()
                batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
                await self._serve(batch)
                batch = []  # It may hold secrets.
        finally:
            self._busy = False
            left, self._waiting = [*batch, *self._waiting], []
            for _, done in left:  # When it was closed on them; else they are done.
                done.cancel()

    async def _gather(self) -> None:
        """Lets the loop turn while it brings more. At rest that is three empty turns, a tenth of a commit."""
        begun, quiet = time.monotonic(), 0
        while quiet < _QUIET_TURNS and len(self._waiting) < _ENOUGH and time.monotonic() - begun < _GATHER_SECONDS:
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = 0 if len(self._waiting) > before else quiet + 1

    async def _serve(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        outcomes: Sequence[R | Exception]
        try:
            outcomes = await self._work([wish for wish, _ in batch])
        except Exception as error:
            outcomes = [error] * len(batch)
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():  # Its caller is gone.
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
