"""What does an attack from inside stand on? Sandboxes made for it alone, with both roads and a canary around them.

What is planted: words that nobody else knows, in a file of the host, in the environment, an argument, an inherited
descriptor and the environment of a neighbour. No probe is told them forwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import platform
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hostler.attacks.cases import CouldNotRun
from hostler.attacks.grounds import OpenRoad, ProxyGround, Volume
from hostler.attacks.pack import pack
from hostler.engine.sandbox_port import (
    IsolationLabel,
    Mount,
    Sandbox,
    SandboxLimits,
    SandboxProvider,
    SandboxSpec,
    Technology,
)

ENVIRONMENT: Final[dict[str, str]] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/agent",
    "LANG": "C.UTF-8",
}
LIMITS: Final = SandboxLimits(
    memory_bytes=96 << 20, pids=64, cpus=0.5, open_files=256, tmp_bytes=8 << 20, disk_bytes=32 << 20
)
"""Small, so that a flood that reaches them costs the host nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one probe said. `error`: it could not be made."""

    found: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Visit:
    """A program of probes that runs in a sandbox."""

    process: asyncio.subprocess.Process
    answers: dict[str, Answer]
    finished: bool
    said: str = ""
    """The end of its standard error."""

    async def end(self, seconds: float) -> None:
        """Closes its input and waits for its end; kills it when it takes too long."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            async with asyncio.timeout(seconds):
                await self.process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()


