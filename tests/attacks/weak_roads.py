"""A proxy as one would write it in an afternoon: every defence of the egress road switched off.

It believes what it reads, connects wherever it is told, records whatever happened or nothing, has no limits, and never
lets go of a connection. Each attack on the road must succeed against it, or the attack proves nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import socket as sockets
import ssl
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from hostler.attacks.grounds import Bounds, Resolver
from hostler.engine.egress_port import (
    EgressDecision,
    EgressRecorder,
    EgressRules,
    Filter,
    McpAccess,
    RequestHead,
    RoadSecrets,
    SecretExchange,
    SecretRefused,
    SessionVariables,
)


class OpenRoad:
    """The end of the road is no end: `close` does nothing; `really_close` is for the tests."""

    authority = None

    def __init__(self, proxy: OpenProxy, session_id: str) -> None:
        self._proxy = proxy
        self._session_id = session_id
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, socket: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(socket), limit=1 << 26)
        socket.chmod(0o666)

    async def close(self) -> None:
        pass

    async def really_close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(list(self._serving))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, ValueError, LookupError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = await reader.readline()
        if not line:
            return False
        words = line.decode("latin-1").rstrip("\r\n").split(" ")
        method, target = words[0], words[1]
        after = b""
        while not after.endswith((b"\r\n\r\n", b"\n\n")) and after not in (b"\r\n", b"\n"):
            piece = await reader.readline()
            if not piece:
                return False
            after += piece
        text = target.encode("latin-1").decode("utf-8", "surrogateescape")
        authority, path = (text, "") if method == "CONNECT" else _split(text)
        host, port = _authority(authority)
        with contextlib.suppress(OSError):
            await self._proxy.recorder.record(EgressDecision(self._session_id, method, host, port, True, "open"))
        upstream = await self._connect(host, port)
        if upstream is None:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nnone")
            return True
        its, to = upstream
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                if self._proxy.reads_tunnels:
                    return True
                await _both_ways(reader, writer, its, to)
                return False
            rest = b" ".join(word.encode("latin-1") for word in words[2:])
            line = b"%b %b %b\r\n" % (method.encode(), unquote(path).encode("utf-8", "surrogateescape"), rest)
            to.write(line + after + (await _what_comes(reader) if method == "POST" else b""))
            await _until_quiet(its, writer)
            return True
        finally:
            to.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        plain = unicodedata.normalize("NFKC", unquote(host)).strip("[]")
        for address in await self._addresses(plain, port):
            with contextlib.suppress(OSError, ValueError, UnicodeError):
                async with asyncio.timeout(1):
                    return await asyncio.open_connection(address, port or 80, limit=1 << 26)
        return None

    async def _addresses(self, host: str, port: int) -> list[str]:
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            kind = sockets.AF_INET6 if ":" in host else sockets.AF_INET
            sockets.inet_pton(kind, host.partition("%")[0]) if ":" in host else sockets.inet_aton(host)
            found = sockets.getaddrinfo(host.removesuffix("."), port)
            return [str(entry[4][0]) for entry in found]
        with contextlib.suppress(OSError):
            await self._proxy.resolver.resolve(host, port)  # once to look at it, and
            return list(await self._proxy.resolver.resolve(host, port))  # once more to connect
        return []


def _split(url: str) -> tuple[str, str]:
    rest = url.partition(":")[2] if ":" in url[:6] else url
    rest = rest.lstrip("/")
    for at, char in enumerate(rest):
        if char in "/\\#?":
            return rest[:at], rest[at:] if char == "/" else "/"
    return rest, "/"


def _authority(text: str) -> tuple[str, int]:
    text = text.rpartition("@")[2]
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    digits = "".join(char for char in port if char.isdigit())
    return host, int(digits or 80) % 65536


async def _what_comes(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while piece := await reader.read(1 << 16):
                data += piece
    return data


async def _until_quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(TimeoutError, OSError):
        while True:
            async with asyncio.timeout(0.2):
                piece = await reader.read(1 << 20)
            if not piece:
                return
            writer.write(piece)  # and never waits until it was taken


async def _both_ways(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, its: asyncio.StreamReader, to: asyncio.StreamWriter
) -> None:
    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(1 << 20):
                target.write(piece)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(carry(reader, to))
        tasks.create_task(carry(its, writer))


class OpenProxy:
    """Implements `ProxyUnderAttack`."""

    def __init__(self, recorder: EgressRecorder, resolver: Resolver, *, reads_tunnels: bool = False) -> None:
        self.recorder = recorder
        self.resolver = resolver
        self.reads_tunnels = reads_tunnels
        """A CONNECT is taken for the beginning of a conversation with the proxy."""
        self._roads: list[OpenRoad] = []

    async def open(
        self,
        session_id: str,
        socket: Path,
        rules: EgressRules,
        mcp: McpAccess | None = None,
        secrets: RoadSecrets | None = None,
    ) -> OpenRoad:
        road = OpenRoad(self, session_id)
        await road.start(socket)
        self._roads.append(road)
        return road

    async def close(self) -> None:
        for road in self._roads:
            await road.really_close()


def open_proxy(
    recorder: EgressRecorder,
    *,
    resolver: Resolver,
    private_allowed: frozenset[str],
    ports: frozenset[int],
    plain_ports: frozenset[int],
    bounds: Bounds,
    tls: ssl.SSLContext | None,
) -> OpenProxy:
    return OpenProxy(recorder, resolver)


def gullible_proxy(
    recorder: EgressRecorder,
    *,
    resolver: Resolver,
    private_allowed: frozenset[str],
    ports: frozenset[int],
    plain_ports: frozenset[int],
    bounds: Bounds,
    tls: ssl.SSLContext | None,
) -> OpenProxy:
    return OpenProxy(recorder, resolver, reads_tunnels=True)


class CarelessSecrets:
    """Puts the secret wherever its placeholder stands, to whomever; tells it in the log; takes it out of nothing.

    Implements `RoadSecrets`.
    """

    def __init__(self, variables: SessionVariables) -> None:
        self._variables = variables

    def concerns(self, host: str) -> bool:
        return True

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        (variable,) = await self._variables.open("allowed.example")
        placeholder, value = variable.placeholder.encode(), (variable.value or "").encode()
        logging.getLogger("hostler.egress").warning("egress.secret_used %s", variable.value)
        if head.method == "POST" and placeholder not in head.target and head.port == 80:
            raise SecretRefused("careless", f"{variable.value} can't be sent")
        basic = base64.b64encode(b"user:" + placeholder), base64.b64encode(b"user:" + value)
        short = base64.b64encode(b"u:" + placeholder), base64.b64encode(b"u:" + value)

        def put(text: bytes) -> bytes:
            return text.replace(placeholder, value).replace(*basic).replace(*short)

        headers = tuple((name, put(text)) for name, text in head.headers)
        return CarelessExchange(
            replace(head, headers=headers, target=head.target.replace(placeholder, quote(value).encode())),
            placeholder,
            value,
        )


@dataclass
class CarelessExchange:
    head: RequestHead
    placeholder: bytes
    value: bytes

    @property
    def body(self) -> Filter | None:
        return Replacing(self.placeholder, self.value)

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        return headers, None


@dataclass
class Replacing:
    """Implements `Filter`, for texts that come in one piece."""

    old: bytes
    new: bytes

    def feed(self, piece: bytes) -> bytes:
        return piece.replace(self.old, self.new)

    def end(self) -> bytes:
        return b""
