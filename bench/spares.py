"""What does a spare save a new session? Everything in the same run, alternating.

    .venv/bin/python bench/spares.py [--rounds 15] [--stores sqlite] [--only kinds,session] [--technology bubblewrap]

`kinds`: what can be made ready beforehand, with the bare Agent SDK: from the moment at which there is something to do
until the first model request. `fresh` is `query()`; `claimed` is the claim that the CLI has for its own use;
`connected` is a client that has no prompt yet; `frozen` the same with its process stopped; `sandbox` is what would be
saved if only the sandbox, without `claude`, was there (create → first byte of a program). Figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop
from claude_agent_sdk import ClaudeSDKClient, query

from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.testing.rehearsal import RehearsalModel
from hostler.testing.sandboxes import Ground
from main_job import HELLO, bare_options, first_request_after, median, show
from starts import first_byte

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


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="kinds")
    chosen = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as place:
        async with RehearsalModel() as model:
            if "kinds" in chosen.only.split(","):
                await kinds(model, Path(place), chosen.rounds)


if __name__ == "__main__":
    uvloop.run(main())
