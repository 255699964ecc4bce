"""What does Hostler cost over the bare Agent SDK? One command, everything in the same run, alternating.

    .venv/bin/python bench/main_job.py [--rounds 15] [--stores sqlite,postgresql] [--only start,turn,delta,idle,memory]

Both sides run the same `claude`, the same options and the same rehearsal model on this machine. `bare` is the Agent SDK
without sandbox, store or API: what a user would write without Hostler. Figures are medians unless said otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import anthropic
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, query

from hostler.event_loop import new_event_loop
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import RehearsalModel, prompt, stamps, step

MODEL = "claude-opus-5-5"
HELLO = prompt([step("Hello.")])
TOOLS = ["Bash", "Read", "Write", "Edit", "Glob", "Grep", "WebFetch", "WebSearch"]


@dataclass
class Server:
    client: anthropic.AsyncAnthropic
    pid: int
    agent: str
    environment: str

    async def session(self, **more: Any) -> str:
        made = await self.client.beta.sessions.create(agent=self.agent, environment_id=self.environment, **more)
        return made.id


@asynccontextmanager
async def server(model: RehearsalModel, store: str, cluster: PostgresCluster | None) -> AsyncIterator[Server]:
    state = tempfile.mkdtemp(prefix="hostler-bench-")
    settings = {"state_dir": state, "server__port": 0, "model__base_url": model.url, "worker__slots": 64}
    if store == "postgresql":
        assert cluster is not None
        settings["store__url"] = cluster.create_database(f"bench_{monotonic_ns()}")
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
        async with anthropic.AsyncAnthropic(**told) as client:
            toolset: Any = [{"type": "agent_toolset_20260401"}]
            agent = await client.beta.agents.create(name="Bench", model=MODEL, tools=toolset)
            environment = await client.beta.environments.create(
                name="bench", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
            )
            yield Server(client, process.pid, agent.id, environment.id)
    finally:
        process.stdin.close()
        await process.wait()
        shutil.rmtree(state, ignore_errors=True)


def bare_options(model: RehearsalModel, home: Path) -> ClaudeAgentOptions:
    return ClaudeAgentOptions(
        model=MODEL,
        tools=TOOLS,
        cwd=home,
        setting_sources=[],
        strict_mcp_config=True,
        verbatim_prompts=True,
        include_partial_messages=True,
        env={
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "bench",
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )


async def first_request_after(model: RehearsalModel, act: Callable[[], Awaitable[Any]]) -> float:
    """Milliseconds from the call to the arrival of the next model request."""
    count = len(model.message_requests)
    begun = monotonic()
    task = asyncio.ensure_future(act())  # noqa: TID251 - awaited below
    await model.wait_for_requests(count + 1, timeout=60)
    arrived = model.message_requests[count].received_at
    await task
    return (arrived - begun) * 1000


async def until_idle(stream: Any) -> None:
    async for event in stream:
        if event.type == "session.status_idle":
            return


def show(name: str, *figures: str) -> None:
    print(f"{name:<58}" + "".join(f"  {figure:>22}" for figure in figures), flush=True)


def median(values: list[float]) -> float:
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def start(model: RehearsalModel, sut: Server, home: Path, rounds: int, store: str) -> None:
    """Session created with an initial event → first model request, against the bare `query()`."""
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": HELLO}]}

    async def bare() -> None:
        async for _ in query(prompt=HELLO, options=bare_options(model, home)):
            pass

    async def ours() -> None:
        session = await sut.session(initial_events=[message])
        async with await sut.client.beta.sessions.events.stream(session) as stream:
            if (await sut.client.beta.sessions.retrieve(session)).status == "running":
                await until_idle(stream)
        await sut.client.beta.sessions.archive(session)

    theirs, mine = [], []
    for _ in range(rounds):
        theirs.append(await first_request_after(model, bare))
        mine.append(await first_request_after(model, ours))
    ratio = median([m / t for m, t in zip(mine, theirs, strict=True)])
    show(
        f"created with an event → first model request ({store})",
        f"bare {median(theirs):.0f} ms",
        f"hostler {median(mine):.0f} ms",
        f"ratio {ratio:.2f} (≤ 1.25)",
    )


async def turn(model: RehearsalModel, sut: Server, home: Path, rounds: int, store: str) -> None:
    """Turn on a live session: message sent → idle at the client, against the bare client's query → result."""
    async with ClaudeSDKClient(bare_options(model, home)) as client:
        session = await sut.session()
        async with await sut.client.beta.sessions.events.stream(session) as stream:

            async def bare() -> float:
                begun = monotonic()
                await client.query(HELLO)
                async for message in client.receive_response():
                    if isinstance(message, ResultMessage):
                        break
                return (monotonic() - begun) * 1000

            async def ours() -> float:
                begun = monotonic()
                content: Any = [{"type": "text", "text": HELLO}]
                events: Any = [{"type": "user.message", "content": content}]
                await sut.client.beta.sessions.events.send(session, events=events)
                await until_idle(stream)
                return (monotonic() - begun) * 1000

            for _ in range(3):
                await bare()
                await ours()
            pairs = [(await bare(), await ours()) for _ in range(rounds * 4)]
    added = median([m - t for t, m in pairs])
    show(
        f"turn on a live session ({store})",
        f"bare {median([t for t, _ in pairs]):.1f} ms",
        f"hostler {median([m for _, m in pairs]):.1f} ms",
        f"added {added:.1f} ms (≤ 15)",
    )


