"""S2: a limit that was reached is an event that says which one, how much it is, what raises it; the session lives."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from attackkit import outputs, shell
from housekit import ALLOW_ALL, House, open_house

from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.needs_root, pytest.mark.one_database]


def python(*lines: str) -> str:
    """A command for the agent's bash that the harness has no opinion about."""
    text = "\n".join(lines)
    return f'python3 - <<"PYTHON"\n{text}\nPYTHON'


EMPTY = python("import os", "for name in os.listdir(): os.unlink(name)", "print('alive')")
FILL = python(
    "for place in ('/workspace', '/home/agent/.claude', '/mnt/session/outputs'):",
    "    try:",
    "        with open(place + '/flood', 'wb', buffering=0) as file:",
    "            while True: file.write(bytes(1 << 16))",
    "    except OSError as error:",
    "        print(error)",
)
FILL_WITH_FILES = python(
    "import os",
    "try:",
    "    for number in range(1 << 20): os.mknod(f'/workspace/{number}')",
    "except OSError as error:",
    "    print(error)",
)


async def limited(house: House, **limits: Any) -> str:
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(limits=limits)
    return (await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)).id


def errors(events: list[Any]) -> list[dict[str, Any]]:
    return [event.error.to_dict() for event in events if event.type == "session.error"]


def about(events: list[Any], code: str) -> dict[str, Any]:
    """The one error with this code. None may stand behind the end of the turn."""
    assert events[-1].type == "session.status_idle"
    found = [error for error in errors(events) if error.get("code") == code]
    assert len(found) == 1, errors(events)
    assert found[0]["type"] == "unknown_error"
    return found[0]


async def test_memory_that_a_command_used_up_is_told_and_the_turn_goes_on(house: House) -> None:
    session = await limited(house, memory_mb=400)
    hog = "python3 -c 'x = bytearray(2 << 30)'; echo after"
    twice = [step(tool("bash", command=hog)), step(tool("bash", command=hog)), step("Survived.")]
    events = await house.turn(session, twice)
    error = about(events, "memory_limit_reached")
    assert error["limit"] == {"field": "config.limits.memory_mb", "value": 400}
    assert error["retry_status"] == {"type": "retrying"}
    assert "memory limit of 400 MiB" in error["message"]
    assert "config.limits.memory_mb" in error["message"]
    assert events[-1].stop_reason.type == "end_turn"
    assert errors(await house.turn(session, [step("Still here.")])) == [], "it is told once"
    again = await house.turn(session, [step(tool("bash", command=hog)), step("Again.")])
    about(again, "memory_limit_reached")


async def test_a_harness_that_memory_has_ended_is_told_and_the_session_goes_on(house: House) -> None:
    session = await limited(house, memory_mb=400)
    await house.turn(session, [step("Ready.")])
    # The kernel ends the largest process: what lies in /tmp belongs to none, so that is `claude`.
    hog = python(
        "import time",
        "for path in ('/tmp/a', '/dev/shm/a'):",
        "    with open(path, 'wb', buffering=0) as file:",
        "        for _ in range(1900): file.write(bytes(1 << 17))",
        "time.sleep(600)",
    )
    before = len(await house.events(session))
    await house.say(session, [step(tool("bash", command=hog)), step("Recovered."), step("Recovered.")])
    events = await house.until_idle(session, before)
    about(events, "memory_limit_reached")
    assert any("ended unexpectedly" in error["message"] for error in errors(events))
    after = await house.turn(session, [step(tool("bash", command="echo alive")), step("Here.")])
    assert outputs(after) == ["alive"]
    assert after[-1].stop_reason.type == "end_turn"


async def test_processes_that_could_not_be_started_are_told(house: House) -> None:
    session = await limited(house, pids=48)
    forks = "for n in $(seq 200); do sleep 2 & done 2>/dev/null; wait; echo after"
    events = await house.turn(session, [step(tool("bash", command=forks)), step("Survived.")])
    error = about(events, "pids_limit_reached")
    assert error["limit"] == {"field": "config.limits.pids", "value": 48}
    assert "48 processes" in error["message"]
    assert (await shell(house, session, "echo alive")).strip() == "alive"


LEAVE_BEHIND = python(
    "import subprocess",
    "try:",
    "    while True: subprocess.Popen(['sleep', '600'], stdin=-3, stdout=-3, stderr=-3, start_new_session=True)",
    "except OSError as error:",
    "    print(error)",
)


async def test_what_a_turn_has_left_running_does_not_keep_the_next_one_from_working(tmp_path: Path) -> None:
    async with open_house(tmp_path, f"sqlite:///{tmp_path}/hostler.db", sandbox__pids=64) as house:
        session = await house.session()
        events = await house.turn(session, [step(tool("bash", command=LEAVE_BEHIND)), step("Done.")])
        about(events, "pids_limit_reached")  # `claude` may be one of those that could not start a thread
        after = await house.turn(session, [step(tool("bash", command="echo alive")), step("Here.")])
        assert outputs(after) == ["alive"]
        assert errors(after) == []


