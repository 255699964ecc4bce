"""An MCP server (the real one of the `mcp` package) behind a gate of bearer tokens, and the token endpoint beside it.

Both listen on loopback in a thread of their own, so that tests with and without an event loop can use them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import uvicorn
from mcp.server import MCPServer


@dataclass
class Exchange:
    """One request of the token endpoint, as it came."""

    form: dict[str, str]
    client: tuple[str, str] | None
    """Of an Authorization header with Basic, decoded."""


@dataclass
class FakeProvider:
    """Tokens it accepts, what it was asked, and how it answers. Change the fields while it runs."""

    accepted: set[str] = field(default_factory=set)
    refresh_token: str = "canary-refresh-0"
    lives: object = 3600
    rotates: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Method and token of every message to the MCP server."""
    token_answer: Callable[[Exchange], tuple[int, dict[str, str], bytes]] | None = None
    """In place of the token endpoint's own answer."""
    mcp_answer: dict[str, Callable[[str], tuple[int, dict[str, str], bytes]]] = field(default_factory=dict)
    """In place of the MCP server's own answer, by method; each is told the token."""
    asked: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    base_url: str = ""
    tls: tuple[str, str] | None = None
    """Certificate and key, as files."""

    @property
    def mcp_url(self) -> str:
        return f"{self.base_url}/mcp"

    @property
    def token_url(self) -> str:
        return f"{self.base_url}/token"

    # -- running

    def __enter__(self) -> FakeProvider:
        self.go_on.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-provider")
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = MCPServer("fake")

        @server.tool()
        def look_up(q: str) -> str:
            """Looks something up."""
            return q

        mcp = server.streamable_http_app()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await mcp(scope, receive, send)
            elif scope["path"] == "/token":
                await self._token(scope, receive, send)
            else:
                await self._mcp(mcp, scope, receive, send)

        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        files = {} if self.tls is None else {"ssl_certfile": self.tls[0], "ssl_keyfile": self.tls[1]}
        config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=1, **files)  # type: ignore[arg-type]
        running = uvicorn.Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(running.serve(sockets=[listener]))
            scheme = "http" if self.tls is None else "https"
            self.base_url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            self._ready.set()
            await self._stop.wait()
            running.should_exit = True

    # -- the token endpoint

    async def _token(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        client = None
        if headers.get("authorization", "").startswith("Basic "):
            name, _, secret = base64.b64decode(headers["authorization"][6:]).decode().partition(":")
            client = (unquote_plus(name), unquote_plus(secret))
        exchange = Exchange({key: values[0] for key, values in parse_qs(body.decode()).items()}, client)
        self.exchanges.append(exchange)
        self.asked.set()
        await asyncio.to_thread(self.go_on.wait, 30)
        if self.token_answer is not None:
            await _send(send, *self.token_answer(exchange))
        elif exchange.form.get("refresh_token") != self.refresh_token:
            await _send(send, 400, {}, b'{"error": "invalid_grant"}')
        else:
            number = len(self.exchanges)
            granted: dict[str, object] = {"access_token": f"canary-access-{number}", "token_type": "Bearer"}
            self.accepted = {f"canary-access-{number}"}
            if self.lives is not None:
                granted["expires_in"] = self.lives
            if self.rotates:
                self.refresh_token = f"canary-refresh-{number}"
                granted["refresh_token"] = self.refresh_token
            await _send(send, 200, {}, json.dumps(granted).encode())

    # -- the MCP server

    async def _mcp(self, mcp: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        body = await _body(receive)
        method = json.loads(body).get("method", "") if body else scope["method"]
        self.calls.append((method, token))
        if method in self.mcp_answer:
            await _send(send, *self.mcp_answer[method](token))
            return
        if token not in self.accepted:
            await _send(send, 401, {"www-authenticate": "Bearer"}, b'{"error": "invalid_token"}')
            return
        replayed = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return replayed.pop() if replayed else await receive()

        await mcp(scope, again, send)


def answers(status: int, body: bytes, **headers: str) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """An answer that is always the same. Underscores in the names of headers are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: (status, named, body)


def trusting(certificate: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _send(send: Any, status: int, headers: dict[str, str], body: bytes) -> None:
    named = {"content-type": "application/json", **headers}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
