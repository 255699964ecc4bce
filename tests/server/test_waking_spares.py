"""Does a session that wakes up go on in a sandbox that was started for whichever would, and is nobody mistaken?"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import ASK_FOR_BASH, House, allow, open_house
from objectskit import WaywardObjects
from test_homes_that_move import bash, results
from test_spares import agent_with_spares, homes, said_by_one, spares_of, until, waiting

from hostler.engine import copies
from hostler.engine.profile import transcript_id
from hostler.engine.spare_process import PREFIX, SpareProcess
from hostler.sandbox.bubblewrap import BubblewrapSandbox
from hostler.sandbox.leftovers import processes
from hostler.testing.rehearsal import step, tool

pytestmark = [
    pytest.mark.one_database,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to the user of a sandbox that is there"),
]


@pytest.fixture
def objects(tmp_path: Path) -> WaywardObjects:
    return WaywardObjects(tmp_path / "objects")


@pytest_asyncio.fixture
async def ready(tmp_path: Path, store_url: str, objects: WaywardObjects) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, objects=objects, spares__free_memory_mb=0) as house:
        yield house


def held_back(house: House) -> list[SpareProcess]:
    return [spare for spare in waiting(house) if spare.held is not None]


async def pids(spare: SpareProcess) -> frozenset[int]:
    sandbox = spare.sandbox
    assert isinstance(sandbox, BubblewrapSandbox)
    return await asyncio.to_thread(processes, sandbox._record)


async def kill(spare: SpareProcess) -> None:
    for pid in await pids(spare):
        with suppress(ProcessLookupError):  # it ended with its parent
            os.kill(pid, signal.SIGKILL)


async def asleep(house: House, tools: list[object] | None = None) -> str:
    """A session that has woken up before, so that there is a spare for it when it does so again."""
    session = await agent_with_spares(house, 2, tools, idle_timeout_seconds=0)
    made: str = await session()
    await house.turn(made, [step(tool("write", file_path="/workspace/file", content="first")), step("Done.")])
    await house.until_no_process()
    await house.turn(made, [step(tool("write", file_path="/workspace/more", content="second")), step("Again.")])
    await house.until_no_process()
    await until(lambda: bool(held_back(house)))
    assert len(waiting(house)) == 2, "of two, one is for new sessions"
    return made


async def test_a_session_that_wakes_up_goes_on_in_a_process_that_was_there(ready: House) -> None:
    made = await asleep(ready)
    (spare,) = held_back(ready)
    was, claimed = await pids(spare), spares_of(ready).figures()["claimed"]
    home = ready.workspace(spare.name).parent
    assert list((home / "workspace").iterdir()) == list((home / "outputs").iterdir()) == []
    assert not list(home.rglob("*.jsonl"))
    events = await ready.turn(made, bash("cat file more; echo third > more; ls -l; stat -c %U file"))
    told = results(events)[-1]
    assert "firstsecond" in told
    assert told.endswith("agent")
    assert spares_of(ready).figures()["claimed"] == claimed + 1
    assert was
    asked = str(ready.model.requests[-1].body["messages"])
    assert "first" in asked
    assert "second" in asked
    await ready.until_no_process()
    assert not was & await pids_of_all(ready)
    assert spare.name not in homes(ready)
    assert results(await ready.turn(made, bash("cat more")))[-1] == "third"
    await said_by_one(ready, made, transcript_id(spare.name))


async def pids_of_all(house: House) -> frozenset[int]:
    found: frozenset[int] = frozenset()
    for spare in waiting(house):
        found |= await pids(spare)
    return found


async def test_a_call_that_waited_runs_once_in_it(ready: House) -> None:
    made = await asleep(ready, ASK_FOR_BASH)
    await ready.say(made, bash("echo ran >> calls; cat calls"))
    call = next(e for e in await ready.until_idle(made, 1) if e.type == "agent.tool_use" and e.name == "bash")
    await ready.until_no_process()
    await until(lambda: bool(held_back(ready)))
    claimed, before = spares_of(ready).figures()["claimed"], len(await ready.events(made))
    await ready.answer(made, allow(call))
    assert results(await ready.until_idle(made, before)) == ["ran"]
    assert spares_of(ready).figures()["claimed"] == claimed + 1


async def test_a_fork_begins_in_one(ready: House) -> None:
    made = await asleep(ready)
    forked = await ready.client.post(f"/hostler/v1/sessions/{made}/fork", body={}, cast_to=dict[str, Any])
    claimed = spares_of(ready).figures()["claimed"]
    told = results(await ready.turn(forked["id"], bash("cat file more; echo mine > file")))
    assert told[-1] == "firstsecond"
    assert spares_of(ready).figures()["claimed"] == claimed + 1
    assert results(await ready.turn(made, bash("cat file")))[-1] == "first"


async def test_files_that_are_nowhere_else_are_not_left_behind(ready: House, objects: WaywardObjects) -> None:
    made = await asleep(ready)
    objects.away = True  # so what this turn leaves is kept here alone
    await ready.turn(made, bash("echo newer > file"))
    await ready.until_no_process()
    objects.away = False
    claimed = spares_of(ready).figures()["claimed"]
    assert results(await ready.turn(made, bash("cat file")))[-1] == "newer"
    assert spares_of(ready).figures()["claimed"] == claimed


async def test_files_that_are_well_here_are_not_given_up_for_a_damaged_copy(
    ready: House, objects: WaywardObjects
) -> None:
    made = await asleep(ready)
    before, claimed = len(await ready.events(made)), spares_of(ready).figures()["claimed"]
    objects.damaged |= set(objects.names)
    assert results(await ready.turn(made, bash("cat file more")))[-1] == "firstsecond"
    assert spares_of(ready).figures()["claimed"] == claimed + 1, "it was tried"
    assert not [e for e in (await ready.events(made))[before:] if e.type == "session.error"]


async def test_many_files_stay_where_they_are(ready: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await asleep(ready)
    monkeypatch.setattr(copies, "LITTLE_BYTES", 5)
    claimed = spares_of(ready).figures()["claimed"]
    assert results(await ready.turn(made, bash("cat file")))[-1] == "first"
    assert spares_of(ready).figures()["claimed"] == claimed


async def test_when_what_was_kept_can_not_be_had_the_session_goes_on_with_what_is_here(
    ready: House, objects: WaywardObjects
) -> None:
    made = await asleep(ready)
    (spare,) = held_back(ready)
    before = len(await ready.events(made))
    objects.away = True
    await ready.say(made, bash("cat file"))
    assert results(await ready.until_idle(made, before)) == ["first"]
    objects.away = False
    await until(lambda: spare.name not in homes(ready))


async def test_one_that_was_killed_is_not_used_and_nobody_notices(ready: House) -> None:
    made = await asleep(ready)
    (spare,) = held_back(ready)
    await kill(spare)
    assert results(await ready.turn(made, bash("cat file")))[-1] == "first"
    await ready.until_no_process()
    await until(lambda: spare.name not in homes(ready))


async def test_one_that_dies_when_it_is_told_to_go_on_costs_nothing(ready: House) -> None:
    made = await asleep(ready)
    (spare,) = held_back(ready)
    assert spare.held is not None
    go_on = spare.held.go_on

    async def killed(*told: object) -> object:
        await kill(spare)
        return await go_on(*told)  # type: ignore[arg-type]

    spare.held.go_on = killed  # type: ignore[method-assign,assignment] - it dies at this very moment
    assert results(await ready.turn(made, bash("cat file more")))[-1] == "firstsecond"
    await ready.until_no_process()
    assert not [name for name in homes(ready) if name == spare.name]


@pytest.mark.slow
async def test_one_that_stands_still_serves_like_any_other(
    tmp_path: Path, store_url: str, objects: WaywardObjects
) -> None:
    settings: dict[str, Any] = {"spares__free_memory_mb": 0, "spares__rest_seconds": 0}
    async with open_house(tmp_path, store_url, objects=objects, **settings) as house:
        made = await asleep(house)
        await until(lambda: all(spare.stopped for spare in held_back(house)))
        claimed = spares_of(house).figures()["claimed"]
        assert results(await house.turn(made, bash("cat file")))[-1] == "first"
        assert spares_of(house).figures()["claimed"] == claimed + 1


@pytest.mark.slow
async def test_none_is_left_when_the_server_stops(ready: House) -> None:
    await asleep(ready)
    was = await pids_of_all(ready)
    await ready.stop()
    stats = [Path(f"/proc/{pid}/stat") for pid in was]
    left = [stat.read_text() for stat in stats if stat.exists()]
    assert not [one for one in left if ") Z " not in one], "what has ended may wait for its new parent"
    assert not [name for name in homes(ready) if name.startswith(PREFIX)]
