"""Sites that speak HTTP/1.1, with and without TLS, and a road that leads to them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hostler.egress import EgressLimits, EgressProxy, EgressRoad
from hostler.egress.authority import Authority
from hostler.engine.egress_port import (
    EgressDecision,
    EgressRules,
    Filter,
    HostRule,
    RequestHead,
    RoadSecrets,
    SecretExchange,
    SecretRefused,
)

DEADLINE = 60.0
NAMES = ("allowed.example", "narrow.example", "secret.example", "other.example")


@cache
def world() -> Authority:
    """Who signs for the sites. The product's own, since it makes what a test needs."""
    return Authority("the sites' authority")


@cache
def site_context(host: str) -> ssl.SSLContext:
    context = world().make(host)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def trusting(pem: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pem.decode())


@dataclass
class Asked:
    """A request, as a site got it."""

    line: str
    headers: dict[str, str]
    body: bytes = b""
    raw: bytes = b""


Answer = Callable[[Asked], bytes]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def ok(asked: Asked) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Site:
    """A server on this machine that keeps what it is asked."""

    port: int = 0
    answer: Answer = ok
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.rstrip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in fields)}
                asked = Asked(line, headers, raw=head.encode("latin-1"))
                self.asked.append(asked)
                asked.body = await _body(reader, headers)
                writer.write(self.answer(asked))
                await writer.drain()
                if headers.get("upgrade") == "websocket":
                    while data := await reader.read(65536):
                        writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    body = b""
    while headers.get("transfer-encoding") == "chunked":
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if not size:
            break
    return body


@dataclass
class Recorder:
    decisions: list[EgressDecision] = field(default_factory=list)
    fail: bool = False
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def record(self, decision: EgressDecision) -> None:
        if self.fail:
            raise OSError("no database")
        self.decisions.append(decision)
        async with self.more:
            self.more.notify_all()

    async def denied(self, reason: str) -> EgressDecision:
        """The first denial with this reason, once there is one."""

        def found() -> EgressDecision | None:
            return next((d for d in self.decisions if not d.allowed and d.reason == reason), None)

        async with asyncio.timeout(DEADLINE), self.more:
            await self.more.wait_for(lambda: found() is not None)
        decision = found()
        assert decision is not None
        return decision

    def reasons(self) -> list[str]:
        return [decision.reason for decision in self.decisions]


@dataclass
class Names:
    """Every name leads to this machine, until told otherwise."""

    address: str = "127.0.0.1"

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return [self.address]


