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
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hostler.testing.rehearsal.answer import Answer, Wait, encoded, sse
from hostler.testing.rehearsal.conversation import BadRequest, Conversation, Position
from hostler.testing.rehearsal.http import Connection, Request
from hostler.testing.rehearsal.improvise import housekeeping, improvise, script_is_over
from hostler.testing.rehearsal.models import describe_model, list_models
from hostler.testing.rehearsal.record import Origin, RecordedRequest, Recorder
from hostler.testing.rehearsal.steps import Script, Step, TooLong
from hostler.testing.rehearsal.usage import PromptCache, tokens

_log = logging.getLogger(__name__)
_REMEMBERED_FAILURES = 100_000
_REMEMBERED_SCRIPTS = 10_000
_EVENTS_IN_ONE_WRITE = 64
_UNSCRIPTED = "0" * 16
_GARBAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"del\xff\xfe\x00 <garbage>\n\n'

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

Responder = Callable[[Conversation], Step]
"""Answers a conversation that no script governs."""


@dataclass(frozen=True, slots=True)
class _Plan:
    step: Step
    index: int
    script_id: str
    origin: Origin
    failure: str | None


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
        self._script = script
        self._default = default
        self._api_key = api_key
        self._recorder = recorder or Recorder()
        self._cache = PromptCache()
        self._failures: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._followed: OrderedDict[str, Position] = OrderedDict()
        self._gates: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}
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
        self, count: int, *, timeout: float = 10.0, where: Callable[[RecordedRequest], bool] | None = None
    ) -> list[RecordedRequest]:
        """Waits for `count` POST /v1/messages, or requests that are `where`. Raises TimeoutError after `timeout` s."""
        wanted = where or (lambda request: request.path == "/v1/messages")
        return await self._recorder.wait_for(wanted, count, timeout)

    def open_gate(self, name: str) -> None:
        """Lets the answers that wait at gate `name` go on, and those that will come to it."""
        self._gates.setdefault(name, asyncio.Event()).set()

    async def reached_gate(self, name: str, *, timeout: float = 10.0) -> None:
        """Waits until an answer has come to gate `name`. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self._reached.setdefault(name, asyncio.Event()).wait()

    # -------------------------------------------------------------------------------------------------- requests

    async def _handle(self, request: Request, connection: Connection) -> None:
        request_id = f"req_01{self._fresh()}"
        try:
            await self._route(request, connection, request_id)
        except BadRequest as refused:
            await self._record(request, request_id, _decoded(request.body))
            headers = {"x-should-retry": "false"}
            self._error(connection, request, request_id, 400, str(refused), headers=headers)
        except Exception:
            _log.exception("rehearsal_request_failed", extra={"path": request.path, "request_id": request_id})
            connection.abort()

    async def _route(self, request: Request, connection: Connection, request_id: str) -> None:
        if request.too_large:
            await self._record(request, request_id, None)
            self._error(connection, request, request_id, 413, "Request exceeds the maximum size")
            return
        if self._api_key is not None and self._api_key not in _keys(request.headers):
            await self._record(request, request_id, None)
            self._error(connection, request, request_id, 401, "invalid x-api-key")
            return
        path = request.path.rstrip("/")
        match request.method, path:
            case "POST", "/v1/messages":
                await self._messages(request, connection, request_id)
            case "POST", "/v1/messages/count_tokens":
                body = _json(request.body)
                Conversation.read(body, request.headers, counting=True)
                await self._record(request, request_id, body)
                self._json(connection, request, request_id, {"input_tokens": tokens(len(request.body))})
            case "GET", "/v1/models":
                await self._record(request, request_id, None)
                self._json(connection, request, request_id, list_models(request.query))
            case "GET", _ if path.startswith("/v1/models/"):
                await self._record(request, request_id, None)
                model = path.removeprefix("/v1/models/")
                found = describe_model(model)
                if found is None:
                    self._error(connection, request, request_id, 404, f"model: {model}")
                else:
                    self._json(connection, request, request_id, found)
            case _:
                await self._record(request, request_id, _decoded(request.body))
                message = f"the rehearsal model has no {request.method} {request.path}"
                self._error(connection, request, request_id, 404, message)

    async def _messages(self, request: Request, connection: Connection, request_id: str) -> None:
        body = _json(request.body)
        conversation = Conversation.read(body, request.headers)
        plan = self._plan(conversation)
        await self._record(request, request_id, body, plan)
        step = plan.step
        if step.delay_ms:
            await asyncio.sleep(step.delay_ms / 1000)
        if plan.failure in ("error", "prompt_too_long"):
            self._refuse(connection, request, request_id, step)
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
            await self._stream(connection, request, request_id, answer, plan.failure)
        else:
            await self._whole(connection, request, request_id, answer, plan.failure)

    def _plan(self, conversation: Conversation) -> _Plan:
        position = conversation.position(self._script)
        # What the harness asks for itself comes before a script, unless the script is in that very text or is a rule.
        addressed = position is not None and (position.origin == "rule" or conversation.script_is_in_last_text)
        followed = self._remember(conversation.thread, position)
        own = None if addressed else housekeeping(conversation, followed)
        if own is not None:
            return _Plan(own, 0, _UNSCRIPTED, "housekeeping", None)
        if position is None:
            return _Plan(self._default(conversation), 0, _UNSCRIPTED, "default", None)
        step = position.step
        if step is None:
            return _Plan(script_is_over(position), position.index, _UNSCRIPTED, position.origin, None)
        failure = self._failure_now(step, (conversation.key, position.script_id, position.index))
        return _Plan(step, position.index, position.script_id, position.origin, failure)

    def _remember(self, thread: str, position: Position | None) -> Position | None:
        # A harness that must shorten a conversation even to summarise it drops the message with the script. The summary
        # has to carry it on all the same, and this is the one thing that a request can't tell by itself.
        if position is None or position.origin != "conversation":
            return self._followed.get(thread, position)
        self._followed.pop(thread, None)
        self._followed[thread] = position
        while len(self._followed) > _REMEMBERED_SCRIPTS:
            self._followed.popitem(last=False)
        return position

    def _failure_now(self, step: Step, place: tuple[str, str, int]) -> str | None:
        limit = step.failure_limit
        if limit is None:
            return step.failure
        happened = self._failures.pop(place, 0)
        if happened >= limit:
            if limit:
                self._failures[place] = happened
            return None
        self._failures[place] = happened + 1
        while len(self._failures) > _REMEMBERED_FAILURES:
            self._failures.popitem(last=False)
        return step.failure

    # --------------------------------------------------------------------------------------------------- answers

    async def _stream(
        self, connection: Connection, request: Request, request_id: str, answer: Answer, failure: str | None
    ) -> None:
        loop = asyncio.get_running_loop()
        step = answer.step
        limit: int | None = getattr(step, failure) if failure else None
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "request-id": request_id,
            **step.headers,
        }
        connection.start(200, headers, keep_alive=request.keep_alive)
        ready: list[bytes] = []
        due = loop.time()
        count = 0
        for event in answer.events():
            if count == limit:
                break
            if isinstance(event, Wait):
                _flush(connection, ready)
                await self._at_gate(event.gate)
                due = loop.time()
                continue
            if event.after:
                _flush(connection, ready)
                due += event.after
                await asyncio.sleep(max(due - loop.time(), 0))
            ready.append(event.render())
            count += 1
            if len(ready) >= _EVENTS_IN_ONE_WRITE:
                _flush(connection, ready)
                await connection.drain()
        _flush(connection, ready)
        await connection.drain()
        match failure:
            case "cut":
                connection.close()
            case "garbage":
                connection.send(_GARBAGE)
                connection.close()
            case "hang":
                await connection.hang()
            case "sse_error":
                kind, message = step.type or "overloaded_error", step.message or "Overloaded"
                error = {"error": {"type": kind, "message": message}, "request_id": request_id}
                connection.send(sse("error", error))
                connection.finish()
            case _:
                connection.finish()

    async def _whole(
        self, connection: Connection, request: Request, request_id: str, answer: Answer, failure: str | None
    ) -> None:
        for name in answer.gates():
            await self._at_gate(name)
        duration = answer.duration()
        if duration:
            await asyncio.sleep(duration)
        body = encoded(answer.message())
        step = answer.step
        headers = {"content-type": "application/json", "request-id": request_id, **step.headers}
        match failure:
            case "cut":
                connection.start(200, headers, length=len(body))
                connection.send(body[: len(body) // 2])
                connection.close()
            case "garbage":
                connection.respond(200, _GARBAGE, headers, keep_alive=request.keep_alive)
            case "hang":
                connection.start(200, headers, length=len(body))
                await connection.hang()
            case "sse_error":
                kind = step.type or "overloaded_error"
                status = next((number for number, name in ERROR_TYPES.items() if name == kind), 500)
                self._error(connection, request, request_id, status, step.message or "Overloaded", kind=kind)
            case _:
                connection.respond(200, body, headers, keep_alive=request.keep_alive)

    def _refuse(self, connection: Connection, request: Request, request_id: str, step: Step) -> None:
        headers = dict(step.headers)
        if step.retry_after is not None:
            headers["retry-after"] = f"{step.retry_after:g}"
        if step.prompt_too_long is not None:
            status, message = 400, _too_long(step.prompt_too_long)
        else:
            status = step.error or 500
            message = f"The rehearsal script asked for this {status}"
        self._error(connection, request, request_id, status, step.message or message, kind=step.type, headers=headers)

    async def _at_gate(self, name: str) -> None:
        self._reached.setdefault(name, asyncio.Event()).set()
        await self._gates.setdefault(name, asyncio.Event()).wait()

    def _error(
        self,
        connection: Connection,
        request: Request,
        request_id: str,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = kind or ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        envelope = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
        body = b"" if request.method == "HEAD" else encoded(envelope)
        more = {"request-id": request_id, **(headers or {})}
        connection.respond(status, body, more, keep_alive=request.keep_alive)

    def _json(self, connection: Connection, request: Request, request_id: str, value: Mapping[str, Any]) -> None:
        connection.respond(200, encoded(value), {"request-id": request_id}, keep_alive=request.keep_alive)

    async def _record(self, request: Request, request_id: str, body: Any, plan: _Plan | None = None) -> None:
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


def _flush(connection: Connection, ready: list[bytes]) -> None:
    if ready:
        connection.send(b"".join(ready))
        ready.clear()


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


def _too_long(limit: TooLong) -> str:
    return f"prompt is too long: {limit.tokens} tokens > {limit.maximum} maximum"
