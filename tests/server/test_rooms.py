"""Do several sessions live in one room, see what is common, and keep their hands off what is not theirs?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from hookkit import own
from housekit import ALLOW_ALL, House, open_house
from test_homes_that_move import bash, results, said


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url) as opened:
        yield opened


async def room(house: House, *names: str, limits: Any = None, **shared: Any) -> list[str]:
    """Sessions of these names in one room of a new environment with these rules."""
    more = {} if limits is None else {"limits": limits}
    environment = await house.environment(hosting={"pattern": "shared", "shared": shared}, **more)
    agent = await house.client.beta.agents.create(name="Player", model="claude-opus-5-5", tools=ALLOW_ALL)
    return [
        (
            await house.client.beta.sessions.create(
                agent=agent.id, environment_id=environment, metadata={"hostler.room_name": name}
            )
        ).id
        for name in names
    ]


async def done(house: House, session: str, command: str) -> str:
    """What a command in the session says."""
    return results(await house.turn(session, bash(command)))[-1]


async def test_two_sessions_share_what_is_common_and_write_only_their_own(house: House) -> None:
    ann, bob = await room(house, "ann", "bob")
    assert "ok" in await done(house, ann, "echo tower > /room/common/map; echo mine > notes; echo ok")
    said_by_bob = await done(house, bob, "cat /room/common/map; cat /room/sessions/ann/notes; echo end")
    assert said_by_bob.split() == ["tower", "mine", "end"]
    refused = await done(
        house, bob, "touch /room/sessions/ann/x 2>&1; echo no > /room/sessions/ann/notes; ls /room/sessions; echo end"
    )
    assert "Read-only file system" in refused
    assert refused.split()[-3:] == ["ann", "bob", "end"]
    assert (await done(house, ann, "cat notes; ls")).split() == ["mine", "notes"]
    rooms = (await own(house, "GET", "/rooms"))["data"]
    assert [(each["name"], [one["name"] for one in each["sessions"]]) for each in rooms] == [("main", ["ann", "bob"])]


async def test_a_change_that_is_overwritten_unseen_is_told_to_both(house: House) -> None:
    ann, bob = await room(house, "ann", "bob")
    await house.turn(ann, bash("echo one > /room/common/map; echo one > /room/common/log; echo ok"))
    events = await house.turn(bob, bash("echo two > /room/common/map; echo two >> /room/common/log; echo ok"))
    heard = said(events, "shared_conflict") or said(await house.turn(bob, bash("echo ok")), "shared_conflict")
    assert [told["path"] for told in heard] == ["/room/common/map"], "whoever writes on at the end overwrites nothing"
    assert (heard[0]["session_id"], heard[0]["other_session_id"]) == (bob, ann)
    events = await house.turn(ann, bash("cat /room/common/map; echo three > /room/common/map; echo ok"))
    assert [told["path"] for told in said(events, "shared_conflict")] == ["/room/common/map"]
    found = (await own(house, "GET", "/rooms"))["data"][0]
    listed = (await own(house, "GET", f"/rooms/{found['id']}/conflicts"))["data"]
    assert [(each["path"], each["session_id"], each["outcome"]) for each in listed] == [("map", bob, "overwritten")]