async def test_a_full_disk_is_told_and_the_next_message_can_make_room(tmp_path: Path) -> None:
    async with open_house(tmp_path, f"sqlite:///{tmp_path}/hostler.db", sandbox__disk_mb=64) as house:
        session = await house.session()
        events = await house.turn(session, [step(tool("bash", command=FILL)), step("Full.")])
        error = about(events, "disk_limit_reached")
        assert error["limit"] == {"field": "config.limits.disk_mb", "value": 64}
        assert "disk limit of 64 MiB" in error["message"]
        assert "No space left on device" in outputs(events)[0]
        assert errors(events) == [error]
        assert len(errors(await house.turn(session, [step("Still full.")]))) == 1
        freed = await house.turn(session, [step(tool("bash", command=EMPTY)), step("Room.")])
        assert outputs(freed) == ["alive"]
        assert errors(freed) == []


@pytest.mark.parametrize(
    ("flood", "code"),
    [(FILL, "disk_limit_reached"), (FILL_WITH_FILES, "disk_files_limit_reached")],
    ids=["bytes", "files"],
)
async def test_a_session_with_a_full_disk_starts_again(tmp_path: Path, flood: str, code: str) -> None:
    """A new process, whose transcript has to be written into the full volume, and the session is usable in it."""
    store_url = f"sqlite:///{tmp_path}/hostler.db"
    async with open_house(tmp_path, store_url, sandbox__disk_mb=64, turns__idle_timeout_seconds=0) as house:
        session = await house.session()
        about(await house.turn(session, [step(tool("bash", command=flood)), step("Full.")]), code)
        await house.until_no_process()
        events = await house.turn(session, [step(tool("bash", command=EMPTY)), step("Ok.")])
        assert outputs(events) == ["alive"]
        assert events[-1].stop_reason.type == "end_turn"
        await house.until_no_process()
        assert errors(await house.turn(session, [step("Room.")])) == []


async def test_a_time_limit_names_its_field_and_the_session_goes_on(house: House) -> None:
    session = await limited(house, turn_seconds=6)
    events = await house.turn(session, [step(tool("bash", command="sleep 600")), step("Never.")])
    error = about(events, "turn_seconds_reached")
    assert error["limit"] == {"field": "config.limits.turn_seconds", "value": 6}
    assert error["retry_status"] == {"type": "exhausted"}
    assert events[-1].stop_reason.type == "retries_exhausted"
    assert (await house.turn(session, [step("Still here.")]))[-1].stop_reason.type == "end_turn"


async def test_files_survive_the_end_of_every_process_and_of_the_server(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, turns__idle_timeout_seconds=0) as house:
        session = await house.session()
        home = house.workspace(session).parent
        await shell(house, session, "echo work > kept; echo result > /mnt/session/outputs/report")
        await house.until_no_process()
        async with asyncio.timeout(60):
            while os.path.ismount(home):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        await house.restart()
        assert (await shell(house, session, "cat kept")).strip() == "work"
        files = [file.filename async for file in house.client.beta.files.list(scope_id=session)]
        assert files == ["report"]
        await house.until_no_process()
        await house.client.beta.sessions.delete(session)
        async with asyncio.timeout(60):
            while home.exists() or list((tmp_path / "state" / "volumes").glob("*")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_what_was_put_out_after_a_turn_is_collected_from_the_volume(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url) as house:
        session = await house.session()
        await shell(house, session, "true")
        (house.workspace(session).parent / "outputs" / "late").write_text("written after the turn")
        await house.restart()
        async with asyncio.timeout(60):
            while not [f async for f in house.client.beta.files.list(scope_id=session)]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_server_without_volumes_works_and_says_so_and_its_sessions_stay_where_they_are(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/hostler.db"
    async with open_house(tmp_path, store_url, sandbox__volumes=False) as house:
        session = await house.session()
        await shell(house, session, "echo work > kept")
        assert not os.path.ismount(house.workspace(session).parent)
        label = (await house.client.beta.sessions.retrieve(session)).to_dict()["isolation"]["sandbox"]
        assert label["disk_by"] == "none"
        assert "disk_mb" in label["unlimited"]
        assert any("switched off (sandbox.volumes)" in promise for promise in label["missing"])
        del house.settings["sandbox__volumes"]
        await house.restart()
        assert (await shell(house, session, "cat kept")).strip() == "work"
        label = (await house.client.beta.sessions.retrieve(session)).to_dict()["isolation"]["sandbox"]
        assert label["disk_by"] == "none", "its files are where they were"
        newer = await house.session()
        await shell(house, newer, "true")
        label = (await house.client.beta.sessions.retrieve(newer)).to_dict()["isolation"]["sandbox"]
        assert (label["disk_by"], label["unlimited"], label["missing"]) == ("volume", [], [])
        await house.client.beta.sessions.delete(session)
        async with asyncio.timeout(60):
            while house.workspace(session).parent.exists():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
