"""How is the server killed at random moments, again and again, and who looks at what is left?

A run keeps its model and the server's state for all rounds. In each round a few new sessions begin (and sometimes an
old one goes on), the server, an agent's process or the database is killed once or twice at moments that depend on what
was seen, what was killed is started again, and the sessions are brought to their end. Then every session of the round
is examined, and the host is searched for left-overs of each life that was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - a seed must give the same run again, as far as the machine lets it
from time import monotonic
from typing import Literal

from chaos_checks import Story, problems, read_log, read_stored, unannounced
from chaos_client import Api, Body, Client
from chaos_host import Server
from chaos_plan import SessionPlan, Tools, more_turns, session_plan

from hostler.compose import create_key
from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import RehearsalModel

Store = Literal["sqlite", "postgresql"]
Victim = Literal["server", "agent", "database"]
"""`database`: PostgreSQL ends as in a crash, and comes back a moment later."""
UIDS = range(731_000, 731_256)
"""Of this run's sandboxes only, so that a process that is left is known by its uid."""
LEASE_SECONDS = 5.0
SETTLE_SECONDS = 90.0
"""Longest time that the sessions of a round may take to their end, kills included."""
LOOKUP = {
    "type": "custom",
    "name": "lookup",
    "description": "Looks a key up.",
    "input_schema": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
}
TOOLSET = {"type": "agent_toolset_20260401"}
ASK = {"default_config": {"permission_policy": {"type": "always_ask"}}}
AGENTS: dict[Tools, list[Body]] = {"free": [TOOLSET], "ask": [TOOLSET | ASK], "custom": [TOOLSET, LOOKUP]}


class Broken(AssertionError):
    """Something that must always be true was not. The message has the seed, the round, and where the evidence is."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed, and when: so long after the n-th thing of a kind was seen in this round."""

    who: Victim
    after: Literal["events", "calls", "requests", "nothing", "start"]
    """`start`: while the server that was killed before is starting again."""
    count: int
    delay: float


def kills(random: Random, store: Store) -> list[Kill]:
    """Of one round."""
    who: dict[tuple[Victim, ...], int] = {
        ("server",): 10,
        ("agent",): 3,
        ("server", "server"): 3,
        ("agent", "server"): 1,
        ("server", "agent"): 1,
    }
    if store == "postgresql":
        who |= {("database",): 5, ("database", "server"): 1, ("agent", "database"): 1}
    chosen = random.choices(list(who), list(who.values()))[0]
    return [_kill(random, target, first=at == 0) for at, target in enumerate(chosen)]


def _kill(random: Random, who: Victim, *, first: bool) -> Kill:
    if not first and who == "server" and random.random() < 0.4:
        return Kill(who, "start", 0, random.uniform(0.0, 2.0))
    after: Literal["events", "calls", "requests", "nothing"] = random.choices(
        ("events", "calls", "requests", "nothing"), (5, 4, 3, 2)
    )[0]
    if after == "nothing":
        return Kill(who, after, 0, random.uniform(0.0, 2.5))
    count = random.randrange(1, 40 if after == "events" else 6)
    return Kill(who, after, count, random.choice((0.0, 0.0, random.uniform(0.0, 0.02), random.uniform(0.0, 0.3))))


@dataclass
class Progress:
    """What was seen in this round, for those who wait for it."""

    events: int = 0
    calls: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, event: Body) -> None:
        self.events += 1
        self.calls += event["type"] in ("agent.tool_use", "agent.custom_tool_use")
        self.news.set()

    async def until(self, kind: str, count: int) -> None:
        while getattr(self, kind) < count:
            self.news.clear()
            await self.news.wait()


@dataclass
class Tally:
    """What a run has done."""

    rounds: int = 0
    sessions: int = 0
    events: int = 0
    calls: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        kills = ", ".join(f"{count} x {who}" for who, count in sorted(self.kills.items()))
        pace = self.seconds / max(1, self.rounds)
        return (
            f"{self.rounds} rounds, {self.sessions} sessions, {self.events} events, {self.calls} calls; "
            f"killed: {kills}; results: {dict(self.results)}; {pace:.2f} s a round"
        )


