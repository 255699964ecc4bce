"""Many sessions that are used in turn on a host that can't hold them all: one command.

    .venv/bin/python bench/round_robin.py [--sessions 200] [--memory 8g] [--rounds 3] [--clients 4] [--store sqlite]
                                          [--bare 20]

One server in a memory control group (version 1) of that size, or with `admission.memory_mb` where no group can be
made. The clients take the sessions in turn: in every round one message each, and when that is answered a second one,
as from somebody who replies at once; then the next session. What is measured is the time from sending to the first
model request: of new sessions (the first round), of sessions whose process was there, and of those that had to come
back. After each round the bare Agent SDK resumes `--bare` conversations of its own with as many clients, one process
per message. At the end every answer is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import anthropic
import sqlalchemy as sa
from claude_agent_sdk import ResultMessage, query

from hostler.event_loop import new_event_loop
from hostler.sandbox.cgroup_detection import own_groups
from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import Recorder, RehearsalModel, prompt, step, text
from hostler.testing.rehearsal.record import RecordedRequest
from main_job import MODEL, bare_options, percentile, show

MIB = 1 << 20
LIVE = "SELECT count(*) FROM work WHERE live AND lease_until > :now AND session_id LIKE :id"
CLAIMS = "SELECT coalesce(sum(epoch), 0) FROM work"


class Arrivals(Recorder):
    """When the first model request of a message came, whoever else asks at the same time: messages have marks."""

    def __init__(self) -> None:
        super().__init__(limit=4, limit_bytes=1 << 20)
        self._marks = count(1)
        self._awaited: dict[str, asyncio.Future[float]] = {}

    def message(self) -> tuple[str, asyncio.Future[float]]:
        mark = f"mark-{next(self._marks)}-"
        found = self._awaited[mark] = asyncio.get_running_loop().create_future()
        return prompt([step(text(f"Said {mark}"))]), found

    async def add(self, request: RecordedRequest) -> None:
        if isinstance(request.body, dict):
            for mark in re.findall(r"mark-\d+-", json.dumps(request.body.get("messages", [])[-3:])):
                awaited = self._awaited.pop(mark, None)
                if awaited is not None:
                    awaited.set_result(request.received_at)
        await super().add(request)


class Group:
    """The memory control group of the server. None can be made: `folder` is None."""

    def __init__(self, limit: int) -> None:
        self.folder: Path | None = None
        self.most_needed = 0
        for hierarchy in own_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()):
            if "memory" in hierarchy.controllers:
                folder = hierarchy.own / f"hostler-bench-{monotonic_ns()}"
                with suppress(OSError):
                    folder.mkdir()
                    (folder / "memory.limit_in_bytes").write_text(str(limit))
                    self.folder = folder

    def look(self) -> None:
        """What is used without what holds parts of files."""
        if self.folder is not None:
            stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
            files = int(stat["total_inactive_file"]) + int(stat["total_active_file"])
            used = int((self.folder / "memory.usage_in_bytes").read_text())
            self.most_needed = max(self.most_needed, used - files)

    def number(self, name: str) -> int:
        return 0 if self.folder is None else int((self.folder / name).read_text())

    def remove(self) -> None:
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()


@dataclass
class Server:
    client: anthropic.AsyncAnthropic
    database: Database

    async def is_live(self, session: str = "%") -> int:
        def unit(conn: sa.Connection) -> int:
            return int(conn.execute(sa.text(LIVE), {"now": self.database.now(conn), "id": session}).scalar_one())

        return await self.database.read(unit)

    async def claims(self) -> int:
        """How often a session was taken up by the worker, so far."""
        return await self.database.read(lambda c: int(c.execute(sa.text(CLAIMS)).scalar_one()))


@asynccontextmanager
async def server(model: RehearsalModel, group: Group, memory: int, url: str, state: Path) -> AsyncIterator[Server]:
    settings: dict[str, Any] = {
        "state_dir": str(state),
        "server__port": 0,
        "model__base_url": model.url,
        "store__url": url,
        "worker__slots": 1000,
        "turns__idle_timeout_seconds": 3600,  # nothing but the want of memory ends a process
    }
    if group.folder is None:
        settings["admission__memory_mb"] = memory // MIB
    enter = "" if group.folder is None else f"echo $$ > {shlex.quote(str(group.folder / 'cgroup.procs'))} && "
    arguments = shlex.join([sys.executable, str(Path(__file__).with_name("serve.py")), json.dumps(settings)])
    with (state.parent / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f"{enter}exec {arguments}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin
    assert process.stdout
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        database = await Database.open(url)
        async with anthropic.AsyncAnthropic(**told, timeout=900) as client:
            yield Server(client, database)
        await database.close()
    finally:
        process.stdin.close()
        await process.wait()


@dataclass
class Figures:
    """Milliseconds from a message to its first model request."""

    new: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    messages: int = 0
    seconds: float = 0.0
    most_live: int = 0


async def in_turn(items: Sequence[Any], clients: int, act: Callable[[Any], Awaitable[None]]) -> None:
    """Each client takes the next one when it has done the one before."""
    rest = iter(items)

    async def client() -> None:
        for item in rest:
            await act(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


async def hosted_round(sut: Server, arrivals: Arrivals, sessions: Sequence[str], clients: int, into: Figures) -> None:
    first = not into.messages

    async def one(session: str) -> None:
        await say(session, first)
        await say(session, False)

    async def say(session: str, is_new: bool) -> None:
        message, arrived = arrivals.message()
        figures = into.new if is_new else into.live if await sut.is_live(session) else into.resumed
        events: Any = [{"type": "user.message", "content": [{"type": "text", "text": message}]}]
        begun = monotonic()
        await sut.client.beta.sessions.events.send(session, events=events)
        async with asyncio.timeout(900):
            figures.append((await arrived - begun) * 1000)
            while (await sut.client.beta.sessions.retrieve(session)).status != "idle":  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    begun = monotonic()
    await in_turn(sessions, clients, one)
    into.seconds += monotonic() - begun
    into.messages += 2 * len(sessions)


async def bare_round(
    model: RehearsalModel, arrivals: Arrivals, home: Path, names: list[str | None], clients: int, into: Figures
) -> None:
    async def one(number: int) -> None:
        message, arrived = arrivals.message()
        begun = monotonic()
        resumes = names[number]
        async for said in query(prompt=message, options=replace(bare_options(model, home), resume=resumes)):
            if isinstance(said, ResultMessage):
                names[number] = said.session_id
        if resumes is not None:
            into.bare.append((await arrived - begun) * 1000)

    await in_turn(range(len(names)), clients, one)


async def watch(sut: Server, group: Group, into: Figures) -> None:
    while True:
        group.look()
        into.most_live = max(into.most_live, await sut.is_live())
        await asyncio.sleep(0.5)


async def answered(sut: Server, sessions: Sequence[str], messages: int) -> tuple[int, int]:
    """How many sessions have anything but one answer to each message, and how many waits were told."""
    wrong = waits = 0
    for session in sessions:
        events = [event async for event in sut.client.beta.sessions.events.list(session, limit=1000)]
        errors = [event.error for event in events if event.type == "session.error"]
        told = [error for error in errors if (getattr(error, "hostler", None) or {}).get("type") == "waiting_for_place"]
        answers = sum(1 for event in events if event.type == "agent.message")
        waits += len(told)
        wrong += answers != messages or len(errors) != len(told)
    return wrong, waits


def told(name: str, values: Sequence[float]) -> None:
    if values:
        p50, p99 = percentile(list(values), 0.5), percentile(list(values), 0.99)
        show(f"first model request, {name} ({len(values)})", f"p50 {p50:.0f} ms", f"p99 {p99:.0f} ms")


def size(text: str) -> int:
    number, unit = text[:-1], text[-1].lower()
    return int(float(number) * {"k": 1 << 10, "m": MIB, "g": 1 << 30}[unit])


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--memory", type=size, default=size("8g"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--bare", type=int, default=20)
    wanted = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    group, figures, arrivals = Group(wanted.memory), Figures(), Arrivals()
    cluster = PostgresCluster().__enter__() if wanted.store == "postgresql" else None
    state, home = place / "state", place / "bare"
    home.mkdir()
    url = f"sqlite:///{place / 'hostler.db'}" if cluster is None else cluster.create_database("round_robin")
    names: list[str | None] = [None] * wanted.bare
    try:
        async with (
            RehearsalModel(recorder=arrivals) as model,
            server(model, group, wanted.memory, url, state) as sut,
        ):
            tools: Any = [{"type": "agent_toolset_20260401"}]
            agent = await sut.client.beta.agents.create(name="Bench", model=MODEL, tools=tools)
            config: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
            environment = await sut.client.beta.environments.create(name="bench", config=config)
            made = [
                await sut.client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
                for _ in range(wanted.sessions)
            ]
            sessions = [session.id for session in made]
            await bare_round(model, arrivals, home, names, wanted.clients, figures)
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(watch(sut, group, figures))
                for _ in range(wanted.rounds):
                    await hosted_round(sut, arrivals, sessions, wanted.clients, figures)
                    await bare_round(model, arrivals, home, names, wanted.clients, figures)
                watcher.cancel()
            claims, live = await sut.claims(), await sut.is_live()
            wrong, waits = await answered(sut, sessions, 2 * wanted.rounds)
            kills = group.number("memory.failcnt")
            peak = group.number("memory.max_usage_in_bytes")
    finally:
        if cluster is not None:
            cluster.__exit__(None, None, None)
        group.remove()
        shutil.rmtree(place, ignore_errors=True)
    where = "a control group" if group.folder is not None else "admission.memory_mb"
    print(f"{wanted.sessions} sessions in turn, {wanted.clients} clients, {wanted.memory / 2**30:g} GiB by {where}")
    show("messages", f"{figures.messages}", f"{60 * figures.messages / figures.seconds:.0f} a minute")
    told("new session", figures.new)
    told("live session", figures.live)
    told("resumed session", figures.resumed)
    told("bare `resume` of the Agent SDK", figures.bare)
    show("taken up / hibernated", f"{claims}", f"{claims - live}")
    show("live at most", f"{figures.most_live}")
    if group.folder is not None:
        show("memory, without / with what files hold", f"{group.most_needed / MIB:.0f} MiB", f"{peak / MIB:.0f} MiB")
        show("limit reached, files' memory was given up then", f"{kills} times")
    show("waits that sessions told of", f"{waits}")
    show("sessions with anything but one answer per message", f"{wrong} (0)")
    return 1 if wrong else 0


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        sys.exit(runner.run(main()))
