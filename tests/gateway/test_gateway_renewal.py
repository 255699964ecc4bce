"""Credentials that run out: fetched once for all who wait, off the event loop, and never trusted too long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hostler.gateway.renewal import Age, Renewal
from hostler.gateway.upstream import UpstreamUnreachable


class Source:
    """Gives out numbers; waits for `go` first."""

    def __init__(self) -> None:
        self.given = 0
        self.asked = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.age: Age = "fresh"
        self.fails = False
        self.threads: set[int] = set()

    def fetch(self) -> int:
        self.threads.add(threading.get_ident())
        self.asked.set()
        assert self.go.wait(30)
        if self.fails:
            raise OSError("secret: the reason")
        self.given += 1
        return self.given

    def age_of(self, value: int) -> Age:
        return self.age if value == 1 else "fresh"


@asynccontextmanager
async def renewal(
    source: Source, deadline: float = 30.0, pause: float = 0.0, fetch: Callable[[], int] | None = None
) -> AsyncIterator[Renewal[int]]:
    made = Renewal("up", fetch or source.fetch, source.age_of, deadline=deadline, pause=pause)
    try:
        yield made
    finally:
        source.go.set()
        await made.close()


async def test_all_who_wait_get_the_one_that_is_fetched() -> None:
    source = Source()
    source.go.clear()
    async with renewal(source) as credentials, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(credentials.get()) for _ in range(20)]
        await asyncio.to_thread(source.asked.wait, 30)
        source.go.set()  # The loop was free to come here while the fetch blocked.
        assert [await one for one in waiting] == [1] * 20
        assert await credentials.get() == 1
        assert (source.given, threading.get_ident() in source.threads) == (1, False)


async def test_one_that_is_stale_is_used_while_the_next_is_fetched() -> None:
    source = Source()
    async with renewal(source) as credentials:
        assert await credentials.get() == 1
        source.age = "stale"
        source.go.clear()
        source.asked.clear()
        assert await credentials.get() == 1
        assert await asyncio.to_thread(source.asked.wait, 30)
        assert await credentials.get() == 1
        source.go.set()
        while await credentials.get() == 1:
            await asyncio.to_thread(source.asked.wait, 0.01)
        assert source.given == 2


async def test_one_that_is_stale_outlives_failures_to_replace_it() -> None:
    source = Source()
    async with renewal(source) as credentials:
        assert await credentials.get() == 1
        source.age, source.fails = "stale", True
        source.asked.clear()
        assert await credentials.get() == 1
        assert await asyncio.to_thread(source.asked.wait, 30)
        assert await credentials.get() == 1
        source.age = "dead"
        with pytest.raises(UpstreamUnreachable):
            await credentials.get()


async def test_who_only_gets_the_stale_one_again_does_not_ask_for_every_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As AWS's own chain does when it can't reach who gives credentials."""
    source = Source()

    def same() -> int:
        source.fetch()
        return 1

    async with renewal(source, fetch=same) as credentials:
        first = await credentials.get()
        credentials.worked(first)
        source.age = "stale"
        for _ in range(50):
            source.asked.clear()
            assert await credentials.get() == 1
            await asyncio.to_thread(source.asked.wait, 0.005)
        assert source.given == 2
        assert [record.msg for record in caplog.records] == ["gateway.credentials_failed"]
        assert credentials.denied(first), "it had worked"


async def test_a_failure_is_told_without_its_words_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    source.fails = True
    async with renewal(source) as credentials:
        with pytest.raises(UpstreamUnreachable) as told:
            await credentials.get()
        assert "secret" not in str(told.value)
        assert "up" in str(told.value)
        assert [record.msg for record in caplog.records] == ["gateway.credentials_failed"]
        source.fails = False
        assert await credentials.get() == 1


async def test_after_a_failure_nobody_is_asked_for_a_while() -> None:
    source = Source()
    source.fails = True
    async with renewal(source, pause=3600.0) as credentials:
        for _ in range(3):
            with pytest.raises(UpstreamUnreachable):
                await credentials.get()
            source.fails = False
        assert source.given == 0


async def test_a_fetch_that_hangs_is_not_waited_for_longer_than_the_deadline() -> None:
    source = Source()
    source.go.clear()
    async with renewal(source, deadline=0.05) as credentials:
        for _ in range(3):
            with pytest.raises(UpstreamUnreachable):
                await credentials.get()
        assert len(source.threads) == 1  # The one that hangs isn't joined by others.


async def test_one_that_was_denied_is_not_used_again() -> None:
    source = Source()
    async with renewal(source) as credentials:
        assert await credentials.get() == 1
        assert credentials.denied(credentials.held) is False
        assert await credentials.get() == 2
        credentials.worked(credentials.held)
        assert credentials.denied(credentials.held) is True
        assert await credentials.get() == 3


async def test_all_who_were_denied_the_same_one_may_try_the_next_and_nobody_loses_it() -> None:
    source = Source()
    async with renewal(source) as credentials:
        assert await credentials.get() == 1
        first = credentials.held
        credentials.worked(first)
        assert credentials.denied(first) is True
        assert credentials.denied(first) is True, "before the next one is there"
        assert await credentials.get() == 2
        assert credentials.denied(first) is True
        credentials.worked(first)
        assert await credentials.get() == 2
        assert credentials.denied(credentials.held) is False, "only the first has worked"


async def test_who_has_none_gets_no_better_one() -> None:
    source = Source()
    async with renewal(source) as credentials:
        assert credentials.held is None
        assert credentials.denied(credentials.held) is False


async def test_closing_does_not_wait_for_a_fetch() -> None:
    source = Source()
    source.go.clear()
    made = Renewal("up", source.fetch, source.age_of)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(told(made))
        await asyncio.to_thread(source.asked.wait, 30)
        await made.close()
        assert await waiting == "cancelled"
    source.go.set()


async def told(credentials: Renewal[int]) -> str:
    try:
        await credentials.get()
    except asyncio.CancelledError:
        return "cancelled"
    return "got"
