"""How does one connection from a sandbox become requests, and what does it get when it misbehaves?

A raw protocol over httptools. One request at a time: bytes that arrive while an answer is under way end the
connection, since the harness doesn't pipeline and whoever does is trying something. Everything that a sandbox could
make grow or last without end has a limit here: head, body, time to send them, idle time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from hostler.gateway.errors import Refusal, reason_phrase
from hostler.gateway.http1 import LAST_CHUNK, Headers, Request, chunk, render_head, vet_head


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of one session's connections. Sizes in bytes, times in seconds."""

    head_bytes: int = 64 << 10
    body_bytes: int = 32 << 20
    buffered_bytes: int = 64 << 20
    """Bodies of one session that are held in memory at the same moment."""
    connections: int = 64
    head_seconds: float = 30.0
    body_seconds: float = 120.0
    idle_seconds: float = 300.0
    linger_seconds: float = 2.0
    """How long a refused client may go on sending, so that it can read the refusal."""


class Answering(Protocol):
    """Whoever answers the current request."""

    def client_gone(self) -> None: ...

    def client_blocked(self, blocked: bool) -> None:
        """True: the client reads too slowly; stop producing. False: go on."""
        ...


class Host(Protocol):
    """The road that a connection belongs to."""

    limits: ClientLimits

    def joined(self, connection: ClientConnection) -> bool:
        """False: there are too many; the connection is dropped."""
        ...

    def left(self, connection: ClientConnection) -> None: ...

    def reserve(self, size: int) -> bool:
        """Takes `size` bytes from the session's buffer (negative: gives back). False: there is no room."""
        ...

    def begin(self, request: Request, connection: ClientConnection) -> Answering: ...


class ClientConnection(asyncio.Protocol):
    """One connection. `send…` methods may be called only between `Host.begin` and the call that ends the answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limits = host.limits
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._answering: Answering | None = None
        self._draining = False
        self._closed = False
        self._reserved = 0
        self.blocked = False
        """It reads too slowly: what is sent now only grows the buffer."""
        self.lost = asyncio.Event()
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._in_body = False
        self._besides = 0
        """Bytes that came since the last one of the body: of what stands behind it."""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._complete = False
        self._refusal: Refusal | None = None

    # ------------------------------------------------------------------------------------------ transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=256 << 10)
        if not self._host.joined(self):
            self._closed = True
            self._transport.abort()
            return
        self._arm(self._limits.idle_seconds)

    def data_received(self, data: bytes) -> None:
        if self._draining or self._closed:
            return
        if self._answering is not None:
            self.abort()
            return
        if not self._in_body:
            if self._head_bytes == 0:
                self._arm(self._limits.head_seconds)
            self._head_bytes += len(data)
        before = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse("Protocol upgrades are not available here.")
        except httptools.HttpParserError:
            self._refuse("The request is not well-formed HTTP/1.1.")
        self._besides = self._besides + len(data) if self._in_body and self._body_bytes == before else 0
        if (
            self._refusal is None
            and max(self._besides, self._head_bytes * (not self._in_body)) > self._limits.head_bytes
        ):
            self._refusal = Refusal(431, "invalid_request_error", "The head of the request is too large.")
        if self._refusal is not None:
            self._turn_away(self._refusal)
        elif self._complete:
            self._disarm()
            request = Request(b"POST", self._target, self._headers, b"".join(self._body))
            self._body = []
            self._answering = self._host.begin(request, self)

    def eof_received(self) -> bool:
        return False  # A half-closed client can't be told from one that has gone: both are a hang-up.

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.lost.set()
        self._disarm()
        self._release()
        self._host.left(self)
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.client_gone()

    def pause_writing(self) -> None:
        self.blocked = True
        if self._answering is not None:
            self._answering.client_blocked(True)

    def resume_writing(self) -> None:
        self.blocked = False
        if self._answering is not None:
            self._answering.client_blocked(False)

    # --------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._refuse("Send one request at a time.")

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # Those behind a chunked body were never looked at: they say nothing.
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._refusal is not None:
            return
        self._in_body = True
        self._arm(self._limits.body_seconds)
        bad = vet_head(self._parser.get_method(), self._target, self._parser.get_http_version(), self._headers)
        if bad is not None:
            self._refusal = Refusal(bad.status, bad.kind, bad.message)
            return
        fields = dict(self._headers)
        if int(fields.get(b"content-length", b"0")) > self._limits.body_bytes:
            self._refuse_size()
        elif fields.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._refusal is not None:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse_size()
        elif not self._host.reserve(len(body)):
            self._refusal = Refusal(
                429, "rate_limit_error", "Too many large requests of this session at once.", retry=True
            )
        else:
            self._reserved += len(body)
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = True

    # ---------------------------------------------------------------------------------------------- used by answers

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer at once; the connection is then ready for the next request."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        self._transport.write(render_head(_status_line(status), headers) + body)
        self._next()

    def send_head(self, status: int, headers: Headers) -> bytes:
        """Begins a chunked answer; returns the head for the caller to put before the first `send_chunk`."""
        return render_head(_status_line(status), [*headers, (b"transfer-encoding", b"chunked")])

    def send_chunk(self, head: bytes, data: bytes) -> None:
        """Writes `head` as it is, then `data` as a chunk when there is any."""
        self._transport.write(head + chunk(data) if data else head)

    def send_end(self, data: bytes) -> None:
        """Writes the last `data` of a chunked answer and ends it."""
        self._transport.write(chunk(data) + LAST_CHUNK if data else LAST_CHUNK)
        self._next()

    def break_off(self, data: bytes = b"") -> None:
        """Ends a chunked answer without its end, after a last `data`, so that the client sees that it is cut."""
        if data:
            self._transport.write(chunk(data))
        self._answering = None
        self._transport.close()

    def abort(self) -> None:
        """Drops the connection; unsent bytes are lost."""
        self._closed = True
        self._transport.abort()

    # ----------------------------------------------------------------------------------------------------- internal

    def _next(self) -> None:
        self._answering = None
        self._release()
        self._reset()
        self._arm(self._limits.idle_seconds)

    def _release(self) -> None:
        if self._reserved:
            self._host.reserve(-self._reserved)
            self._reserved = 0

    def _refuse(self, message: str) -> None:
        if self._refusal is None:
            self._refusal = Refusal(400, "invalid_request_error", message)

    def _refuse_size(self) -> None:
        limit = self._limits.body_bytes >> 20
        self._refusal = Refusal(413, "request_too_large", f"The body is larger than {limit} MiB.")

    def _turn_away(self, refusal: Refusal) -> None:
        status, headers, body = refusal.render()
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self._transport.write(render_head(_status_line(status), headers) + body)
        self._body = []
        self._release()
        self._draining = True  # Closing with unread bytes would reset the connection before the answer is read.
        self._arm(self._limits.linger_seconds)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self._transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason_phrase(status))