@dataclass
class Ways:
    """Where the tests go."""

    secure: Site
    plain: Site
    proxy: EgressProxy
    road: EgressRoad
    socket: Path
    recorder: Recorder
    names: Names
    stack: AsyncExitStack

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        self.stack.push_async_callback(_drop, writer)
        return reader, writer

    async def tunnel(self, host: str, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port or self.secure.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer

    async def tls(
        self, host: str, *, name: str | None = "", trust: bytes | None = None, alpn: Sequence[str] = ("http/1.1",)
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """TLS inside of a tunnel to `host`; `name` "" sends the same as server name, None sends none."""
        reader, writer = await self.tunnel(host)
        context = trusting(trust or self.road.authority or world().pem)
        context.set_alpn_protocols(list(alpn))
        context.check_hostname = False
        async with asyncio.timeout(DEADLINE):
            if name is None:
                await writer.start_tls(context)
            else:
                context.check_hostname = name == ""
                await writer.start_tls(context, server_hostname=name or host)
        return reader, writer

    async def ask(self, data: bytes, host: str, **options: object) -> bytes:
        """Sends `data` through TLS and reads to the end of the connection."""
        reader, writer = await self.tls(host, **options)  # type: ignore[arg-type]
        writer.write(data)
        async with asyncio.timeout(DEADLINE):
            return await reader.read()

    async def say(self, data: bytes) -> bytes:
        """The same for the socket of the road."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(DEADLINE):
            return await reader.read()

    def get(self, path: str = "/", host: str = "narrow.example", *fields: str, method: str = "GET") -> bytes:
        """A request from inside of a tunnel, the last one on its connection."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{self.secure.port}", *fields, "Connection: close"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def ways(
    rules: EgressRules | None = None,
    *,
    secrets: RoadSecrets | None = None,
    limits: EgressLimits | None = None,
    site_tls: ssl.SSLContext | None = None,
    trusted: bytes | None = None,
    raw: Serve | None = None,
) -> AsyncIterator[Ways]:
    """`raw` is what listens in the place of the site with TLS, without any."""
    async with AsyncExitStack() as stack:
        secure, plain = Site(), Site()
        serving = []
        for site, tls in ((secure, None if raw else site_tls or any_site()), (plain, None)):
            serve = raw if raw is not None and site is secure else site.serve
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
            site.port = server.sockets[0].getsockname()[1]
            serving.append(server)
        recorder, names = Recorder(), Names()
        proxy = EgressProxy(
            recorder,
            resolver=names,
            private_allowed=frozenset({"127.0.0.1", "127.0.0.2"}),
            ports=frozenset({80, 443, secure.port, plain.port}),
            plain_ports=frozenset({plain.port}),
            limits=limits,
            tls=trusting(trusted or world().pem),
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="egress-")))
        default = EgressRules(
            "listed",
            ("allowed.example",),
            rules=(HostRule("narrow.example", methods=frozenset({"GET", "POST"}), paths=("/v1/files",)),),
        )
        road = await proxy.open("sesn_1", folder / "s", rules or default, secrets=secrets)
        try:
            yield Ways(secure, plain, proxy, road, folder / "s", recorder, names, stack)
        finally:
            await stack.aclose()
            await proxy.close()
            for server in serving:
                server.close()
            for site in (secure, plain):
                for writer in site.writers:
                    await _drop(writer)


@cache
def any_site() -> ssl.SSLContext:
    """A server that has a certificate for each of the names."""
    context = site_context(NAMES[0])

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name in NAMES:
            connection.context = site_context(name)

    context.sni_callback = choose
    return context


# ------------------------------------------------------------------------------------------------------------- secrets


class Swapping:
    """Implements `Filter`: one word for another, however it is split."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old, self._new, self._held = old, new, b""

    def feed(self, piece: bytes) -> bytes:
        data = (self._held + piece).replace(self._old, self._new)
        keep = next((n for n in range(len(self._old) - 1, 0, -1) if data.endswith(self._old[:n])), 0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def end(self) -> bytes:
        return self._held


PLACEHOLDER, SECRET = b"PLACEHOLDER", b"the-true-secret"


@dataclass
class SwappedExchange:
    head: RequestHead
    body: Filter | None

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        kept = [(name, value.replace(SECRET, PLACEHOLDER)) for name, value in headers if name != b"content-length"]
        return kept, Swapping(SECRET, PLACEHOLDER)


@dataclass
class SwapsPlaceholders:
    """Implements `RoadSecrets`: the placeholder becomes the secret on one host, and is refused on every other."""

    host: str = "secret.example"
    secret: bytes = SECRET
    begun: list[RequestHead] = field(default_factory=list)

    def concerns(self, host: str) -> bool:
        return host == self.host

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        self.begun.append(head)
        told = head.target + b"".join(value for _, value in head.headers)
        if head.host != self.host:
            if PLACEHOLDER in told:
                raise SecretRefused("secret_elsewhere", f"This secret is for {self.host} only.")
            return None
        headers = tuple((name, value.replace(PLACEHOLDER, self.secret)) for name, value in head.headers)
        target = head.target.replace(PLACEHOLDER, self.secret)
        changed = RequestHead(head.method, head.scheme, head.host, head.port, target, headers)
        return SwappedExchange(changed, Swapping(PLACEHOLDER, self.secret))


class FailsToOpen:
    """Implements `RoadSecrets`: the secret can't be opened."""

    def concerns(self, host: str) -> bool:
        return True

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        raise OSError("the vault is gone")
