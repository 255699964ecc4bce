"""How does the gateway reach a model's API, and keep its connections warm?

A small pool of HTTP/1.1 connections to one upstream. A connection goes back to the pool only when its answer has
ended cleanly; one that was cut, aborted or has said more than it was asked is closed. The pool holds one identity
(one key), so sessions may share it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, cast
from urllib.parse import urlsplit

import httptools

from hostler.gateway.http1 import Headers, render_head


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the model is and who we are there."""

    base_url: str
    """`https://host[:port][/prefix]`, or `http://` for a model on this machine."""
    api_key: str = field(repr=False)
    auth: Literal["x-api-key", "bearer"] = "x-api-key"
    ca_file: str | None = None
    """PEM file with the authorities that sign this upstream's certificate, instead of the system's."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("base_url is http://host[:port][/prefix] or https://host[:port][/prefix]")
        if not self.api_key.isprintable() or not self.api_key.isascii():
            raise ValueError("api_key holds characters that can't be sent in a header")


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Times in seconds."""

    connect_seconds: float = 10.0
    first_byte_seconds: float = 600.0
    silence_seconds: float = 240.0
    """Longest pause between two pieces of one answer. Shorter than the 300 s after which `claude` gives a stream up: so
    it is known here, and counts, that the upstream has fallen silent."""
    idle_seconds: float = 30.0
    """How long an unused connection is kept."""
    idle_connections: int = 256
    answer_bytes: int = 64 << 20
    """Largest answer that isn't a stream, and largest single event of one that is."""


_MOST_BESIDES: Final = 256 << 10
"""Bytes of a head, or of what stands behind a body: no answer has more."""


class UpstreamUnreachable(Exception):
    """No connection could be made. The message says why and never holds the key."""


class AnswerSink(Protocol):
    """Who takes in one answer. `answer_flush` follows each batch of the other calls."""

    def answer_head(self, status: int, headers: Headers) -> None: ...

    def answer_body(self, data: bytes) -> None: ...

    def answer_flush(self) -> None: ...

    def answer_end(self) -> None: ...

    def answer_lost(self) -> None:
        """The connection broke before the answer's end."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One connection. Use: `ask` once, then exactly one of `settle` and `abort`."""

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._sink: AnswerSink | None = None
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self.reused = False
        self.closed = False
        self.lost = asyncio.Event()

    def ask(self, head: bytes, body: bytes, sink: AnswerSink) -> None:
        """Sends one request; the answer goes to `sink`."""
        self._disarm()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._keep = False
        self._excess = False
        self._framed = True
        self._headed = False
        self._besides = 0
        """Bytes that came since the last one of the body."""
        self._busy = True
        self._sink = sink
        # One write for small requests; a large body isn't copied once more only to save a system call.
        if len(body) < 64 << 10:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def settle(self) -> None:
        """The asker is done. Back to the pool, now or (within 2 s) when the end of the answer has come."""
        self._sink = None
        self.pause(False)
        if self._busy:
            self._timer = self._loop.call_later(2.0, self.abort)
        else:
            self._give_back()

    def abort(self) -> None:
        self._sink = None
        self.closed = True
        self._disarm()
        self._transport.abort()

    def pause(self, paused: bool) -> None:
        """Back-pressure: stops and starts reading."""
        if self.closed or self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self.abort)

    def _give_back(self) -> None:
        self._disarm()
        if self.closed or self._excess or not self._keep:
            self.abort()
        else:
            self.reused = True
            self._pool.give_back(self)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------------------------------ transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.abort()  # Nobody asked: whatever this is, it must not become part of the next answer.
            return
        self._besides += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost()
            return
        if self._besides > _MOST_BESIDES:
            self._lost()
            return
        sink = self._sink
        if sink is not None:
            sink.answer_flush()
            if not self._busy:
                sink.answer_end()
        elif not self._busy:
            self._give_back()

    def eof_received(self) -> bool:
        if self._busy and self._headers and not self._framed:
            self._busy = False  # Without a length, the end of the connection is the end of the answer.
            if self._sink is not None:
                self._sink.answer_end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.lost.set()
        self._disarm()
        self._pool.forget(self)
        if self._busy:
            self._lost()

    def _lost(self) -> None:
        self._busy = False
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.answer_lost()

    # --------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        if not self._busy:
            self._excess = True  # A second answer to one question: read by nobody, and the connection is done.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._excess:
            return
        self._headed = True
        names = {name for name, _ in self._headers}
        self._framed = b"content-length" in names or b"transfer-encoding" in names
        if self._sink is not None:
            self._sink.answer_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        self._besides = 0
        if self._sink is not None and not self._excess:
            self._sink.answer_body(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._headers = []
            return
        if self._excess:
            return
        self._keep = self._parser.should_keep_alive()  # Only true to ask inside this callback.
        self._busy = False


def _why(error: OSError) -> str:
    """In words that hold no address: sandboxes see them, and where an upstream is concerns nobody there."""
    if isinstance(error, ssl.SSLError):
        return f"TLS, {error.reason or 'no reason given'}"
    if isinstance(error, socket.gaierror):
        return "its name can't be resolved"
    return os.strerror(error.errno) if error.errno else "no connection could be made"


class UpstreamPool:
    """Connections to one upstream, newest first."""

    def __init__(self, upstream: Upstream, limits: UpstreamLimits) -> None:
        self.limits = limits
        parts = urlsplit(upstream.base_url)
        self._host = cast(str, parts.hostname)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=upstream.ca_file)
            self._tls.set_alpn_protocols(["http/1.1"])
        self._prefix = parts.path.rstrip("/").encode()
        self.prefix = self._prefix.decode()
        """What comes before every path."""
        self.authority = authority = parts.netloc.rpartition("@")[2].encode()
        """For the header `host`."""
        self.origin = f"{parts.scheme}://{authority.decode()}"
        key = upstream.api_key.encode()
        own = (b"x-api-key", key) if upstream.auth == "x-api-key" else (b"authorization", b"Bearer " + key)
        self._own_headers: Headers = [(b"host", authority), own, (b"accept-encoding", b"identity")]
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()

    def request_head(self, target: bytes, headers: Headers, length: int) -> bytes:
        """The head of a request for `target`, with our own key and host; `headers` are already filtered."""
        fields = [*self._own_headers, *headers, (b"content-length", b"%d" % length)]
        return render_head(b"POST " + self._prefix + target + b" HTTP/1.1", fields)

    async def take(self, *, fresh: bool = False) -> UpstreamConnection:
        """An idle connection, or a new one (`fresh`: always a new one). Raises UpstreamUnreachable."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise UpstreamUnreachable("The model's API did not accept a connection in time.") from error
        except OSError as error:  # Includes ssl.SSLError: a certificate that can't be trusted is unreachable too.
            raise UpstreamUnreachable(f"The model's API can't be reached: {_why(error)}.") from error
        self._open.add(connection)
        return connection

    async def probe(self) -> None:
        """Connects, with TLS where there is, and hangs up. Raises UpstreamUnreachable."""
        (await self.take(fresh=True)).abort()

    def give_back(self, connection: UpstreamConnection) -> None:
        if len(self._idle) >= self.limits.idle_connections:
            connection.abort()
            return
        connection.close_after(self.limits.idle_seconds)
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def close(self) -> None:
        """Drops every connection and returns when they are gone."""
        dropped = list(self._open)
        for connection in dropped:
            connection.abort()
        for connection in dropped:
            await connection.lost.wait()
