"""A8: is the road to the model a way out to anything else there?

The canary stands for the model's server. It must see the gateway's own key, one path, one model, and nothing that would
make it reach other hosts for the sandbox.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hostler.attacks.canary import Met
from hostler.attacks.cases import Case, CouldNotRun, OnProxy, Severity
from hostler.attacks.grounds import ProxyGround, first_line, heard
from hostler.engine.model_port import Asked, BudgetReached, Caller, Count, Grant, Purse, Shortage, Wait
from hostler.engine.ports import HeldCall, ModelRequestRecord

KEY = "sk-canary-of-the-gateway"
MODEL = "claude-of-the-agent"


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


class _Listener:
    """Implements `ModelRoadListener`."""

    def __init__(self) -> None:
        self.records: list[ModelRequestRecord] = []
        self.caller = Caller("sesn_canary")

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        pass

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        self.records.append(record)

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        pass

    def on_waiting(self, wait: Wait) -> None:
        pass

    def on_going_on(self) -> None:
        pass


class _EmptyPurse:
    """Implements `Purse`: nothing is left."""

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: asyncio.Event) -> Grant:
        raise BudgetReached("Nothing is left.", Shortage("bdgt_canary", "session", "total", 0, 1))

    async def release(self, grant: Grant) -> None:
        pass


class _NoSequence:
    """Implements `SequenceStore`."""

    async def load(self) -> str | None:
        return None

    async def save(self, state: str) -> None:
        pass


def body(**changes: Any) -> str:
    message = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **changes}
    return json.dumps({name: value for name, value in message.items() if value is not None})


def request(
    path: str = "/v1/messages", *headers: str, method: str = "POST", content: str | None = None, host: str = "localhost"
) -> bytes:
    sent = body() if content is None else content
    length = (
        []
        if any("ransfer-" in header or "ontent-Length" in header for header in headers)
        else [f"Content-Length: {len(sent)}"]
    )
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *length, *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + sent).encode("utf-8", "surrogateescape")


_ANSWER = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "canary"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
).encode()


async def _answers(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(0.05):
            while piece := await reader.read(65536):
                met.data += piece
    except TimeoutError:
        pass
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(_ANSWER) + _ANSWER)


@asynccontextmanager
async def _road(ground: ProxyGround, *, purse: Purse | None = None) -> AsyncIterator[tuple[Path, _Listener]]:
    if ground.tools.make_models is None:
        raise CouldNotRun("no gateway was given to the attack")
    ground.canaries.forget()
    ground.canaries.answer = _answers
    gateway = ground.tools.make_models(f"http://127.0.0.1:{ground.canaries.port}", KEY, purse)
    ground.opened += 1
    socket, listener = ground.place / f"m{ground.opened}.sock", _Listener()
    try:
        await gateway.open(
            "sesn_attack",
            socket,
            listener,
            one_call_at_a_time=False,
            sequence=_NoSequence(),
            allowed_models=frozenset({MODEL}),
        )
        yield socket, listener
    finally:
        await gateway.close()


async def _say(socket: Path, data: bytes, seconds: float = 3.0) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=1 << 20)
    try:
        writer.write(data)
        return await heard(reader, seconds=seconds)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _control(ground: ProxyGround) -> None:
    async with _road(ground) as (socket, _):
        answer = await _say(socket, request())
        if b"canary" not in answer:
            raise CouldNotRun(f"an allowed model request was answered {first_line(answer)!r}: nothing can be proved")


def _refused(data: bytes) -> OnProxy:
    async def attack(ground: ProxyGround) -> Sequence[str]:
        await _control(ground)
        async with _road(ground) as (socket, _):
            answer = await _say(socket, data)
            found = []
            if ground.canaries.met:
                found.append(f"the model's server was asked {first_line(bytes(ground.canaries.met[0].data))!r}")
            if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
                found.append(f"the gateway answered {first_line(answer)!r}")
            return found

    return attack


def _clean(data: bytes, forbidden: bytes) -> OnProxy:
    """Sent on, without the attacker's part of it, and with the gateway's key."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        async with _road(ground) as (socket, listener):
            await _say(socket, data)
            seen = ground.canaries.seen
            if not seen:
                raise CouldNotRun("the request was not sent on")
            found = []
            if forbidden.lower() in seen.lower():
                found.append(f"the model's server was told {forbidden.decode()!r}")
            if KEY.encode() not in seen:
                found.append("the gateway's key was replaced")
            if not listener.records:
                found.append("the request is in no record")
            return found

    return attack


