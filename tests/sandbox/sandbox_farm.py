"""Real sandboxes for the tests. In place of `claude` runs a script that runs its arguments."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hostler.engine.sandbox_port import SandboxSpec
from hostler.sandbox import cgroups
from hostler.sandbox.bubblewrap import BubblewrapProvider, BubblewrapSandbox
from hostler.sandbox.cgroup_detection import own_groups

PYTHON = "/usr/bin/python3"
"""The host's own, which a sandbox sees below /usr."""

DEADLINE = 60.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/home/agent", "LANG": "C.UTF-8"}


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Waits for a condition of the outside world that sends no event. Gives its true value."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if value:
                return value
            await asyncio.sleep(0.005)
    raise AssertionError(what)


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@dataclass
class Farm:
    """Makes sandboxes below one directory, and checks at the end that nothing of them is left on the host."""

    root: Path
    provider: BubblewrapProvider
    cgroup_name: str
    runner: Path
    sandboxes: list[BubblewrapSandbox] = field(default_factory=list)
    listeners: list[socket.socket] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    def spec(self, name: str = "one", **changes: Any) -> SandboxSpec:
        place = self.root / name
        place.mkdir(exist_ok=True)
        for socket_name in ("model.sock", "egress.sock"):
            if not (place / socket_name).exists():
                listener = socket.socket(socket.AF_UNIX)
                listener.setblocking(False)
                here = os.getcwd()
                os.chdir(place)  # names of sockets are at most 107 bytes long
                listener.bind(socket_name)
                os.chdir(here)
                listener.listen()
                self.listeners.append(listener)
        given: dict[str, Any] = {
            "session_id": f"sesn_{name}",
            "workspace": place / "workspace",
            "outputs": place / "outputs",
            "harness_state": place / "harness",
            "model_socket": place / "model.sock",
            "egress_socket": place / "egress.sock",
            "program": self.runner,
            "environment": ENVIRONMENT,
        }
        return SandboxSpec(**{**given, **changes})

    async def create(self, name: str = "one", **changes: Any) -> BubblewrapSandbox:
        sandbox = await self.provider.create(self.spec(name, **changes))
        self.sandboxes.append(sandbox)
        return sandbox

    async def start(self, sandbox: BubblewrapSandbox, *argv: str, **options: Any) -> asyncio.subprocess.Process:
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        process = await asyncio.create_subprocess_exec(sandbox.launcher, *argv, **{**streams, **options})
        self.processes.append(process)
        return process

    async def run(self, sandbox: BubblewrapSandbox, *argv: str, given: bytes = b"", **options: Any) -> Finished:
        process = await self.start(sandbox, *argv, **options)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate(given)
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    async def sh(self, sandbox: BubblewrapSandbox, script: str, **options: Any) -> Finished:
        return await self.run(sandbox, "/bin/sh", "-c", script, **options)

    async def python(self, sandbox: BubblewrapSandbox, code: str, **options: Any) -> Any:
        """Runs code inside that prints one JSON value; gives the value."""
        done = await self.run(sandbox, PYTHON, "-I", "-S", "-c", code, **options)
        assert done.code == 0, done
        return json.loads(done.out)

    def groups(self) -> list[Path]:
        """Control groups of this farm on the host."""
        texts = (Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        parents = {hierarchy.own for hierarchy in own_groups(*texts)}
        return sorted(path for parent in parents for path in parent.glob(f"{self.cgroup_name}-*"))

    def pids_of(self, sandbox: BubblewrapSandbox) -> frozenset[int]:
        return cgroups.members(path for path in self.groups() if path.name.endswith(sandbox.sandbox_id))

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.destroy()
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.communicate()
        for listener in self.listeners:
            listener.close()
        self.provider.close()


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """Takes the place of `claude`: runs its arguments."""
    script = tmp_path / "runner"
    script.write_text('#!/bin/sh\nexec "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
async def farm(tmp_path: Path, runner: Path) -> AsyncIterator[Farm]:
    tmp_path.chmod(0o700)  # as below /root: the sandbox's user can't come here on foot
    name = f"ht{secrets.token_hex(4)}"
    made = Farm(tmp_path, BubblewrapProvider(tmp_path / "state", cgroup_name=name), name, runner)
    yield made
    await made.close()
    assert made.groups() == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list((tmp_path / "state" / "sandboxes").glob("*")) == []