@dataclass
class ModelListener:
    """The other end of the model socket: who connects is remembered for as long as the connection lives."""

    server: asyncio.Server
    alive: dict[str, asyncio.Event] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_alive(self, names: frozenset[str], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not names <= self.alive.keys():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


@dataclass
class SandboxGround:
    """Where attacks from inside are made, on one rung."""

    place: Path
    """A directory of its own, with a short name, which everybody may enter."""
    provider: SandboxProvider
    technology: Technology
    label: IsolationLabel
    proxies: ProxyGround
    seconds: float
    """How long anything in a sandbox may take."""
    volume: Volume | None = None
    """Makes a folder of limited size below a path. None: this host has no quota."""
    mark: str = field(default_factory=lambda: f"canary-{secrets.token_hex(12)}")
    opened: int = 0

    @property
    def program(self) -> Path:
        path = self.place / "probes"
        if not path.exists():
            pack(path)
        return path

    @property
    def secret_file(self) -> Path:
        """A file of the host that everybody may read, in a folder that everybody may enter."""
        path = self.place / "secret"
        if not path.exists():
            path.write_text(self.mark)
            path.chmod(0o644)
        return path

    @property
    def engine_socket(self) -> Path:
        return self.place / "engine.sock"

    def folders(self, name: str) -> dict[str, Any]:
        return {
            "workspace": self.place / name / "workspace",
            "outputs": self.place / name / "outputs",
            "harness_state": self.place / name / "harness",
        }

    @asynccontextmanager
    async def room(
        self,
        name: str = "",
        *,
        limits: SandboxLimits = LIMITS,
        environment: Mapping[str, str] = ENVIRONMENT,
        mounts: tuple[Mount, ...] = (),
        folders: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Room]:
        """A sandbox with an egress road of the product and a model socket that listens. Gone at the end."""
        self.opened += 1
        name = name or f"r{self.opened}"
        home = self.place / name
        home.mkdir(exist_ok=True)
        home.chmod(0o711)
        model, egress = home / "m.sock", home / "e.sock"
        async with AsyncExitStack() as stack:
            listener = await _listen(model)
            stack.callback(model.unlink, missing_ok=True)
            stack.push_async_callback(_close, listener.server)
            road = await stack.enter_async_context(self.proxies.road(socket=egress))
            spec = SandboxSpec(
                session_id=f"sesn_attack_{name}",
                model_socket=model,
                egress_socket=egress,
                program=self.program,
                environment=environment,
                limits=limits,
                mounts=mounts,
                technology=self.technology,
                **dict(folders or self.folders(name)),
            )
            sandbox = await self.provider.create(spec)
            stack.push_async_callback(sandbox.destroy)
            room = Room(self, spec, sandbox, listener, road)
            stack.push_async_callback(room.close)
            yield room

    def given(self, **more: Any) -> dict[str, Any]:
        """What every probe may know."""
        return {
            "mark_backwards": self.mark[::-1],
            "secret_file": str(self.secret_file),
            "engine_socket": str(self.engine_socket),
            "port": self.proxies.canaries.port,
            "environment": dict(ENVIRONMENT),
            "worker": os.getpid(),
            "kernel": f"{platform.release()} {platform.version()}",
            "own_kernel": self.label.kernel != "host",
            "host_name": platform.node(),
            "image_places": [] if self.technology == "bubblewrap" else IMAGE_PLACES,
            "pids": LIMITS.pids,
            "memory": LIMITS.memory_bytes,
            "cpus": LIMITS.cpus,
            "open_files": LIMITS.open_files,
            "scratch": LIMITS.tmp_bytes,
            "disk": LIMITS.disk_bytes,
            **more,
        }


IMAGE_PLACES: Final = ["/root", "/boot", "/var/log", "/var/lib/dpkg/status", "/etc/ssh", "/var/spool", "/lost+found"]
"""Places that an image has too: what is there then is not the host's."""


@dataclass
class Room:
    """One sandbox under attack."""

    ground: SandboxGround
    spec: SandboxSpec
    sandbox: Sandbox
    models: ModelListener
    road: OpenRoad
    visits: list[Visit] = field(default_factory=list)

    async def visit(
        self,
        probes: Sequence[str],
        *,
        stay: bool = False,
        by: str = "launcher",
        given: Mapping[str, Any] | None = None,
        each: float | None = None,
        **options: Any,
    ) -> Visit:
        """Runs probes inside, each for so many seconds at most. With `stay` the program goes on until it is ended."""
        request = {
            "probes": list(probes),
            "given": self.ground.given(**(given or {})),
            "seconds": each or self.ground.seconds / 2,
            "stay": stay,
        }
        line = (json.dumps(request) + "\n").encode()
        path = self.sandbox.launcher if by == "launcher" else self.sandbox.entrance
        words = () if by == "launcher" else ("/opt/hostler/claude",)
        process = await asyncio.create_subprocess_exec(
            path,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
            **options,
        )
        visit = Visit(process, {}, finished=False)
        self.visits.append(visit)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(line)
            await process.stdin.drain()
        await self._listen_to(visit)
        if not stay or not visit.finished:
            await visit.end(self.ground.seconds)
        return visit

    async def _listen_to(self, visit: Visit) -> None:
        assert visit.process.stdout is not None
        try:
            async with asyncio.timeout(self.ground.seconds) as silence:
                while line := await visit.process.stdout.readline():
                    silence.reschedule(asyncio.get_running_loop().time() + self.ground.seconds)
                    try:
                        said = json.loads(line)
                    except ValueError:
                        continue
                    if said.get("done"):
                        visit.finished = True
                        return
                    visit.answers[said["probe"]] = Answer(tuple(said.get("found", ())), said.get("error", ""))
        except TimeoutError:
            visit.said = f"nothing more was heard within {self.ground.seconds:g} s"
            return
        if visit.process.stderr is not None:
            visit.said = (await visit.process.stderr.read()).decode(errors="replace").strip()[-300:]

    async def ask(self, *probes: str, **options: Any) -> Sequence[str]:
        """What these probes succeeded in. Raises CouldNotRun for one that could not be made."""
        visit = await self.visit(probes, **options)
        return told(visit, probes)

    async def close(self) -> None:
        for visit in self.visits:
            if visit.process.returncode is None:
                await visit.end(1.0)


def told(visit: Visit, probes: Sequence[str]) -> Sequence[str]:
    found: list[str] = []
    for probe in probes:
        answer = visit.answers.get(probe)
        if answer is None:
            raise CouldNotRun(f"the program in the sandbox ended before it answered: {visit.said or 'no word'}")
        if answer.error:
            raise CouldNotRun(f"the probe {probe} failed: {answer.error}")
        found += answer.found
    return found


async def _listen(path: Path) -> ModelListener:
    path.unlink(missing_ok=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.Event()
        try:
            name = (await reader.readline()).decode(errors="replace").strip()
            listener.alive[name] = gone
            listener.changed.set()
            while await reader.read(4096):
                pass
        except OSError:
            pass
        finally:
            gone.set()
            writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    listener = ModelListener(server)
    path.chmod(0o666)
    return listener


async def _close(server: asyncio.Server) -> None:
    server.close()


@asynccontextmanager
async def planted(ground: SandboxGround) -> AsyncIterator[dict[str, Any]]:
    """What is around a sandbox when it is attacked: sockets of a worker and of an engine, a segment of shared memory.

    And a process of the worker's user, with the planted words in its environment and its arguments. Gives what the
    probes are told of them.
    """
    abstract = f"hostler-attack-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as kept:
        named = kept.enter_context(socket.socket(socket.AF_UNIX))
        named.bind(f"\0{abstract}")
        named.listen()
        engine = kept.enter_context(socket.socket(socket.AF_UNIX))
        ground.engine_socket.unlink(missing_ok=True)
        engine.bind(str(ground.engine_socket))
        engine.listen()
        key, segment = _segment()
        bystander = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", "read line", "sh", ground.mark),
            stdin=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "CANARY": ground.mark},
        )
        try:
            yield {"abstract": abstract, "memory_key": key, "bystander": bystander.pid}
        finally:
            bystander.kill()
            await bystander.communicate()
            if segment >= 0:
                ctypes.CDLL(None).shmctl(segment, 0, None)
            ground.engine_socket.unlink(missing_ok=True)


def _segment() -> tuple[int, int]:
    """A System V segment that everybody on this host may use: its key, and its number (-1: there is none)."""
    create_new = 0o3000
    for _ in range(10):
        key = 0x68000000 | secrets.randbits(24)
        segment = int(ctypes.CDLL(None).shmget(key, 4096, create_new | 0o666))
        if segment >= 0:
            return key, segment
    return 0x68000000, -1


@contextlib.contextmanager
def ground_folder() -> Iterator[Path]:
    """A new folder with a short name, gone at the end, that everybody may pass through."""
    top = Path(tempfile.mkdtemp(prefix="ha-"))
    top.chmod(0o711)
    try:
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)
