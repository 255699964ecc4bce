"""How does a session reach the servers whose requests the proxy reads, and keep its connections warm?

One pool for each road, so that no two sessions ever share a connection. A connection goes back to the pool only when
its answer has ended cleanly, and is used again only for the same server at an address that has just been judged.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, cast

import httptools

from hostler.egress.http1 import Headers, names_in
from hostler.egress.limits import EgressLimits


class Origin(NamedTuple):
    """A server that is spoken HTTP to."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def authority(self) -> bytes:
        """For a Host header: without the port when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host.encode() if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}".encode()


class Unreachable(Exception):
    """No connection came about. The message is a sentence for the sandbox."""


class AnswerSink(Protocol):
    """Who takes in one answer. `answer_flush` or `answer_end` follows each batch of the other calls."""

    def answer_head(self, status: int, headers: Headers) -> None: ...

    def answer_body(self, data: bytes) -> None: ...

    def answer_flush(self) -> None: ...

    def answer_end(self) -> None: ...

    def answer_lost(self) -> None:
        """The connection broke before the answer's end, or what came is no answer."""
        ...

    def answer_switched(self, headers: Headers, rest: bytes) -> None:
        """The server agreed to the upgrade that was asked for; `rest` is what it said behind that."""
        ...

    def server_blocked(self, blocked: bool) -> None:
        """The server can't take more of the request for now."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One connection. Use: `ask` once, `send` for the body, then exactly one of `settle`, `abort` and `hand_over`."""

    def __init__(self, pool: UpstreamPool, origin: Origin, address: str) -> None:
        self._pool = pool
        self.origin = origin
        self.address = address
        self._most_head = pool.limits.head_bytes
        self._loop = asyncio.get_running_loop()
        self._sink: AnswerSink | None = None
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._expires: float | None = None
        """When it is closed; None: it is used."""
        self.reused = False
        self.closed = False
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport

    def ask(self, head: bytes, sink: AnswerSink, *, head_only: bool, upgrade: bool) -> None:
        """Sends a request's head (and whatever stands behind it); the answer goes to `sink`."""
        self._expires = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._head_only, self._upgrade = head_only, upgrade
        self._head_size = 0
        self._begun = self._keep = self._framed = self._excess = False
        self._status = 0
        self._busy = True
        self._sink = sink
        self.transport.write(head)

    def send(self, data: bytes) -> None:
        if not self.closed:
            self.transport.write(data)

    def settle(self, *, reusable: bool) -> None:
        """The asker has the whole answer."""
        self._sink = None
        self.pause(False)
        if self.closed or self._busy or self._excess or not self._keep or not reusable:
            self.abort()
        else:
            self.reused = True
            self._pool.give_back(self)

    def abort(self) -> None:
        self._sink = None
        self.closed = True
        self._disarm()
        self.transport.abort()

    def hand_over(self, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        """Lets `protocol` have the transport from here on."""
        self._sink, self._busy = None, False
        self._disarm()
        self._pool.forget(self)
        self.transport.set_protocol(protocol)
        return self.transport

    def pause(self, paused: bool) -> None:
        """Back-pressure: stops and starts reading."""
        if self.closed or self.transport.is_closing():
            return
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def close_after(self, seconds: float) -> None:
        """Unless it is asked before. One timer for all the times that it is kept: a timer costs as much as a parser."""
        self._expires = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._expires is None:
            return  # In use; the next time it is kept sets the timer anew.
        left = self._expires - self._loop.time()
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._expire)
        else:
            self.abort()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------------------------------ transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.abort()  # Nobody asked: whatever this is, it must not become part of the next answer.
            return
        if not self._begun:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrade and self._status == 101 and self._sink is not None:
                self._sink.answer_switched(self._headers, data[upgrade.args[0] :])
            else:
                self._lost()
            return
        except httptools.HttpParserError:
            if self._busy:
                self._lost()
                return
            self._excess = True
        if not self._begun and self._head_size > self._most_head:
            self._lost()
            return
        sink = self._sink
        if sink is not None:
            if self._busy:
                sink.answer_flush()
            else:
                sink.answer_end()

    def eof_received(self) -> bool:
        if self._busy and self._begun and not self._framed:
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

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.server_blocked(True)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.server_blocked(False)

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
        if not self._begun:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._excess or self._begun:
            return
        status = self._status = self._parser.get_status_code()
        if status < 200:
            return
        self._begun = True
        asked = names_in(self._headers, b"connection")
        names = {name for name, _ in self._headers}
        bodyless = self._head_only or status in (204, 304)
        self._framed = bodyless or b"content-length" in names or b"transfer-encoding" in names
        newest = self._parser.get_http_version() == "1.1"
        self._keep = self._framed and (b"close" not in asked if newest else b"keep-alive" in asked)
        if self._sink is not None:
            self._sink.answer_head(status, self._headers)
        if self._head_only:
            self._busy = False

    def on_body(self, data: bytes) -> None:
        if not self._busy:
            self._excess = True
        elif self._sink is not None:
            self._sink.answer_body(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            if self._status != 101:
                self._headers = []
            return
        if self._framed or self._head_only:
            self._busy = False


class UpstreamPool:
    """The connections of one road to the servers that it speaks HTTP to."""

    def __init__(self, limits: EgressLimits, tls: ssl.SSLContext) -> None:
        """`tls` says whom to trust, and offers HTTP/1.1."""
        self.limits = limits
        self._tls = tls
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._kept = 0
        self._open: set[UpstreamConnection] = set()

    async def take(self, origin: Origin, addresses: Sequence[str], *, fresh: bool = False) -> UpstreamConnection:
        """An unused connection to one of the addresses, or a new one (`fresh`: always). Raises Unreachable."""
        idle = self._idle.get(origin)
        while idle and not fresh:
            connection = idle.pop()
            self._kept -= 1
            if connection.closed or connection.transport.is_closing():
                continue
            if connection.address in addresses:
                return connection
            connection.abort()
        loop = asyncio.get_running_loop()
        problem = "can't be reached"
        for address in addresses:
            try:
                async with asyncio.timeout(self.limits.connect_seconds):
                    _, connection = await loop.create_connection(
                        lambda address=address: UpstreamConnection(self, origin, address),
                        address,
                        origin.port,
                        ssl=self._tls if origin.scheme == "https" else None,
                        server_hostname=origin.host if origin.scheme == "https" else None,
                    )
            except ssl.SSLCertVerificationError as error:
                problem = f"has no certificate that is trusted here ({error.verify_message})"
            except ssl.SSLError:
                problem = "doesn't speak TLS in a way that is understood here"
            except OSError:  # Includes TimeoutError.
                continue
            else:
                self._open.add(connection)
                return connection
        raise Unreachable(f"{origin.host}:{origin.port} is allowed but {problem}.")

    def give_back(self, connection: UpstreamConnection) -> None:
        if self._kept >= self.limits.kept_connections:
            connection.abort()
            return
        connection.close_after(self.limits.kept_seconds)
        self._idle.setdefault(connection.origin, []).append(connection)
        self._kept += 1

    def forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)
            self._kept -= 1
            if not idle:
                del self._idle[connection.origin]

    async def close(self) -> None:
        """Drops every connection and returns when they are gone."""
        dropped = list(self._open)
        for connection in dropped:
            connection.abort()
        for connection in dropped:
            await connection.lost.wait()
