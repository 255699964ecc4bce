"""A5: a CONNECT names one host, the TLS server name another, the request inside a third.

What the proxy passes through arrives at a canary that keeps bytes; what it looks into, at one that ends TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from hostler.attacks.cases import Case, CouldNotRun, OnProxy, Severity
from hostler.attacks.grounds import OpenRoad, ProxyGround, heard
from hostler.engine.egress_port import EgressRules, HostRule

NARROW = EgressRules(
    "listed",
    rules=(HostRule("allowed.example", methods=frozenset({"GET", "HEAD"}), paths=("/v1/ok", "/v1/files")),),
)


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


# --------------------------------------------------------------------------------------------- hellos, passed through


def hello(name: str | None) -> bytes:
    """The first bytes that a TLS client says, for a server of this name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _extended(first: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The same hello with its extensions changed, and every length made right again."""
    body = first[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + struct.unpack_from(">H", body, at)[0]
    at += 1 + body[at]
    extensions = change(body[at + 2 :])
    body = body[:at] + struct.pack(">H", len(extensions)) + extensions
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return first[:3] + struct.pack(">H", len(handshake)) + handshake


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">HH", kind, len(content)) + content


def _names(*names: bytes) -> bytes:
    entries = b"".join(b"\0" + struct.pack(">H", len(name)) + name for name in names)
    return _extension(0, struct.pack(">H", len(entries)) + entries)


def _says(make: Callable[[], bytes]) -> OnProxy:
    """Opens an allowed tunnel and says this hello in it: it must be denied, and never arrive."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        await _control(ground)
        async with ground.road() as road:
            await _tunneled(ground, road, make())
            return _judged(ground, road)

    return attack


async def _control(ground: ProxyGround) -> None:
    """The honest hello does arrive. Otherwise a denial proves nothing."""
    async with ground.road() as road:
        await _tunneled(ground, road, hello("allowed.example"))
        if not ground.canaries.seen.startswith(b"\x16"):
            raise CouldNotRun("an honest TLS hello does not get through: nothing can be proved")


async def _tunneled(ground: ProxyGround, road: OpenRoad, data: bytes, *, seconds: float = 2.0) -> None:
    """Says `data` in an allowed tunnel, and waits until it was hung up or has arrived."""
    reader, writer = await road.connect()
    port = ground.canaries.raw_port
    writer.write(f"CONNECT allowed.example:{port} HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n".encode())
    if b" 200 " not in (await heard(reader))[:20]:
        return
    writer.write(data)
    until = asyncio.get_running_loop().time() + seconds
    while not ground.canaries.seen and asyncio.get_running_loop().time() < until:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                try:
                    if not await reader.read(65536):
                        return
                except ConnectionError:
                    return


def _judged(ground: ProxyGround, road: OpenRoad) -> Sequence[str]:
    found = []
    if ground.canaries.met and ground.canaries.seen:
        found.append(f"{len(ground.canaries.seen)} bytes arrived at the server")
    if not road.decisions.denials():
        found.append("no denial was recorded")
    return found


_EVIL = b"evil.tld"
_GOOD = b"allowed.example"

_HELLOS: tuple[tuple[str, Callable[[], bytes]], ...] = (
    ("another server name", lambda: hello("evil.tld")),
    ("a server name below the allowed one", lambda: hello("evil.allowed.example")),
    ("a server name that the allowed one ends", lambda: hello("allowed.example.evil.tld")),
    ("no server name", lambda: hello(None)),
    ("an address as server name", lambda: _extended(hello(None), lambda e: _names(b"127.0.0.2") + e)),
    ("a private server name", lambda: _extended(hello(None), lambda e: _names(b"localhost") + e)),
    ("two server names", lambda: _extended(hello(None), lambda e: _names(_GOOD, _EVIL) + e)),
    ("two server names, the other way", lambda: _extended(hello(None), lambda e: _names(_EVIL, _GOOD) + e)),
    ("a second extension with a name", lambda: _extended(hello(None), lambda e: _names(_GOOD) + e + _names(_EVIL))),
    ("NUL in the server name", lambda: _extended(hello(None), lambda e: _names(_GOOD + b"\0.evil.tld") + e)),
    ("an encrypted hello", lambda: _extended(hello("allowed.example"), lambda e: e + _extension(0xFE0D, b"\0" * 64))),
    ("an empty server name", lambda: _extended(hello(None), lambda e: _names(b"") + e)),
    (
        "a name that is longer than it says",
        lambda: _extended(hello(None), lambda e: _extension(0, b"\0\2\0\0\xff") + e),
    ),
    ("extensions cut off", lambda: _extended(hello("evil.tld"), lambda e: e[:-3])),
    ("the hello of SSL 2", lambda: b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + b"\x00" * 37),
    ("no TLS at all", lambda: b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n"),
    ("SSH", lambda: b"SSH-2.0-OpenSSH_9.6\r\n"),
    ("random bytes", lambda: bytes(range(1, 200))),
)


async def _in_pieces(ground: ProxyGround) -> Sequence[str]:
    """The wrong name in a hello that comes byte by byte, and over two records."""
    first = hello("evil.tld")
    half = len(first[5:]) // 2
    parts = (first[5:][:half], first[5:][half:])
    split = b"".join(first[:3] + struct.pack(">H", len(part)) + part for part in parts)
    async with ground.road() as road:
        await _tunneled(ground, road, split)
        found = list(_judged(ground, road))
    async with ground.road() as road:
        reader, writer = await road.connect()
        port = ground.canaries.raw_port
        writer.write(f"CONNECT allowed.example:{port} HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n".encode())
        await heard(reader)
        with suppress(ConnectionError, TimeoutError):
            for at in range(len(split)):
                writer.write(split[at : at + 1])
                await writer.drain()
            async with asyncio.timeout(1.0):
                await reader.read()
        return [*found, *_judged(ground, road)]


# -------------------------------------------------------------------------------------------------- TLS that is ended


async def _asked(
    ground: ProxyGround, text: str, port: int, rules: EgressRules = NARROW, *, alpn: Sequence[str] = ("http/1.1",)
) -> tuple[bytes, OpenRoad]:
    """One request inside TLS, in a tunnel to `allowed.example`. The client trusts everybody: it is the attacker's."""
    async with ground.road(rules) as road:
        reader, writer = await road.connect()
        writer.write(f"CONNECT allowed.example:{port} HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n".encode())
        await heard(reader)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(list(alpn))
        answer = b""
        with suppress(OSError, TimeoutError, ssl.SSLError):
            async with asyncio.timeout(5):
                await writer.start_tls(context, server_hostname="allowed.example")
                writer.write(text.replace("PORT", str(port)).encode("latin-1"))
                answer = await heard(reader, seconds=2.0)
        return answer, road


def _inside(text: str, rules: EgressRules = NARROW) -> OnProxy:
    """A request in a tunnel that is looked into: denied, recorded, never sent on."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        port = _needs_tls(ground)
        answer, _ = await _asked(ground, _get("/v1/ok"), port)
        if b"canary" not in answer:
            raise CouldNotRun(f"an allowed request inside TLS was answered {answer[:60]!r}: nothing can be proved")
        answer, road = await _asked(ground, text, port, rules)
        found = []
        if ground.canaries.seen:
            found.append(f"the server was asked {ground.canaries.seen.partition(bytes([13]))[0][:80]!r}")
        if not road.decisions.denials():
            found.append("no denial was recorded")
        return found

    return attack


def _needs_tls(ground: ProxyGround) -> int:
    if not ground.canaries.tls_port:
        raise CouldNotRun("there is no certificate for a server that ends TLS")
    return ground.canaries.tls_port


def _get(path: str, *headers: str, method: str = "GET") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(headers or ("Host: allowed.example:PORT",))]) + "\r\n\r\n"


_REQUESTS = (
    ("a Host header of another host", _get("/v1/ok", "Host: evil.tld:PORT")),
    ("two Host headers", _get("/v1/ok", "Host: allowed.example:PORT", "Host: evil.tld:PORT")),
    ("an absolute target of another host", _get("https://evil.tld:PORT/v1/ok")),
    ("a path beside the allowed ones", _get("/v1/evil")),
    ("a path that begins like an allowed one", _get("/v1/okay")),
    ("dots out of an allowed path", _get("/v1/ok/../evil")),
    ("encoded dots out of an allowed path", _get("/v1/ok/%2e%2e/evil")),
    ("an encoded slash", _get("/v1/ok%2f..%2fevil")),
    ("doubly encoded dots", _get("/v1/ok/%252e%252e/evil")),
    ("a backslash", _get("/v1/ok\\..\\evil")),
    ("two slashes", _get("//v1/ok/../../evil")),
    ("a path parameter", _get("/v1/ok/..;/evil")),
    ("capitals in a path", _get("/V1/OK")),
    (
        "a method that is not allowed",
        _get("/v1/ok", method="DELETE"),
    ),
    ("a method in small letters", _get("/v1/ok", method="get")),
    ("another method by a header", _get("/v1/ok", "Host: allowed.example:PORT", "X-HTTP-Method-Override: DELETE")),
    ("another path by a header", _get("/v1/ok", "Host: allowed.example:PORT", "X-Original-URL: /v1/evil")),
    ("a CONNECT inside", _get("evil.tld:443", "Host: evil.tld:PORT", method="CONNECT")),
    ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("a fragment", _get("/v1/ok#/../../evil")),
)


async def _false_certificate(ground: ProxyGround) -> Sequence[str]:
    """The server shows a certificate of another host, which nobody signed: the proxy must not speak to it."""
    _needs_tls(ground)
    answer, _ = await _asked(ground, _get("/v1/ok"), ground.canaries.false_port)
    found = []
    if b"/v1/ok" in ground.canaries.seen:
        found.append("the request went to a server with a false certificate")
    if b"canary" in answer:
        found.append("a server with a false certificate was believed")
    return found


_A5 = (
    *(_case(f"A5.{n}", f"a tunnel to an allowed host, and in it {t}", _says(m)) for n, (t, m) in enumerate(_HELLOS, 1)),
    _case("A5.31", "another server name, in pieces and over two records", _in_pieces),
    *(_case(f"A5.{n}", f"inside TLS that is looked into: {t}", _inside(r)) for n, (t, r) in enumerate(_REQUESTS, 41)),
    _case("A5.71", "a server with a false certificate", _false_certificate),
)

CASES = _A5
