"""A whole Hostler per test: real store, real sandbox, real `claude`; only the model is the rehearsal model."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import sqlalchemy as sa
from narrow import NARROW

from hostler import compose, config
from hostler.compose import sandboxes
from hostler.egress.resolve import Resolver
from hostler.engine.egress_port import McpCredentials
from hostler.engine.object_port import Objects
from hostler.engine.placement import Verified
from hostler.engine.reconciling import disagreements
from hostler.harness.claude import ClaudeHarness
from hostler.store import reconcile
from hostler.store.database import Database
from hostler.store.tables_runtime import usage_mismatches
from hostler.testing.rehearsal import RehearsalModel, Script, prompt

DEADLINE = 60.0
TRUST = ssl.create_default_context()
"""Of all clients: reading the host's authorities takes longer than most of what a client asks here."""
ALLOW_ALL: list[Any] = [{"type": "agent_toolset_20260401"}]
ASK_FOR_BASH: list[Any] = [
    {
        "type": "agent_toolset_20260401",
        "configs": [{"name": "bash", "permission_policy": {"type": "always_ask"}}],
    }
]


def custom(name: str) -> dict[str, Any]:
    return {
        "type": "custom",
        "name": name,
        "description": f"Looks {name} up.",
        "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
    }


@dataclass
class House:
    """One running server, its client and its model. `restart` ends it and starts it again on the same state."""

    settings: dict[str, Any]
    model: RehearsalModel
    secret: str = ""
    mcp_credentials: McpCredentials | None = None
    resolver: Resolver | None = None
    verified: Verified | None = None
    objects: Objects | None = None
    may_disagree: frozenset[str] = frozenset()
    """Kinds of mismatches between ledgers that the test brings about."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    hostler: compose.Hostler | None = None
    client: anthropic.AsyncAnthropic = field(init=False)

    def loaded(self) -> config.Settings:
        """As the server that is started next has them. A test that wants another technology says so in `settings`."""
        chosen = "sandbox__technology" in self.settings
        return config.load({"HOME": "/nonexistent", **({} if chosen else NARROW)}, **self.settings)

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        loaded = self.loaded()
        self.hostler = await self._stack.enter_async_context(
            compose.running(
                loaded,
                mcp_credentials=self.mcp_credentials,
                resolver=self.resolver,
                verified=self.verified,
                objects=self.objects,
            )
        )
        if not self.secret:
            _, self.secret = await compose.create_key(self.hostler.database, "test")
        self.client = self.new_client()

    @property
    def claude_version(self) -> str:
        """Of the program that runs in sandboxes."""
        return ClaudeHarness().version

    def new_client(self, **more: Any) -> anthropic.AsyncAnthropic:
        assert self.hostler is not None
        if "http_client" not in more:
            more["http_client"] = anthropic.DefaultAsyncHttpxClient(verify=TRUST)
        client = anthropic.AsyncAnthropic(
            base_url=self.hostler.base_url, api_key=self.secret, _strict_response_validation=True, **more
        )
        self._stack.push_async_callback(client.close)
        return client

    async def stop(self) -> None:
        found = [] if self.hostler is None else await self._disagreements(self.hostler.database)
        await self._stack.aclose()
        self.hostler = None
        assert not found, f"the ledgers of a session do not agree: {found}"

    async def _disagreements(self, database: Database) -> list[object]:
        """Where what sessions have counted is not what was written down of them, or not what `claude` says."""
        counted = await database.read(reconcile.ledgers)
        found: list[object] = [(of.session_id, wrong) for of in counted if (wrong := disagreements(of))]
        told = await database.read(lambda conn: conn.execute(sa.select(usage_mismatches)).all())
        return [*found, *(tuple(row) for row in told if row.kind not in self.may_disagree)]

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def self_hosted(self, tools: list[Any] | None = None, **session: Any) -> tuple[str, str, str]:
        """A session of a fresh self-hosted environment: its id, the environment's, and a key of that."""
        made = await self.client.beta.agents.create(
            name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL if tools is None else tools
        )
        count = len([e async for e in self.client.beta.environments.list()])
        environment = await self.client.beta.environments.create(name=f"mine {count}", config={"type": "self_hosted"})
        begun = await self.client.beta.sessions.create(agent=made.id, environment_id=environment.id, **session)
        return begun.id, environment.id, await self.environment_key(environment.id)

    async def environment_key(self, environment: str) -> str:
        made = await self.client.post(
            f"/hostler/v1/environments/{environment}/keys", body={"name": "worker"}, cast_to=dict[str, Any]
        )
        return str(made["secret"])

    # -- what most tests do

    async def session(self, tools: list[Any] | None = None, **agent: Any) -> str:
        made = await self.client.beta.agents.create(
            name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL if tools is None else tools, **agent
        )
        environment = await self.environment()
        session = await self.client.beta.sessions.create(agent=made.id, environment_id=environment)
        return session.id

    async def environment(self, **config: Any) -> str:
        known = [e async for e in self.client.beta.environments.list()]
        if known and not config:
            return known[0].id
        made = await self.client.beta.environments.create(
            name=f"env {len(known)}",
            config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}, **config},
        )
        return made.id

    async def say(self, session: str, steps: Sequence[Any] | str) -> str:
        """Send a message (plain text, or a script for the model). Returns the event's id."""
        text = steps if isinstance(steps, str) else prompt(steps)
        sent = await self.client.beta.sessions.events.send(
            session, events=[{"type": "user.message", "content": [{"type": "text", "text": text}]}]
        )
        assert sent.data
        return sent.data[0].id

    async def events(self, session: str) -> list[Any]:
        return [event async for event in self.client.beta.sessions.events.list(session, limit=1000)]

    async def until_idle(self, session: str, since: int = 0) -> list[Any]:
        """Every event from index `since` on, once the session has gone idle after it."""
        async with asyncio.timeout(DEADLINE):
            async with await self.client.beta.sessions.events.stream(session) as stream:
                seen = await self.events(session)
                if any(event.type == "session.status_idle" for event in seen[since:]) and not _busy(seen):
                    return seen[since:]
                async for event in stream:
                    if event.type == "session.status_idle":
                        seen = await self.events(session)
                        if not _busy(seen):
                            return seen[since:]
        raise AssertionError("unreachable")

    async def until_event(self, session: str, wanted: str) -> Any:
        """The first event of this type, recorded already or still to come."""
        async with asyncio.timeout(DEADLINE):
            async with await self.client.beta.sessions.events.stream(session) as stream:
                for event in await self.events(session):
                    if event.type == wanted:
                        return event
                async for event in stream:
                    if event.type == wanted:
                        return event
        raise AssertionError("the stream ended")

    async def until_no_process(self) -> None:
        """Let the worker give back what waits for somebody; that follows the announcement."""
        assert self.hostler is not None
        async with asyncio.timeout(DEADLINE):
            while self.hostler.worker.busy():  # noqa: ASYNC110 - nothing announces the end of a process
                await asyncio.sleep(0.01)

    async def turn(self, session: str, steps: Sequence[Any] | str) -> list[Any]:
        """One message and everything that follows until idle."""
        before = len(await self.events(session))
        await self.say(session, steps)
        return await self.until_idle(session, before)

    async def answer(self, session: str, *events: dict[str, Any]) -> list[Any]:
        sent = await self.client.beta.sessions.events.send(session, events=list(events))  # type: ignore[arg-type]
        return list(sent.data or ())

    def workspace(self, session: str) -> Path:
        return Path(self.settings["state_dir"]) / "sessions" / session / "workspace"

    @contextmanager
    def left_by_a_killed_server(self, session: str) -> Iterator[Path]:
        """The files of a session while no server runs. The next one takes what is done to them for what a server has
        left that was killed."""
        assert self.hostler is None, "stop it first"
        settings = self.loaded()
        volumes, _ = sandboxes.volumes(settings, sandboxes.volume_trial(settings))
        home = self.workspace(session).parent
        try:
            volumes.enter(home, None)
            yield home
            volumes.leave(home, looked_through=False)
        finally:
            volumes.close()


