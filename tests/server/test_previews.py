"""A port that an agent opens is reached by a link, by whoever has it and while it is good, and in no other way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2 as httpx
import pytest
from housekit import House

from hostler.previews import door
from hostler.testing.rehearsal import step, tool

SITE = r"""
import hashlib, base64, socketserver, http.server, sys
class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("upgrade") == "websocket":
            key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept); self.end_headers(); self.wfile.flush()
            while data := self.connection.recv(4096):
                self.connection.sendall(data.upper())
            self.close_connection = True
            return
        body = (self.path + "\n" + str(self.headers)).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        size = int(self.headers["content-length"]); digest = hashlib.sha256()
        while size:
            piece = self.rfile.read(min(size, 65536)); size -= len(piece); digest.update(piece)
        self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
        for piece in (digest.hexdigest().encode(), b"!" * 100000):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = __import__("socket").AF_INET6 if sys.argv[2] == "6" else __import__("socket").AF_INET
Server(("::1" if sys.argv[2] == "6" else "127.0.0.1", int(sys.argv[1])), Site).serve_forever()
"""


def serving(port: int, family: int = 4) -> list[Any]:
    """What makes the agent serve, and end its turn when it does."""
    command = (
        f"cat > site.py <<'EOF'\n{SITE}\nEOF\n"
        f"nohup python3 site.py {port} {family} >site.log 2>&1 &\n"
        f"for i in $(seq 200); do curl -s -o /dev/null http://localhost:{port}/ && break; sleep 0.05; done; echo up"
    )
    return [step(tool("bash", command=command)), step("It serves.")]


class Previews:
    """The endpoints, and a browser that knows where `*.localhost` is."""

    def __init__(self, house: House, session: str) -> None:
        self._house, self._path = house, f"/hostler/v1/sessions/{session}/previews"

    async def make(self, port: int, **more: Any) -> dict[str, Any]:
        return await self._house.client.post(self._path, body={"port": port, **more}, cast_to=dict[str, Any])

    async def rows(self) -> list[dict[str, Any]]:
        return list((await self._house.client.get(self._path, cast_to=dict[str, Any]))["data"])

    async def revoke(self, preview: str) -> None:
        await self._house.client.post(f"{self._path}/{preview}/revoke", body={}, cast_to=dict[str, Any])


async def ask(url: str, method: str = "GET", **more: Any) -> httpx.Response:
    """One request, redirects not followed; the name in the link is asked of this host, as browsers do it."""
    parts = urlsplit(url)
    headers = {"host": parts.netloc, **more.pop("headers", {})}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        at = parts._replace(netloc=f"127.0.0.1:{parts.port}").geturl()
        return await client.request(method, at, headers=headers, **more)


async def opened(url: str) -> tuple[str, dict[str, str]]:
    """The address and the cookie that a browser has after it has opened the link."""
    first = await ask(url)
    assert first.status_code == 302
    cookie = first.headers["set-cookie"].partition(";")[0]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", {"cookie": cookie}


@asynccontextmanager
async def site(house: House, port: int = 3000, family: int = 4) -> AsyncIterator[Previews]:
    session = await house.session()
    await house.say(session, serving(port, family))
    await house.until_idle(session)
    yield Previews(house, session)


async def test_a_link_opens_the_port_and_its_secret_goes_no_further(house: House) -> None:
    async with site(house) as previews:
        made = await previews.make(3000)
        first = await ask(made["url"].replace("/?", "/deep/page?a=1&"))
        assert first.status_code == 302
        assert first.headers["location"] == "/deep/page?a=1"
        assert "HttpOnly" in first.headers["set-cookie"]
        origin, cookie = await opened(made["url"])
        secret = cookie["cookie"].partition("=")[2]
        sent = {"cookie": f"other=1; {cookie['cookie']}", "origin": origin, "x-hostler-preview": secret}
        page = await ask(f"{origin}/deep/page?a=1", headers=sent)
        assert page.status_code == 200
        assert page.text.startswith("/deep/page?a=1\n")
        assert secret not in page.text
        assert "other=1" in page.text
        assert "localhost:3000" in page.text
        assert origin.partition("://")[2] in page.text  # x-forwarded-host
        [row] = await previews.rows()
        assert "hostler-preview" not in row["url"]


async def test_without_the_secret_or_after_its_end_nobody_is_let_through(house: House) -> None:
    async with site(house) as previews:
        made = await previews.make(3000)
        origin, cookie = await opened(made["url"])
        assert (await ask(f"{origin}/")).status_code == 401
        assert (await ask(f"{origin}/", headers={"cookie": "hostler-preview=hpv-wrong"})).status_code == 401
        other = await previews.make(3001)
        there, _ = await opened(other["url"])
        assert (await ask(f"{there}/", headers=cookie)).status_code == 401
        parts = urlsplit(origin)
        unknown = f"{parts.scheme}://{'a' * 26}.localhost:{parts.port}/"
        assert (await ask(unknown, headers=cookie)).status_code == 404
        await previews.revoke(made["id"])
        assert (await ask(f"{origin}/", headers=cookie)).status_code == 410


@pytest.mark.one_database
async def test_who_says_nothing_is_dropped_when_there_are_too_many(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "CONNECTIONS", 1)
    monkeypatch.setattr(door, "UNHEARD", 1)
    async with site(house) as previews:
        port = urlsplit((await previews.make(3000))["url"]).port
        quiet = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(door.HEAD_SECONDS / 2):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        for _, one in (*quiet, (reader, writer)):
            one.close()


async def test_bodies_pass_in_both_directions_whole(house: House) -> None:
    async with site(house) as previews:
        origin, cookie = await opened((await previews.make(3000))["url"])
        data = os.urandom(3_000_000)
        said = await ask(f"{origin}/", "POST", content=data, headers=cookie)
        assert said.text == hashlib.sha256(data).hexdigest() + "!" * 100_000


@pytest.mark.one_database
async def test_a_websocket_passes(house: House) -> None:
    async with site(house) as previews:
        origin, cookie = await opened((await previews.make(3000))["url"])
        parts = urlsplit(origin)
        reader, writer = await asyncio.open_connection("127.0.0.1", parts.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /socket HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nCookie: {cookie['cookie']}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        writer.close()


@pytest.mark.one_database
async def test_who_listens_on_ipv6_only_is_reached_too(house: House) -> None:
    async with site(house, 3000, 6) as previews:
        origin, cookie = await opened((await previews.make(3000))["url"])
        assert (await ask(f"{origin}/six", headers=cookie)).text.startswith("/six\n")


@pytest.mark.one_database
async def test_a_port_without_a_listener_and_a_session_without_a_process_say_so(house: House) -> None:
    session = await house.session()
    previews = Previews(house, session)
    origin, cookie = await opened((await previews.make(3000))["url"])
    sleeps = await ask(f"{origin}/", headers=cookie)
    assert sleeps.status_code == 503
    assert "sleeps" in sleeps.text
    await house.say(session, [step("Hello.")])
    await house.until_idle(session)
    nobody = await ask(f"{origin}/", headers=cookie)
    assert nobody.status_code == 502
    assert "nobody listens on port 3000" in nobody.text


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("body", "says"),
    [({"port": 0}, "port"), ({"port": 3128}, "3128"), ({"port": 80, "expires_in_seconds": 5}, "expires_in_seconds")],
)
async def test_bad_requests_say_what_to_do(house: House, body: dict[str, int], says: str) -> None:
    previews = Previews(house, await house.session())
    with pytest.raises(anthropic.BadRequestError, match=says):
        await previews.make(**body)
    assert await previews.rows() == []


@pytest.mark.one_database
async def test_a_link_leads_nowhere_else(house: House) -> None:
    made = await Previews(house, await house.session()).make(3000)
    parts = urlsplit(made["url"])
    for path in ("//evil.example/", "/\\evil.example/", "/\\/evil.example/"):
        reader, writer = await asyncio.open_connection("127.0.0.1", parts.port)
        writer.write(f"GET {path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        writer.close()
        assert head.startswith("http/1.1 302")
        assert "location: /evil.example/\r\n" in head
