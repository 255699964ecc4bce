"""What does an attack stand on? A proxy, or sandboxes, made for it alone from the product's own parts."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hostler.attacks.canary import ALLOWED_ADDRESS, Canaries, Decisions, Names
from hostler.attacks.cases import CouldNotRun
from hostler.engine.egress_port import (
    EgressRecorder,
    EgressRoad,
    EgressRoads,
    EgressRules,
    RoadSecrets,
    SessionVariables,
)
from hostler.engine.model_port import Purse
from hostler.engine.ports import ModelRoads

DEADLINE = 5.0
"""How long an answer of the proxy may take before the attack is said to have hung it, in seconds."""

LISTED = EgressRules("listed", ("allowed.example", "*.below.example"))
PUBLIC = EgressRules("public")


class Resolver(Protocol):
    async def resolve(self, host: str, port: int) -> Sequence[str]: ...


class ProxyUnderAttack(EgressRoads, Protocol):
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the proxy under attack: small, so that reaching them costs this host nothing."""

    head_bytes: int = 16 << 10
    head_seconds: float = 5.0
    idle_seconds: float = 5.0
    connections: int = 16


class MakeProxy(Protocol):
    def __call__(
        self,
        recorder: EgressRecorder,
        *,
        resolver: Resolver,
        private_allowed: frozenset[str],
        ports: frozenset[int],
        plain_ports: frozenset[int],
        bounds: Bounds,
        tls: ssl.SSLContext | None,
    ) -> ProxyUnderAttack:
        """The product's proxy. `plain_ports`: those of `ports` on which a tunnel need not begin with TLS.

        `tls`: whom it trusts when it ends TLS and begins it anew."""
        ...


