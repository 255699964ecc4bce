"""What does it cost that a session was asleep? Everything in the same run, alternating.

    .venv/bin/python bench/hibernation.py [--rounds 9] [--turns 20,100,300] [--stores sqlite,postgresql]
                                          [--only resume,spare,rows] [--rows 100000]

`resume`: an event sent to a session without a process → first model request, with its files on the worker (`local`) and
with nothing of it there (`restored`: 200 files, 4 MB, from the object store), against the bare Agent SDK's `resume` of
the very same transcript. Turns have a tool call each, some 18 kB of transcript. `spare`: the same with the files on the
worker, in an environment that keeps spares, when one is there for a session that wakes up. `rows`: list, send and
resume on a server with that many hibernated sessions, against one with 100. Figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import anthropic
import sqlalchemy as sa
from claude_agent_sdk import project_key_for_directory, query

from hostler.domain.ids import derived_uuid, new_id
from hostler.engine.profile import transcript_id
from hostler.event_loop import new_event_loop
from hostler.store.database import Database
from hostler.store.transcripts import TranscriptStore
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import Recorder, RehearsalModel, prompt, step, tool
from main_job import HELLO, MODEL, bare_options, first_request_after, median, show

FILES = "mkdir -p src && cd src && for i in $(seq 200); do head -c 20000 /dev/urandom > f$i; done; echo made"
PER_TURN = 5_000
"""Characters that a tool call of a turn gives back."""
QUIET_SECONDS = 0.5
"""Before each measurement: a `claude` that is ending takes a processor for some time."""


@dataclass
class Server:
    client: anthropic.AsyncAnthropic
    database: Database
    state: Path
    agent: str
    environment: str
    spared: str
    """An environment with two spares: one for new sessions, one for those that wake up."""

    async def session(self, environment: str | None = None) -> str:
        made = await self.client.beta.sessions.create(agent=self.agent, environment_id=environment or self.environment)
        return made.id

    async def spares(self, count: int) -> None:
        """Until so many are there."""
        health: dict[str, Any] = {"spares": {"waiting": -1}}
        while health["spares"]["waiting"] != count or health["spares"]["starting"]:
            await asyncio.sleep(0.05)
            health = await self.client.get("/hostler/v1/health", cast_to=dict[str, Any])

    async def send(self, session: str, text: str = HELLO) -> None:
        event: Any = {"type": "user.message", "content": [{"type": "text", "text": text}]}
        await self.client.beta.sessions.events.send(session, events=[event])

    async def asleep(self, session: str) -> None:
        """Until nobody has the session, and it wants nobody."""
        query_ = sa.text("SELECT 1 FROM work WHERE session_id = :id AND owner IS NULL AND NOT wanted")
        while not await self.database.read(lambda c: c.execute(query_, {"id": session}).scalar()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def forget(self, session: str) -> None:
        """Nothing of it is on this host."""
        shutil.rmtree(self.state / "sessions" / session, ignore_errors=True)
        for name in (f"volumes/{session}.img", f"volumes/{session}.open", f"homes/{session}.json"):
            (self.state / name).unlink(missing_ok=True)
        for found in (self.state / "snapshots").glob(f"*{session}*"):
            found.unlink()


@asynccontextmanager
async def server(model: RehearsalModel, store: str, cluster: PostgresCluster | None) -> AsyncIterator[Server]:
    state = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    url = f"sqlite:///{state / 'hostler.db'}"
    if store == "postgresql":
        assert cluster is not None
        url = cluster.create_database(f"bench_{monotonic_ns()}")
    settings = {
        "state_dir": str(state),
        "server__port": 0,
        "model__base_url": model.url,
        "store__url": url,
        "sandbox__technology": "bubblewrap",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("serve.py")),
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin
    assert process.stdout
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        database = await Database.open(url)
        async with anthropic.AsyncAnthropic(**told) as client:
            tools: Any = [{"type": "agent_toolset_20260401"}]
            agent = await client.beta.agents.create(name="Bench", model=MODEL, tools=tools)
            config: Any = {
                "type": "cloud",
                "networking": {"type": "limited", "allowed_hosts": []},
                "hosting": {"idle_timeout_seconds": 0},
            }
            environment = await client.beta.environments.create(name="bench", config=config)
            config = {**config, "hosting": {"idle_timeout_seconds": 0, "spares": 2}}
            spared = await client.beta.environments.create(name="spared", config=config)
            yield Server(client, database, state, agent.id, environment.id, spared.id)
        await database.close()
    finally:
        process.stdin.close()
        await process.wait()
        shutil.rmtree(state, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ resume


async def conversation(sut: Server, session: str, turns: int) -> list[Any]:
    """Gives the session, which has had one turn with a call, a transcript of that many. What it says then."""
    key: Any = {"project_key": "-workspace", "session_id": transcript_id(session)}
    store = TranscriptStore(sut.database, session_id=session)
    entries: list[Any] = [e for e in await store.load(key) or [] if e.get("type") != "last-prompt"]
    chained = [entry for entry in entries if entry.get("uuid") and entry.get("type") in ("user", "assistant")]
    parent = chained[-1]["uuid"]
    more = []
    for _ in range(turns - 1):
        names: dict[str, str] = {}
        for entry in chained:
            text = json.dumps(entry)
            for old in [e["uuid"] for e in chained] + calls(chained):
                text = text.replace(old, names.setdefault(old, fresh(old)))
            made = json.loads(text) | {"parentUuid": parent}
            if made.get("type") == "user" and "tool_use_id" in text:
                made["toolUseResult"] = "x" * PER_TURN
                made["message"]["content"][0]["content"] = "x" * PER_TURN
            parent = made["uuid"]
            more.append(made)
    for start in range(0, len(more), 100):
        await store.append(key, more[start : start + 100])
    return [*entries, *more]


def calls(entries: list[Any]) -> list[str]:
    contents = [entry["message"]["content"] for entry in entries if "message" in entry]
    return [block["id"] for content in contents for block in content if isinstance(block, dict) and "id" in block]


def fresh(old: str) -> str:
    return derived_uuid(new_id("x")) if old.count("-") == 4 else new_id("toolu")


async def resume(
    model: RehearsalModel,
    recorder: Recorder,
    sut: Server,
    home: Path,
    turns: int,
    rounds: int,
    store: str,
    ways: Sequence[str],
) -> None:
    """`ways`: `local` and `restored`, or `spare`."""
    session = await sut.session(sut.spared if "spare" in ways else None)
    await sut.send(session, prompt([step(tool("bash", command=FILES)), step("Done.")]))
    await sut.asleep(session)
    entries = await conversation(sut, session, turns)
    folder = home / ".claude" / "projects" / project_key_for_directory(str(home))
    folder.mkdir(parents=True, exist_ok=True)
    theirs: list[float] = []
    mine: dict[str, list[float]] = {way: [] for way in ways}
    size = 0

    async def bare(name: str) -> None:
        options = replace(bare_options(model, home), resume=name)
        async for _ in query(prompt=HELLO, options=options):
            pass

    async def ours() -> None:
        await sut.send(session)

    most = 0
    for number in range(rounds + 1):
        recorder.clear()  # it remembers a bounded number of bytes
        name = derived_uuid(new_id("x"))
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        size = len(text)
        (folder / f"{name}.jsonl").write_text(text.replace(transcript_id(session), name))
        await asyncio.sleep(QUIET_SECONDS)
        figures = [await first_request_after(model, lambda name=name: bare(name))]  # type: ignore[misc]
        for way in ways:
            if way == "restored":
                sut.forget(session)
            if way == "spare":
                await sut.spares(2)
            await asyncio.sleep(QUIET_SECONDS)
            figures.append(await first_request_after(model, ours))
            await sut.asleep(session)
        most = max(len(request.body["messages"]) for request in model.message_requests)
        if number:  # the first round warms everything up
            for into, figure in zip((theirs, *mine.values()), figures, strict=True):
                into.append(figure)
    ratios = {way: median([m / t for m, t in zip(mine[way], theirs, strict=True)]) for way in ways}
    show(
        f"resume after {turns} turns, {size / 1e6:.1f} MB, {most} messages ({store})",
        f"bare {median(theirs):.0f} ms",
        *(f"{way} {median(mine[way]):.0f} ms, {ratios[way]:.2f} x (≤ 1.25)" for way in ways),
    )


# ------------------------------------------------------------------------------------------------ rows


async def fill(sut: Server, session: str, rows: int) -> None:
    """Copies of a hibernated session, with all its rows, until there are that many."""
    for first in range(0, rows, 5_000):
        ids = [new_id("sesn") for _ in range(min(5_000, rows - first))]
        await sut.database.write(lambda c, ids=ids: copy(c, session, ids))  # type: ignore[misc]
    # What PostgreSQL does by itself within a minute of so many rows; until then it takes the table for an empty one.
    await sut.database.write(lambda c: c.execute(sa.text("ANALYZE")).close())


def copy(conn: sa.Connection, session: str, ids: list[str]) -> None:
    metadata = sa.MetaData()
    metadata.reflect(conn, only=["sessions", "work", "session_homes", "events", "snapshots"])
    for table in (metadata.tables[name] for name in ("sessions", "work", "session_homes", "events", "snapshots")):
        own = "id" if table.name == "sessions" else "session_id"
        originals = conn.execute(table.select().where(table.c[own] == session)).mappings().all()
        originals = originals[-3:] if table.name == "events" else originals
        made = []
        for id_ in ids:
            for original in originals:
                more = {"id": new_id("snap")} if table.name == "snapshots" else {}
                made.append({**original, own: id_, **more})
        if made:
            conn.execute(table.insert(), made)


async def rows(model: RehearsalModel, few: Server, many: Server, count: int, rounds: int, store: str) -> None:
    both = []
    for sut, size in ((few, 100), (many, count)):
        session = await sut.session()
        await sut.send(session, prompt([step(tool("bash", command="echo 1 > file")), step("Done.")]))
        await sut.asleep(session)
        await fill(sut, session, size)
        both.append((sut, session))
    figures: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ("list", "send", "resume")}
    for number in range(rounds + 2):
        for at, (sut, session) in enumerate(both):
            begun = monotonic()
            await sut.client.beta.sessions.list(limit=20)
            listed = (monotonic() - begun) * 1000
            sent = 0.0

            async def send(sut: Server = sut, session: str = session) -> None:
                nonlocal sent
                begun = monotonic()
                await sut.send(session)
                sent = (monotonic() - begun) * 1000

            resumed = await first_request_after(model, send)
            await sut.asleep(session)
            if number >= 2:
                for name, figure in (("list", listed), ("send", sent), ("resume", resumed)):
                    figures[name][at].append(figure)
    for name, (small, large) in figures.items():
        ratio = median(large) / median(small)
        show(
            f"{name} with {count:,} hibernated sessions ({store})",
            f"100: {median(small):.1f} ms",
            f"{count:,}: {median(large):.1f} ms",
            f"ratio {ratio:.2f} (≤ 1.3)",
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", default="20,100,300")
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("--only", default="resume,spare,rows")
    parser.add_argument("--rows", type=int, default=100_000)
    wanted = parser.parse_args()
    stores, only = wanted.stores.split(","), wanted.only.split(",")
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as place:
        cluster = PostgresCluster().__enter__() if "postgresql" in stores else None
        try:
            recorder = Recorder()
            async with RehearsalModel(recorder=recorder) as model:
                for store in stores:
                    for name, ways in (("resume", ("local", "restored")), ("spare", ("spare",))):
                        if name in only:
                            async with server(model, store, cluster) as sut:
                                for turns in map(int, wanted.turns.split(",")):
                                    await resume(model, recorder, sut, Path(place), turns, wanted.rounds, store, ways)
                    if "rows" in only:
                        async with server(model, store, cluster) as few, server(model, store, cluster) as many:
                            await rows(model, few, many, wanted.rows, wanted.rounds, store)
        finally:
            if cluster is not None:
                cluster.__exit__(None, None, None)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
