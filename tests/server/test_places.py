"""Who gets a place for a process, who waits for one and says so, and who makes room? Real server, real `claude`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from housekit import ALLOW_ALL, DEADLINE, House, open_house, types

from hostler.testing.rehearsal import gate, step, text

INTERRUPT: Any = {"type": "user.interrupt"}
QUICK = {"admission__notice_seconds": 0.05}


async def sessions_of(house: House, count: int, **hosting: Any) -> list[str]:
    """That many sessions of one new environment."""
    made = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(hosting=hosting)
    return [
        (await house.client.beta.sessions.create(agent=made.id, environment_id=environment)).id for _ in range(count)
    ]


def notices(events: list[Any]) -> list[Any]:
    return [e.error.hostler for e in events if e.type == "session.error" and getattr(e.error, "hostler", None)]


async def test_an_environment_has_no_more_live_sessions_than_it_may(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, **QUICK) as house:
        first, second, third = await sessions_of(house, 3, max_live_sessions=1)
        await house.say(first, [step(gate("first"), text("One."))])
        await house.model.reached_gate("first")
        await house.say(second, [step("Two.")])
        await house.say(third, [step("Three.")])
        async with asyncio.timeout(DEADLINE):
            told = await house.until_event(second, "session.status_rescheduled")
        assert told
        assert (await house.client.beta.sessions.retrieve(second)).status == "rescheduling"
        house.model.open_gate("first")
        await house.until_idle(first)
        two, three = await house.until_idle(second), await house.until_idle(third)
        print(types(two), notices(two), notices(three))