@dataclass
class OpenRoad:
    """A session's egress road, as a program in the sandbox sees it, and what it leaves behind."""

    socket: Path
    road: EgressRoad
    proxy: ProxyUnderAttack
    decisions: Decisions
    names: Names
    canaries: Canaries
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.socket), limit=1 << 20)
        self.writers.append(writer)
        return reader, writer

    async def say(self, data: bytes, *, seconds: float = DEADLINE, to_end: bool = False) -> bytes:
        """Sends `data`; gives the answer as `heard` does."""
        reader, writer = await self.connect()
        writer.write(data)
        return await heard(reader, seconds=seconds, to_end=to_end)

    async def tunnel(
        self, host: str = "allowed.example", port: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A tunnel that the rules allow. Raises CouldNotRun when there is none."""
        reader, writer = await self.connect()
        writer.write(connect(host, port or self.canaries.port))
        answer = await heard(reader)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise CouldNotRun(f"an allowed CONNECT was answered {first_line(answer)!r}")
        return reader, writer


async def heard(reader: asyncio.StreamReader, *, seconds: float = DEADLINE, to_end: bool = False) -> bytes:
    """What is answered: a tunnel's greeting, or one whole answer, or what came within `seconds`.

    `to_end`: what follows the answer, too.
    """
    answer = bytearray()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while piece := await reader.read(1 << 16):
                answer += piece
                if not to_end and _is_whole(bytes(answer)):
                    break
    return bytes(answer)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    lines = head.lower().split(b"\r\n")
    if lines[0].startswith(b"http/1.1 200 connection"):
        return True
    if b"transfer-encoding: chunked" in lines:
        return body.endswith(b"0\r\n\r\n")
    lengths = [line.partition(b":")[2].strip() for line in lines if line.startswith(b"content-length:")]
    return len(lengths) == 1 and lengths[0].isdigit() and len(body) >= int(lengths[0])


def connect(host: str, port: int, *headers: str) -> bytes:
    """A CONNECT, byte for byte as its author wants it."""
    lines = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def get(url: str, *headers: str, method: str = "GET") -> bytes:
    """A plain request in absolute form."""
    lines = [f"{method} {url} HTTP/1.1", *(headers or ("Host: allowed.example",))]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def first_line(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0][:120].decode("latin-1")


def is_denial(answer: bytes) -> bool:
    """Whether the proxy itself says no; an answer that never came (it hung up) counts as one."""
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return not answer or b"\r\nx-hostler-egress: denied" in head


class MakeModels(Protocol):
    def __call__(self, upstream: str, key: str, purse: Purse | None = None) -> ModelsUnderAttack:
        """The product's gateway, in front of the server at `upstream`, to which it shows `key`. `purse`: who says
        whether a request may be paid; None: whatever it costs."""
        ...


class ModelsUnderAttack(ModelRoads, Protocol):
    async def close(self) -> None: ...


Volume = Callable[[Path, int], contextlib.AbstractAsyncContextManager[Path]]
"""Makes a folder of so many bytes below a path."""


@dataclass(frozen=True)
class Tools:
    """The product's parts that are attacked, as `compose` makes them. None: this attack can't be made."""

    make_proxy: MakeProxy
    make_models: MakeModels | None = None
    make_secrets: Callable[[SessionVariables], RoadSecrets] | None = None
    """What puts the secrets of a session's variables into its requests."""
    tls: Callable[[str], ssl.SSLContext] | None = None
    """What a canary ends TLS with, as the host of this name."""
    trust: Callable[[], ssl.SSLContext] | None = None
    """Trusts the canary that ends TLS as `allowed.example`, and nobody else."""
    unpack: Callable[[bytes], Mapping[str, bytes]] | None = None
    """Reads an uploaded archive: files by path. Raises ValueError for one that is refused."""
    volume: Volume | None = None


@dataclass
class ProxyGround:
    """Where the attacks on the roads are made."""

    place: Path
    """A directory of its own, with a short name: sockets are in it."""
    canaries: Canaries
    tools: Tools
    opened: int = 0
    log: list[str] = field(default_factory=list)
    """What the parts under attack have logged so far."""

    @asynccontextmanager
    async def road(
        self,
        rules: EgressRules = LISTED,
        *,
        names: Mapping[str, Sequence[Sequence[str]]] | None = None,
        bounds: Bounds | None = None,
        decisions: Decisions | None = None,
        secrets: RoadSecrets | None = None,
        socket: Path | None = None,
    ) -> AsyncIterator[OpenRoad]:
        """A proxy with one open road. The allowed address and the canaries' port are open; all else is as shipped."""
        self.canaries.forget()
        resolver, recorder = Names(dict(names or {})), decisions or Decisions()
        proxy = self.tools.make_proxy(
            recorder,
            resolver=resolver,
            private_allowed=frozenset({ALLOWED_ADDRESS}),
            ports=frozenset({80, 443, self.canaries.port, *self.canaries.tls_ports}),
            plain_ports=frozenset({80, self.canaries.port}),
            bounds=bounds or Bounds(),
            tls=self.tools.trust() if self.tools.trust else None,
        )
        self.opened += 1
        socket = socket or self.place / f"{self.opened}.sock"
        opened: OpenRoad | None = None
        try:
            road = await proxy.open("sesn_attack", socket, rules, None, secrets)
            opened = OpenRoad(socket, road, proxy, recorder, resolver, self.canaries)
            yield opened
        finally:
            for writer in opened.writers if opened else ():
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await proxy.close()

    async def refused(
        self,
        data: bytes,
        rules: EgressRules = LISTED,
        names: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> Sequence[str]:
        """Sends one request that must be denied, recorded as denied, and meet nobody. Says what was otherwise."""
        async with self.road(rules, names=names) as road:
            answer = await road.say(data)
            return self.judge(answer, road.decisions)

    def judge(self, answer: bytes, decisions: Decisions) -> Sequence[str]:
        found = []
        if self.canaries.met:
            addresses = ", ".join(sorted({met.address for met in self.canaries.met}))
            found.append(f"the request reached a server at {addresses}")
        if not is_denial(answer):
            found.append(f"the proxy answered {first_line(answer)!r} instead of a denial")
        if any(decision.allowed for decision in decisions.made):
            found.append("the record says that it was allowed")
        if not decisions.denials():
            found.append("no denial was recorded")
        return found

    async def control(self) -> None:
        """An honest request gets through here. Raises CouldNotRun: then a denial would prove nothing."""
        async with self.road() as road:
            url = f"http://allowed.example:{self.canaries.port}/control"
            answer = await road.say(get(url))
            if b"canary" not in answer:
                raise CouldNotRun(f"an allowed request was answered {first_line(answer)!r}: nothing can be proved")
