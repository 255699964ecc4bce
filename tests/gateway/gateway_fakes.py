"""A scripted model API on a real socket, a raw client for the road, and listeners named by how they fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from hostler.engine.model_port import Asked, BudgetReached, Caller, Count, Grant, Shortage, Wait
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.gateway import ClientLimits, ModelGateway, ModelRoad, Upstream, UpstreamLimits, one_upstream

DEADLINE = 60.0
KEY = "sk-ant-the-real-key"


@dataclass
class Seen:
    """One request as the upstream saw it."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire(asyncio.Protocol):
    """One connection at the upstream. Scripts write to `transport`; `hung_up` is set when the other side is gone."""

    def __init__(self, fake: FakeUpstream) -> None:
        self.fake = fake
        self.hung_up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.fake.wires.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.hung_up.set()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, gap, rest = self._buffer.partition(b"\r\n\r\n")
        if not gap:
            return
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {f.split(": ", 1)[0].lower(): f.split(": ", 1)[1] for f in fields}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        seen = Seen(line, headers, rest[:length])
        self.fake.seen.append(seen)
        self.fake.asked.set()
        self.task = asyncio.get_running_loop().create_task(self._play(seen))

    async def _play(self, seen: Seen) -> None:
        await self.fake.script(seen, self)

    def write(self, data: bytes) -> None:
        self.transport.write(data)


Script = Callable[[Seen, Wire], Awaitable[None]]


@dataclass
class FakeUpstream:
    """Answers each request by `script`. Keeps connections open unless the script closes the transport."""

    script: Script
    seen: list[Seen] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeUpstream]:
        server = await asyncio.get_running_loop().create_server(lambda: Wire(self), "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for wire in self.wires:
                wire.transport.abort()
            for wire in self.wires:
                await wire.hung_up.wait()


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def sse_message(
    content: Sequence[dict[str, Any]], *, stop_reason: str = "end_turn", usage: dict[str, Any] | None = None
) -> list[bytes]:
    """The events of a streamed message."""
    start = {"input_tokens": 11, "output_tokens": 1, **(usage or {})}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    out = [event("message_start", message={**head, "stop_reason": None, "stop_sequence": None, "usage": start})]
    for index, block in enumerate(content):
        if block["type"] == "text":
            out.append(event("content_block_start", index=index, content_block={"type": "text", "text": ""}))
            delta = {"type": "text_delta", "text": block["text"]}
            out.append(event("content_block_delta", index=index, delta=delta))
        else:
            out.append(event("content_block_start", index=index, content_block={**block, "input": {}}))
            text = json.dumps(block["input"])
            for part in (text[:3], text[3:]):
                delta = {"type": "input_json_delta", "partial_json": part}
                out.append(event("content_block_delta", index=index, delta=delta))
        out.append(event("content_block_stop", index=index))
    out.append(event("message_delta", delta={"stop_reason": stop_reason}, usage={"output_tokens": 7}))
    out.append(event("message_stop"))
    return out


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_up\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answers_sse(events: Sequence[bytes]) -> Script:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.write(SSE_HEAD + b"".join(chunk(e) for e in events) + b"0\r\n\r\n")

    return script


def answers_json(status: int, value: Any, headers: str = "") -> Script:
    async def script(seen: Seen, wire: Wire) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        wire.write(head.encode() + body)

    return script


@dataclass
class Listener:
    """Keeps what it is told. `fail_records`, `fail_calls`: how many of the next calls fail."""

    records: list[ModelRequestRecord] = field(default_factory=list)
    calls: list[list[HeldCall]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    fail_records: int = 0
    fail_calls: int = 0
    caller: Caller = field(default_factory=lambda: Caller("sesn_1"))
    told: asyncio.Event = field(default_factory=asyncio.Event)
    waits: list[Wait] = field(default_factory=list)
    waited: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        if self.fail_calls:
            self.fail_calls -= 1
            raise OSError("no database")
        self.order.append("held")
        self.calls.append(list(calls))

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        if self.fail_records:
            self.fail_records -= 1
            raise OSError("no database")
        self.order.append("record")
        self.records.append(record)
        self.told.set()

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        self.order.append("budget")
        self.told.set()

    def on_waiting(self, wait: Wait) -> None:
        self.order.append("waiting")
        self.waits.append(wait)
        self.waited.set()

    def on_going_on(self) -> None:
        self.order.append("going on")


@dataclass
class Purse:
    """Has room for nothing while `empty`. Keeps what it is asked; counts when it is told to."""

    empty: bool = False
    grant: Grant = field(default_factory=Grant)
    counts: bool = False
    counted: list[int | None] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    released: list[Grant] = field(default_factory=list)

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: asyncio.Event) -> Grant:
        self.asked.append(asked)
        if self.counts:
            self.counted.append(await count(models[0]))
        if self.empty:
            raise BudgetReached("Nothing is left.", Shortage("bdgt_1", "session", "total", 0, 1))
        return self.grant

    async def release(self, grant: Grant) -> None:
        self.released.append(grant)


@dataclass
class Store:
    state: str | None = None
    fail: bool = False

    async def load(self) -> str | None:
        return self.state

    async def save(self, state: str) -> None:
        if self.fail:
            raise OSError("no database")
        self.state = state


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    """False: the connection ended before the body did."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        parts = self.body.decode().split("\n\n")
        return [json.loads(part.split("data: ", 1)[1]) for part in parts if "data: " in part]


class RoadClient:
    """A raw HTTP/1.1 client on a unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> RoadClient:
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def raw(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer()

    async def post(self, body: Any, path: str = "/v1/messages?beta=true", headers: str = "") -> Answer:
        return await self.raw(request_bytes(body, path, headers))

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")[:-2]
        return int(line.split(" ")[1]), {f.split(": ", 1)[0].lower(): f.split(": ", 1)[1] for f in fields}

    async def piece(self) -> bytes:
        """The next chunk of a chunked body; empty at the end."""
        async with asyncio.timeout(DEADLINE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        status, headers = await self.head()
        if "content-length" in headers:
            async with asyncio.timeout(DEADLINE):
                return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])), True)
        parts: list[bytes] = []
        try:
            while part := await self.piece():
                parts.append(part)
        except asyncio.IncompleteReadError:
            return Answer(status, headers, b"".join(parts), False)
        return Answer(status, headers, b"".join(parts), True)


