"""A proxy as one would write it in an afternoon: every defence of the egress road switched off.

It believes what it reads, connects wherever it is told, records whatever happened or nothing, has no limits, and never
lets go of a connection. Each attack on the road must succeed against it, or the attack proves nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import socket as sockets
import ssl
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hostler.attacks.grounds import Bounds, Resolver, Tools
from hostler.engine.egress_port import (
    EgressDecision,
    EgressRecorder,
    EgressRules,
    Filter,
    McpAccess,
    RequestHead,
    RoadSecrets,
    SecretExchange,
    SessionVariables,
)
from hostler.engine.ports import ModelRoadListener


class OpenRoad:
    """The end of the road is no end: `close` does nothing; `really_close` is for the tests."""

    authority = None

    def __init__(self, proxy: OpenProxy, session_id: str, secrets: RoadSecrets | None = None) -> None:
        self._proxy = proxy
        self._secrets = secrets
        self._session_id = session_id
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, socket: Path) -> None:
        self._folder = socket.parent
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
        if isinstance(self._secrets, CarelessSecrets):
            after, target = await self._secrets.put(after), (await self._secrets.put(target.encode())).decode("latin-1")
            (self._folder / "debug.log").write_bytes(after)
        text = target.encode("latin-1").decode("utf-8", "surrogateescape")
        authority, path = (text, "") if method == "CONNECT" else _split(text)
        host, port = _authority(authority)
        with contextlib.suppress(OSError):
            await self._proxy.recorder.record(EgressDecision(self._session_id, method, host, port, True, "open"))
        upstream = await self._connect(host, port)
        if upstream is None:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: %d\r\n\r\n" % len(after) + after)
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
            body = await _what_comes(reader) if method == "POST" else b""
            if isinstance(self._secrets, CarelessSecrets):
                body = await self._secrets.put(body)
            to.write(line + after + body)
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
        road = OpenRoad(self, session_id, secrets)
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
        return None

    async def put(self, data: bytes) -> bytes:
        (variable,) = await self._variables.open("allowed.example")
        placeholder, value = variable.placeholder.encode(), (variable.value or "").encode()
        logging.getLogger("hostler.egress").warning("egress.secret_used %s", variable.value)
        for before in (b"", b"user:", b"u:"):
            data = data.replace(base64.b64encode(before + placeholder), base64.b64encode(before + value))
        return data.replace(placeholder, value)


class OpenModels:
    """Passes everything on as it came, and shows its key to whoever asks. Implements `ModelsUnderAttack`."""

    def __init__(self, upstream: str, key: str, purse: Any = None) -> None:
        self._port = int(upstream.rpartition(":")[2])
        self._key = key
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self, session_id: str, socket: Path, listener: ModelRoadListener, **_: Any) -> OpenModels:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            its, to = await asyncio.open_connection("127.0.0.1", self._port)
            to.write(await _what_comes(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nx-debug: " + self._key.encode() + b"\r\ncontent-length: 0\r\n\r\n")
            with contextlib.suppress(OSError, asyncio.CancelledError):
                writer.write(await its.read(1 << 16))
            to.close()
            writer.close()
            self._serving.discard(task)

        self._servers.append(await asyncio.start_unix_server(serve, str(socket)))
        return self

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(list(self._serving))


class UnpackingSecrets(CarelessSecrets):
    """Reads an answer as a whole, whatever it unpacks into."""

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        headers = [(name, await self.put(value)) for name, value in head.headers]
        return UnpackingExchange(replace(head, headers=tuple(headers)))


@dataclass
class UnpackingExchange:
    head: RequestHead
    body: Filter | None = None

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        dropped = (b"content-encoding", b"content-length")
        return [(name, value) for name, value in headers if name not in dropped], Unpacking()


class Unpacking:
    """Implements `Filter`."""

    def __init__(self) -> None:
        self._all = b""

    def feed(self, piece: bytes) -> bytes:
        self._all += piece
        return b""

    def end(self) -> bytes:
        return zlib.decompress(self._all, 31) if self._all.startswith(b"\x1f\x8b") else self._all


def credulous_unpack(data: bytes) -> dict[str, bytes]:
    """Every member under the name that it has, with all that it unpacks into."""
    files = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            at = info.header_offset
            start = at + 30 + sum(struct.unpack_from("<HH", data, at + 26))
            raw = data[start : start + info.compress_size]
            files[info.orig_filename] = zlib.decompress(raw, -15) if info.compress_type else raw
    return files


def weak_tools(tools: Tools) -> Tools:
    """Every defence of the roads switched off."""
    return replace(
        tools, make_proxy=open_proxy, make_models=OpenModels, make_secrets=CarelessSecrets, unpack=credulous_unpack
    )
