"""Are two servers restarted one after the other, under load, without anything being lost? Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from narrow import NARROW
from test_homes_that_move import said

from hostler import compose
from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import RehearsalModel, prompt, step, tool

SESSIONS = 6
MESSAGES = 8
DEADLINE = 480.0


class Server:
    """One real server; `client` speaks to it whatever port it has in its present life."""

    def __init__(self, settings: dict[str, str], secret: str) -> None:
        self._settings = settings
        self._secret = secret
        self._process: asyncio.subprocess.Process | None = None
        self.client: anthropic.AsyncAnthropic | None = None
        """None: it is not to be asked now."""

    async def start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOSTLER_", "ANTHROPIC_"))}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hostler.cli.main",
            "serve",
            "--json",
            "--port",
            "0",
            env={**kept, **self._settings},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        facts = json.loads(await self._process.stdout.readline())
        self.client = anthropic.AsyncAnthropic(base_url=facts["base_url"], api_key=self._secret, max_retries=0)

    async def end(self, how: int) -> int:
        assert self._process is not None
        client, self.client = self.client, None
        self._process.send_signal(how)
        code = await self._process.wait()
        if client is not None:
            await client.close()
        return code


@asynccontextmanager
async def two_servers(tmp_path: Path, url: str, model: RehearsalModel) -> AsyncIterator[list[Server]]:
    database = await Database.open(url)
    _, secret = await compose.create_key(database, "test")
    await database.close()
    servers = [
        Server(
            {
                "HOSTLER_STATE_DIR": str(tmp_path / name),
                "HOSTLER_STORE__URL": url,
                "HOSTLER_OBJECTS__URL": f"file://{tmp_path}/objects",
                "HOSTLER_SECRETS__KEY_FILE": str(tmp_path / "keys.json"),
                "HOSTLER_MODEL__BASE_URL": model.url,
                **NARROW,
                "HOSTLER_WORKER__SLOTS": "4",
                "HOSTLER_WORKER__POLL_SECONDS": "0.5",
                "HOSTLER_WORKER__LEASE_SECONDS": "15",
                "HOSTLER_TURNS__IDLE_TIMEOUT_SECONDS": "0.5",
            },
            secret,
        )
        for name in "ab"
    ]
    for server in servers:
        await server.start()
    try:
        yield servers
    finally:
        for server in servers:
            if server.client is not None:
                await server.end(signal.SIGTERM)


async def ask(servers: list[Server], turn: int, what: Any) -> Any:
    """The answer of a server that is there. `what` can be asked again."""
    while True:
        client = servers[turn % len(servers)].client
        turn += 1
        try:
            if client is not None:
                return await what(client)
        except (anthropic.APIConnectionError, anthropic.InternalServerError):
            pass
        await asyncio.sleep(0.05)


async def every(servers: list[Server], session: str) -> list[Any]:
    async def what(client: anthropic.AsyncAnthropic) -> list[Any]:
        return [event async for event in client.beta.sessions.events.list(session, limit=1000)]

    found: list[Any] = await ask(servers, 0, what)
    return found


async def converse(servers: list[Server], session: str, first: int) -> None:
    """Messages one after the other. Each adds a line to a file, and says how many there are."""
    for number in range(MESSAGES):
        script = prompt(
            [step(tool("bash", command=f"echo {number} >> log; cat log | wc -l")), step("{{last_tool_result}}")]
        )
        body: Any = {"type": "user.message", "content": [{"type": "text", "text": f"{script}\n<!-- {number} -->"}]}

        async def send(client: anthropic.AsyncAnthropic, body: Any = body, number: int = number) -> None:
            known = [event async for event in client.beta.sessions.events.list(session, limit=1000)]
            if sum(event.type == "user.message" for event in known) <= number:  # else the answer was lost, not it
                await client.beta.sessions.events.send(session, events=[body])

        await ask(servers, first + number, send)
        while True:
            events = await every(servers, session)
            if sum(e.type == "agent.message" for e in events) > number and events[-1].type == "session.status_idle":
                break
            await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["one signal", "two signals"])
async def test_a_rolling_restart_under_load_loses_nothing(
    tmp_path: Path, server_cluster: PostgresCluster, how: str
) -> None:
    """Two signals cut turns off in the middle: what a call did is then unknown, and files may be older. The user is
    told; nothing is lost of the conversation, and no prompt is run twice."""
    url = server_cluster.create_database(f"rolling_{how.replace(' ', '_')}")
    async with asyncio.timeout(DEADLINE), RehearsalModel() as model, two_servers(tmp_path, url, model) as servers:
        client = servers[0].client
        assert client is not None
        agent = await client.beta.agents.create(
            name="A", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
        )
        environment = await client.beta.environments.create(
            name="e", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
        )
        sessions = [
            (await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)).id
            for _ in range(SESSIONS)
        ]
        async with asyncio.TaskGroup() as tasks:
            talks = [tasks.create_task(converse(servers, id_, number)) for number, id_ in enumerate(sessions)]
            for server in servers * 2:
                if how == "one signal":
                    assert await server.end(signal.SIGTERM) == 0
                else:
                    assert server._process is not None
                    server._process.send_signal(signal.SIGTERM)
                    await server.end(signal.SIGTERM)
                await server.start()
        assert all(talk.done() for talk in talks)
        for session in sessions:
            events = await every(servers, session)
            messages = [e.content[0].text for e in events if e.type == "agent.message"]
            prompts = [e.content[0].text.partition("<!-- ")[2] for e in events if e.type == "user.message"]
            assert prompts == [f"{number} -->" for number in range(MESSAGES)]
            assert len(messages) == MESSAGES
            if how == "one signal":
                assert [text.strip() for text in messages] == [str(number + 1) for number in range(MESSAGES)]
                assert not said(events, "files_lost")
                # While one server is away, the other has not a place for each: that is said, and nothing else.
                errors = [e for e in events if e.type == "session.error"]
                assert len(errors) == len(said(events, "waiting_for_place"))