def content_of(path: Path) -> bytes:
    """What is in a file, without its holes: an image of a volume is mostly a hole of gigabytes."""
    found = []
    with path.open("rb") as file:
        end, offset = file.seek(0, os.SEEK_END), 0
        while offset < end:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append(os.pread(file.fileno(), offset - start, start))
    return b"".join(found)


def _busy(events: Sequence[Any]) -> bool:
    statuses = [e.type for e in events if e.type.startswith("session.status_")]
    return not statuses or statuses[-1] != "session.status_idle"


def types(events: Sequence[Any]) -> list[str]:
    return [event.type for event in events]


def allow(call: Any) -> dict[str, Any]:
    return {"type": "user.tool_confirmation", "tool_use_id": call.id, "result": "allow"}


def deny(call: Any, message: str) -> dict[str, Any]:
    return {**allow(call), "result": "deny", "deny_message": message}


def result(call: Any, text: str, is_error: bool = False) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": call.id,
        "content": content,
        "is_error": is_error,
    }


@asynccontextmanager
async def open_house(
    tmp_path: Path,
    store_url: str,
    script: Script | None = None,
    mcp_credentials: McpCredentials | None = None,
    resolver: Resolver | None = None,
    verified: Verified | None = None,
    objects: Objects | None = None,
    **settings: Any,
) -> AsyncIterator[House]:
    async with RehearsalModel(script) as model:
        house = House(
            {
                "state_dir": str(tmp_path / "state"),
                "server__port": 0,
                "store__url": store_url,
                "model__base_url": model.url,
                "model__retries": 2,
                "attempts__base_seconds": 0.1,
                "attempts__harness_retries": 2,
                **settings,
            },
            model,
            mcp_credentials=mcp_credentials,
            resolver=resolver,
            verified=verified,
            objects=objects,
        )
        await house.start()
        try:
            yield house
        finally:
            await house.stop()
