"""E4: two workers on one database never run one session at once, and a worker whose lease went writes nothing more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from attackkit import call
from housekit import ALLOW_ALL, DEADLINE

from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import RehearsalModel, prompt, step

LEASE_SECONDS = 5.0
"""Short, because it is waited for; long enough not to run out by itself on a machine that has much else to do."""


@asynccontextmanager
async def lone_server(**settings: Any) -> AsyncIterator[tuple[asyncio.subprocess.Process, anthropic.AsyncAnthropic]]:
    program = str(Path(__file__).with_name("lone_server.py"))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, json.dumps(settings), stdin=pipe, stdout=pipe
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        async with asyncio.timeout(DEADLINE):
            told = json.loads(await process.stdout.readline())
        async with anthropic.AsyncAnthropic(base_url=told["url"], api_key=told["key"], max_retries=0) as client:
            yield process, client
        process.stdin.close()
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()


async def log_of(client: anthropic.AsyncAnthropic, session: str) -> list[Any]:
    return [event async for event in client.beta.sessions.events.list(session, limit=1000)]


async def until(client: anthropic.AsyncAnthropic, session: str, kind: str) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        while not any(event.type == kind for event in await log_of(client, session)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return await log_of(client, session)


async def send(client: anthropic.AsyncAnthropic, session: str, steps: list[Any]) -> None:
    content = [{"type": "text", "text": prompt(steps)}]
    await client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": content}])  # type: ignore[list-item,typeddict-item]


async def new_sessions(client: anthropic.AsyncAnthropic, many: int) -> list[str]:
    agent = await client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await client.beta.environments.create(
        name="env", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
    )
    made = [await client.beta.sessions.create(agent=agent.id, environment_id=environment.id) for _ in range(many)]
    return [session.id for session in made]


def settings(
    tmp_path: Path, name: str, url: str, model: RehearsalModel, lease_seconds: float = LEASE_SECONDS
) -> dict[str, Any]:
    return {
        "state_dir": str(tmp_path / name),
        "server__port": 0,
        "store__url": url,
        "model__base_url": model.url,
        "worker__name": name,
        "worker__lease_seconds": lease_seconds,
    }


def sandboxes(tmp_path: Path, name: str) -> list[str]:
    place = tmp_path / name / "sandbox" / "sandboxes"
    return os.listdir(place) if place.exists() else []


async def test_a_worker_that_slept_through_its_lease_writes_nothing_and_the_other_finishes(
    tmp_path: Path, cluster: PostgresCluster
) -> None:
    url = cluster.create_database("attack_e4_sleep")
    async with RehearsalModel() as model:
        async with lone_server(**settings(tmp_path, "a", url, model)) as (first, at_first):
            [session] = await new_sessions(at_first, 1)
            steps = [step(call("bash", {"command": "sleep 600"})), step("Finished.")]
            await send(at_first, session, steps)
            await until(at_first, session, "agent.tool_use")
            first.send_signal(signal.SIGSTOP)
            async with lone_server(**settings(tmp_path, "b", url, model)) as (_, at_second):
                events = await until(at_second, session, "session.status_idle")
                assert events[-1].stop_reason.type == "end_turn"
                counted = Counter(event.type for event in events)
                assert counted["agent.tool_use"] == counted["agent.tool_result"]
                assert next(e for e in events if e.type == "agent.tool_result").is_error, "nobody knows how it ended"
                first.send_signal(signal.SIGCONT)
                async with asyncio.timeout(DEADLINE):
                    while sandboxes(tmp_path, "a"):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert [e.id for e in await log_of(at_first, session)] == [e.id for e in events]
                await send(at_first, session, [step("Again.")])
                async with asyncio.timeout(DEADLINE):
                    while (await log_of(at_second, session))[-1].type != "session.status_idle":  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                after = await log_of(at_second, session)
                assert [e.type for e in after].count("agent.message") == 2


@pytest.mark.slow
async def test_two_workers_share_many_sessions_and_every_turn_runs_once(
    tmp_path: Path, cluster: PostgresCluster
) -> None:
    url = cluster.create_database("attack_e4_share")
    async with RehearsalModel() as model:
        async with (
            lone_server(**settings(tmp_path, "a", url, model, 30.0)) as (_, at_first),
            lone_server(**settings(tmp_path, "b", url, model, 30.0)) as (_, at_second),
        ):
            sessions = await new_sessions(at_first, 6)
            for number, session in enumerate(sessions):
                client = (at_first, at_second)[number % 2]
                await send(client, session, [step(call("bash", {"command": "echo once >> log"})), step("End.")])
            for session in sessions:
                events = await until(at_second, session, "session.status_idle")
                counted = Counter(event.type for event in events)
                assert counted["agent.tool_use"] == counted["agent.tool_result"] == counted["agent.message"] == 1
                logs = [tmp_path / name / "sessions" / session / "workspace" / "log" for name in "ab"]
                assert [path.read_text() for path in logs if path.exists()] == ["once\n"]
