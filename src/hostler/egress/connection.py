"""How does the sandbox's side of a connection speak HTTP/1.1?

Reads requests, one after the other, and gives each head to its `Host`, which decides in a task of its own and then
calls `stream`, `collect`, `answer` or `hand_over`. The same for the socket of the road (requests to a proxy) and for
the inside of a tunnel that the proxy ends (requests to a server). A request that comes before the one in front of it
is answered waits, unread as far as possible.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, cast

import httptools

from hostler.egress.client_hello import Hello, NotTls, looks_like_tls, read_hello
from hostler.egress.heads import BodySink, Collector, Head, Host
from hostler.egress.http1 import CONTINUE, Headers, ambiguity, names_in, own_answer, wants_websocket

_LINGER_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Request:
    """One request; its body is kept until there is somebody to take it."""

    head: Head | None = None
    target: bytes = b""
    headers: Headers = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False
    sink: BodySink | None = None


class ClientSide(asyncio.Protocol):
    """See the module."""

    def __init__(self, host: Host) -> None:
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self._host = host
        self._limits = host.limits
        self._meter = host.meter()
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._reading: _Request | None = None
        """Whose head or body is to come next."""
        self._current: _Request | None = None
        """The one that is being served."""
        self._waiting: deque[_Request] = deque()
        self._unused = True
        self._head_size = 0
        self._passed = False
        self._broken: str | None = None
        """What was read last can't be understood; nothing behind it will be."""
        self._phase: Literal["open", "rest", "closing"] = "open"
        self._rest = b""
        """What came behind a request after which no HTTP follows."""
        self._hello: asyncio.Future[Hello | NotTls | None] | None = None
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()

    # ------------------------------------------------------------------------------------------ transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._host.joined(self):
            self._phase = "closing"
            self.transport.write(own_answer(503, "denied", "too_many_connections", "Too many connections.\n"))
            self.transport.close()
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._meter is not None and not self._meter.moved(len(data)) and self._current is not None:
            self.transport.abort()  # Otherwise it is a wish, which gets an answer.
        elif self._phase == "open":
            self._parse(data)
        elif self._phase == "rest":
            self._rest += data
            self._look_at_rest()

    def pause_writing(self) -> None:
        self._can_write.clear()
        if self._current is not None and self._current.sink is not None:
            self._current.sink.client_blocked(True)

    def resume_writing(self) -> None:
        self._can_write.set()
        if self._current is not None and self._current.sink is not None:
            self._current.sink.client_blocked(False)

    def eof_received(self) -> bool:
        """An end behind a whole request still lets the answer through."""
        current = self._current
        self._broken = self._broken or "the client has ended"
        if self._phase != "open" or current is None or not current.complete:
            return False
        return current.sink is not None and not isinstance(current.sink, Collector)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.lost.set()
        self._can_write.set()
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(None)
        current, self._current = self._current, None
        if current is not None and current.sink is not None:
            current.sink.client_lost()
        self._waiting.clear()
        self._host.left(self)

    # -------------------------------------------------------------------------------------------- what the host calls

    def answer(self, data: bytes) -> None:
        """Says `data` and closes."""
        self._phase = "closing"
        if self.transport.is_closing():
            return
        if data:
            self.transport.write(data)
        self.transport.resume_reading()  # What still comes is read and dropped: unread bytes would reset us.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._since = self._loop.time()
        self._arm()

    def stream(self, sink: BodySink) -> None:
        """Gives the current request's body to `sink`, as it comes."""
        request = self._current
        if request is None or self.transport.is_closing():
            sink.client_lost()
            return
        self._since = self._loop.time()
        request.sink = sink
        pieces, request.pieces = request.pieces, []
        for piece in pieces:
            sink.body(piece)
        if request.complete:
            sink.body_end()
        else:
            if request.head is not None and request.head.expects:
                self.transport.write(CONTINUE)
        self.read_on()

    async def collect(self, most: int) -> bytes:
        """The whole body of the current request. Raises BodyTooLarge when it has more than `most` bytes,
        ConnectionResetError when the client is gone."""
        collector = Collector(most)
        self.stream(collector)
        return await collector.whole

    def write(self, data: bytes) -> None:
        """A piece of an answer, whatever the client can take. `sink.client_blocked` tells when that is too much."""
        self._since = self._loop.time()
        if self._meter is not None and not self._meter.moved(len(data)):
            self.transport.abort()
        else:
            self.transport.write(data)

    async def say(self, data: bytes) -> None:
        """The same, and waits while the client can't take more."""
        self.write(data)
        await self._can_write.wait()

    def moved(self) -> None:
        """Something of the current exchange moved, so that the connection isn't idle."""
        self._since = self._loop.time()

    def done(self, *, keep: bool) -> None:
        """The current request's answer is complete. `keep`: the client may ask for more."""
        current, self._current = self._current, None
        if self._phase == "closing" or self.transport.is_closing():
            return
        if current is None or not current.complete:
            self.answer(b"")  # Lingers: what still comes of the request is dropped.
            return
        if not keep or self._phase == "rest" or (self._broken and not self._waiting):
            self.finish()
            return
        self._since = self._loop.time()
        if self._waiting:
            self._start(self._waiting.popleft())
        if not self._waiting:
            self.read_on()

    @property
    def holds_back(self) -> bool:
        """Whether nothing more is to be read for now."""
        current = self._current
        return bool(self._waiting or (current and not current.complete and current.sink is None))

    def finish(self) -> None:
        """No more will be said."""
        self._phase = "closing"
        self.transport.close()

    def read_on(self) -> None:
        """After back-pressure."""
        if not self.transport.is_closing() and len(self._waiting) == 0:
            self.transport.resume_reading()

    async def first_words(self) -> Hello | NotTls | None:
        """For what follows a CONNECT that was agreed to: the TLS client's hello; NotTls for anything else.

        None: the client is gone, or was too slow. Nothing is consumed: `hand_over` gives these bytes, too.
        """
        if self._hello is not None and self._hello.done():
            return self._hello.result()
        self._hello = self._loop.create_future()
        self._since = self._loop.time()
        self._arm()
        self._look_at_rest()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        return await self._hello

    def hand_over(self, protocol: asyncio.BaseProtocol) -> bytes:
        """Lets `protocol` have the transport from here on. What was read and not used is returned."""
        self._phase = "closing"
        if self._timer is not None:
            self._timer.cancel()
        self._host.left(self)
        self.transport.set_protocol(protocol)
        rest, self._rest = self._rest, b""
        return rest

    # ------------------------------------------------------------------------------------------------- the requests

    def _parse(self, data: bytes) -> None:
        self._since = self._since if self._current is None else self._loop.time()
        before, self._passed = self._reading, False
        inside = before is not None and before.head is None
        self._head_size = (self._head_size if inside else 0) + len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._phase = "rest"
            self._rest = data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self._fail("the request is not well-formed HTTP/1.1")
        reading = self._reading
        if reading is not None and reading.head is None and self._broken is None:
            if self._passed:
                self._head_size = 0  # A head isn't charged for what was before it in the same piece.
            if self._head_size > self._limits.head_bytes:
                self._fail("the head of the request is too large")
            elif not inside:
                self._since = self._loop.time()
                self._arm()
        if self.holds_back or self._phase == "rest":
            self.transport.pause_reading()

    def _fail(self, problem: str) -> None:
        """Nothing that follows can be read. The requests in front of it still are answered."""
        last = self._waiting[-1] if self._waiting else self._current
        if last is not None and last.complete and last.head is not None and not last.head.keep:
            self._broken = problem  # Bytes behind a request that said that it is the last one.
            return
        self._broken = problem
        if last is not None and last.head is not None and last.head.problem is not None:
            return
        if last is not None and not last.complete:
            self.transport.abort()  # Inside of a body.
            return
        request = self._reading or _Request()
        request.complete = True
        request.head = Head(b"-", request.target, "1.1", [], problem)
        self._begun(request)

    def _begun(self, request: _Request) -> None:
        if self._current is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: _Request) -> None:
        assert request.head is not None
        self._unused = False
        self._current = request
        self._since = self._loop.time()
        self._host.begin(request.head, self)

    # --------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        self._reading = _Request()

    def on_url(self, url: bytes) -> None:
        if self._reading is not None:
            self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None and self._reading.head is None:  # Trailers are dropped.
            self._reading.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request = self._reading
        if request is None or request.head is not None:
            return
        version, headers, method = self._parser.get_http_version(), request.headers, self._parser.get_method()
        problem = ambiguity(version, headers)
        if sum(len(name) + len(value) + 4 for name, value in headers) > self._limits.head_bytes:
            problem = "the head of the request is too large"
        asked = names_in(headers, b"connection")
        upgrade = b"upgrade" in asked and any(name == b"upgrade" for name, _ in headers)
        if upgrade and not wants_websocket(method, version, headers):
            problem = problem or "the only upgrade is that of a GET to a WebSocket"
        keep = version == "1.1" and b"close" not in asked and not upgrade
        request.head = Head(method, request.target, version, headers, problem, keep, upgrade)
        self._begun(request)

    def on_body(self, body: bytes) -> None:
        request = self._reading
        if request is None:
            return
        if request.sink is not None:
            request.sink.body(body)
        else:
            request.pieces.append(body)

    def on_message_complete(self) -> None:
        request, self._reading, self._passed = self._reading, None, True
        if request is not None:
            request.complete = True
            if request.sink is not None:
                request.sink.body_end()

    # ---------------------------------------------------------------------------------------------- time and tunnels

    def _look_at_rest(self) -> None:
        waiting = self._hello
        if waiting is None or waiting.done():
            if len(self._rest) > self._limits.head_bytes:
                self.transport.pause_reading()
            return
        found: Hello | NotTls | None = None
        if self._rest and not looks_like_tls(self._rest):
            found = NotTls("it does not begin with a TLS handshake")
        else:
            try:
                found = read_hello(self._rest)
            except NotTls as problem:
                found = problem
            if found is None and len(self._rest) > self._limits.head_bytes:
                found = NotTls("the ClientHello is too large")
        if found is not None:
            self.transport.pause_reading()
            waiting.set_result(found)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._since + self._allowance(), self._check)

    def _allowance(self) -> float:
        if self._phase == "closing":
            return _LINGER_SECONDS
        silent = self._current is None and (self._reading is not None or self._unused)
        if silent or (self._phase == "rest" and self._hello is not None):
            return min(self._limits.head_seconds, self._limits.idle_seconds)
        return self._limits.idle_seconds

    def _check(self) -> None:
        if self._since + self._allowance() - self._loop.time() > 0.001:
            self._arm()
        elif self._phase == "open" and self._current is None:
            self.transport.close()
        else:
            self.transport.abort()
