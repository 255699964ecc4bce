"""Does a new session begin in a sandbox that was started before it, and can nobody tell the difference?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from housekit import ALLOW_ALL, ASK_FOR_BASH, DEADLINE, House, deny, open_house
from test_homes_that_move import bash, results

from hostler.engine import spare_process
from hostler.engine.profile import transcript_id
from hostler.engine.spare_process import PREFIX, SpareProcess
from hostler.engine.spares import Spares
from hostler.store.database import Database
from hostler.testing.rehearsal import RehearsalModel, gate, step, tool

pytestmark = pytest.mark.one_database
MakeSession = Callable[..., Awaitable[str]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare that does not answer soon is left alone, which is right, and not what these tests are about."""
    monkeypatch.setattr(spare_process, "ANSWER_SECONDS", 30.0)


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


async def agent_with_spares(house: House, spares: int = 1, tools: list[Any] | None = None, **hosting: Any) -> Any:
    """Makes sessions of one agent in an environment that keeps spares, once the spares are there."""
    environment = await house.environment(hosting={"spares": spares, **hosting})
    agent = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=tools or ALLOW_ALL)

    async def session(**wanted: Any) -> str:
        made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, **wanted)
        return made.id

    await house.turn(await session(), [step("Asked for.")])
    await until(lambda: len(waiting(house)) == spares)
    session.agent, session.environment = agent, environment  # type: ignore[attr-defined]
    return session


def pid_of(run: Any) -> int:
    """Of the launcher, and so of the program that it has become."""
    return int(run._client._transport._process.pid)


def pid_in(house: House, session: str) -> int:
    assert house.hostler is not None
    process = house.hostler.worker._runners[session]._lodging.process
    assert process is not None
    return pid_of(process.run)


def homes(house: House) -> list[str]:
    return sorted(os.listdir(Path(house.settings["state_dir"]) / "sessions"))


async def test_a_new_session_gets_the_process_that_was_there_and_goes_on_without_it(ready: House) -> None:
    session = await agent_with_spares(ready, tools=ASK_FOR_BASH, idle_timeout_seconds=0)
    spare = waiting(ready)[0]
    was, name = pid_of(spare.run), spare.name
    check_that_it_has_nothing(ready, spare)
    made = await session()
    write = tool("write", file_path="/workspace/file", content="kept")
    out = tool("write", file_path="/mnt/session/outputs/report.txt", content="out")
    last = tool("bash", command="cat file")
    await ready.say(made, [step(write), step(gate("look"), out), step(last), step("Done.")])
    await ready.model.reached_gate("look")
    assert pid_in(ready, made) == was
    assert spares_of(ready).figures()["claimed"] == 1
    ready.model.open_gate("look")
    call = next(e for e in await ready.until_idle(made) if e.type == "agent.tool_use" and e.name == "bash")
    assert (await ready.client.beta.sessions.retrieve(made)).status == "idle"
    before = len(await ready.events(made))
    await ready.answer(made, deny(call, "Not this one."))
    events = await ready.until_idle(made, before)
    assert "Not this one." in str([e.content for e in events if e.type == "agent.tool_result"])
    await ready.until_no_process()
    assert name not in homes(ready)

    events = await ready.turn(made, [step(tool("read", file_path="/workspace/file")), step("Read.")])
    assert "kept" in results(events)[0], "the workspace came back"
    asked = str(ready.model.requests[-1].body["messages"])
    assert "Not this one." in asked, "so did the conversation"
    files = [file async for file in ready.client.beta.files.list(scope_id=made)]
    assert [file.filename for file in files] == ["report.txt"]
    await said_by_one(ready, made, transcript_id(name))


async def said_by_one(house: House, session: str, never: str) -> None:
    """Nothing that is kept of the session names the spare's own conversation."""
    import sqlalchemy as sa

    assert house.hostler is not None
    database: Database = house.hostler.database
    texts = await database.read(lambda c: c.execute(sa.text("SELECT entry FROM transcript_entries")).scalars().all())
    own = [text for text in texts if transcript_id(session) in text]
    assert own
    assert not [text for text in texts if never in text]


