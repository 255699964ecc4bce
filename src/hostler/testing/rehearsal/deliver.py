"""How does one request get its answer: whole, streamed to a schedule, refused, or broken on purpose?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hostler.testing.rehearsal.answer import Answer, Wait, encoded, sse
from hostler.testing.rehearsal.http import Connection, Request
from hostler.testing.rehearsal.steps import Step, TooLong

_EVENTS_IN_ONE_WRITE = 64
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


class Gates:
    """The gates of a model by name: answers wait at them, tests open them. Once open, a gate stays open."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        """Lets pass who waits at this gate, and who will come."""
        self._open.setdefault(name, asyncio.Event()).set()

    async def wait(self, name: str) -> None:
        """Comes to the gate and waits until it is open."""
        self._reached.setdefault(name, asyncio.Event()).set()
        await self._open.setdefault(name, asyncio.Event()).wait()

    async def reached(self, name: str) -> None:
        """Waits until somebody came to the gate."""
        await self._reached.setdefault(name, asyncio.Event()).wait()


class Delivery:
    """One request and the connection that waits for its answer. Exactly one answer is given."""

    def __init__(self, connection: Connection, request: Request, request_id: str, gates: Gates) -> None:
        self._connection = connection
        self._request = request
        self._id = request_id
        self._gates = gates

    def json(self, value: Mapping[str, Any]) -> None:
        """A 200 with this body."""
        self._connection.respond(200, encoded(value), {"request-id": self._id}, keep_alive=self._request.keep_alive)

    def error(
        self, status: int, message: str, *, kind: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """An error in the API's envelope; its type follows from the status unless `kind` says it."""
        kind = kind or ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        envelope = {"type": "error", "error": {"type": kind, "message": message}, "request_id": self._id}
        body = b"" if self._request.method == "HEAD" else encoded(envelope)
        more = {"request-id": self._id, **(headers or {})}
        self._connection.respond(status, body, more, keep_alive=self._request.keep_alive)

    async def stream(self, answer: Answer, failure: str | None) -> None:
        loop = asyncio.get_running_loop()
        step = answer.step
        limit: int | None = getattr(step, failure) if failure else None
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "request-id": self._id,
            **step.headers,
        }
        self._connection.start(200, headers, keep_alive=self._request.keep_alive)
        ready: list[bytes] = []
        due = loop.time()
        count = 0
        for event in answer.events():
            if count == limit:
                break
            if isinstance(event, Wait):
                self._flush(ready)
                await self._gates.wait(event.gate)
                due = loop.time()
                continue
            if event.after:
                self._flush(ready)
                due += event.after
                await asyncio.sleep(max(due - loop.time(), 0))
            ready.append(event.render())
            count += 1
            if len(ready) >= _EVENTS_IN_ONE_WRITE:
                self._flush(ready)
                await self._connection.drain()
        self._flush(ready)
        await self._connection.drain()
        match failure:
            case "cut":
                self._connection.close()
            case "garbage":
                self._connection.send(_GARBAGE)
                self._connection.close()
            case "hang":
                await self._connection.hang()
            case "sse_error":
                kind, message = step.type or "overloaded_error", step.message or "Overloaded"
                error = {"error": {"type": kind, "message": message}, "request_id": self._id}
                self._connection.send(sse("error", error))
                self._connection.finish()
            case _:
                self._connection.finish()

    async def whole(self, answer: Answer, failure: str | None) -> None:
        for name in answer.gates():
            await self._gates.wait(name)
        duration = answer.duration()
        if duration:
            await asyncio.sleep(duration)
        body = encoded(answer.message())
        step = answer.step
        headers = {"content-type": "application/json", "request-id": self._id, **step.headers}
        match failure:
            case "cut":
                self._connection.start(200, headers, length=len(body))
                self._connection.send(body[: len(body) // 2])
                self._connection.close()
            case "garbage":
                self._connection.respond(200, _GARBAGE, headers, keep_alive=self._request.keep_alive)
            case "hang":
                self._connection.start(200, headers, length=len(body))
                await self._connection.hang()
            case "sse_error":
                kind = step.type or "overloaded_error"
                status = next((number for number, name in ERROR_TYPES.items() if name == kind), 500)
                self.error(status, step.message or "Overloaded", kind=kind)
            case _:
                self._connection.respond(200, body, headers, keep_alive=self._request.keep_alive)

    def reset(self) -> None:
        """No answer: the connection is reset."""
        self._connection.reset()

    def refuse(self, step: Step) -> None:
        headers = dict(step.headers)
        if step.retry_after is not None:
            headers["retry-after"] = f"{step.retry_after:g}"
        if step.prompt_too_long is not None:
            status, message = 400, _too_long(step.prompt_too_long)
        else:
            status = step.error or 500
            message = f"The rehearsal script asked for this {status}"
        self.error(status, step.message or message, kind=step.type, headers=headers)

    def _flush(self, ready: list[bytes]) -> None:
        if ready:
            self._connection.send(b"".join(ready))
            ready.clear()


def _too_long(limit: TooLong) -> str:
    return f"prompt is too long: {limit.tokens} tokens > {limit.maximum} maximum"
