"""What does a session notice of a flood in another one? One command; floods alternate with quiet in the same run.

    .venv/bin/python bench/neighbours.py [--technology bubblewrap] [--rounds 15] [--only forks,disk]
        [--set sandbox.cpus=1]

Two sessions on one server: one takes turns (a message, a call of bash, an answer), the other floods for as long as it
is measured. Printed is the median turn under the flood, divided by the median of the quiet turns around it: 1.5 is the
limit, and the exit status is 1 when one is over it. Then, what the flood has left on the host's disk and in the log.
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic

from hostler.event_loop import new_event_loop
from hostler.testing.rehearsal import RehearsalModel, prompt, step, tool

MODEL = "claude-opus-5-5"
MOST = 1.5


def python(*lines: str) -> str:
    text = "\n".join(lines)
    return f'python3 - <<"PYTHON"\n{text}\nPYTHON'


FLOODS = {
    "processors": "for _ in 1 2 3 4 5 6 7 8; do sh -c 'while :; do :; done' & done; wait",
    "forks": ":(){ :|:& };: 2>/dev/null; sleep 600",
    "memory": python(
        "import subprocess, sys",
        "while True: subprocess.run([sys.executable, '-c', 'x = [bytearray(1 << 24) for _ in range(1000)]'])",
    ),
    "disk": python(
        "import os",
        "while True:",
        "    try:",
        "        with open('flood', 'wb', buffering=0) as file:",
        "            while True:",
        "                file.write(bytes(1 << 20))",
        "    except OSError: os.unlink('flood')",
    ),
    "syncs": python(
        "import os",
        "file = os.open('flood', os.O_RDWR | os.O_CREAT)",
        "while True:",
        "    os.pwrite(file, bytes(4096), 0)",
        "    os.fsync(file)",
    ),
    "files": python(
        "import os",
        "while True:",
        "    made = 0",
        "    try:",
        "        for made in range(1 << 20): os.mknod(str(made))",
        "    except OSError: pass",
        "    for name in range(made): os.unlink(str(name))",
    ),
    "output": "yes 0123456789012345678901234567890123456789",
    "errors": "yes 0123456789012345678901234567890123456789 >&2",
}
"""Commands that go on until they are stopped."""
CALLS = {"output": 150, "errors": 150}
"""How often a flood is called again: `claude` ends a command that says too much. What isn't named: once."""


@dataclass
class Server:
    client: anthropic.AsyncAnthropic
    pid: int
    state: Path
    log: Path
    agent: str
    environment: str

    async def session(self) -> str:
        made = await self.client.beta.sessions.create(agent=self.agent, environment_id=self.environment)
        return made.id

    async def say(self, session: str, steps: list[Any]) -> None:
        content: Any = [{"type": "text", "text": prompt(steps)}]
        await self.client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": content}])

    async def until(self, session: str, kind: str) -> None:
        """The first event of the kind, there already or still to come."""
        async with asyncio.timeout(120):
            async with await self.client.beta.sessions.events.stream(session) as stream:
                async for event in self.client.beta.sessions.events.list(session, limit=1000):
                    if event.type == kind:
                        return
                async for event in stream:
                    if event.type == kind:
                        return


@asynccontextmanager
async def server(model: RehearsalModel, technology: str, more: dict[str, str]) -> AsyncIterator[Server]:
    place = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    settings = {
        "state_dir": str(place / "state"),
        "server__port": 0,
        "model__base_url": model.url,
        "sandbox__technology": technology,
        "turns__interrupt_grace_seconds": 1,
        **more,
    }
    with (place / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("serve.py")),
            json.dumps(settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
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
            yield Server(client, process.pid, place / "state", place / "log", agent.id, environment.id)
    finally:
        process.stdin.close()
        await process.wait()
        shutil.rmtree(place, ignore_errors=True)


async def turns(sut: Server, session: str, count: int) -> list[float]:
    """Milliseconds of each turn, message sent → idle at the client."""
    found = []
    async with await sut.client.beta.sessions.events.stream(session) as stream:
        for _ in range(count):
            begun = monotonic()
            await sut.say(session, [step(tool("bash", command="echo fine; echo x > f; cat f")), step("Done.")])
            async for event in stream:
                if event.type == "session.status_idle":
                    break
            found.append((monotonic() - begun) * 1000)
    return found


def allocated(folder: Path) -> int:
    """Bytes that the files below it take of the host's disk."""
    found = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(top, name)).st_blocks * 512
            except OSError:
                continue
    return found


async def measure(name: str, sut: Server, rounds: int) -> float:
    good, bad = await sut.session(), await sut.session()
    await turns(sut, good, 3)
    quiet = await turns(sut, good, rounds)
    logged = sut.log.stat().st_size
    await sut.say(bad, [step(tool("bash", command=FLOODS[name]))] * CALLS.get(name, 1) + [step("End.")])
    await sut.until(bad, "agent.tool_use")
    await asyncio.sleep(1)
    flooded = await turns(sut, good, rounds)
    volumes = allocated(sut.state / "volumes")
    still = (await sut.client.beta.sessions.retrieve(bad)).status == "running"
    await sut.client.beta.sessions.events.send(bad, events=[{"type": "user.interrupt"}])
    await sut.until(bad, "session.status_idle")
    quiet += await turns(sut, good, rounds)
    codes = [
        event.error.to_dict().get("code", event.error.type)
        async for event in sut.client.beta.sessions.events.list(bad, limit=1000)
        if event.type == "session.error"
    ]
    if not still:
        codes.append("THE FLOOD ENDED BY ITSELF")
    for session in (good, bad):
        await sut.client.beta.sessions.delete(session)
    ratio = statistics.median(flooded) / statistics.median(quiet)
    print(
        f"{name:<12}quiet {statistics.median(quiet):6.0f} ms   flooded {statistics.median(flooded):6.0f} ms"
        f"   ratio {ratio:5.2f} (≤ {MOST})   worst {max(flooded):6.0f} ms   volumes {volumes >> 20:5} MiB"
        f"   log {(sut.log.stat().st_size - logged) >> 10:4} KiB   {' '.join(codes)}",
        flush=True,
    )
    return ratio


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--technology", default="bubblewrap")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default=",".join(FLOODS))
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="a setting of the server")
    given = parser.parse_args()
    more = dict(setting.replace(".", "__", 1).split("=", 1) for setting in given.set)
    over = 0
    async with RehearsalModel() as model, server(model, given.technology, more) as sut:
        print(f"{given.technology}, {os.cpu_count()} processors, {given.rounds} turns under each flood", flush=True)
        for name in given.only.split(","):
            over += await measure(name, sut, given.rounds) > MOST
    return 1 if over else 0


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        sys.exit(runner.run(main()))
