"""What does a spare save a new session? Everything in the same run, alternating.

    .venv/bin/python bench/spares.py [--rounds 15] [--only kinds,session] [--technology bubblewrap]

`kinds`: what can be made ready beforehand, with the bare Agent SDK: from the moment at which there is something to do
until the first model request. `fresh` is `query()`; `claimed` is the claim that the CLI has for its own use;
`connected` is a client that has no prompt yet; `frozen` the same with its process stopped; `sandbox` is what would be
saved if only the sandbox, without `claude`, was there (create → first byte of a program).

`session`: the first event sent to a new session → first model request, on a server without spares, with a spare that
waits, and with one that was stopped because it has waited for long, each against the bare `query()`. Figures are
medians, ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic
from claude_agent_sdk import ClaudeSDKClient, query

from hostler.event_loop import new_event_loop
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.testing.rehearsal import RehearsalModel
from hostler.testing.sandboxes import Ground
from main_job import HELLO, MODEL, Server, bare_options, first_request_after, median, show
from starts import first_byte

REST_SECONDS = 3.0
"""After that the server has looked at its spares, and stopped those that were to be."""
QUIET_SECONDS = 0.5
"""Before each measurement: a `claude` that begins or ends takes a processor for some time."""


@asynccontextmanager
async def connected(model: RehearsalModel, home: Path, **flags: None) -> AsyncIterator[ClaudeSDKClient]:
    options = replace(bare_options(model, home), extra_args={name.replace("_", "-"): None for name in flags})
    async with ClaudeSDKClient(options) as client:
        await asyncio.sleep(QUIET_SECONDS)
        yield client


async def answer(client: ClaudeSDKClient) -> None:
    await client.query(HELLO)
    async for _ in client.receive_response():
        pass


async def kinds(model: RehearsalModel, home: Path, rounds: int) -> None:
    async def fresh() -> float:
        async def act() -> None:
            async for _ in query(prompt=HELLO, options=bare_options(model, home)):
                pass

        await asyncio.sleep(QUIET_SECONDS)
        return await first_request_after(model, act)

    async def claimed() -> float:
        async with connected(model, home, await_claim=None) as client:

            async def act() -> None:
                ask: Any = {"subtype": "claim_session", "cwd": str(home), "permission_mode": "default"}
                await client._query._send_control_request(ask)  # type: ignore[union-attr]
                await answer(client)

            return await first_request_after(model, act)

    async def waiting() -> float:
        async with connected(model, home) as client:
            return await first_request_after(model, lambda: answer(client))

    async def frozen() -> float:
        async with connected(model, home) as client:
            pid = client._transport._process.pid  # type: ignore[union-attr]
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(QUIET_SECONDS)

            async def act() -> None:
                os.kill(pid, signal.SIGCONT)
                await answer(client)

            return await first_request_after(model, act)

    ways = {"fresh": fresh, "claimed": claimed, "connected": waiting, "frozen": frozen}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            took = await way()
            if number:  # the first round warms everything up
                found[name].append(took)
    for name, took_ in found.items():
        ratio = median([one / bare for one, bare in zip(took_, found["fresh"], strict=True)])
        quick = f"best {min(took_):.0f} ms"
        show(f"{name}: something to do → first model request", f"{median(took_):.0f} ms", quick, f"{ratio:.2f} x")
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as root:
        prefix = f"hb{secrets.token_hex(4)}"
        async with Ground(Path(root), lambda state: BubblewrapProvider(state, cgroup_name=prefix)) as ground:
            await ground.provider.sweep()
            made = []
            for number in range(rounds):
                begun = monotonic()
                sandbox = await ground.provider.create(ground.spec(f"s{number}", program=Path("/bin/echo")))
                made.append((await first_byte(sandbox.launcher, "x") - begun) * 1000)
                await sandbox.destroy()
    show("sandbox: create → first byte", f"{median(made):.0f} ms", f"{median(made) / median(found['fresh']):.2f} x")


@asynccontextmanager
async def server(model: RehearsalModel, technology: str, spares: int, rest_seconds: float) -> AsyncIterator[Server]:
    state = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    settings = {
        "state_dir": str(state),
        "server__port": 0,
        "model__base_url": model.url,
        "sandbox__technology": technology,
        "spares__rest_seconds": rest_seconds,
        "spares__free_memory_mb": 0,
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
        async with anthropic.AsyncAnthropic(**told) as client:
            tools: Any = [{"type": "agent_toolset_20260401"}]
            agent = await client.beta.agents.create(name="Bench", model=MODEL, tools=tools)
            config: Any = {
                "type": "cloud",
                "networking": {"type": "limited", "allowed_hosts": []},
                "hosting": {"idle_timeout_seconds": 0, "spares": spares},
            }
            environment = await client.beta.environments.create(name="bench", config=config)
            yield Server(client, process.pid, agent.id, environment.id)
    finally:
        process.stdin.close()
        await process.wait()
        shutil.rmtree(state, ignore_errors=True)


async def spares_of(sut: Server) -> dict[str, int]:
    health = await sut.client.get("/hostler/v1/health", cast_to=dict[str, Any])
    found: dict[str, int] = health["spares"]
    return found


async def session(model: RehearsalModel, home: Path, rounds: int, technology: str) -> None:
    async def bare() -> None:
        async for _ in query(prompt=HELLO, options=bare_options(model, home)):
            pass

    async def ours(sut: Server, rested: bool, spared: bool) -> float:
        made = await sut.session()
        if spared:
            while not (await spares_of(sut))["waiting"]:  # noqa: ASYNC110 - nobody announces them
                await asyncio.sleep(0.05)
            if rested:
                await asyncio.sleep(REST_SECONDS)
        await asyncio.sleep(QUIET_SECONDS)

        async def act() -> None:
            content: Any = [{"type": "text", "text": HELLO}]
            event: Any = {"type": "user.message", "content": content}
            await sut.client.beta.sessions.events.send(made, events=[event])

        took = await first_request_after(model, act)
        while (await sut.client.beta.sessions.retrieve(made)).status != "idle":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await sut.client.beta.sessions.archive(made)
        return took

    async with (
        server(model, technology, 0, 1e6) as without,
        server(model, technology, 1, 1e6) as awake,
        server(model, technology, 1, 0) as resting,
    ):
        for sut in (awake, resting):
            await ours(sut, rested=False, spared=False)  # a kind is known once it was asked for
        ways = {"without spares": (without, False), "with a spare": (awake, False), "a stopped one": (resting, True)}
        theirs: list[float] = []
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            await asyncio.sleep(QUIET_SECONDS)
            took = [await first_request_after(model, bare)]
            took += [await ours(sut, rested, sut is not without) for sut, rested in ways.values()]
            if number:
                theirs.append(took[0])
                for name, mine in zip(ways, took[1:], strict=True):
                    found[name].append(mine)
        for sut in (awake, resting):
            assert (await spares_of(sut))["claimed"] == rounds + 1, await spares_of(sut)
    show(f"new session, event sent → first model request ({technology})", f"bare {median(theirs):.0f} ms")
    for name, mine_ in found.items():
        ratio = median([mine / bare_ for mine, bare_ in zip(mine_, theirs, strict=True)])
        show(f"    {name}", f"{median(mine_):.0f} ms", f"best {min(mine_):.0f} ms", f"{ratio:.2f} x (≤ 0.5)")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="kinds,session")
    parser.add_argument("--technology", default="bubblewrap")
    chosen = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as place:
        async with RehearsalModel() as model:
            if "kinds" in chosen.only.split(","):
                await kinds(model, Path(place), chosen.rounds)
            if "session" in chosen.only.split(","):
                await session(model, Path(place), chosen.rounds, chosen.technology)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
