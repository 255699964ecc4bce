"""How long does a sandbox of a container engine take to start, against the engine alone? Alternating in one run.

    .venv/bin/python bench/engine_starts.py [--rounds 10] [--engine docker] [--runtime runsc]

Ours: `create` of the provider to the first byte that the launcher's program writes. The engine alone: its own command
line program, with a container of the same flags, mounts and filter, from the same image: `create` and `start`, then
`exec` of a program that writes one byte. That is the way that keeps a container warm for more than one program; `run`,
which can't, is shown besides. The engine is one of the tests' own, started and stopped here. Figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "ladder"))


import engines
from image import base_image

from hostler.sandbox.oci import OciProvider
from hostler.sandbox.oci_images import Root
from hostler.testing.sandboxes import Ground


@dataclass(frozen=True)
class Measured:
    """Medians, in milliseconds, from the start of making to the first byte."""

    ours: float
    bare: float
    """`create`, `start` and `exec` of the engine's own program."""
    bare_run: float
    """Its `run`."""

    @property
    def ratio(self) -> float:
        return self.ours / self.bare


async def measure(engine: engines.Engine, *, rounds: int, runtime: str = "") -> Measured:
    """Alternates between the three, after one round that isn't counted."""
    image = base_image()

    def make(state: Path) -> OciProvider:
        return OciProvider(
            state,
            technology="gvisor" if runtime else engine.kind,
            kind=engine.kind,
            engine_socket=engine.socket,
            image=lambda: Root(image.digest, image.rootfs),
            runtime=runtime,
        )

    ours: list[float] = []
    bare: list[float] = []
    bare_run: list[float] = []
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as place:
        async with Ground(Path(place), make) as ground:
            for number in range(rounds + 1):
                begun = monotonic()
                sandbox = await ground.create(f"s{number}")
                await _first_byte(str(sandbox.launcher), "/bin/echo", "x")
                took = monotonic() - begun
                flags = _flags(await _inspected(engine, f"hostler-{sandbox.sandbox_id}"), Path(place), runtime)
                ours.append(took)
                bare.append(await _bare(engine, flags))
                bare_run.append(await _bare_run(engine, flags))
                await sandbox.destroy()
    return Measured(*(median(taken[1:]) * 1000 for taken in (ours, bare, bare_run)))


async def _inspected(engine: engines.Engine, container: str) -> dict[str, Any]:
    said = await asyncio.to_thread(engines.ask, engine.socket, "GET", f"/v1.41/containers/{container}/json")
    found: dict[str, Any] = json.loads(said or b"{}")
    return found


def _flags(made: dict[str, Any], place: Path, runtime: str) -> list[str]:
    """A container like the one that we made, in words of the command line."""
    host = made["HostConfig"]
    profile = place / "seccomp.json"
    if not profile.exists():
        profile.write_text((place / "state" / "seccomp.json").read_text())
    flags = [
        *("--network", "none", "--ipc", "none", "--cap-drop", "ALL", "--read-only", "--hostname", "sandbox"),
        *("--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}", "--log-driver", "none"),
        *("--user", made["Config"]["User"], "--memory", str(host["Memory"]), "--memory-swap", str(host["Memory"])),
        *("--cpus", "2", "--pids-limit", str(host["PidsLimit"])),
    ]
    if runtime:
        flags += ["--runtime", runtime]
    for limit in host["Ulimits"]:
        flags += ["--ulimit", f"{limit['Name'].lower().removeprefix('rlimit_')}={limit['Soft']}:{limit['Hard']}"]
    for inside, options in (host.get("Tmpfs") or {}).items():
        flags += ["--tmpfs", f"{inside}:{options}"]
    for mount in made["Mounts"]:
        if mount["Type"] == "bind":
            flags += ["-v", f"{mount['Source']}:{mount['Destination']}:{'rw' if mount['RW'] else 'ro'}"]
    return [*flags, "--entrypoint", "/bin/sh", made["Config"]["Image"], "-c"]


def _client(engine: engines.Engine) -> list[str]:
    if engine.kind == "docker":
        return ["docker", "-H", f"unix://{engine.socket}"]
    return ["podman", "--url", f"unix://{engine.socket}"]


async def _bare(engine: engines.Engine, flags: Sequence[str]) -> float:
    name = f"bare-{secrets.token_hex(6)}"
    begun = monotonic()
    await _done(*_client(engine), "create", "--name", name, *flags, "while :; do sleep 60; done")
    await _done(*_client(engine), "start", name)
    await _first_byte(*_client(engine), "exec", "-i", name, "/bin/echo", "x")
    took = monotonic() - begun
    await _done(*_client(engine), "rm", "-f", name)
    return took


async def _bare_run(engine: engines.Engine, flags: Sequence[str]) -> float:
    begun = monotonic()
    name = f"bare-{secrets.token_hex(6)}"
    await _first_byte(*_client(engine), "run", "--name", name, "-i", *flags, "echo x")
    took = monotonic() - begun
    await _done(*_client(engine), "rm", "-f", name)
    return took


async def _first_byte(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "DOCKER_CONFIG": "/"},
    )
    assert process.stdout
    await process.stdout.readexactly(1)
    await process.communicate()


async def _done(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "DOCKER_CONFIG": "/"},
    )
    if await process.wait() != 0:
        raise SystemExit(f"{' '.join(command[:5])} … failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engine", choices=("docker", "podman"), default="docker")
    parser.add_argument("--runtime", default="")
    given = parser.parse_args()
    with getattr(engines, given.engine)() as engine:
        found = asyncio.run(measure(engine, rounds=given.rounds, runtime=given.runtime))
    what = f"{given.engine} {given.runtime}".strip()
    print(
        f"{what}: create → first byte  {found.ours:.0f} ms, the engine alone {found.bare:.0f} ms: × {found.ratio:.2f}"
    )
    print(f"{what}: `run` of the engine alone, one program and no more  {found.bare_run:.0f} ms")


if __name__ == "__main__":
    main()
