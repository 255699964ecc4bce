"""What do the rehearsed clouds have in common: listening, remembering, asking the model behind them?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx2

from hostler.testing.rehearsal.http import Connection, Request


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as it came."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Refused(Exception):
    """The cloud says no. `name` is its own word for why."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name


class Front:
    """A server on loopback; `async with` it. `url` is its base URL, `requests` are those that asked for a model.

    Before the clouds' own endpoints comes `answer_own`: where credentials are given out.
    """

    def __init__(self, model_url: str) -> None:
        """model_url: of a Messages API, such as that of a rehearsal model."""
        self._model_url = model_url
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._connections: set[Connection] = set()
        self.requests: list[Seen] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._model = await self._stack.enter_async_context(
            # Reading the host's authorities takes long, and a model on loopback needs none.
            httpx2.AsyncClient(
                base_url=self._model_url, timeout=60.0, trust_env=False, verify=self._model_url.startswith("https:")
            )
        )
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._root = asyncio.create_task(self._run(listening), name="rehearsed cloud")
        self.url = await listening
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping.set()
        await asyncio.wait([self._root])
        await self._stack.aclose()

    async def _run(self, listening: asyncio.Future[str]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            server = await loop.create_server(
                lambda: Connection(self._handle, tasks, self._connections), "127.0.0.1", 0
            )
            listening.set_result(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await self._stopping.wait()
            server.close()
            for connection in list(self._connections):
                connection.abort()

    async def _handle(self, request: Request, connection: Connection) -> None:
        try:
            if self.answer_own(request, connection):
                return
            self.requests.append(Seen(request.target, dict(request.headers), request.body))
            if request.method != "POST":
                raise Refused(404, "NotFound", f"There is no {request.method} {request.path} here.")
            await self.answer(request, connection)
        except Refused as refused:
            self.say_no(refused, connection)
        except httpx2.TransportError:
            connection.abort()  # The model broke off, so does the cloud.

    def answer_own(self, request: Request, connection: Connection) -> bool:
        """Whether it was a request for credentials, which is answered then."""
        return False

    async def answer(self, request: Request, connection: Connection) -> None:
        """Checks the request and answers it. Raises Refused."""
        raise TypeError("each cloud answers in its own way")

    def say_no(self, refused: Refused, connection: Connection) -> None:
        raise TypeError("each cloud refuses in its own way")

    # --------------------------------------------------------------------------------------------------- the model

    @asynccontextmanager
    async def asked(self, path: str, body: dict[str, Any], betas: list[str]) -> AsyncIterator[httpx2.Response]:
        """The model's answer, still coming."""
        headers = {"x-api-key": "the cloud's", "anthropic-version": "2023-06-01"}
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        async with self._model.stream("POST", path, json=body, headers=headers) as response:
            yield response


def object_of(body: bytes) -> dict[str, Any]:
    """Raises Refused."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "ValidationException", "The body is not a JSON object.")
    return value


def without_its_beta(body: dict[str, Any], betas: list[str]) -> None:
    """Raises Refused for a field that only a beta brings."""
    if "context_management" in body and "context-management-2025-06-27" not in betas:
        raise Refused(400, "ValidationException", "context_management: Extra inputs are not permitted")
    tools = body.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and "defer_loading" in tool:
            raise Refused(400, "ValidationException", f"tools.{number}.defer_loading: Extra inputs are not permitted")


async def events(response: httpx2.Response) -> AsyncIterator[tuple[str, str]]:
    """Names and data of the server-sent events of an answer."""
    name, data = "", ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield name, data
            name, data = "", ""
