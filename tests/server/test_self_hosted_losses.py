"""Workers of self-hosted environments that die, freeze, or are called for one item: who serves the session then?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import DEADLINE, House, open_house, types
from workerkit import items, official_worker, served_turn, until_done, until_state

from hostler.testing.rehearsal import step, tool

LEASE = 5


@pytest_asyncio.fixture
async def brisk(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    """A house whose leases run out soon."""
    async with open_house(tmp_path, store_url, queue__lease_seconds=LEASE, queue__release_idle_seconds=2) as opened:
        yield opened


@asynccontextmanager
async def lone_worker(
    house: House, environment: str, key: str, workdir: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The official worker as a process; killed at the end."""
    assert house.hostler is not None
    workdir.mkdir(exist_ok=True)
    script = Path(__file__).with_name("lone_worker.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        house.hostler.base_url,
        environment,
        key,
        str(workdir),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def until_file(path: Path) -> None:
    async with asyncio.timeout(DEADLINE):
        while not path.exists():  # noqa: ASYNC110 - a worker's files announce nothing
            await asyncio.sleep(0.02)


@pytest.mark.one_database
async def test_killed_workers_call_is_run_by_the_next_one(brisk: House, tmp_path: Path) -> None:
    """T49. The first run may have had an effect: the contract hands the call over, it does not guess."""
    session, environment, key = await brisk.self_hosted()
    shared = tmp_path / "shared"
    command = "echo run >> runs; while [ $(wc -l < runs) -lt 2 ]; do sleep 0.05; done; echo finished"
    async with lone_worker(brisk, environment, key, shared) as first:
        await brisk.say(session, [step(tool("bash", command=command)), step("{{last_tool_result}}")])
        await until_file(shared / "runs")
        first.kill()
        await first.wait()
    seen = await brisk.until_idle(session)  # the worker may run a call before the session says that it waits for it
    assert seen[-1].type == "session.status_idle"
    assert seen[-1].stop_reason.type == "requires_action"
    async with official_worker(brisk, environment, key, shared):
        events = await until_done(brisk, session)
    assert types(events).count("user.tool_result") == 1
    assert (shared / "runs").read_text() == "run\nrun\n"


async def test_frozen_worker_loses_its_lease_and_posts_nothing_after(brisk: House, tmp_path: Path) -> None:
    session, environment, key = await brisk.self_hosted()
    first_dir, second_dir = tmp_path / "first", tmp_path / "second"
    command = "touch begun; while [ ! -e go ]; do sleep 0.05; done; echo from $(basename $PWD)"
    async with lone_worker(brisk, environment, key, first_dir) as first:
        await brisk.say(session, [step(tool("bash", command=command)), step("{{last_tool_result}}")])
        await until_file(first_dir / "begun")
        [item] = await items(brisk, environment, key)
        os.kill(first.pid, signal.SIGSTOP)
        await until_state(brisk, environment, item.id, "queued")
        async with official_worker(brisk, environment, key, second_dir):
            await until_file(second_dir / "begun")
            # The first one's command ends and it wakes up, while the second one's still runs.
            (first_dir / "go").touch()
            os.kill(first.pid, signal.SIGCONT)
            await _until_given_up(first)
            assert "user.tool_result" not in types(await brisk.events(session))
            (second_dir / "go").touch()
            events = await until_done(brisk, session)
    [result] = [e for e in events if e.type == "user.tool_result"]
    assert result.content[0].text.strip() == "from second"


async def _until_given_up(worker: asyncio.subprocess.Process) -> None:
    """Until the worker says that its lease is lost, or that its result was refused: whichever it hears first."""
    assert worker.stderr is not None
    async with asyncio.timeout(DEADLINE):
        async for line in worker.stderr:
            if any(word in line for word in (b"lease lost", b"lease assumed lost", b"failed to send tool result")):
                return
    raise AssertionError("the worker ended without a word")


@pytest.mark.one_database
async def test_one_item_in_a_process_of_its_own(house: House, tmp_path: Path) -> None:
    """T47: a dispatcher drains the queue and starts a process for each item, told by its environment what to do."""
    assert house.hostler is not None
    session, environment, key = await house.self_hosted()
    await house.say(session, [step(tool("bash", command="echo alone > where")), step("Ok.")])
    poller = house.new_client().beta.environments.work.poller(
        environment_id=environment, environment_key=key, block_ms=None, drain=True, auto_stop=False
    )
    [item] = [item async for item in poller]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("lone_worker.py")),
        cwd=tmp_path,
        env={
            **inherited,
            "ANTHROPIC_API_KEY": "unused",
            "ANTHROPIC_BASE_URL": house.hostler.base_url,
            "ANTHROPIC_SESSION_ID": item.data.id,
            "ANTHROPIC_WORK_ID": item.id,
            "ANTHROPIC_ENVIRONMENT_ID": environment,
            "ANTHROPIC_WORK_SECRET": item.secret or "",
        },
    )
    await until_done(house, session)
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    assert (tmp_path / "where").read_text() == "alone\n"
    assert (await until_state(house, environment, item.id, "stopped")).stopped_at is not None


@pytest.mark.one_database
async def test_worker_leaves_an_archived_session(brisk: House, tmp_path: Path) -> None:
    """T50."""
    session, environment, key = await brisk.self_hosted()
    async with official_worker(brisk, environment, key, tmp_path / "elsewhere"):
        await served_turn(brisk, session, [step(tool("bash", command="true")), step("Ok.")])
        [item] = await items(brisk, environment, key)
        await brisk.client.beta.sessions.archive(session)
        assert (await until_state(brisk, environment, item.id, "stopped")).state == "stopped"


@pytest.mark.one_database
async def test_next_message_after_the_worker_left_brings_it_back(brisk: House, tmp_path: Path) -> None:
    session, environment, key = await brisk.self_hosted()
    async with official_worker(brisk, environment, key, tmp_path / "elsewhere", max_idle=1.0):
        for number in range(2):
            await served_turn(brisk, session, [step(tool("bash", command=f"echo {number} >> turns")), step("Ok.")])
            newest = (await items(brisk, environment, key))[0]
            await until_state(brisk, environment, newest.id, "stopped")
    assert (tmp_path / "elsewhere" / "turns").read_text() == "0\n1\n"
    assert len(await items(brisk, environment, key)) == 2
    assert json.loads(newest.model_dump_json())["data"] == {"id": session, "type": "session"}