def check_that_it_has_nothing(house: House, spare: SpareProcess) -> None:
    """Neither files nor secrets nor anybody to speak to."""
    home = house.workspace(spare.name).parent
    assert list((home / "workspace").iterdir()) == list((home / "outputs").iterdir()) == []
    for path in spare._doors:
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))


@pytest.mark.slow
async def test_sessions_that_ask_for_something_of_their_own_start_the_ordinary_way(ready: House) -> None:
    session = await agent_with_spares(ready)
    spare = waiting(ready)[0]
    uploaded = await ready.client.beta.files.upload(file=("notes.txt", b"notes"))
    resource = {"type": "file", "file_id": uploaded.id, "mount_path": "/mnt/session/uploads/notes.txt"}
    made = await session(resources=[resource])
    events = await ready.turn(made, bash("cat /mnt/session/uploads/notes.txt"))
    assert results(events) == ["notes"]
    assert waiting(ready) == [spare]
    assert pid_in(ready, made) != pid_of(spare.run)


async def test_a_spare_that_is_ill_is_not_used_and_nobody_notices(ready: House) -> None:
    spares_of(ready)._look_at = _look_away  # type: ignore[method-assign,assignment] - it ends between two looks
    session = await agent_with_spares(ready)
    spare = waiting(ready)[0]
    await spare.sandbox.destroy()
    made = await session()
    assert results(await ready.turn(made, bash("echo well"))) == ["well"]
    figures = spares_of(ready).figures()
    assert (figures["claimed"], figures["failed"]) == (0, 1)


async def _look_away(kind: Any, spare: Any) -> None:
    return None


@pytest.mark.slow
async def test_a_spare_that_was_killed_is_replaced(ready: House) -> None:
    await agent_with_spares(ready)
    spare = waiting(ready)[0]
    await spare.sandbox.destroy()
    await until(lambda: waiting(ready) not in ([], [spare]))
    assert spares_of(ready).figures()["failed"] == 1
    await until(lambda: spare.name not in homes(ready))


@pytest.mark.slow
async def test_what_sessions_can_not_be_any_more_has_no_spares(ready: House) -> None:
    session = await agent_with_spares(ready)
    first = waiting(ready)[0]
    agent = await ready.client.beta.agents.update(
        session.agent.id, version=session.agent.version, system="You are another one."
    )
    await until(lambda: not waiting(ready))
    await until(lambda: first.name not in homes(ready))
    await ready.turn(await session(), [step("Hello.")])
    await until(lambda: len(waiting(ready)) == 1)
    assert waiting(ready)[0].profile.system == agent.system
    await ready.client.beta.environments.archive(session.environment)
    await until(lambda: not [name for name in homes(ready) if name.startswith(PREFIX)])


@pytest.mark.slow
async def test_two_sessions_at_once_never_share_one(ready: House) -> None:
    session = await agent_with_spares(ready, spares=2)
    pids = {pid_of(spare.run) for spare in waiting(ready)}
    made = [await session() for _ in range(4)]
    async with asyncio.TaskGroup() as tasks:
        turns = [tasks.create_task(ready.turn(one, bash(f"echo {one} > own; cat own"))) for one in made]
    assert [results(turn.result())[0] for turn in turns] == made
    got = [pid_in(ready, one) for one in made]
    assert len(set(got)) == 4
    assert pids < set(got)
    assert [os.listdir(ready.workspace(one)) for one in made] == [["own"]] * 4


@pytest.mark.slow
async def test_a_session_of_another_kind_never_gets_one(ready: House) -> None:
    session = await agent_with_spares(ready, spares=3)
    agent, environment = session.agent, session.environment
    pids = {pid_of(spare.run) for spare in waiting(ready)}
    limited = await ready.environment(hosting={"spares": 1}, limits={"memory_mb": 700})
    other = await ready.client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL)
    changed = {"type": "agent_with_overrides", "id": agent.id, "system": "Another one."}
    kinds: list[Any] = [(other.id, environment), (agent.id, limited), (changed, environment)]
    for wanted, where in kinds:
        made = await ready.client.beta.sessions.create(agent=wanted, environment_id=where)
        await ready.turn(made.id, [step("Hello.")])
        assert pid_in(ready, made.id) not in pids
    await ready.client.beta.agents.update(agent.id, version=agent.version, system="Newer.")
    made = await ready.client.beta.sessions.create(agent=agent.id, environment_id=environment)
    await ready.turn(made.id, [step("Hello.")])
    assert pid_in(ready, made.id) not in pids
    assert "Newer." in str(ready.model.requests[-1].body["system"])
    assert spares_of(ready).figures()["claimed"] == 0


