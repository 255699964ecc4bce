"""One run: a budget of one dollar, a hundred requests at once, and gateways that are killed meanwhile.

How requests, answers and kills go follows from a seed; how they meet does not. At the end the upstream's own book is
compared with the budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - a seed must give the same run again
from typing import Any

import sqlalchemy as sa
from budget_upstream import Upstream
from sqlalchemy import Connection

from hostler.domain.prices import Prices
from hostler.engine.purse import StoredPurse
from hostler.store import budgets, work
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.ledger import total
from hostler.store.reservations import open_reservations
from hostler.store.sessions import NewSession, create_session
from hostler.store.tables import workspaces

DOLLAR = 1_000_000_000
REQUESTS = 100
DEADLINE = 90.0
LIMIT = {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}}


class WallBroken(AssertionError):
    """More was spent than the budget, or something is left of a request."""


@dataclass
class Tally:
    """What all runs have met, so that it can be seen that they met anything."""

    runs: int = 0
    kills: int = 0
    charged: int = 0
    spent: int = 0
    uncertain: int = 0
    reached: int = 0
    hung_up: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        share = self.charged / max(1, self.runs) / DOLLAR
        answers = ", ".join(f"{count} {name}" for name, count in self.answers.most_common())
        return (
            f"{self.runs} runs: ${share:.3f} of each dollar charged by the upstream, "
            f"${self.spent / max(1, self.runs) / DOLLAR:.3f} known and "
            f"${self.uncertain / max(1, self.runs) / DOLLAR:.3f} uncertain; {self.kills} gateways killed, "
            f"budget reached {self.reached} times, {self.hung_up} requests hung up; answers: {answers}"
        )


@dataclass
class Gateways:
    """The process that makes gateways, and what they say."""

    url: str
    process: asyncio.subprocess.Process
    ready: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    count: int = 0
    failed: list[str] = field(default_factory=list)

    async def start(self, order: dict[str, Any]) -> int:
        """Its process id, once it listens."""
        self.count += 1
        future = self.ready[self.count] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**order, "id": self.count}).encode() + b"\n")
        async with asyncio.timeout(DEADLINE):
            return await future

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if "ready" in said:
                self.ready.pop(said["id"]).set_result(said["ready"])
            elif "reached" in said:
                self.reached[said["reached"]].set()
                self.reached[said["reached"]] = asyncio.Event()
            else:
                self.failed.append(said["failed"])


async def gone(pid: int) -> None:
    """Until the process of this id is no more."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(DEADLINE):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Nothing: the connection is gone."""
    with contextlib.suppress(OSError):
        return await reader.readline()
    return b""


@contextlib.asynccontextmanager
async def gateways(url: str) -> AsyncIterator[Gateways]:
    program = Path(__file__).with_name("budget_gateways.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    made = Gateways(url, process)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(made.listen())
        try:
            yield made
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            listening.cancel()


@dataclass
class Host:
    """One gateway, with the sessions that it serves. Killed, and then another one in its place."""

    sessions: dict[str, str]
    """Sockets."""
    pid: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)


