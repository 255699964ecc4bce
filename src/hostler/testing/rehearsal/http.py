"""How do bytes of a connection become requests, and answers bytes, with full power over the socket?

A plain asyncio protocol with httptools: an answer can be paced to the millisecond, cut, or left hanging, which no web
framework allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools

MAX_BODY = 64 << 20
"""Bytes of the largest request body that is read; a larger one ends the connection with 413."""
_MAX_WAITING = 16
"""Pipelined requests of one connection that wait; more end the connection."""


@dataclass(slots=True)
class Request:
    """One HTTP request, complete. Header names are lower-case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    received_at: float
    """`time.monotonic()` when its last byte was parsed, in seconds."""
    keep_alive: bool = True
    body: bytes = b""
    too_large: bool = False
    target: str = ""
    """Path and query as they were sent, nothing decoded."""


Handler = Callable[[Request, "Connection"], Awaitable[None]]


@dataclass(slots=True)
class _Parsing:
    url: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    method: str = ""


class Connection(asyncio.Protocol):
    """One client. Its requests are handled one after another; when the client leaves, the handler is cancelled."""

    def __init__(self, handler: Handler, tasks: asyncio.TaskGroup, alive: set[Connection]) -> None:
        self._handler = handler
        self._tasks = tasks
        self._alive = alive
        self._parser = httptools.HttpRequestParser(self)
        self._now = _Parsing()
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._chunked = False

    # --------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: the transports of uvloop are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._alive.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            if self._task is None:
                self.respond(400, b"", keep_alive=False)
            else:
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._alive.discard(self)
        self._waiting.clear()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---------------------------------------------------------------------------------------------------- httptools

    def on_message_begin(self) -> None:
        self._now = _Parsing()

    def on_url(self, url: bytes) -> None:
        self._now.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._now.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._now.method = self._parser.get_method().decode("ascii")
        if self._now.headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._now.size += len(body)
        if self._now.size <= MAX_BODY:
            self._now.chunks.append(body)
        else:
            self._now.chunks.clear()

    def on_message_complete(self) -> None:
        now = self._now
        raw, _, query = now.url.partition(b"?")
        too_large = now.size > MAX_BODY
        request = Request(
            method=now.method,
            path=unquote(raw.decode("latin-1")),
            query=query.decode("latin-1"),
            headers=now.headers,
            received_at=time.monotonic(),
            keep_alive=self._parser.should_keep_alive() and not too_large,
            body=b"".join(now.chunks),
            too_large=too_large,
            target=now.url.decode("latin-1"),
        )
        if len(self._waiting) >= _MAX_WAITING:
            self.abort()
            return
        self._waiting.append(request)
        if self._task is None:
            self._task = self._tasks.create_task(self._serve(), name="rehearsal connection")

    async def _serve(self) -> None:
        try:
            while self._waiting:
                request = self._waiting.popleft()
                await self._handler(request, self)
                if not request.keep_alive:
                    self.close()
        except asyncio.CancelledError:
            # Either the client left, which ends only this connection, or the server stops, which ends the group.
            if self._transport is not None:
                self.abort()
                raise
        finally:
            self._task = None

    # ------------------------------------------------------------------------------------------------------ answers

    def respond(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, keep_alive: bool = True
    ) -> None:
        """A whole answer."""
        lines = {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))}
        self._write(_head(status, lines, keep_alive) + body)
        if not keep_alive:
            self.close()

    def start(
        self, status: int, headers: dict[str, str], *, keep_alive: bool = True, length: int | None = None
    ) -> None:
        """The head of an answer that follows in pieces. `length` promises that many bytes, even if fewer will come."""
        self._chunked = length is None
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        self._write(_head(status, {**headers, **framing}, keep_alive))

    def send(self, data: bytes) -> None:
        """A piece of the answer; never empty."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """The regular end of an answer in pieces."""
        if self._chunked:
            self._write(b"0\r\n\r\n")

    async def drain(self) -> None:
        """Waits until the client has taken enough to go on."""
        await self._writable.wait()

    def close(self) -> None:
        """Ends the connection after what was written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Ends the connection at once, and in the way that the client's kernel calls a reset."""
        if self._transport is not None:
            endpoint = self._transport.get_extra_info("socket")
            if endpoint.family in (socket.AF_INET, socket.AF_INET6):
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    async def hang(self) -> None:
        """Sends nothing more, until the client leaves."""
        with contextlib.suppress(TimeoutError):
            await asyncio.Event().wait()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _head(status: int, headers: dict[str, str], keep_alive: bool) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Overloaded" if status == 529 else "Error"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    lines.append(f"connection: {'keep-alive' if keep_alive else 'close'}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
