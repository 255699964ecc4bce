"""How does nobody take all of what everybody needs? Each may have so many at a time, and waits for its own to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Shares:
    """Of one event loop. Remembers nothing of those who have nothing."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._taken: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """How many of each have something or wait for it."""

    async def take(self, whose: str) -> None:
        """Waits while it has as many as it may. `give_back` when it needs it no more."""
        room, count = self._taken.get(whose, (asyncio.Semaphore(self._each), 0))
        self._taken[whose] = (room, count + 1)
        try:
            await room.acquire()
        except BaseException:
            self._forget(whose)
            raise

    def give_back(self, whose: str) -> None:
        self._taken[whose][0].release()
        self._forget(whose)

    def is_full(self, whose: str) -> bool:
        """Whether `take` would wait."""
        return whose in self._taken and self._taken[whose][0].locked()

    @asynccontextmanager
    async def one_of(self, whose: str) -> AsyncIterator[None]:
        """Inside the block it has one."""
        await self.take(whose)
        try:
            yield
        finally:
            self.give_back(whose)

    def _forget(self, whose: str) -> None:
        room, count = self._taken[whose]
        if count > 1:
            self._taken[whose] = (room, count - 1)
        else:
            del self._taken[whose]
