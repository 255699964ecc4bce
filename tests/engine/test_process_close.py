"""A process that is being closed is closed, whoever stops waiting for that."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from hostler.engine.process import LiveProcess
from hostler.engine.sandbox_port import IsolationLabel

NOBODY: Any = None


async def test_a_cancelled_close_still_ends_the_sandbox() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def destroy() -> None:
        begun.set()
        await may_end.wait()
        ended.append("sandbox")

    stack = AsyncExitStack()
    stack.push_async_callback(destroy)
    label = IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v2")
    process = LiveProcess(NOBODY, NOBODY, "2", label, NOBODY, stack)
    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(process.close(kill=True))
            await begun.wait()
            closing.cancel()
            may_end.set()
        assert closing.cancelled()
        assert ended == ["sandbox"]
        await process.close(kill=True)
    assert ended == ["sandbox"]


async def test_a_run_that_can_not_say_good_bye_keeps_no_sandbox() -> None:
    class Mute:
        async def close(self) -> None:
            raise ConnectionResetError("it is gone already")

    ended = []

    async def destroy() -> None:
        ended.append("sandbox")

    stack = AsyncExitStack()
    stack.push_async_callback(destroy)
    label = IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v2")
    process = LiveProcess(cast(Any, Mute()), NOBODY, "2", label, NOBODY, stack)
    with pytest.raises(ConnectionResetError):
        await process.close(kill=False)
    assert ended == ["sandbox"]
