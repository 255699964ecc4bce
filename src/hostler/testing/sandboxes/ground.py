"""Where sandboxes are tried: folders, sockets and a stand-in for `claude`, in one directory of the host."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hostler.engine.sandbox_port import Sandbox, SandboxProvider, SandboxSpec

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/agent", "LANG": "C.UTF-8"}
PYTHON = "/usr/bin/python3"
"""An image has it there; a sandbox of the host's programs too, where Debian's package is installed."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program inside ended. `code` is the exit status of the launcher or entrance, -n when a signal ended it."""

    code: int
    out: str
    err: str


async def until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Waits for something of the outside world that sends no event. Gives the condition's true value."""
    try:
        async with asyncio.timeout(seconds):
            while not (value := condition()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None
    return value


class Ground:
    """Makes sandboxes with one provider, and ends what it made. In place of `claude` runs a script that runs its
    arguments."""

    def __init__(
        self,
        root: Path,
        make_provider: Callable[[Path], SandboxProvider],
        *,
        seconds: float = 60.0,
        changes: dict[str, Any] | None = None,
    ) -> None:
        """`make_provider` gets the state directory. `seconds`: deadline of each wait. `changes`: fields of every spec,
        over the defaults here."""
        self.root = root
        self.seconds = seconds
        self._make = make_provider
        self._changes = changes or {}
        self.provider = make_provider(root / "state")
        self.sandboxes: list[Sandbox] = []
        self._listeners: dict[Path, socket.socket] = {}
        self._processes: list[asyncio.subprocess.Process] = []
        self._others: list[SandboxProvider] = []

    async def __aenter__(self) -> Ground:
        self.root.chmod(0o711)
        self.runner = self.root / "runner"
        self.runner.write_text('#!/bin/sh\nexec "$@"\n')
        self.runner.chmod(0o755)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sandbox in self.sandboxes:
            await sandbox.destroy()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
        for listener in self._listeners.values():
            listener.close()
        for provider in (self.provider, *self._others):
            provider.close()

    def place(self, name: str) -> Path:
        """The folder with everything of the sandbox of this name."""
        return self.root / name

    def spec(self, name: str = "one", **changes: Any) -> SandboxSpec:
        place = self.place(name)
        place.mkdir(exist_ok=True)
        place.chmod(0o711)
        for socket_name in ("model.sock", "egress.sock"):
            if not (place / socket_name).exists():
                self.listen(place / socket_name)
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
        return SandboxSpec(**{**given, **self._changes, **changes})

    def listen(self, path: Path) -> socket.socket:
        """A listening unix socket, whatever the length of its path."""
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        listener.listen()
        self._listeners[path] = listener
        return listener

    def listener(self, path: Path) -> socket.socket:
        """The one that `spec` made at this path."""
        return self._listeners[path]

    async def create(self, name: str = "one", **changes: Any) -> Sandbox:
        sandbox = await self.provider.create(self.spec(name, **changes))
        self.sandboxes.append(sandbox)
        return sandbox

    def another_provider(self, state: Path | None = None) -> SandboxProvider:
        """As the next worker would make it; over the same state directory, unless another is given."""
        made = self._make(state or self.root / "state")
        self._others.append(made)
        return made

    async def start(self, program: Path, *argv: str, **options: Any) -> asyncio.subprocess.Process:
        """Starts a launcher or an entrance with pipes for all three streams."""
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        process = await asyncio.create_subprocess_exec(program, *argv, **{**streams, **options})
        self._processes.append(process)
        return process

    async def run(self, program: Path, *argv: str, given: bytes = b"", **options: Any) -> Finished:
        process = await self.start(program, *argv, **options)
        async with asyncio.timeout(self.seconds):
            out, err = await process.communicate(given)
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    async def sh(self, program: Path, script: str, **options: Any) -> Finished:
        return await self.run(program, "/bin/sh", "-c", script, **options)

    async def python(self, program: Path, code: str) -> Any:
        """Runs code inside that prints one JSON value; gives the value."""
        done = await self.run(program, PYTHON, "-I", "-S", "-c", code)
        assert done.code == 0, done
        return json.loads(done.out)

    async def holding(self, sandbox: Sandbox) -> asyncio.subprocess.Process:
        """Starts a program in the sandbox that does nothing until its input ends, and waits until it is there."""
        process = await self.start(sandbox.launcher, "/bin/sh", "-c", "echo here; exec cat")
        assert process.stdout is not None
        async with asyncio.timeout(self.seconds):
            said = await process.stdout.readline()
        if said != b"here\n":
            _, err = await process.communicate()
            raise AssertionError(f"the program did not start: {said!r} {err.decode(errors='replace')}")
        return process

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        return await until(condition, what, self.seconds)
