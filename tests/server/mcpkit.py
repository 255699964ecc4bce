"""A real MCP server on loopback, and a vault that is one secret in memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.types import ASGIApp, Receive, Scope, Send

from hostler.engine.egress_port import Bearer

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass
class Tools:
    """What the tools of the server have done, and what keeps the slow one."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    bearers: list[str] = field(default_factory=list)
    """The Authorization header of every request."""
    wanted: str = ""
    """The token that is accepted; "" accepts everybody."""
    answer: tuple[int, list[tuple[bytes, bytes]]] | None = None
    """When set, what every request gets instead: a status and headers."""
    slow_may_end: asyncio.Event = field(default_factory=asyncio.Event)
    slow_began: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def server(self) -> MCPServer:
        server = MCPServer("loopback", instructions="Echo when asked to.")

        @server.tool()
        async def echo(text: str) -> str:
            """Says it again."""
            self.calls.append(("echo", text))
            return f"echo {text}"

        @server.tool()
        async def odd(payload: dict[str, Any]) -> str:
            """Takes anything."""
            self.calls.append(("odd", payload))
            return "taken"

        @server.tool()
        async def secret() -> str:
            """A tool that agents must not see."""
            self.calls.append(("secret", None))
            return "the secret"

        @server.tool()
        async def slow() -> str:
            """Takes its time."""
            self.calls.append(("slow", None))
            self.slow_began.set()
            await self.slow_may_end.wait()
            return "at last"

        @server.tool()
        async def huge(size: int) -> str:
            """Says much."""
            self.calls.append(("huge", size))
            return "x" * size

        @server.tool()
        async def failing() -> str:
            """Never works."""
            self.calls.append(("failing", None))
            raise ToolError("out of order")

        @server.tool()
        async def picture() -> Image:
            """One pixel."""
            self.calls.append(("picture", None))
            return Image(data=PIXEL, format="png")

        @server.tool()
        async def leak() -> str:
            """Says the secret that it was called with."""
            return f"you are {self.bearers[-1]} indeed"

        return server

    def guarded(self, app: ASGIApp) -> ASGIApp:
        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                headers = dict(scope["headers"])
                self.bearers.append(headers.get(b"authorization", b"").decode())
                refused = self.wanted and self.bearers[-1] != f"Bearer {self.wanted}"
                answer = (401, [(b"www-authenticate", b"Bearer")]) if refused else self.answer
                if answer is not None:
                    status, fields = answer
                    await send({"type": "http.response.start", "status": status, "headers": fields})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await app(scope, receive, send)

        return guard


@asynccontextmanager
async def mcp_server(*, json_response: bool = False) -> AsyncIterator[Tools]:
    tools = Tools()
    app = tools.server().streamable_http_app(streamable_http_path="/mcp", json_response=json_response)
    config = uvicorn.Config(tools.guarded(app), port=0, log_config=None, timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve())
        async with asyncio.timeout(60):
            while not server.started:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        tools.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
        try:
            yield tools
        finally:
            tools.slow_may_end.set()
            server.should_exit = True
            await asyncio.wait([serving])


@dataclass
class OneSecret:
    """Implements `McpCredentials`: one secret for every server, and what it becomes when a server refuses it."""

    token: str | None
    renewed: str | None = None
    refused: list[str] = field(default_factory=list)

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        return None if self.token is None else Bearer(self.token, "wrkspc_1", "vlt_1", "vcrd_1")

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        self.refused.append(bearer.token)
        if self.renewed is None:
            return None
        self.token = self.renewed
        return Bearer(self.renewed, bearer.workspace, bearer.vault_id, bearer.credential_id)


def url_server(tools: Tools, name: str = "loop") -> dict[str, Any]:
    return {"type": "url", "name": name, "url": tools.url}


def toolset(policy: str = "always_allow", name: str = "loop", **configs: Any) -> dict[str, Any]:
    """An mcp_toolset; `configs` says what holds for each named tool."""
    return {
        "type": "mcp_toolset",
        "mcp_server_name": name,
        "default_config": {"permission_policy": {"type": policy}},
        "configs": [{"name": tool, **config} for tool, config in configs.items()],
    }
