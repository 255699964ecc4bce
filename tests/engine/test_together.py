"""What many want at once is done together: begun after they asked, told to each, and nobody pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from hostler.engine.together import Together

DEADLINE = 60.0


@dataclass
class Work:
    """Doubles numbers. 13 can't be doubled; with 99 among them none can. It goes on when `may` is set."""

    may: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    groups: list[list[int]] = field(default_factory=list)

    async def __call__(self, wishes: Sequence[int]) -> Sequence[int | Exception]:
        self.groups.append(list(wishes))
        self.begun.set()
        async with asyncio.timeout(DEADLINE):
            await self.may.wait()
        if 99 in wishes:
            raise OSError("none of them")
        return [ValueError("this one") if wish == 13 else 2 * wish for wish in wishes]


async def test_what_comes_in_one_turn_is_done_at_once_and_in_order() -> None:
    work = Work()
    work.may.set()
    together = Together(work, "work")
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(together.do(number)) for number in (3, 1, 2)]
    assert [task.result() for task in asked] == [6, 2, 4]
    assert work.groups == [[3, 1, 2]]


async def test_what_is_wanted_while_it_is_busy_is_done_by_work_that_begins_afterwards() -> None:
    work = Work()
    together = Together(work, "work")
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        first = group.create_task(together.do(1))
        await work.begun.wait()
        later = [group.create_task(together.do(number)) for number in (2, 3)]
        await asyncio.sleep(0)
        assert work.groups == [[1]]
        work.may.set()
    assert [first.result(), *(task.result() for task in later)] == [2, 4, 6]
    assert work.groups == [[1], [2, 3]]


async def test_an_error_about_one_is_only_its_own_and_one_that_is_raised_is_everybodys() -> None:
    work = Work()
    work.may.set()
    together = Together(work, "work")
    for wishes, outcomes in (([1, 13, 2], [2, ValueError, 4]), ([1, 99, 2], [OSError, OSError, OSError])):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_tried(together, wish)) for wish in wishes]
        found = [task.result() for task in tasks]
        assert [one if isinstance(one, int) else type(one) for one in found] == outcomes
    assert await together.do(4) == 8


async def _tried(together: Together[int, int], wish: int) -> int | Exception:
    try:
        return await together.do(wish)
    except Exception as error:
        return error


async def test_a_caller_who_is_cancelled_takes_nothing_away_from_the_others() -> None:
    work = Work()
    together = Together(work, "work")
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        gone, stays = group.create_task(together.do(1)), group.create_task(together.do(2))
        await work.begun.wait()
        gone.cancel()
        work.may.set()
        assert await stays == 4
    with pytest.raises(asyncio.CancelledError):
        gone.result()
    assert work.groups == [[1, 2]]


async def test_closing_it_waits_for_what_is_wanted() -> None:
    work = Work()
    together = Together(work, "work")
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        asked = group.create_task(together.do(1))
        await work.begun.wait()
        closing = group.create_task(together.close())
        await asyncio.sleep(0)
        assert not closing.done()
        work.may.set()
        await closing
        assert await asked == 2