class Run:
    """One run on one database."""

    def __init__(self, database: Database, made: Gateways, upstream: Upstream, folder: Path, seed: str) -> None:
        self.database = database
        self.made = made
        self.upstream = upstream
        self.folder = folder
        self.seed = seed
        self.random = Random(seed)
        self.key = seed.replace(" ", "_")
        self.scope = self.random.choice(("session", "session", "agent", "workspace"))
        self.hosts: list[Host] = []
        self.kills = 0
        self.reached = 0
        self.hung_up = 0
        self.over = asyncio.Event()

    async def run(self, tally: Tally) -> None:
        await self._arrange()
        before = Counter(self.upstream.book.answers)
        async with asyncio.TaskGroup() as tasks:
            killer = tasks.create_task(self._kill())
            clients = [tasks.create_task(self._client(number)) for number in range(REQUESTS)]
            await asyncio.wait(clients)
            self.over.set()
            await killer
        for host in self.hosts:
            os.kill(host.pid, signal.SIGTERM)
        for host in self.hosts:
            await gone(host.pid)
        await self._check(tally)
        tally.runs += 1
        tally.kills += self.kills
        tally.reached += self.reached
        tally.hung_up += self.hung_up
        tally.answers += Counter(self.upstream.book.answers) - before

    # ------------------------------------------------------------------------------------------------------- arranged

    async def _arrange(self) -> None:
        self.workspace = f"wrkspc_{self.key}"
        self.agent = f"agent_{self.key}"
        count = 1 if self.scope == "session" else 3
        self.sessions = [f"sesn_{self.key}_{number}" for number in range(count)]

        def unit(conn: Connection) -> None:
            now = self.database.now(conn)
            at = "2026-01-01T00:00:00.000000Z"
            conn.execute(workspaces.insert().values(id=self.workspace, name=self.workspace, created_at=at))
            create_agent(conn, now, id=self.agent, workspace_id=self.workspace, name="A", body={})
            create_environment(conn, now, id=f"env_{self.key}", workspace_id=self.workspace, name="e", body={})
            for session in self.sessions:
                new = NewSession(
                    id=session,
                    workspace_id=self.workspace,
                    agent_id=self.agent,
                    agent_version=1,
                    environment_id=f"env_{self.key}",
                    thread_id=f"sthr_{session}",
                    agent={},
                    environment={},
                    state="{}",
                    budget=LIMIT if self.scope == "session" else None,
                )
                create_session(conn, now, new)
            if self.scope == "agent":
                budgets.create(conn, now, self.workspace, "agent", self.agent, "month", DOLLAR, (50, 80))
            if self.scope == "workspace":
                budgets.create(conn, now, self.workspace, "workspace", self.workspace, "total", DOLLAR)

        await self.database.write(unit)
        sockets = {session: str(self.folder / f"{session[-24:]}.sock") for session in self.sessions}
        parts = [self.sessions] if self.scope == "session" else [self.sessions[:1], self.sessions[1:]]
        for part in parts:
            host = Host({session: sockets[session] for session in part})
            self.hosts.append(host)
            for session in part:
                self.made.reached[session] = asyncio.Event()
            await self._up(host)

    async def _up(self, host: Host) -> None:
        """A gateway for its sessions, under a new lease of each."""

        def lease(conn: Connection) -> dict[str, int]:
            now = self.database.now(conn)
            epochs = {}
            for session in host.sessions:
                for old in work.leases(conn, f"owner {session}"):
                    work.release(conn, old)
                claimed = work.claim_free(conn, now, f"owner {session}", session, ttl=600.0)
                assert claimed is not None
                epochs[session] = claimed.epoch
            return epochs

        epochs = await self.database.write(lease)
        order = {
            "port": self.upstream.port,
            "workspace": self.workspace,
            "agent": self.agent,
            "wait_seconds": 1.0,
            "sessions": {session: [socket, epochs[session]] for session, socket in host.sessions.items()},
        }
        host.pid = await self.made.start(order)
        host.up.set()

    async def _kill(self) -> None:
        """Up to three times some gateway is killed, whatever it is doing."""
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.random.uniform(0.01, 0.3)):
                    await self.over.wait()
            if self.over.is_set():
                return
            host = self.random.choice(self.hosts)
            host.up.clear()
            os.kill(host.pid, signal.SIGKILL)
            await gone(host.pid)
            self.kills += 1
            await self._up(host)

    # -------------------------------------------------------------------------------------------------------- requests

    async def _client(self, number: int) -> None:
        """One request, which is made again by its client when it fails, as `claude` does."""
        random = Random(f"{self.seed} client {number}")
        session = random.choice(self.sessions)
        host = next(host for host in self.hosts if session in host.sessions)
        body, headers = self._request(random)
        await asyncio.sleep(random.uniform(0, 0.08))
        for _ in range(random.randint(1, 3)):
            await host.up.wait()
            reached = self.made.reached[session]
            try:
                if await self._once(random, host.sessions[session], body, headers, reached):
                    return
            except (OSError, asyncio.IncompleteReadError):
                continue

    def _request(self, random: Random) -> tuple[bytes, str]:
        cache = random.choice((None, None, "5m", "1h"))
        plan = {"seed": self.seed, "key": self.key, "density": random.choice((0.25, 0.3, 0.5, 1.0)), "cache": cache}
        text = json.dumps(plan) + "\n" + "x" * random.randint(10, random.choice((500, 3_000, 20_000)))
        block: dict[str, Any] = {"type": "text", "text": text}
        if cache is not None:
            block["cache_control"] = {"type": "ephemeral", "ttl": cache}
        body: dict[str, Any] = {
            "model": random.choice(("claude-opus-5-5", "claude-opus-5-5", "claude-haiku-5-5")),
            "max_tokens": random.choice((64, 300, 1_000, 4_000, 16_000)),
            "messages": [{"role": "user", "content": [block]}],
            "metadata": {"fallback": random.random() < 0.3},
            "stream": random.random() < 0.8,
        }
        if random.random() < 0.2 and body["max_tokens"] > 2_000:
            body["thinking"] = {"type": "enabled", "budget_tokens": body["max_tokens"] - 500}
        if random.random() < 0.05:
            body["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": random.randint(1, 4)}]
        agent = f"x-claude-code-agent-id: a{random.randint(1, 5)}\r\n" if random.random() < 0.6 else ""
        return json.dumps(body).encode(), agent

    async def _once(self, random: Random, socket: str, body: bytes, headers: str, reached: asyncio.Event) -> bool:
        """Whether the client is done with it."""
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            hangs_up = random.random() < 0.15
            if hangs_up:
                self.hung_up += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0, 0.05)):
                        await reader.read(1 << 16)
                return random.random() < 0.5
            status = await self._head(reader, reached)
            if status is None:
                return True
            async with asyncio.timeout(DEADLINE):
                await reader.read(random.choice((64, 1 << 20)))
            return status == 200 or status < 500
        finally:
            writer.transport.abort()

    async def _head(self, reader: asyncio.StreamReader, reached: asyncio.Event) -> int | None:
        """The status of the answer. None: the budget is reached, and whoever asks is being stopped."""
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(_line(reader))
            stop = tasks.create_task(reached.wait())
            await asyncio.wait((answer, stop), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                self.reached += 1
                return None
            stop.cancel()
        line = answer.result()
        if not line:
            raise ConnectionResetError
        return int(line.split()[1])

    # --------------------------------------------------------------------------------------------------------- checked

    async def _check(self, tally: Tally) -> None:
        if self.made.failed:
            raise WallBroken(f"a gateway failed: {self.made.failed}")
        if self.upstream.book.wrong:
            raise WallBroken(f"the API would have refused: {self.upstream.book.wrong[:3]}")
        left = await self.database.read(self._open)
        if left and not self.kills:
            raise WallBroken(f"{left} reservations are left, and nothing was killed")

        def release(conn: Connection) -> None:
            for session in self.sessions:
                for old in work.leases(conn, f"owner {session}"):
                    work.release(conn, old)

        await self.database.write(release)
        await StoredPurse(self.database, Prices()).abandon()

        def read(conn: Connection) -> tuple[budgets.BudgetRow, int, int]:
            table = budgets.budgets
            subject = {"session": self.sessions[0], "agent": self.agent, "workspace": self.workspace}[self.scope]
            row = budgets.BudgetRow(*conn.execute(sa.select(table).where(table.c.subject == subject)).one())
            return row, self._open(conn), total(conn, workspace_id=self.workspace).usage.list_cost_nanos

        row, left, recorded = await self.database.read(read)
        charged = self.upstream.book.charged[self.key]
        gone = row.spent_nanos + row.uncertain_nanos
        facts = (
            f"budget of a {self.scope}, {self.kills} kills: charged {charged}, spent {row.spent_nanos}, "
            f"uncertain {row.uncertain_nanos}, recorded {recorded}, reserved {row.reserved_nanos} in {left}"
        )
        if charged > DOLLAR:
            raise WallBroken(f"more was spent than one dollar. {facts}")
        if left or row.reserved_nanos:
            raise WallBroken(f"something is left reserved. {facts}")
        if charged > gone or gone > DOLLAR:
            raise WallBroken(f"the account does not cover what was charged, or more than the limit. {facts}")
        if recorded != row.spent_nanos:
            raise WallBroken(f"ledger and budget disagree. {facts}")
        tally.charged += charged
        tally.spent += row.spent_nanos
        tally.uncertain += row.uncertain_nanos

    def _open(self, conn: Connection) -> int:
        return sum(open_reservations(conn, session) for session in self.sessions)