@pytest.mark.slow
async def test_a_spare_that_stands_still_serves_like_any_other(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, spares__free_memory_mb=0, spares__rest_seconds=0) as house:
        session = await agent_with_spares(house)
        spare = waiting(house)[0]
        await until(lambda: spare.stopped)
        made = await session()
        assert results(await house.turn(made, bash("echo awake"))) == ["awake"]
        assert pid_in(house, made) == pid_of(spare.run)


async def test_whoever_wants_one_and_is_cancelled_leaves_nothing_of_it(ready: House) -> None:
    await agent_with_spares(ready)
    spares, spare = spares_of(ready), waiting(ready)[0]
    (kind,) = [kind for kind in spares._kinds if spare in kind.waiting]
    async with spare._changing:  # so that it can't be found out whether it is well
        wanting = asyncio.create_task(spares.claim(kind.model, kind.profile))
        await until(lambda: spare not in kind.waiting)
        wanting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wanting
    await until(lambda: spare.name not in homes(ready))
    assert spares.figures()["claimed"] == 0


async def test_one_that_somebody_has_got_is_not_put_to_rest(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, spares__free_memory_mb=0) as house:
        await agent_with_spares(house)
        spares, spare = spares_of(house), waiting(house)[0]
        (kind,) = [kind for kind in spares._kinds if spare in kind.waiting]
        got = await spares.claim(kind.model, kind.profile)
        assert got is spare
        try:
            spares._terms = replace(spares._terms, rest_seconds=0.0)
            await spares._look_at(kind, spare)  # as the look at them all does that had begun before
            assert not spare.stopped
        finally:
            await spare.discard()


@pytest.mark.slow
async def test_no_spares_while_there_is_no_room_and_none_after_a_drain(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, spares__free_memory_mb=0) as house:
        await agent_with_spares(house, spares=2)
        spares = spares_of(house)
        spares._pressed = lambda: True
        await until(lambda: not waiting(house))
        spares._pressed = lambda: False
        await until(lambda: len(waiting(house)) == 2)
        assert house.hostler is not None
        house.hostler.worker.drain()
        await until(lambda: not waiting(house) and not spares.figures()["starting"])
        await until(lambda: not [name for name in homes(house) if name.startswith(PREFIX)])


@pytest.mark.slow
async def test_nothing_is_left_of_the_spares_of_a_server_that_was_killed(tmp_path: Path, store_url: str) -> None:
    async with RehearsalModel() as model:
        settings = {
            "state_dir": str(tmp_path / "state"),
            "server__port": 0,
            "store__url": store_url,
            "model__base_url": model.url,
            "spares__free_memory_mb": 0,
        }
        killed = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("cut_server.py")),
            json.dumps(settings),
            str(tmp_path / "never"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert killed.stdout is not None
        told = json.loads(await killed.stdout.readline())
        async with anthropic.AsyncAnthropic(base_url=told["url"], api_key=told["key"]) as client:
            agent = await client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
            config: Any = {"type": "cloud", "hosting": {"spares": 2, "idle_timeout_seconds": 0}}
            environment = await client.beta.environments.create(name="e", config=config)
            message: Any = {"type": "user.message", "content": [{"type": "text", "text": "Hello."}]}
            await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, initial_events=[message])
            async with asyncio.timeout(DEADLINE):
                while True:
                    health = await client.get("/hostler/v1/health", cast_to=dict[str, Any])
                    if health["spares"]["waiting"] == 2:
                        break
                    await asyncio.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        await killed.wait()
        async with open_house(tmp_path, store_url, spares__free_memory_mb=0) as house:
            assert house.hostler is not None
            await until(lambda: not [name for name in homes(house) if name.startswith(PREFIX)])
            state = Path(house.settings["state_dir"])
            assert not list(state.rglob(f"{PREFIX}_*"))
            assert not list((state / "sandbox" / "sandboxes").iterdir())
