"""The server's own requests go where they may, to the host that they name, and end."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hostler.egress.outgoing import OutgoingClient
from hostler.engine.ports import OutgoingAnswer, OutgoingFailed, OutgoingRequest

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A resolver with a table. Implements `Resolver`."""

    def __init__(self, **names: Sequence[str]) -> None:
        self._names = names
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self._names:
            raise OSError("no such name")
        return self._names[host]


@asynccontextmanager
async def server(answer: bytes | Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that reads a request and says `answer`. Yields its port and what it was sent."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield running.sockets[0].getsockname()[1], seen
    finally:
        running.close()


async def ask(
    client: OutgoingClient, url: str, *, limit: int = 1000, seconds: float = 10.0, **more: object
) -> OutgoingAnswer:
    request = OutgoingRequest("POST", url, {"X-Mine": "1"}, b"hello")
    return await client.send(request, seconds=seconds, limit_bytes=limit, **more)  # type: ignore[arg-type]


async def reason_of(client: OutgoingClient, url: str, **more: float) -> str:
    with pytest.raises(OutgoingFailed) as caught:
        await ask(client, url, **more)  # type: ignore[arg-type]
    assert "hello" not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def local() -> OutgoingClient:
    return OutgoingClient(private_allowed=frozenset({"127.0.0.1"}), resolver=Names(name=["127.0.0.1"]))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 500 Excess\r\n\r\n", b"abc"),
    ],
)
async def test_an_answer_in_every_framing(local: OutgoingClient, answer: bytes, body: bytes) -> None:
    async with server(answer) as (port, seen):
        found = await ask(local, f"http://name:{port}/a%20b?x=1#frag")
    assert (found.status, found.body, found.truncated) == (200, body, False)
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "POST /a%20b?x=1 HTTP/1.1"
    assert {f"Host: name:{port}", "X-Mine: 1", "Content-Length: 5", "Accept-Encoding: identity"} <= set(lines)


async def test_a_redirect_is_an_answer(local: OutgoingClient) -> None:
    async with server(b"HTTP/1.1 302 Found\r\nLocation: http://name:1/\r\nContent-Length: 0\r\n\r\n") as (port, seen):
        assert (await ask(local, f"http://127.0.0.1:{port}/")).status == 302
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "broken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "broken"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000, "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_answer"),
    ],
)
async def test_what_is_no_answer(local: OutgoingClient, answer: bytes, reason: str) -> None:
    async with server(answer) as (port, _):
        assert await reason_of(local, f"http://name:{port}/") == reason


async def test_an_endless_answer_is_cut_and_a_silent_one_given_up(local: OutgoingClient) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(endless) as (port, _):
        found = await ask(local, f"http://name:{port}/", limit=5000)
        assert (found.body, found.truncated) == (b"x" * 5000, True)
        found = await ask(local, f"http://name:{port}/", limit=10**9, enough=lambda body: len(body) >= 3000)
        assert found.truncated
    async with server(silent) as (port, _):
        assert await reason_of(local, f"http://name:{port}/", seconds=0.2) == "timeout"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://10.0.0.1/", "private_address"),
        ("https://127.0.0.2/", "private_address"),
        ("https://[::1]/", "private_address"),
        ("https://[::ffff:10.0.0.1]/", "private_address"),
        ("https://mixed.example.com/", "private_address"),
        ("https://inside.example.com/", "private_address"),
        ("http://public.example.com/", "plain_http"),
        ("https://nowhere.example.com/", "unresolvable"),
        ("https://user@public.example.com/", "bad_url"),
        ("https://public.example.com:0/", "bad_url"),
    ],
)
async def test_what_must_not_be_called_is_not(url: str, reason: str) -> None:
    names = Names(
        **{
            "mixed.example.com": ["93.184.216.34", "10.0.0.1"],
            "inside.example.com": ["169.254.169.254"],
            "public.example.com": ["93.184.216.34"],
            "10.0.0.1": ["10.0.0.1"],
            "127.0.0.2": ["127.0.0.2"],
            "::1": ["::1"],
            "::ffff:10.0.0.1": ["::ffff:10.0.0.1"],
            "::ffff:a00:1": ["::ffff:10.0.0.1"],
        }
    )
    client = OutgoingClient(private_allowed=frozenset({"127.0.0.1"}), resolver=names)
    assert await reason_of(client, url) == reason


async def test_nothing_private_is_called_unless_it_is_listed() -> None:
    client = OutgoingClient(resolver=Names(name=["127.0.0.1"]))
    async with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, seen):
        assert await reason_of(client, f"http://name:{port}/") == "private_address"
        assert await reason_of(client, f"https://name:{port}/") == "private_address"
    assert seen == []


async def test_a_header_can_not_begin_another_line(local: OutgoingClient) -> None:
    request = OutgoingRequest("GET", "http://127.0.0.1:1/", {"Authorization": "Bearer a\r\nX-Evil: 1"})
    async with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, seen):
        with pytest.raises(OutgoingFailed) as caught:
            await local.send(
                OutgoingRequest("GET", f"http://127.0.0.1:{port}/", request.headers), seconds=5, limit_bytes=10
            )
    assert caught.value.reason == "bad_request"
    assert seen == []
    assert "Evil" not in repr(request)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of auth.test, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=auth.test", "-addext", "subjectAltName=DNS:auth.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_tls_is_checked_against_the_name(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    names = Names(**{"auth.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    allowed = frozenset({"127.0.0.1"})
    trusting = OutgoingClient(private_allowed=allowed, resolver=names, tls=ssl.create_default_context(cafile=str(cert)))
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", context) as (port, _):
        assert (await ask(trusting, f"https://auth.test:{port}/")).body == b"ok"
        assert await reason_of(trusting, f"https://other.test:{port}/") == "tls"
        stranger = OutgoingClient(private_allowed=allowed, resolver=names)
        assert await reason_of(stranger, f"https://auth.test:{port}/") == "tls"
