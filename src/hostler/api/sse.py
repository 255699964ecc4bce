"""How do events reach a reader as they happen? Server-sent events, written frame by frame, never buffered here.

Every frame of the log carries its sequence as `id:`, which clients of today ignore and a reader may send back as
`Last-Event-ID`. A comment goes out at once, so that headers and connection are seen to work, and again after every
15 s of silence. A reader that takes nothing for 30 s is dropped: what it missed is in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hostler.api.errors import stream_error
from hostler.api.services import EventStream
from hostler.domain.errors import HostlerError, InvalidRequest
from hostler.domain.sessions import Frame

log = logging.getLogger("hostler.api")

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Proxies that buffer by default (nginx) are asked not to.
    (b"x-accel-buffering", b"no"),
)
LAST_FRAME: Final = "session.deleted"


def last_event_id(request: Request) -> int | None:
    """The sequence behind which to replay. Raises InvalidRequest when the header holds no sequence."""
    value = request.headers.get("last-event-id")
    if value is None or value == "":
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise InvalidRequest(f"Last-Event-ID: {value[:40]!r} is not a sequence; send the id of a frame of this stream")
    return int(value)


def frame_bytes(frame: Frame) -> bytes:
    """Made once for all readers of the frame."""
    if not frame.encoded:
        number = "" if frame.seq is None else f"id: {frame.seq}\n"
        text = f"{number}event: {frame.name}\ndata: {frame.data}\n\n"
        frame.encoded.append(text.encode("utf-8", "backslashreplace"))
    return frame.encoded[0]


class EventStreamResponse(Response):
    """Sends one event stream, and closes it however the connection ends."""

    def __init__(
        self, events: EventStream, *, request_id: str, keep_alive_seconds: float, slow_reader_seconds: float
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._request_id = request_id
        self._keep_alive = keep_alive_seconds
        self._patience = slow_reader_seconds
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await self._write(send, b": connected\n\n")
            async with asyncio.TaskGroup() as group:
                copying = group.create_task(self._copy(send))
                watching = group.create_task(self._watch(receive, send, copying))
                copying.add_done_callback(lambda _: watching.cancel())
        finally:
            await self._events.close()

    async def _copy(self, send: Send) -> None:
        """Writes every frame; ends the response after the last one."""
        try:
            async for frame in self._events:
                await self._write(send, frame_bytes(frame))
                if frame.name == LAST_FRAME:
                    break
        except _ReaderTooSlow:
            log.info("stream_reader_dropped", extra={"request_id": self._request_id})
            return
        except Exception as error:
            if not isinstance(error, HostlerError):
                log.exception("stream_failed", extra={"request_id": self._request_id})
            data = stream_error(error, self._request_id)
            with contextlib.suppress(_ReaderTooSlow):
                await self._write(send, f"event: error\ndata: {data}\n\n".encode())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive, send: Send, copying: asyncio.Task[None]) -> None:
        """Notices at once that the reader hung up; fills silence with comments."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(max(self._last_sent + self._keep_alive, loop.time() + 0.001)):
                    message = await receive()
            except TimeoutError:
                if loop.time() - self._last_sent >= self._keep_alive:
                    try:
                        await self._write(send, b": keep-alive\n\n")
                    except _ReaderTooSlow:
                        copying.cancel()
                        return
                continue
            if message["type"] == "http.disconnect":
                copying.cancel()
                return

    async def _write(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise _ReaderTooSlow from None
        self._last_sent = asyncio.get_running_loop().time()


class _ReaderTooSlow(Exception):
    """One write blocked for longer than the server waits."""