class Chaos:
    """One run. `round` as often as wanted, `end` once."""

    def __init__(
        self,
        random: Random,
        folder: Path,
        server: Server,
        model: RehearsalModel,
        url: str,
        api: Api,
        cluster: PostgresCluster | None,
    ) -> None:
        self.tally = Tally()
        self._cluster = cluster
        self._random = random
        self._folder = folder
        self._server = server
        self._model = model
        self._url = url
        self._api = api
        self._agents: dict[Tools, str] = {}
        self._environment = ""
        self._clients: list[Client] = []
        """Of this round."""
        self._old: list[Client] = []
        """Of earlier rounds, to be gone on with."""

    async def begin(self) -> None:
        await self._server.spawn()
        await self._server.ready()
        for name, tools in AGENTS.items():
            agent = await self._api.post("/v1/agents", {"name": name, "model": "claude-opus-5-5", "tools": tools})
            self._agents[name] = agent["id"]
        networking = {"type": "limited", "allowed_hosts": []}
        body = {"name": "chaos", "config": {"type": "cloud", "networking": networking}}
        self._environment = (await self._api.post("/v1/environments", body))["id"]

    async def round(self, number: int) -> None:
        begun = monotonic()
        random, progress = self._random, Progress()
        planned = kills(random, "sqlite" if self._cluster is None else "postgresql")
        clients = [
            await self._client(session_plan(random, f"r{number}s{at}"), progress)
            for at in range(random.randrange(2, 5))
        ]
        if self._old and random.random() < 0.5:
            old = self._old.pop(random.randrange(len(self._old)))
            old.go_on(more_turns(random, f"r{number}old", old.plan.tools), progress.saw)
            clients.append(old)
        for client in clients:
            client.lost += len(planned)
        where = f"round {number}"
        self._clients = clients
        try:
            async with asyncio.timeout(SETTLE_SECONDS), asyncio.TaskGroup() as tasks:
                runs = [tasks.create_task(client.run()) for client in clients]
                await self._kill_all(planned, progress, runs, where)
        except TimeoutError:
            self._fail(where, clients, [f"not idle after {SETTLE_SECONDS:g} s"], planned=planned)
        database = await Database.open(self._url)
        try:
            for client in clients:
                await self._examine(where, client, database, planned)
        finally:
            await database.close()
        self._old = [*self._old, *(client for client in clients if not client.interrupted)][-20:]
        self.tally.rounds += 1
        self.tally.seconds += monotonic() - begun

    async def end(self) -> None:
        """Stop the server as an operator does: nothing at all may be left."""
        traces = self._server.sandboxes()
        status = await self._server.stop()
        left = [*self._server.left_of(traces), *self._server.left_at_all(UIDS)]
        if status != 0 or left:
            raise Broken(f"after a stop (exit status {status}) there is still: {left}")

    # -- sessions

    async def _client(self, plan: SessionPlan, progress: Progress) -> Client:
        body = {"agent": self._agents[plan.tools], "environment_id": self._environment, "title": plan.name}
        session = await self._api.post("/v1/sessions", body)
        return Client(self._api, plan, session["id"], progress.saw)

    def _workspace(self, client: Client) -> Path:
        return self._folder / "state" / "sessions" / client.session_id / "workspace"

    async def _examine(self, where: str, client: Client, database: Database, planned: Sequence[Kill]) -> None:
        stored = await read_stored(database, client.session_id)
        listed = await self._api.events(client.session_id)
        done = read_log(self._workspace(client))
        story = Story(client.plan, client.interrupted, client.lost, stored, listed, client.seen, done)
        found = problems(story)
        self.tally.sessions += 1
        self.tally.events += len(stored.rows)
        for _, _, body in stored.rows:
            self.tally.calls += body["type"] == "agent.tool_use"
            if body["type"] == "agent.tool_result":
                words = "".join(block.get("text", "") for block in body["content"])
                self.tally.results[words[:35] if body["is_error"] else "good"] += 1
        if found:
            self._fail(f"{where}, session {client.plan.name} ({client.session_id})", [client], found, story, planned)

    # -- kills

    async def _kill_all(
        self, planned: Sequence[Kill], progress: Progress, runs: Sequence[asyncio.Task[None]], where: str
    ) -> None:
        again = next((kill for kill in planned if kill.after == "start"), None)
        for kill in planned:
            self.tally.kills[f"{kill.who} after {kill.after}"] += 1
            if kill is again:
                continue  # the kill before it does this one too
            await self._moment(kill, progress, runs)
            match kill.who:
                case "agent":
                    self._kill_agent()
                case "database":
                    await self._kill_database()
                case "server":
                    await self._kill_server(where, again)

    async def _moment(self, kill: Kill, progress: Progress, runs: Sequence[asyncio.Task[None]]) -> None:
        """Return when it is time, or at once when the sessions are at their end already."""

        async def ended() -> None:
            await asyncio.wait(runs)

        async with asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(ended()), tasks.create_task(self._wait_for(kill, progress))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()

    async def _wait_for(self, kill: Kill, progress: Progress) -> None:
        match kill.after:
            case "events" | "calls":
                await progress.until(kill.after, getattr(progress, kill.after) + kill.count)
            case "requests":
                since = monotonic()
                await self._model.wait_for_requests(
                    kill.count, timeout=SETTLE_SECONDS, where=lambda request: request.received_at > since
                )
            case "nothing" | "start":
                pass
        if kill.delay:
            await asyncio.sleep(kill.delay)  # the moment itself is what is random here

    async def _kill_server(self, where: str, again: Kill | None) -> None:
        await self._server.kill()
        traces = self._server.sandboxes()
        if self._random.random() < 0.5:
            await self._examine_dead(where)
        await self._server.spawn()
        if again is not None:
            await asyncio.sleep(again.delay)
            await self._server.kill()
            traces += self._server.sandboxes()
            await self._server.spawn()
        await self._server.ready()
        left = self._server.left_of(traces)
        if left:
            raise Broken(f"{where}: after the restart there is still {left}")

    def _kill_agent(self) -> None:
        """Kill the `claude` or the bubblewrap of a sandbox; not a tool's shell, whose death is an ordinary result."""
        victims: list[int] = []
        for trace in self._server.sandboxes():
            named = [(pid, _comm(pid)) for pid, _ in trace.processes]
            victims += [pid for pid, name in named if name == "bwrap"]
            # The oldest: a child of `claude` that is about to become a shell has its name too, for a moment.
            victims += sorted(pid for pid, name in named if name == "claude")[:1]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(victims), signal.SIGKILL)

    async def _kill_database(self) -> None:
        """End it without a word to anybody, and start it again; sometimes only after leases have run out."""
        assert self._cluster is not None
        await asyncio.to_thread(self._cluster.stop, self._random.choice(("immediate", "kill")))
        await asyncio.sleep(self._random.choice((0.0, self._random.uniform(0.0, 2.0), LEASE_SECONDS + 2.0)))
        await asyncio.to_thread(self._cluster.start)

    async def _examine_dead(self, where: str) -> None:
        """While nobody serves: is every effect recorded?"""
        database = await Database.open(self._url)
        try:
            for client in self._clients:
                done = read_log(self._workspace(client))
                found = unannounced((await read_stored(database, client.session_id)).rows, done)
                if found:
                    raise Broken(f"{where}, session {client.plan.name}, before the restart: {found}")
        finally:
            await database.close()

    # -- evidence

    def _fail(
        self,
        where: str,
        clients: Sequence[Client],
        found: Sequence[str],
        story: Story | None = None,
        planned: Sequence[Kill] = (),
    ) -> None:
        lines = [where, *map(str, planned), *found]
        for client in clients:
            lines += [f"---- {client.plan}", f"---- stream of {client.session_id}, interrupted: {client.interrupted}"]
            lines += [f"{seq} {body}" for seq, body in sorted(client.seen.items())]
        if story is not None:
            lines += ["---- log", *(f"{seq} {body}" for seq, _, body in story.stored.rows)]
            lines += ["---- state", str(story.stored.state), "---- workspace", *story.done]
            lines += ["---- transcript", *map(str, story.stored.transcript)]
        evidence = self._folder / "evidence.txt"
        evidence.write_text("\n".join(lines))
        raise Broken(f"{where}: {'; '.join(found)} (evidence: {evidence})")


