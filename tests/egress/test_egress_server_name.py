"""Tunnels whose inside isn't read: the TLS client names the server that the tunnel was asked for, or goes nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
from tlskit import DEADLINE, Ways, trusting, ways, world

from hostler.egress import EgressLimits
from hostler.egress.client_hello import NotTls, read_hello
from hostler.engine.egress_port import EgressRules

REQUEST = b"GET / HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n"
RETRY = bytes.fromhex(
    "16030300580200005403 03 cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
    "20" + "00" * 32 + "130100000c002b00020304003300020017"
)


def hello(name: str | None = "allowed.example") -> bytes:
    """What this machine's TLS library says first."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def with_extension(data: bytes, kind: int, content: bytes) -> bytes:
    """The same hello with one extension more."""
    body = data[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    extensions = body[at + 2 :] + kind.to_bytes(2) + len(content).to_bytes(2) + content
    body = body[:at] + len(extensions).to_bytes(2) + extensions
    return record(b"\x01" + len(body).to_bytes(3) + body)


def record(message: bytes) -> bytes:
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def server_name(*names: str) -> bytes:
    entries = b"".join(b"\0" + len(name).to_bytes(2) + name.encode() for name in names)
    return len(entries).to_bytes(2) + entries


# ------------------------------------------------------------------------------------------------------ pure reading


def test_the_name_is_read_however_the_hello_is_cut() -> None:
    data = hello()
    assert read_hello(data) is not None
    for length in range(len(data)):
        assert read_hello(data[:length]) is None
    message = data[5:]
    split = record(message[:3]) + record(message[3:50]) + record(message[50:])
    found = read_hello(split)
    assert found is not None
    assert (found.server_name, found.encrypted, found.size) == ("allowed.example", False, len(split))
    assert read_hello(hello(None)) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02\x00\x00\x05aaaaa",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x80\x2e\x01\x03\x01",
        b"\x17\x03\x03\x00\x01a",
        record(b"\x02\x00\x00\x02\x03\x03"),
        record(b"\x01\x00\x00\x02\x03\x03"),
        record(hello()[5:] + b"\x01"),
        with_extension(hello(), 0, server_name("other.example")),
        with_extension(hello(None), 0, server_name("allowed.example", "other.example")),
        with_extension(hello(None), 0, server_name("")),
        with_extension(hello(None), 0, b"\0\0"),
        with_extension(hello(None), 0, server_name("a\xff")),
        with_extension(hello(None), 0, server_name("allowed.example") + b"\0"),
    ],
)
def test_what_two_servers_could_read_differently_is_no_hello(data: bytes) -> None:
    with pytest.raises(NotTls):
        read_hello(data)


# --------------------------------------------------------------------------------------------------- through the road


async def test_tls_to_the_named_host_is_passed_through_untouched() -> None:
    async with ways() as w:
        assert w.road.authority is not None
        reader, writer = await w.tls("allowed.example", trust=world().pem, alpn=("h2", "http/1.1"))
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"  # The site's own choice: nobody reads along.
        writer.write(REQUEST)
        async with asyncio.timeout(DEADLINE):
            assert b"200 OK" in await reader.readuntil(b"ok")
        assert w.recorder.reasons() == ["allowed_host"]


async def test_a_rule_that_looks_nowhere_inside_makes_no_authority() -> None:
    async with ways(EgressRules("listed", ("allowed.example",))) as w:
        assert w.road.authority is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("other.example", "server_name_mismatch"),
        ("allowed.example.evil.tld", "server_name_mismatch"),
        ("x.allowed.example", "server_name_mismatch"),
        (None, "server_name_missing"),
    ],
)
async def test_another_server_name_is_denied_before_the_server_hears_of_it(name: str | None, reason: str) -> None:
    async with ways() as w:
        with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
            await w.tls("allowed.example", name=name)
        denied = await w.recorder.denied(reason)
        assert (denied.host, denied.method) == ("allowed.example", "CONNECT")
        assert "allowed.example" in denied.hint
        assert w.secure.asked == []


async def _first_words(w: Ways, data: bytes) -> bytes:
    reader, writer = await w.tunnel("allowed.example")
    writer.write(data)
    async with asyncio.timeout(DEADLINE):
        return await reader.read()


async def test_a_hidden_server_name_is_denied_where_names_are_listed() -> None:
    async with ways() as w:
        assert await _first_words(w, with_extension(hello(), 0xFE0D, b"\0" * 40)) == b"\x15\x03\x03\x00\x02\x02\x31"
        await w.recorder.denied("encrypted_client_hello")


async def test_where_every_name_is_public_a_hidden_one_passes_and_another_one_does_not() -> None:
    async with ways(EgressRules("public")) as w:
        reader, writer = await w.tunnel("allowed.example")
        writer.write(with_extension(hello(), 0xFE0D, b"\0" * 40))
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readexactly(1)) == b"\x16"  # The server's hello.
        with pytest.raises(ssl.SSLError):
            await w.tls("allowed.example", name="other.example")
        await w.recorder.denied("server_name_mismatch")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", b"SSH-2.0-x\r\n", b"\0\0\0\x08"])
async def test_what_is_not_tls_is_denied_on_a_tls_port(data: bytes) -> None:
    async with ways() as w:
        answer = await _first_words(w, data)
        assert b"x-hostler-egress: denied; reason=not_tls\r\n" in answer
        await w.recorder.denied("not_tls")
        assert w.secure.asked == []


async def test_a_hello_in_single_bytes_still_passes() -> None:
    async with ways() as w:
        reader, writer = await w.tunnel("allowed.example")
        for byte in hello():
            writer.write(bytes((byte,)))
            await writer.drain()
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readexactly(1)) == b"\x16"


@pytest.mark.parametrize("early", [True, False])
async def test_a_second_hello_has_to_name_the_same_host(early: bool) -> None:
    """A server asks for another hello; the client names a host in it that the tunnel isn't for."""
    got = b""
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got = await reader.read(65536)
        if early:
            await begun.wait()
        writer.write(RETRY)
        while data := await reader.read(65536):
            got += data
        writer.close()

    async with ways(raw=serve) as w:
        reader, writer = await w.tunnel("allowed.example")
        first, second = hello(), hello("other.example")
        writer.write(first + (second if early else b""))
        begun.set()
        async with asyncio.timeout(DEADLINE):
            assert await reader.readexactly(len(RETRY)) == RETRY
            if not early:
                writer.write(b"\x14\x03\x03\x00\x01\x01" + second)
            assert await reader.read() == b"\x15\x03\x03\x00\x02\x02\x31"
        await w.recorder.denied("server_name_mismatch")
        assert got == first


async def test_a_client_that_does_not_begin_is_dropped() -> None:
    async with ways(limits=EgressLimits(head_seconds=0.1)) as w:
        reader, writer = await w.tunnel("allowed.example")
        writer.write(hello()[:20])
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


async def test_trust_in_the_session_does_not_reach_another_session(tmp_path: Path) -> None:
    async with ways() as w:
        other = await w.proxy.open("sesn_2", tmp_path / "s2", EgressRules("listed"), secrets=None)
        assert other.authority is None
        assert w.road.authority is not None
        assert trusting(w.road.authority).get_ca_certs()[0]["subject"][1][0][1] == "Hostler session sesn_1"
