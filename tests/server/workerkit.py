"""The official worker, unmodified, and what the tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from housekit import DEADLINE, House


@asynccontextmanager
async def official_worker(
    house: House, environment: str, key: str, workdir: Path, *, max_idle: float | None = 60.0, **more: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """`EnvironmentWorker.run`, for as long as the block lasts. It may not end by itself."""
    workdir.mkdir(parents=True, exist_ok=True)
    client = house.new_client()
    worker = client.beta.environments.work.worker(
        environment_id=environment, environment_key=key, workdir=str(workdir), max_idle=max_idle, **more
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        yield running
        assert not running.done() or running.exception() is None, running.exception()
        running.cancel()


async def items(house: House, environment: str, key: str) -> list[Any]:
    """Every work item of the environment, newest first."""
    client = house.new_client()
    client = client.copy(api_key=key)
    return [item async for item in client.beta.environments.work.list(environment)]


async def until_state(house: House, environment: str, work_id: str, state: str, seconds: float = DEADLINE) -> Any:
    """The item, once it is in this state."""
    work = house.client.beta.environments.work
    async with asyncio.timeout(seconds):
        while (item := await work.retrieve(work_id, environment_id=environment)).state != state:  # noqa: ASYNC110 - time announces nothing
            await asyncio.sleep(0.05)
        return item


async def until_done(house: House, session: str, since: int = 0) -> list[Any]:
    """Every event from index `since` on, once a turn after it is over and nothing waits for anybody."""

    def done(seen: list[Any]) -> bool:
        last = [e for e in seen[since:] if e.type.startswith("session.status_")]
        return bool(last) and last[-1].type == "session.status_idle" and last[-1].stop_reason.type != "requires_action"

    async with asyncio.timeout(DEADLINE):
        async with await house.client.beta.sessions.events.stream(session) as stream:
            if done(seen := await house.events(session)):
                return seen[since:]
            async for event in stream:
                if event.type == "session.status_idle" and done(seen := await house.events(session)):
                    return seen[since:]
    raise AssertionError("unreachable")


async def served_turn(house: House, session: str, steps: Any) -> list[Any]:
    """One message and everything that follows until the turn is over; somebody serves the tools meanwhile."""
    before = len(await house.events(session))
    await house.say(session, steps)
    return await until_done(house, session, before)
