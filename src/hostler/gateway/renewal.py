"""How is a credential that runs out always there when a request needs it?

It is fetched in a thread of its own, since the chains of the clouds read files, run programs and ask servers. One
fetch at a time, whoever waits for it. What is about to run out is used while its successor is fetched; what has run out
is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Generic, Literal, TypeVar, cast

from hostler.engine.tasks import Tasks
from hostler.gateway.upstream import UpstreamUnreachable

_log = logging.getLogger("hostler.gateway")
_T = TypeVar("_T")

Age = Literal["fresh", "stale", "dead"]
"""stale: still good, and it is time to fetch the next one."""


class Renewal(Generic[_T]):
    """One credential of one upstream. Times in seconds.

    fetch   blocks; called in a thread, never twice at the same time. What it raises is logged, and told to those who
            wait as UpstreamUnreachable without its words: the harness reads them, and it needs no details.
    age_of  never blocks.
    """

    def __init__(
        self,
        upstream: str,
        fetch: Callable[[], _T],
        age_of: Callable[[_T], Age],
        *,
        deadline: float = 30.0,
        pause: float = 1.0,
        stale_pause: float = 30.0,
    ) -> None:
        self._upstream = upstream
        self._fetch = fetch
        self._age_of = age_of
        self._deadline = deadline
        self._pause = pause
        self._stale_pause = stale_pause
        self._asking = False
        self._tasks = Tasks()
        self._value: _T | None = None
        self._coming: asyncio.Future[_T] | None = None
        self._failed_at = float("-inf")
        self._works = False

    async def get(self) -> _T:
        """A credential that hasn't run out. Raises UpstreamUnreachable."""
        value = self._value
        age = "dead" if value is None else self._age_of(value)
        now = asyncio.get_running_loop().time()
        if value is not None and age != "dead":
            if age == "stale" and now - self._failed_at > self._stale_pause:
                self._begin()
            return value
        if self._coming is None and now - self._failed_at < self._pause:
            raise self._failure()
        return await asyncio.shield(self._begin())

    @property
    def held(self) -> _T | None:
        """What `get` gave last, as long as nobody has refused it."""
        return self._value

    def worked(self, value: _T | None) -> None:
        """The upstream took it."""
        if value is not None and value is self._value:
            self._works = True

    def denied(self, value: _T | None) -> bool:
        """The upstream refused it: it isn't used again. Returns whether another one may be better: it had worked, or
        is not the one any more that others get."""
        if value is None or value is not self._value:
            return value is not None
        had_worked, self._works, self._value = self._works, False, None
        return had_worked

    async def close(self) -> None:
        """A fetch under way is not waited for."""
        coming = self._coming
        if coming is not None:
            coming.cancel()
        await self._tasks.close(0.0)

    def _begin(self) -> asyncio.Future[_T]:
        if self._coming is None:
            self._coming = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._bring(self._coming), f"credentials-{self._upstream}")
        return self._coming

    async def _bring(self, coming: asyncio.Future[_T]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadline):
                value = await self._fetched()
        except Exception as error:
            self._failed_at = loop.time()
            told = {"upstream": self._upstream, "error": f"{type(error).__name__}: {error}"[:500]}
            _log.warning("gateway.credentials_failed", extra=told)
            if not coming.done():
                coming.set_exception(self._failure())
                coming.exception()  # Nobody may be waiting: that is no lost error, it is logged.
        else:
            if self._age_of(value) == "stale":  # Some chains give the old one again when they get no other.
                self._failed_at = loop.time()
                told = {"upstream": self._upstream, "error": "what was fetched is about to run out, too"}
                _log.warning("gateway.credentials_failed", extra=told)
            self._works = self._works and value == self._value
            self._value = value
            if not coming.done():
                coming.set_result(value)
        finally:
            self._coming = None

    async def _fetched(self) -> _T:
        """What `fetch` returns or raises. In a daemon thread: one that hangs must not keep the process from ending."""
        if self._asking:
            raise TimeoutError("what was asked for credentials before has not answered yet")
        loop = asyncio.get_running_loop()
        told: asyncio.Future[_T] = loop.create_future()

        def tell(value: _T | None, error: BaseException | None) -> None:
            self._asking = False
            if told.done():
                return
            if error is None:
                told.set_result(cast(_T, value))
            else:
                told.set_exception(error)

        def run() -> None:
            value, error = None, None
            try:
                value = self._fetch()
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # The loop may have ended meanwhile.
                loop.call_soon_threadsafe(tell, value, error)

        self._asking = True
        Thread(target=run, name=f"credentials-{self._upstream}", daemon=True).start()
        return await told

    def _failure(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"The gateway has no credentials for its upstream {self._upstream} now.")