async def delta(model: RehearsalModel, sut: Server, home: Path, rounds: int, store: str) -> None:
    """Model's text delta → delta at an SSE client, at rising rates. Each delta carries the moment it was sent."""
    for rate in (50, 200, 500):
        session = await sut.session()
        ages: list[float] = []
        stream = await sut.client.beta.sessions.events.stream(session, event_deltas=["agent.message"])
        async with stream:
            text = prompt([step(stamps(rate * 3, rate=rate))])
            events: Any = [{"type": "user.message", "content": [{"type": "text", "text": text}]}]
            await sut.client.beta.sessions.events.send(session, events=events)
            async for event in stream:
                now = monotonic_ns()
                if event.type == "event_delta":
                    sent = [int(part) for part in event.delta.content.text.split() if part.isdigit()]
                    ages += [(now - moment) / 1e6 for moment in sent]
                elif event.type == "session.status_idle":
                    break
        await sut.client.beta.sessions.archive(session)
        show(
            f"delta at {rate}/s → SSE client ({store})",
            f"median {median(ages):.2f} ms (≤ 3)",
            f"p99 {percentile(ages, 0.99):.1f} ms (≤ 15)",
            f"{len(ages)} deltas",
        )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def idle(model: RehearsalModel, sut: Server, home: Path, rounds: int, store: str) -> None:
    """200 open streams with nothing to say, for longer than one keep-alive."""
    async with AsyncExitStack() as stack:
        session = await sut.session()
        for _ in range(200):
            await stack.enter_async_context(await sut.client.beta.sessions.events.stream(session))
        before, begun = cpu_seconds(sut.pid), monotonic()
        await asyncio.sleep(32)
        share = (cpu_seconds(sut.pid) - before) / (monotonic() - begun) * 100
    show(f"200 idle streams, keep-alives included ({store})", f"{share:.2f} % CPU (< 0.5)")


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


async def memory(model: RehearsalModel, sut: Server, home: Path, rounds: int, store: str) -> None:
    """One live session (claude, its sandbox and forwarder) after a turn, against the bare `claude` after the same."""
    async with ClaudeSDKClient(bare_options(model, home)) as client:
        await client.query(HELLO)
        async for _ in client.receive_response():
            pass
        earlier = {sut.pid, *descendants(sut.pid)}
        session = await sut.session()
        async with await sut.client.beta.sessions.events.stream(session) as stream:
            events: Any = [{"type": "user.message", "content": [{"type": "text", "text": HELLO}]}]
            await sut.client.beta.sessions.events.send(session, events=events)
            await until_idle(stream)
        bare = sum(pss_bytes(pid) for pid in descendants(os.getpid()) if pid not in (sut.pid, *descendants(sut.pid)))
        ours = sum(pss_bytes(pid) for pid in descendants(sut.pid) if pid not in earlier)
    show(
        f"memory of a live session, PSS ({store})",
        f"bare {bare / 2**20:.0f} MiB",
        f"hostler {ours / 2**20:.0f} MiB",
        f"ratio {ours / bare:.2f} (≤ 1.15)",
    )


PARTS = {"start": start, "turn": turn, "delta": delta, "idle": idle, "memory": memory}


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--stores", default="sqlite,postgresql")
    arguments.add_argument("--only", default=",".join(PARTS))
    chosen = arguments.parse_args()
    stores = chosen.stores.split(",")
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(PostgresCluster(durable=True)) if "postgresql" in stores else None
        model = await stack.enter_async_context(RehearsalModel())
        home = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="hostler-bare-", ignore_cleanup_errors=True))
        )
        print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
        for store in stores:
            async with server(model, store, cluster) as sut:
                for part in chosen.only.split(","):
                    await PARTS[part](model, sut, home, chosen.rounds, store)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
