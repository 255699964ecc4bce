"""How long does a sandbox take to start, and a session in it? Everything in the same run, alternating.

    .venv/bin/python bench/starts.py [--rounds 20] [--only bubblewrap,session]

`bubblewrap`: `create` to the first byte of a program that does nothing but write one. `gvisor`: the same, against
`runsc run` of the same bundle. `session`: a session created with an event until its first model request, against the
same server with no sandbox at all (`bench/unsandboxed.py`). Figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic

from hostler.event_loop import new_event_loop
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.sandbox.gvisor import GvisorProvider
from hostler.sandbox.staging import PROGRAM
from hostler.testing.rehearsal import RehearsalModel
from hostler.testing.sandboxes import Ground
from main_job import HELLO, MODEL, Server, first_request_after, median, show, until_idle


async def bubblewrap(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as root:
        name = f"hb{secrets.token_hex(4)}"
        async with Ground(Path(root), lambda state: BubblewrapProvider(state, cgroup_name=name)) as ground:
            await ground.provider.sweep()  # what is looked for once on a host, is looked for now
            made, ended = [], []
            for number in range(rounds * 2):
                spec = ground.spec(f"s{number}")
                begun = monotonic()
                sandbox = await ground.provider.create(spec)
                process = await asyncio.create_subprocess_exec(
                    sandbox.launcher, "/bin/echo", "x", stdout=asyncio.subprocess.PIPE
                )
                assert process.stdout
                await process.stdout.readexactly(1)
                made.append((monotonic() - begun) * 1000)
                await process.wait()
                begun = monotonic()
                await sandbox.destroy()
                ended.append((monotonic() - begun) * 1000)
    show("bubblewrap: create → first byte", f"{median(made):.1f} ms (≤ 15)", f"destroy {median(ended):.1f} ms")


@asynccontextmanager
async def server(model: RehearsalModel, program: str) -> AsyncIterator[Server]:
    state = tempfile.mkdtemp(prefix="hostler-bench-")
    settings = {
        "state_dir": state,
        "server__port": 0,
        "model__base_url": model.url,
        "sandbox__technology": "bubblewrap",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name(program)),
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # without a sandbox the transcript isn't where the mirror looks for it
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


async def session(rounds: int) -> None:
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": HELLO}]}

    async def one(sut: Server) -> None:
        made = await sut.session(initial_events=[message])
        async with await sut.client.beta.sessions.events.stream(made) as stream:
            if (await sut.client.beta.sessions.retrieve(made)).status == "running":
                await until_idle(stream)
        await sut.client.beta.sessions.archive(made)

    async with RehearsalModel() as model:
        async with server(model, "serve.py") as boxed, server(model, "unsandboxed.py") as bare:
            pairs = []
            for _ in range(rounds + 2):
                without = await first_request_after(model, lambda: one(bare))
                pairs.append((without, await first_request_after(model, lambda: one(boxed))))
    pairs = pairs[2:]
    ratio = median([boxed / without for without, boxed in pairs])
    show(
        "session with an event → first model request",
        f"no sandbox {median([p[0] for p in pairs]):.0f} ms",
        f"bubblewrap {median([p[1] for p in pairs]):.0f} ms",
        f"ratio {ratio:.2f} (≤ 1.15)",
    )


async def gvisor(rounds: int) -> None:
    """Ours against the engine alone, with the same program on the same bundle, mounts and groups included: `runsc run`
    with the program as its first process, and a sandbox into which it comes, `runsc run --detach` and `runsc exec`."""
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as root:
        name = f"hb{secrets.token_hex(4)}"
        async with Ground(Path(root), lambda state: GvisorProvider(state, cgroup_name=name)) as ground:
            await ground.provider.sweep()
            ours, alone, warm = [], [], []
            for number in range(rounds):
                spec = ground.spec(f"s{number}", program=Path("/bin/echo"))
                begun = monotonic()
                sandbox = await ground.provider.create(spec)
                ours.append((await first_byte(sandbox.launcher, "x") - begun) * 1000)
                # Destroyed at the end: the kernel takes network namespaces apart for a while, and new ones wait for it.
                ground.sandboxes.append(sandbox)
                home = sandbox.launcher.parent
                engine = engine_alone(home, "alone", {"args": [PROGRAM, "x"], "user": {"uid": 1000, "gid": 1000}})
                begun = monotonic()
                alone.append((await first_byte(engine) - begun) * 1000)
                engine = engine_alone(home, "warm", {})
                begun = monotonic()
                process = await asyncio.create_subprocess_exec(engine, stdout=asyncio.subprocess.DEVNULL)
                await process.wait()
                into = ("runsc", "--root", str(engine.parent), "exec", "-user", "1000:1000", f"warm-{home.name}")
                warm.append((await first_byte(*into, PROGRAM, "x") - begun) * 1000)
    show(
        "gVisor: create → first byte",
        f"runsc run {median(alone):.0f} ms",
        f"run + exec {median(warm):.0f} ms",
        f"{median(ours):.0f} ms",
        f"ratio {median([a / b for a, b in zip(ours, alone, strict=True)]):.2f} and "
        f"{median([a / b for a, b in zip(ours, warm, strict=True)]):.2f} (≤ 1.2)",
    )


async def first_byte(*command: str | Path) -> float:
    """When it came. Waits until the program has ended."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    await process.stdout.readexactly(1)
    at = monotonic()
    await process.wait()
    return at


def engine_alone(home: Path, name: str, process: dict[str, Any]) -> Path:
    """A program that runs the bundle of a sandbox once more; with another first process, it waits for its end."""
    place = home / name
    place.mkdir()
    config = json.loads((home / "bundle" / "config.json").read_text())
    config["process"] |= process
    (place / "config.json").write_text(json.dumps(config))
    *lines, start, up = (home / "start").read_text().splitlines()
    assert "up" in up
    run = " ".join(shlex.split(start)[1].split())
    changes = [
        (f"--root {home}/runsc", f"--root {place}"),
        (f"--bundle {home}/bundle {home.name}", f"--bundle {place} {name}-{home.name}"),
    ]
    if process:
        changes.append(("run --detach", "run"))
    for ours, theirs in changes:
        assert ours in run
        run = run.replace(ours, theirs)
    engine = place / "start"
    engine.write_text("\n".join([*lines, f"exec {run.removesuffix('$1>&-')}"]) + "\n")
    engine.chmod(0o700)
    return engine


PARTS = {"bubblewrap": bubblewrap, "gvisor": gvisor, "session": session}


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--only", default=",".join(PARTS))
    chosen = arguments.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    for part in chosen.only.split(","):
        await PARTS[part](chosen.rounds)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
