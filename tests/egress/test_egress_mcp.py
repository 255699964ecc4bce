"""The road to MCP servers: which server, with which secret, what of the answer, and what is written down about it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hostler.egress import EgressLimits, EgressProxy
from hostler.egress.redact import REDACTED, Forms, Redactor, stand_ins
from hostler.engine.egress_port import Bearer, EgressDecision, EgressRules, McpAccess, McpFailure, McpRoute

DEADLINE = 60.0
TOKEN = "tok/with+odd=characters-1234567890"
SERVERS_ONLY = EgressRules("listed", (), mcp_servers=True)
LOOPBACK = frozenset({"127.0.0.1"})


@dataclass
class Recorder:
    decisions: list[tuple[str, int, bool, str]] = field(default_factory=list)
    fail: bool = False

    async def record(self, decision: EgressDecision) -> None:
        if self.fail:
            raise OSError("no database")
        self.decisions.append((decision.host, decision.port, decision.allowed, decision.reason))


@dataclass
class Names:
    addresses: dict[str, Sequence[str]]

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host not in self.addresses:
            raise OSError("no such name")
        return self.addresses[host]


@dataclass
class Gate:
    """Permits what is in `permitted`, once."""

    permitted: list[str] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def offers(self, alias: str, tool: str) -> bool:
        return not tool.startswith("hidden")

    def begin_call(self, alias: str, tool: str, arguments: Mapping[str, object]) -> bool:
        if tool not in self.permitted:
            return False
        self.permitted.remove(tool)
        return True

    def not_begun(self, alias: str, tool: str, arguments: Mapping[str, object]) -> None:
        self.permitted.append(tool)

    def failed(self, alias: str, failure: McpFailure, message: str) -> None:
        self.failures.append((alias, failure, message))


@dataclass
class Vault:
    token: str | None = TOKEN
    broken: bool = False
    asked: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        self.asked.append((workspace, tuple(vault_ids), url))
        if self.broken:
            raise OSError("the key of the vault is gone")
        return None if self.token is None else Bearer(self.token, "wrkspc", "vlt", "vcrd")

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        return None


@dataclass
class Server:
    """Answers every request with `answer`, and keeps the requests."""

    answer: bytes = b""
    seen: list[bytes] = field(default_factory=list)
    port: int = 0
    hold: asyncio.Event | None = None
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        self.seen.append(head + body)
        writer.write(self.answer)
        if self.hold is not None:
            await reader.read()
            self.hung_up.set()
        writer.close()


@dataclass
class Road:
    socket: Path
    recorder: Recorder
    gate: Gate
    vault: Vault
    server: Server

    async def say(self, raw: bytes) -> tuple[int, bytes, bytes]:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(raw)
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head, _unchunked(body) if b"chunked" in head.lower() else body

    async def post(self, message: Any, *headers: str, path: str = "/m") -> tuple[int, bytes, bytes]:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        fields = [f"POST http://mcp.hostler.internal{path} HTTP/1.1", "Host: mcp.hostler.internal", *headers]
        return await self.say("\r\n".join([*fields, f"content-length: {len(body)}", "", ""]).encode() + body)


def _unchunked(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        out += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return out


def http(status: int, body: bytes = b"", kind: str = "application/json", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


@asynccontextmanager
async def open_road(
    tmp_path: Path,
    answer: bytes,
    *,
    url: str = "http://server.example:{port}/mcp?x=1",
    rules: EgressRules = SERVERS_ONLY,
    addresses: Sequence[str] = ("127.0.0.1",),
    private: frozenset[str] = LOOPBACK,
    limits: EgressLimits | None = None,
    server_tls: ssl.SSLContext | None = None,
    trusts: ssl.SSLContext | None = None,
) -> AsyncIterator[Road]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=server_tls)
    server.port = listener.sockets[0].getsockname()[1]
    road = Road(tmp_path / "road.sock", Recorder(), Gate(), Vault(), server)
    names = Names({"server.example": addresses})
    proxy = EgressProxy(
        road.recorder, resolver=names, private_allowed=private, limits=limits, credentials=road.vault, tls=trusts
    )
    access = McpAccess((McpRoute("m", url.format(port=server.port)),), "wrkspc_1", ("vlt_a", "vlt_b"), road.gate)
    await proxy.open("sesn_1", road.socket, rules, access)
    try:
        yield road
    finally:
        await proxy.close()
        listener.close()


def ping(**more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "ping", **more}


def call(tool: str) -> dict[str, Any]:
    return ping(method="tools/call", params={"name": tool, "arguments": {"x": 1}})


OK = http(200, b'{"jsonrpc":"2.0","id":1,"result":{}}', "application/json", "mcp-session-id: s1", "set-cookie: a=b")


async def test_request_goes_to_the_real_address_with_the_secret_and_by_list(tmp_path: Path) -> None:
    async with open_road(tmp_path, OK) as road:
        passed = ("mcp-session-id: s0", "accept: text/event-stream")
        dropped = ("authorization: Bearer mine", "cookie: c=1", "x-forwarded-for: 1.2.3.4")
        status, head, body = await road.post(ping(), *passed, *dropped)
        (seen,) = road.server.seen
        first, _, _ = seen.partition(b"\r\n")
        assert first == b"POST /mcp?x=1 HTTP/1.1"
        lower = seen.lower()
        assert f"host: server.example:{road.server.port}".encode() in lower
        assert f"authorization: bearer {TOKEN}".lower().encode() in lower
        assert lower.count(b"authorization:") == 1
        assert b"mcp-session-id: s0" in lower
        assert b"cookie" not in lower
        assert b"x-forwarded-for" not in lower
        assert (status, json.loads(body)["id"]) == (200, 1)
        assert b"mcp-session-id: s1" in head
        assert b"set-cookie" not in head
        url = f"http://server.example:{road.server.port}/mcp?x=1"
        assert road.vault.asked == [("wrkspc_1", ("vlt_a", "vlt_b"), url)]
        assert road.recorder.decisions == [("server.example", road.server.port, True, "mcp_server")]


@pytest.mark.parametrize(
    ("rules", "addresses", "private", "reason"),
    [
        (EgressRules("listed", ("server.example",)), ("127.0.0.1",), LOOPBACK, "mcp_server"),
        (EgressRules("public"), ("127.0.0.1",), LOOPBACK, "mcp_server"),
        (EgressRules("listed", ("other.example",)), ("127.0.0.1",), LOOPBACK, "host_not_allowed"),
        (EgressRules("listed", (), mcp_servers=True), ("127.0.0.1",), frozenset(), "private_address"),
        (EgressRules("listed", (), mcp_servers=True), ("127.0.0.1", "10.0.0.1"), LOOPBACK, "private_address"),
        (EgressRules("public"), ("169.254.169.254",), LOOPBACK, "private_address"),
        (EgressRules("public"), ("8.8.8.8",), LOOPBACK, "plain_http"),
        (EgressRules("public"), (), LOOPBACK, "unresolvable"),
    ],
)
async def test_server_is_judged_like_any_host(
    tmp_path: Path, rules: EgressRules, addresses: Sequence[str], private: frozenset[str], reason: str
) -> None:
    async with open_road(tmp_path, OK, rules=rules, addresses=addresses, private=private) as road:
        _, _, body = await road.post(ping())
        allowed = reason == "mcp_server"
        assert road.recorder.decisions == [("server.example", road.server.port, allowed, reason)]
        assert len(road.server.seen) == (1 if allowed else 0)
        if not allowed:
            assert reason in json.loads(body)["error"]["message"]
            assert [failure[:2] for failure in road.gate.failures] == [("m", "connection")]
            assert road.vault.asked == []


async def test_nothing_passes_when_the_decision_is_not_written_down(tmp_path: Path) -> None:
    async with open_road(tmp_path, OK) as road:
        road.recorder.fail = True
        _, _, body = await road.post(ping())
        assert "not_recorded" in json.loads(body)["error"]["message"]
        assert road.server.seen == []


@pytest.mark.parametrize(
    "raw",
    [
        b"GET http://mcp.hostler.internal/other HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://mcp.hostler.internal/m?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://mcp.hostler.internal/m/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://MCP.hostler.internal/.well-known/oauth-protected-resource HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT http://mcp.hostler.internal/m HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT mcp.hostler.internal:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST http://mcp.hostler.internal/m HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"GET http://mcp.hostler.internal/m HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_what_is_no_request_to_a_server_reaches_none(tmp_path: Path, raw: bytes) -> None:
    async with open_road(tmp_path, OK) as road:
        status, _, _ = await road.say(raw)
        assert status in (400, 403, 404, 405)
        assert road.server.seen == []


async def test_call_passes_once_and_again_only_when_the_server_did_not_take_it(tmp_path: Path) -> None:
    async with open_road(tmp_path, OK) as road:
        _, _, body = await road.post(call("pay"))
        assert "not permitted" in json.loads(body)["error"]["message"]
        road.gate.permitted = ["pay"]
        road.server.answer = http(404)  # "I have forgotten this session": the client begins another and sends it again
        assert (await road.post(call("pay")))[0] == 404
        road.server.answer = OK
        assert (await road.post(call("pay")))[0] == 200
        _, _, body = await road.post(call("pay"))
        assert "not permitted" in json.loads(body)["error"]["message"]
        assert len(road.server.seen) == 2


async def test_call_that_may_have_arrived_is_not_sent_again(tmp_path: Path) -> None:
    async with open_road(tmp_path, b"") as road:
        road.gate.permitted = ["pay"]
        _, _, body = await road.post(call("pay"))
        assert "broke off" in json.loads(body)["error"]["message"]
        assert road.gate.permitted == []
        assert len(road.server.seen) == 1


async def test_hidden_tools_are_taken_out_of_the_list_in_either_form(tmp_path: Path) -> None:
    tools = [{"name": "shown"}, {"name": "hidden-1"}, {"nameless": True}, "odd"]
    said = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "nextCursor": "c"}}).encode()
    note = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\r\n\r\n'
    stream = note + b"data: " + said.replace(b', "id"', b',\ndata: "id"') + b"\n\n"
    for kind, body in (("application/json", said), ("text/event-stream; charset=utf-8", stream)):
        (tmp_path / "road.sock").unlink(missing_ok=True)
        async with open_road(tmp_path, http(200, body, kind)) as road:
            status, _, answer = await road.post(ping(method="tools/list"))
            assert status == 200
            assert json.loads(answer)["result"] == {"tools": [{"name": "shown"}], "nextCursor": "c"}


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (http(401, b"", "text/plain", "www-authenticate: Bearer"), "authentication", "refused the credential"),
        (http(403), "authentication", "HTTP 403"),
        (http(302, b"", "text/plain", "location: http://elsewhere.example/"), "connection", "redirect"),
        (http(500), "connection", "HTTP 500"),
        (http(200, b"x", "application/json", "content-encoding: gzip"), "connection", "compressed"),
    ],
)
async def test_failures_are_told_and_answered_as_errors(
    tmp_path: Path, answer: bytes, failure: str, words: str
) -> None:
    async with open_road(tmp_path, answer) as road:
        status, head, body = await road.post(ping())
        assert status == 200, "never 401: the client would offer the model to log in"
        assert b"www-authenticate" not in head.lower()
        assert words in json.loads(body)["error"]["message"]
        assert [it[:2] for it in road.gate.failures] == [("m", failure)]
        assert len(road.server.seen) == 1


async def test_credential_that_can_not_be_opened_means_no_request(tmp_path: Path) -> None:
    async with open_road(tmp_path, OK) as road:
        road.vault.broken = True
        await road.post(ping())
        assert [it[:2] for it in road.gate.failures] == [("m", "authentication")]
        assert road.server.seen == []


async def test_answer_without_end_and_request_too_large_are_cut(tmp_path: Path) -> None:
    limits = EgressLimits(mcp_request_bytes=1000, mcp_answer_bytes=1000)
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b": x\n" * 1000
    async with open_road(tmp_path, endless, limits=limits) as road:
        status, _, _ = await road.post(ping(params={"x": "y" * 1000}))
        assert status == 400
        assert road.server.seen == []
        reader, writer = await asyncio.open_unix_connection(str(road.socket))
        writer.write(b"GET http://mcp.hostler.internal/m HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    answer += data
        writer.close()
        assert b"0\r\n\r\n" not in answer, "a part must not look whole"
        assert "larger than 1000 bytes" in road.gate.failures[0][2]


async def test_server_hears_when_the_sandbox_hangs_up(tmp_path: Path) -> None:
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n"
    async with open_road(tmp_path, stream) as road:
        road.server.hold = asyncio.Event()
        reader, writer = await asyncio.open_unix_connection(str(road.socket))
        writer.write(b"GET http://mcp.hostler.internal/m HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"data: {}")
            writer.close()
            await road.server.hung_up.wait()


@pytest.mark.parametrize(
    ("host", "trusted"), [("server.example", True), ("server.example", False), ("other.example", True)]
)
async def test_certificate_is_verified_for_the_name_of_the_server(tmp_path: Path, host: str, trusted: bool) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    names = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, [*command.split(), *names], check=True, capture_output=True)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, key)
    trusts = ssl.create_default_context(cafile=str(certificate) if trusted else None)
    url = "https://server.example:{port}/mcp"
    async with open_road(tmp_path, OK, url=url, server_tls=server_tls, trusts=trusts) as road:
        await road.post(ping())
        good = trusted and host == "server.example"
        assert len(road.server.seen) == (1 if good else 0)
        assert [it[:2] for it in road.gate.failures] == ([] if good else [("m", "connection")])


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_secret_is_cut_out_in_every_form_however_it_is_split(size: int) -> None:
    import base64
    from urllib.parse import quote

    forms = [TOKEN, quote(TOKEN, safe=""), *(base64.b64encode(b"ab"[:n] + TOKEN.encode()).decode() for n in range(3))]
    text = "".join(f"data: before {form} after\n" for form in forms).encode()
    redactor = Redactor(Forms(stand_ins(TOKEN, REDACTED)))
    out = b"".join(redactor.feed(text[at : at + size]) for at in range(0, len(text), size)) + redactor.end()
    assert out.count(b"[redacted]") == len(forms)
    assert out.count(b"before ") == out.count(b" after\n") == len(forms)
    assert TOKEN[5:-5].encode() not in out
    assert base64.b64encode(TOKEN.encode())[4:-6] not in out


def test_stream_without_the_secret_is_not_held_back() -> None:
    redactor = Redactor(Forms(stand_ins(TOKEN, REDACTED)))
    assert redactor.feed(b"data: {}\n\n") == b"data: {}\n\n"
    assert Redactor(Forms(stand_ins("", REDACTED))).feed(b"anything") == b"anything"
