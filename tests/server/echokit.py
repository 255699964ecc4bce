"""A server on the other side of the road that repeats what it was sent, in every way that it can think of."""

from __future__ import annotations

import base64
import gzip
import html
import json
import ssl
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote, quote_plus

from hostler.egress.authority import Authority

HOST, OTHER = "echo.example.com", "other.example.org"

ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda raw: raw,
    "base64": base64.b64encode,
    "base64-1": lambda raw: base64.b64encode(b"k" + raw),
    "base64-2": lambda raw: base64.urlsafe_b64encode(b"ab" + raw + b"x"),
    "percent": lambda raw: quote(raw, safe="").encode(),
    "form": lambda raw: quote_plus(raw).encode(),
    "json": lambda raw: json.dumps({"got": raw.decode()}).encode(),
    "html": lambda raw: b"<p>" + html.escape(raw.decode()).encode() + b"</p>",
    "hex": lambda raw: raw.hex().encode(),
}


@dataclass
class Got:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Echo:
    """Both hosts lead here. TLS on `port`, none on `plain_port`."""

    port: int
    plain_port: int
    authority: bytes
    """Who signed for both, as PEM."""
    got: list[Got] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Implements `Resolver`."""
        if host not in (HOST, OTHER):
            raise OSError("no such name")
        return ["127.0.0.1"]

    @property
    def networking(self) -> dict[str, Any]:
        ports = [self.port, self.plain_port]
        rules = [{"host": HOST, "ports": ports}, {"host": OTHER, "ports": ports}]
        return {"type": "limited", "allowed_hosts": [], "rules": rules}

    def taken(self) -> list[Got]:
        got, self.got = self.got, []
        return got


@contextmanager
def echoing() -> Iterator[Echo]:
    authority = Authority("test")
    context = _context(authority)
    plain = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    secure = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    echo = Echo(secure.server_address[1], plain.server_address[1], authority.pem)
    threads = []
    for server in (plain, secure):
        server.echo = echo  # type: ignore[attr-defined]
        server.daemon_threads = True
        threads.append(Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}))
        threads[-1].start()
    try:
        yield echo
    finally:
        for server, thread in zip((plain, secure), threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _context(authority: Authority) -> ssl.SSLContext:
    """One certificate for each name, chosen by what the client asks for."""
    contexts = {name: authority.make(name) for name in (HOST, OTHER)}

    def choose(sock: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        sock.context = contexts.get(name or "", first)

    contexts[HOST].sni_callback = choose  # type: ignore[assignment]
    return contexts[HOST]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self._body()
        echo: Echo = self.server.echo  # type: ignore[attr-defined]
        headers = {name.lower(): value for name, value in self.headers.items()}
        echo.got.append(Got(self.command, self.path, headers, body))
        if self.path.startswith("/private.git"):
            self._git("authorization" in headers)
            return
        how, _, _ = self.path.strip("/").partition("?")
        said = (headers.get("x-token") or headers.get("authorization") or "").encode("latin-1") or body
        self._answer(how, said)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _git(self, knows_who: bool) -> None:
        """What `git ls-remote` wants to hear, once it says who it is."""
        first, line = "# service=git-upload-pack\n", f"{'1' * 40} refs/heads/main\0agent=x\n"
        data = "".join((f"{len(first) + 4:04x}{first}0000", f"{len(line) + 4:04x}{line}0000")).encode()
        self.send_response(200 if knows_who else 401)
        if not knows_who:
            self.send_header("www-authenticate", "Basic realm=x")
            data = b""
        self.send_header("content-type", "application/x-git-upload-pack-advertisement")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, how: str, said: bytes) -> None:
        extra: dict[str, str] = {}
        status, data = 200, ECHOES.get(how, ECHOES["plain"])(said)
        match how:
            case "redirect":
                status, extra, data = (
                    302,
                    {"location": f"/plain?t={quote(said)}", "set-cookie": "t=" + said.decode()},
                    b"",
                )
            case "error":
                status, data = 500, b"Traceback: token " + said + b" is not valid"
            case "gzip":
                extra, data = {"content-encoding": "gzip"}, gzip.compress(said)
            case "deflate":
                extra, data = {"content-encoding": "deflate"}, zlib.compress(said)
            case "br":
                extra = {"content-encoding": "br"}
            case "headers":
                data = json.dumps(dict(self.headers.items())).encode()
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        if how == "dripping":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(len(data)):
                self.wfile.write(b"1\r\n" + data[at : at + 1] + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Not needed."""
