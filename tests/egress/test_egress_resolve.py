"""Does a name whose server does not answer keep the names of others waiting?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from hostler.egress import SystemResolver

DEADLINE = 20.0


class Silent:
    """Names below `slow.example` get no answer until `answers` is set; nobody can take the question back."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        if host.endswith(("slow.example", "slow.co.uk")):
            self.answers.wait(DEADLINE)
        return [(2, 1, 6, "", ("192.0.43.8", port))]

    def slow_ones(self) -> int:
        return sum(".slow." in host for host in self.asked)


@pytest.fixture
def silent() -> Iterator[Silent]:
    names = Silent()
    yield names
    names.answers.set()


@pytest.mark.parametrize(("site", "other"), [("slow.example", "other.example"), ("slow.co.uk", "other.co.uk")])
async def test_the_names_of_one_site_take_a_quarter_of_the_threads_and_all_are_answered(
    silent: Silent, site: str, other: str
) -> None:
    resolver = SystemResolver(threads=8, deadline_seconds=DEADLINE, ask=silent)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        slow = [tasks.create_task(resolver.resolve(f"n{n}.{site}", 443)) for n in range(20)]
        while silent.slow_ones() < 2:  # noqa: ASYNC110 - a thread's question announces nothing
            await asyncio.sleep(0.01)
        assert await resolver.resolve(other, 443) == ["192.0.43.8"]
        assert silent.slow_ones() == 2
        silent.answers.set()
    assert all(task.result() == ["192.0.43.8"] for task in slow)
    resolver.close()


async def answered(resolver: SystemResolver, host: str) -> Sequence[str]:
    """However often the deadline passes first, on a machine that is busy."""
    while True:
        with suppress(TimeoutError):
            return await resolver.resolve(host, 443)


async def test_a_question_that_was_given_up_takes_its_thread_until_the_system_gives_it_up(silent: Silent) -> None:
    resolver = SystemResolver(threads=8, deadline_seconds=0.2, ask=silent)
    for n in range(6):
        with pytest.raises(TimeoutError):
            await resolver.resolve(f"n{n}.slow.example", 443)
    assert silent.slow_ones() <= 2
    async with asyncio.timeout(DEADLINE):
        assert await answered(resolver, "other.example") == ["192.0.43.8"]
        silent.answers.set()
        assert await answered(resolver, "slow.example") == ["192.0.43.8"]
    resolver.close()


async def test_a_name_that_takes_too_long_is_unresolvable() -> None:
    resolver = SystemResolver(threads=1, deadline_seconds=0.0)
    with pytest.raises(OSError):
        await resolver.resolve("localhost", 80)
    resolver.close()