def request_bytes(body: Any, path: str = "/v1/messages?beta=true", headers: str = "") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: anything\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


@dataclass
class Bench:
    """One upstream, one gateway, one road."""

    upstream: FakeUpstream
    gateway: ModelGateway
    road: ModelRoad
    socket: Path
    listener: Listener
    store: Store
    clients: list[RoadClient] = field(default_factory=list)

    async def client(self) -> RoadClient:
        client = await RoadClient.connect(self.socket)
        self.clients.append(client)
        return client


@asynccontextmanager
async def bench(
    tmp_path: Path,
    script: Script,
    *,
    one_call_at_a_time: bool = False,
    allowed_models: frozenset[str] | None = None,
    listener: Listener | None = None,
    store: Store | None = None,
    client_limits: ClientLimits | None = None,
    upstream_limits: UpstreamLimits | None = None,
    purse: Purse | None = None,
) -> AsyncIterator[Bench]:
    async with FakeUpstream(script).running() as upstream:
        desk = one_upstream(Upstream(f"http://127.0.0.1:{upstream.port}", KEY), upstream_limits)
        gateway = ModelGateway(desk if purse is None else replace(desk, purse=purse), client_limits=client_limits)
        listener = listener or Listener()
        store = store or Store()
        road = await gateway.open(
            "sesn_1",
            tmp_path / "model.sock",
            listener,
            one_call_at_a_time=one_call_at_a_time,
            sequence=store,
            allowed_models=allowed_models,
        )
        made = Bench(upstream, gateway, road, tmp_path / "model.sock", listener, store)
        try:
            yield made
        finally:
            for client in made.clients:
                await client.close()
            await gateway.close()


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1, and the certificate that a client must trust to talk to it."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def hello(*, stream: bool = True, model: str = "claude-x", **more: Any) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}], **more}
