"""Some hosts of a network, in a network namespace of their own: a git server and an API that asks for a token.

Names lead there by `Town.resolve`, which implements the proxy's `Resolver` and asks the registries of the test for
every other name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from certificates import certify

from hostler.egress.resolve import Resolver

GIT, API = "git.town.example", "api.town.example"
SPACE = "hostler-town-"
"""How the names of the namespaces begin; the id of the process that made it follows."""


@dataclass
class Town:
    """Hosts that are there until the block of `open_town` is left."""

    address: str
    authority: Path
    """Certificate of who signed for them."""
    token: str
    """What the API wants to see as a bearer."""
    log: Path
    """One line for each request: host, method, path, status."""

    elsewhere: Resolver

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return [self.address] if host in (GIT, API) else await self.elsewhere.resolve(host, port)


def _run(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (words, done.stderr)


def _sweep() -> None:
    """What test runs have left that are no more."""
    for place in Path("/run/netns").glob(f"{SPACE}*"):
        if not Path("/proc", place.name.removeprefix(SPACE).partition("-")[0]).exists():
            inside = subprocess.run(["ip", "netns", "pids", place.name], capture_output=True, text=True, timeout=60)
            for pid in inside.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", place.name], capture_output=True, check=False, timeout=60)


@asynccontextmanager
async def open_town(place: Path, elsewhere: Resolver) -> AsyncIterator[Town]:
    """Needs root, ip(8) and git."""
    _sweep()
    name, net = f"ht{secrets.token_hex(3)}", secrets.randbelow(200)
    space = f"{SPACE}{os.getpid()}-{name}"
    outside, inside = f"10.213.{net}.1", f"10.213.{net}.2"
    authority = certify(place, (API, GIT))
    _repository(place / "www" / "repo.git", place / "origin")
    token, log = secrets.token_urlsafe(24), place / "requests.log"
    log.touch()
    _run("ip", "netns", "add", space)
    try:
        _run("ip", "link", "add", f"{name}o", "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "address", "add", f"{outside}/30", "dev", f"{name}o")
        _run("ip", "link", "set", f"{name}o", "up")
        _run("ip", "-n", space, "address", "add", f"{inside}/30", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        server = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", space, sys.executable, str(Path(__file__).with_name("town_server.py"))),
            *(str(place), inside, token),
            stdout=asyncio.subprocess.PIPE,
        )
        assert server.stdout is not None
        try:
            assert await asyncio.wait_for(server.stdout.readline(), 20) == b"open\n"
            yield Town(inside, authority, token, log, elsewhere)
        finally:
            server.kill()
            await server.wait()
    finally:
        _run("ip", "netns", "delete", space)


def _repository(bare: Path, work: Path) -> None:
    """A repository as a plain web server can serve it."""
    identity = ("-c", "user.name=Town", "-c", "user.email=town@town.example")
    _run("git", "init", "-q", "-b", "main", str(work))
    (work / "README").write_text("the town's own words\n")
    _run("git", "add", "README", cwd=work)
    _run("git", *identity, "commit", "-q", "-m", "Begin", cwd=work)
    bare.parent.mkdir(parents=True)
    _run("git", "clone", "-q", "--bare", str(work), str(bare))
    _run("git", "update-server-info", cwd=bare)
