"""Whoever is cancelled while a thread works for him leaves nothing of what it makes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hostler.engine.threads import in_thread, over


class Work:
    """A thread that is at it until it may end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(60)
        return "made"


async def cancelled_in_it(work: Work, task: asyncio.Task[object], times: int) -> None:
    assert await asyncio.to_thread(work.begun.wait, 60)
    for _ in range(times):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done(), "it waits for the thread"
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("times", [1, 3])
async def test_what_nobody_gets_any_more_is_undone(times: int) -> None:
    work, undone = Work(), list[str]()
    task = asyncio.create_task(in_thread(work, undo=undone.append))
    await cancelled_in_it(work, task, times)
    assert undone == ["made"]


async def test_what_somebody_gets_is_not_undone() -> None:
    undone = list[str]()
    assert await in_thread(lambda: "made", undo=undone.append) == "made"
    assert undone == []


@pytest.mark.parametrize("times", [1, 3])
async def test_an_end_is_waited_for_however_often_somebody_is_cancelled(times: int) -> None:
    work = Work()
    working = asyncio.get_running_loop().run_in_executor(None, work)

    async def wait() -> None:
        await over(working)

    await cancelled_in_it(work, asyncio.create_task(wait()), times)
    assert working.result() == "made"
