"""Does a new session begin in a sandbox that was started before it, and can nobody tell the difference?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import ALLOW_ALL, DEADLINE, House, open_house
from test_homes_that_move import bash, results

from hostler.engine.spare_process import SpareProcess
from hostler.engine.spares import Spares
from hostler.testing.rehearsal import step, text

pytestmark = pytest.mark.one_database


@pytest_asyncio.fixture
async def ready(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    """A house that has room for spares however full the machine is."""
    async with open_house(tmp_path, store_url, spares__free_memory_mb=0) as house:
        yield house


def spares_of(house: House) -> Spares:
    assert house.hostler is not None
    return house.hostler.spares


def waiting(house: House) -> list[SpareProcess]:
    return [spare for kind in spares_of(house)._kinds for spare in kind.waiting]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110 - nobody announces spares
            await asyncio.sleep(0.01)


async def agent_with_spares(house: House, spares: int = 1, **more: Any) -> Any:
    """Makes sessions of one agent in an environment that keeps spares, once the spares are there."""
    hosting = {"spares": spares, **more.pop("hosting", {})}
    environment = await house.environment(hosting=hosting, **more.pop("config", {}))
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", **{"tools": ALLOW_ALL, **more}
    )

    async def session(**wanted: Any) -> str:
        made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, **wanted)
        return made.id

    await house.turn(await session(), [step("Asked for.")])
    await until(lambda: len(waiting(house)) == spares)
    return session


def process_of(house: House, session: str) -> Any:
    assert house.hostler is not None
    return house.hostler.worker._runners[session]._lodging.process


async def test_a_new_session_gets_the_process_that_was_there_before_it(ready: House) -> None:
    session = await agent_with_spares(ready)
    spare = waiting(ready)[0]
    made = await session()
    events = await ready.turn(made, bash("echo kept > file; cat file; pwd; echo out > /mnt/session/outputs/report"))
    assert process_of(ready, made).run is spare.run
    assert results(events) == ["kept\n/workspace"]
    assert (ready.workspace(made) / "file").read_text() == "kept\n"
    assert spares_of(ready).figures()["claimed"] == 1