@asynccontextmanager
async def chaos(seed: int, store: Store) -> AsyncIterator[Chaos]:
    """A run that has begun. Its folder is removed at the end, unless something broke."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-chaos-"))
    folder.chmod(0o711)
    async with contextlib.AsyncExitStack() as stack:
        url = f"sqlite:///{folder / 'chaos.db'}"
        cluster: PostgresCluster | None = None
        if store == "postgresql":
            cluster = stack.enter_context(PostgresCluster(durable=True))
            url = cluster.create_database("chaos")
        database = await Database.open(url)
        _, key = await create_key(database, "chaos")
        await database.close()
        model = await stack.enter_async_context(RehearsalModel())
        environment = {
            "PATH": os.environ["PATH"],
            "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap",
            "HOME": str(folder),
            "HOSTLER_STATE_DIR": str(folder / "state"),
            "HOSTLER_STORE__URL": url,
            "HOSTLER_SERVER__PORT": "0",
            "HOSTLER_MODEL__BASE_URL": model.url,
            "HOSTLER_SANDBOX__FIRST_UID": str(UIDS.start),
            "HOSTLER_SANDBOX__UIDS": str(len(UIDS)),
            "HOSTLER_TURNS__IDLE_TIMEOUT_SECONDS": "2",
            "HOSTLER_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
        }
        server = Server(folder / "state", environment, folder / "server.log")
        api = Api(server.address, key)
        stack.push_async_callback(api.close)
        run = Chaos(Random(seed), folder, server, model, url, api, cluster)
        stack.push_async_callback(server.kill)
        await run.begin()
        yield run
        await run.end()
    shutil.rmtree(folder, ignore_errors=True)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
