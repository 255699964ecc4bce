"""Real `hostler` processes: a server with the rehearsal model in a state folder of its own, and commands against it."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

from narrow import NARROW

START_SECONDS = 60.0
COMMAND_SECONDS = 120.0


def environment(**more: str) -> dict[str, str]:
    """What a command sees: nothing of this machine's Hostler or Anthropic settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOSTLER_", "ANTHROPIC_"))}
    return {**kept, "NO_COLOR": "1", **NARROW, **more}


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def hostler(*arguments: str, stdin: str = "", **more: str) -> Result:
    """A command, in a process of its own (`command_zygote`)."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        request = json.dumps({"arguments": arguments, "environment": environment(**more)})
        control = _zygote()
        socket.send_fds(control, [request.encode()], [given.fileno(), out.fileno(), err.fileno()])
        code = int(control.recv(16))
        out.seek(0)
        err.seek(0)
        done = Result(code, out.read().decode(), err.read().decode())
    assert "Traceback" not in done.err, done.err
    return done


@cache
def _zygote() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(COMMAND_SECONDS)
    program = Path(__file__).with_name("command_zygote.py")
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(program), str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


@dataclass
class Server:
    process: subprocess.Popen[str]
    state_dir: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.facts["base_url"])

    @property
    def api_key(self) -> str:
        return str(json.loads((self.state_dir / "client.json").read_text())["api_key"])

    def hostler(self, *arguments: str, stdin: str = "") -> Result:
        return hostler(*arguments, stdin=stdin, HOSTLER_STATE_DIR=str(self.state_dir))

    def logs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state_dir / "server.log").read_text().splitlines()]

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout=60)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


def start(state_dir: Path, *arguments: str, **more: str) -> Server:
    """A server that listens."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hostler.cli.main", "serve", "--json", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(HOSTLER_STATE_DIR=str(state_dir), **more),
        )
    server = Server(process, state_dir)
    line = read_line(process, START_SECONDS)
    if not line:
        process.kill()
        process.wait()
        raise AssertionError(f"the server did not start: {(state_dir / 'server.log').read_text()}")
    server.facts = json.loads(line)
    return server


def read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """The next line of its standard output; empty when it ended, or wrote none in time."""
    assert process.stdout is not None
    end, line = monotonic() + seconds, b""
    descriptor = process.stdout.fileno()
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, end - monotonic()))[0]:
            return ""
        byte = os.read(descriptor, 1)
        if not byte:
            return ""
        line += byte
    return line.decode()