async def _no_key_back(ground: ProxyGround) -> Sequence[str]:
    """The gateway's key is in no answer, whatever is asked."""
    found = []
    for data in (request(), request("/v1/files"), request(content="{"), request(content=body(model="other"))):
        async with _road(ground) as (socket, _):
            if KEY.encode() in await _say(socket, data):
                found.append(f"the key came back for {first_line(data)!r}")
    return found


async def _budget(ground: ProxyGround) -> Sequence[str]:
    """Requests when the session may make none any more: none is sent, however many come at once."""
    async with _road(ground, purse=_EmptyPurse()) as (socket, _):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(_say(socket, request(), 1.0))
        return [f"{len(ground.canaries.met)} requests were sent"] if ground.canaries.met else []


_TOOLS = {
    "fetches pages": {"type": "web_fetch_20250910", "name": "web_fetch"},
    "runs code": {"type": "code_execution_20250825", "name": "code_execution"},
    "connects to MCP servers": {"type": "mcp_toolset", "mcp_server_name": "x"},
}
_SERVERS = [{"type": "url", "url": "https://evil.tld", "name": "x"}]
_TWICE = body()[:-1] + ', "model": "claude-expensive"}'

_REFUSED: tuple[tuple[str, bytes], ...] = (
    ("files of the account", request("/v1/files")),
    ("models of the account", request("/v1/models", method="GET", content="")),
    ("batches", request("/v1/messages/batches")),
    ("keys and members of the organisation", request("/v1/organizations/api_keys", method="GET", content="")),
    ("a path with dots", request("/v1/messages/../files")),
    ("a path with encoded letters", request("/v1/%6dessages")),
    ("a path with an encoded slash", request("/v1/messages%2f..%2ffiles")),
    ("a path with two slashes", request("//v1/messages")),
    ("a path behind the allowed one", request("/v1/messages/x")),
    ("another method", request(method="PUT")),
    ("an absolute target", request("http://evil.tld/v1/messages")),
    ("a CONNECT", request("evil.tld:443", method="CONNECT", content="")),
    ("an upgrade", request("/v1/messages", "Upgrade: websocket", "Connection: Upgrade", method="GET", content="")),
    ("a length and chunks", request("/v1/messages", "Transfer-Encoding: chunked", "Content-Length: 4")),
    ("two lengths", request("/v1/messages", f"Content-Length: {len(body())}", "Content-Length: 0")),
    ("another model", request(content=body(model="claude-expensive"))),
    ("another model, with a blank", request(content=body(model=MODEL + " "))),
    ("another model, in capitals", request(content=body(model=MODEL.upper()))),
    ("two models", request(content=_TWICE)),
    ("two models, one key escaped", request(content=_TWICE.replace(', "model"', ', "mod\\u0065l"'))),
    ("no model", request(content=body(model=None))),
    ("a model that is a list", request(content=body(model=[MODEL]))),
    ("MCP servers at the model's side", request(content=body(mcp_servers=_SERVERS))),
    *((f"a tool that {what}", request(content=body(tools=[tool]))) for what, tool in _TOOLS.items()),
    ("a container", request(content=body(container="container_x"))),
    ("no JSON", request(content="not json")),
    ("JSON and more behind it", request(content=body() + "{}")),
)

CASES = (
    *(_case(f"A8.{n}", f"over the model socket: {t}", _refused(d)) for n, (t, d) in enumerate(_REFUSED, 1)),
    *(
        _case(f"A8.{n}", t, _clean(request("/v1/messages", header), header.rpartition(" ")[2].encode()))
        for n, t, header in (
            (41, "the attacker's own key", "X-Api-Key: sk-attacker"),
            (42, "the attacker's own bearer", "Authorization: Bearer sk-attacker"),
            (44, "the attacker's cookie", "Cookie: session=attacker"),
        )
    ),
    _case("A8.43", "another host in the Host header", _clean(request(host="evil.tld"), b"evil.tld")),
    _case("A8.45", "the key in an answer", _no_key_back),
    _case("A8.46", "requests of a session that may make none", _budget, "high"),
)
