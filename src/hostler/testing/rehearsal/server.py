"""The rehearsal model: a Messages API on a real socket that follows a script instead of thinking.

`RehearsalModel` is an async context manager for tests; `serve` runs it until it is cancelled. It needs no key and no
network, and one instance serves any number of conversations at once: where a conversation is in its script follows from
the request itself, so restarts and retries change nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from hostler.testing.rehearsal.answer import Answer
from hostler.testing.rehearsal.choose import Chooser, Plan, Responder
from hostler.testing.rehearsal.conversation import BadRequest, Conversation
from hostler.testing.rehearsal.deliver import Delivery, Gates
from hostler.testing.rehearsal.http import Connection, Request
from hostler.testing.rehearsal.improvise import improvise
from hostler.testing.rehearsal.models import describe_model, list_models
from hostler.testing.rehearsal.record import RecordedRequest, Recorder
from hostler.testing.rehearsal.steps import Script
from hostler.testing.rehearsal.usage import PromptCache, tokens

_log = logging.getLogger(__name__)


class RehearsalModel:
    """A scripted Messages API: POST /v1/messages, POST /v1/messages/count_tokens, GET /v1/models, GET /v1/models/{id}.

    `script` is for conversations that bring none; `default` answers what no script governs. With `api_key`, requests
    that carry another key get 401. Use as `async with RehearsalModel() as model:` (loopback, a free port), or `start`
    and `stop`. One instance starts once.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        default: Responder = improvise,
        api_key: str | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._chooser = Chooser(script, default)
        self._api_key = api_key
        self._recorder = recorder or Recorder()
        self._cache = PromptCache()
        self._gates = Gates()
        self._numbers = itertools.count(1)
        self._salt = os.urandom(8).hex()
        self._connections: set[Connection] = set()
        self._stopping = asyncio.Event()
        self._root: asyncio.Task[None] | None = None
        self.url = ""
        """Base URL, without a path. `http://localhost` when it listens on a unix socket only."""

    # ---------------------------------------------------------------------------------------------------- life

    async def start(self, *, host: str = "127.0.0.1", port: int = 0, unix_socket: Path | None = None) -> None:
        """Listens on `host:port` (0: a free one), or on `unix_socket` instead. Raises OSError when it can't."""
        if self._root is not None:
            raise RuntimeError("a RehearsalModel starts once")
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._root = asyncio.create_task(self._run(listening, host, port, unix_socket), name="rehearsal model")
        try:
            self.url = await asyncio.shield(listening)
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Closes every connection and waits until nothing of it runs. Harmless when it doesn't run."""
        self._stopping.set()
        if self._root is not None:
            await asyncio.wait([self._root])

    async def wait_stopped(self) -> None:
        """Returns when `stop` was called; raises what ended it otherwise."""
        if self._root is not None:
            await asyncio.shield(self._root)

    async def __aenter__(self) -> Self:
        if self._root is None:
            await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _run(self, listening: asyncio.Future[str], host: str, port: int, unix_socket: Path | None) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:

            def connect() -> Connection:
                return Connection(self._handle, tasks, self._connections)

            try:
                if unix_socket is not None:
                    server = await loop.create_unix_server(connect, str(unix_socket))
                    url = "http://localhost"
                else:
                    server = await loop.create_server(connect, host, port)
                    address = server.sockets[0].getsockname()
                    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
                    url = f"http://{shown}:{address[1]}"
            except OSError as error:
                listening.set_exception(error)
                return
            listening.set_result(url)
            try:
                await self._stopping.wait()
            finally:
                server.close()
                for connection in list(self._connections):
                    connection.abort()

    # ------------------------------------------------------------------------------------------ what a test looks at

    @property
    def requests(self) -> list[RecordedRequest]:
        """The newest requests, oldest first; bounded (see `Recorder`)."""
        return self._recorder.requests

    @property
    def message_requests(self) -> list[RecordedRequest]:
        """Those of `requests` that are POST /v1/messages."""
        return [request for request in self._recorder.requests if request.path == "/v1/messages"]

    async def wait_for_requests(
        self, count: int, *, timeout: float = 60.0, where: Callable[[RecordedRequest], bool] | None = None
    ) -> list[RecordedRequest]:
        """Waits for `count` POST /v1/messages, or requests that are `where`. Raises TimeoutError after `timeout` s."""
        wanted = where or (lambda request: request.path == "/v1/messages")
        return await self._recorder.wait_for(wanted, count, timeout)

    def open_gate(self, name: str) -> None:
        """Lets the answers that wait at gate `name` go on, and those that will come to it."""
        self._gates.open(name)

    async def reached_gate(self, name: str, *, timeout: float = 60.0) -> None:
        """Waits until an answer has come to gate `name`. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self._gates.reached(name)

    # -------------------------------------------------------------------------------------------------- requests

    async def _handle(self, request: Request, connection: Connection) -> None:
        request_id = f"req_01{self._fresh()}"
        delivery = Delivery(connection, request, request_id, self._gates)
        try:
            await self._route(request, delivery, request_id)
        except BadRequest as refused:
            await self._record(request, request_id, _decoded(request.body))
            headers = {"x-should-retry": "false"}
            delivery.error(400, str(refused), headers=headers)
        except Exception:
            _log.exception("rehearsal_request_failed", extra={"path": request.path, "request_id": request_id})
            connection.abort()

    async def _route(self, request: Request, delivery: Delivery, request_id: str) -> None:
        if request.too_large:
            await self._record(request, request_id, None)
            delivery.error(413, "Request exceeds the maximum size")
            return
        if self._api_key is not None and self._api_key not in _keys(request.headers):
            await self._record(request, request_id, None)
            delivery.error(401, "invalid x-api-key")
            return
        path = request.path.rstrip("/")
        match request.method, path:
            case "POST", "/v1/messages":
                await self._messages(request, delivery, request_id)
            case "POST", "/v1/messages/count_tokens":
                body = _json(request.body)
                Conversation.read(body, request.headers, counting=True)
                await self._record(request, request_id, body)
                delivery.json({"input_tokens": tokens(len(request.body))})
            case "GET", "/v1/models":
                await self._record(request, request_id, None)
                delivery.json(list_models(request.query))
            case "GET", _ if path.startswith("/v1/models/"):
                await self._record(request, request_id, None)
                model = path.removeprefix("/v1/models/")
                found = describe_model(model)
                if found is None:
                    delivery.error(404, f"model: {model}")
                else:
                    delivery.json(found)
            case _:
                await self._record(request, request_id, _decoded(request.body))
                message = f"the rehearsal model has no {request.method} {request.path}"
                delivery.error(404, message)

    async def _messages(self, request: Request, delivery: Delivery, request_id: str) -> None:
        body = _json(request.body)
        conversation = Conversation.read(body, request.headers)
        plan = self._chooser.plan(conversation)
        await self._record(request, request_id, body, plan)
        step = plan.step
        if step.delay_ms:
            await asyncio.sleep(step.delay_ms / 1000)
        if plan.failure == "reset":
            delivery.reset()
            return
        if plan.failure in ("error", "prompt_too_long"):
            delivery.refuse(step)
            return
        answer = Answer(
            conversation=conversation,
            step=step,
            index=plan.index,
            script_id=plan.script_id,
            message_id=f"msg_01{self._fresh()}",
            input_usage=self._cache.usage_of(conversation, request.body),
        )
        if conversation.streaming:
            await delivery.stream(answer, plan.failure)
        else:
            await delivery.whole(answer, plan.failure)

    async def _record(self, request: Request, request_id: str, body: Any, plan: Plan | None = None) -> None:
        await self._recorder.add(
            RecordedRequest(
                method=request.method,
                path=request.path,
                query=request.query,
                headers=request.headers,
                body=body,
                received_at=request.received_at,
                request_id=request_id,
                origin=plan.origin if plan else "none",
                step=plan.index if plan and plan.origin in ("conversation", "rule", "file") else None,
                failure=plan.failure if plan else None,
                size=len(request.body),
            )
        )

    def _fresh(self) -> str:
        # Like the real ids, and new for every answer: a harness joins what has the same message id.
        return hashlib.sha256(f"{self._salt}{next(self._numbers)}".encode()).hexdigest()[:22]


async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    script_path: Path | None = None,
    *,
    unix_socket: Path | None = None,
    ready: Callable[[RehearsalModel], None] | None = None,
) -> None:
    """Runs a rehearsal model until it is cancelled. `ready` is called once it listens.

    Raises ScriptError when the script file can't be followed, OSError when a file or an address can't be had.
    """
    model = RehearsalModel(Script.from_file(script_path) if script_path else None)
    await model.start(host=host, port=port, unix_socket=unix_socket)
    try:
        if ready is not None:
            ready(model)
        await model.wait_stopped()
    finally:
        await model.stop()


def _keys(headers: Mapping[str, str]) -> tuple[str, str]:
    return headers.get("x-api-key", ""), headers.get("authorization", "").removeprefix("Bearer ")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None
