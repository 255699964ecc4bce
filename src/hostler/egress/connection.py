"""How do bytes move between a sandbox and a target, once it is decided that they may?

Two protocols that hold each other: the client's side, which first reads one request head, and the target's side.
Neither reads while the other can't write (back-pressure), the end of one direction is passed on as such (half-close),
and a pair that moves nothing for long is closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from hostler.egress.http1 import CONTINUE, LAST_CHUNK, Headers, ambiguity, chunk, is_chunked, own_answer, response_head


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds of one session's connections. Times in seconds."""

    head_bytes: int = 64 << 10
    head_seconds: float = 30.0
    connect_seconds: float = 10.0
    """For one address; a name's addresses are tried one after the other."""
    idle_seconds: float = 600.0
    """Longest time in which an open connection moves no byte in either direction."""
    connections: int = 256
    lookups: int = 4
    """Names of one session that are being resolved at the same moment."""
    mcp_request_bytes: int = 8 << 20
    """Of one message to an MCP server."""
    mcp_answer_bytes: int = 16 << 20
    """Of one answer of an MCP server."""


class BodyTooLarge(Exception):
    """The body of a request is larger than its reader takes."""


@dataclass(slots=True)
class Head:
    """One request head, as it came."""

    method: bytes
    target: bytes
    version: str
    headers: Headers
    problem: str | None
    """Why it can't be taken, whatever it asks for."""

    @property
    def is_connect(self) -> bool:
        return self.method == b"CONNECT"


class Host(Protocol):
    """The road that a connection belongs to."""

    limits: EgressLimits

    def joined(self, side: ClientSide) -> bool: ...

    def left(self, side: ClientSide) -> None: ...

    def begin(self, head: Head, side: ClientSide) -> None:
        """Decides about the request, in a task of its own, and calls `tunnel`, `exchange` or `answer`."""
        ...


class Side(asyncio.Protocol):
    """What both sides have in common. `peer` is None until they are joined and after the pair is closed."""

    def __init__(self) -> None:
        self.peer: Side | None = None
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self.moved_at = 0.0
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer_lost(exc)

    def peer_lost(self, exc: Exception | None) -> None:
        """The other side is gone: what it had said is still delivered, unless it broke off."""
        self.peer = None
        if exc is None:
            self.transport.close()
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self.moved_at = asyncio.get_running_loop().time()
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        peer = self.peer
        if peer is None:
            return False
        self._ended = True
        if peer._ended:
            return False  # Both directions have ended: closing this side closes the other.
        if peer.transport.can_write_eof() and not peer.transport.is_closing():
            peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()


class ClientSide(Side):
    """The sandbox's side of one connection; serves one request, or one tunnel."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._phase = "head"
        self._target = b""
        self._headers: Headers = []
        self._size = 0
        self._head: Head | None = None
        self._early: list[bytes] = []
        """Bytes as they came, before the sides were joined."""
        self._body: list[bytes] = []
        """What has come of a plain request's body, without its framing."""
        self._collecting: asyncio.Future[bytes] | None = None
        self._most = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._body_done = False
        self._chunked = False

    # ------------------------------------------------------------------------------------------ transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._host.joined(self):
            self._phase = "closing"
            self.transport.write(own_answer(503, "denied", "too_many_connections", "Too many connections.\n"))
            self.transport.close()
            return
        self._timer = self._loop.call_later(self._host.limits.head_seconds, self.transport.close)

    def data_received(self, data: bytes) -> None:
        match self._phase:
            case "tunnel":
                super().data_received(data)
            case "head":
                self._read_head(data)
            case "deciding":
                self._early.append(data)  # Reading is paused: this is at most what was under way already.
            case "exchange" | "collect":
                self._read_body(data)

    def pause_writing(self) -> None:
        self._can_write.clear()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._can_write.set()
        super().resume_writing()

    def eof_received(self) -> bool:
        if self._phase == "tunnel":
            return super().eof_received()
        return self._phase == "exchange" and self._body_done

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._can_write.set()
        if self._collecting is not None and not self._collecting.done():
            self._collecting.set_exception(ConnectionResetError("the sandbox hung up"))
        self._host.left(self)
        super().connection_lost(exc)

    # ---------------------------------------------------------------------------------- what the road calls, only once

    def answer(self, data: bytes) -> None:
        """Says `data` and closes."""
        self._phase = "closing"
        if not self.transport.is_closing():
            self.transport.write(data)
            self.transport.resume_reading()  # What still comes is read and dropped: unread bytes would reset us.
            self.transport.write_eof()
            self._timer = self._loop.call_later(2.0, self.transport.close)

    def tunnel(self, target: TargetSide, greeting: bytes) -> None:
        """Joins the two sides; from here on every byte goes to the other."""
        self._phase = "tunnel"
        self._join(target)
        self.transport.write(greeting)
        self._forward_early()

    def exchange(self, target: TargetSide, head: bytes, greeting: bytes) -> None:
        """Joins the two sides for one plain request, whose head for the target is `head`, and its answer."""
        self._phase = "exchange"
        self._join(target)
        body, self._body = [self._framed(part) for part in self._body], []
        end = LAST_CHUNK if self._chunked and self._body_done else b""
        target.transport.write(head + b"".join(body) + end)
        if greeting:
            self.transport.write(greeting)
        self._forward_early()

    async def collect(self, most: int) -> bytes:
        """The whole body of a plain request that the road answers itself, with `say` and `finish`.

        Raises BodyTooLarge when it has more than `most` bytes, ConnectionResetError when the client is gone.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the sandbox hung up")
        self._phase, self._most = "collect", most
        self._collecting = self._loop.create_future()
        if self._head is not None and dict(self._head.headers).get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(CONTINUE)
        self._collected()
        self._forward_early()
        return await self._collecting

    async def say(self, data: bytes) -> None:
        """Writes a piece of an answer, and waits while the client can't take more."""
        self.transport.write(data)
        await self._can_write.wait()

    def finish(self) -> None:
        """The answer is complete."""
        self._phase = "closing"
        self.transport.close()

    def _collected(self) -> None:
        waiting = self._collecting
        if waiting is None or waiting.done():
            return
        if sum(map(len, self._body)) > self._most:
            waiting.set_exception(BodyTooLarge(f"the body has more than {self._most} bytes"))
        elif self._body_done:
            waiting.set_result(b"".join(self._body))

    def _join(self, target: TargetSide) -> None:
        self.peer, target.peer = target, self
        self.moved_at = target.moved_at = self._loop.time()
        self._timer = self._loop.call_later(self._host.limits.idle_seconds, self._check_idle)

    def _forward_early(self) -> None:
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _check_idle(self) -> None:
        peer = self.peer
        if peer is None:
            return
        left = max(self.moved_at, peer.moved_at) + self._host.limits.idle_seconds - self._loop.time()
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._check_idle)
        else:
            self.transport.abort()
            peer.transport.abort()

    # ------------------------------------------------------------------------------------------------- the request

    def _read_head(self, data: bytes) -> None:
        self._size += len(data)
        problem = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._early.append(data[upgrade.args[0] :])
            if self._head is not None and not self._head.is_connect:
                problem = "protocol upgrades are not available on plain HTTP"
        except httptools.HttpParserError:
            problem = "the request is not well-formed HTTP/1.1"
        if self._head is None and problem is None:
            if self._size > self._host.limits.head_bytes:
                problem = "the head of the request is too large"
            else:
                return
        head = self._head or Head(b"-", self._target, "1.1", [], None)
        head.problem = head.problem or problem
        self._phase = "deciding"
        if self._timer is not None:
            self._timer.cancel()
        self.transport.pause_reading()
        self._host.begin(head, self)

    def _read_body(self, data: bytes) -> None:
        if self._body_done:
            self.transport.abort()  # A second request: the first one said that the connection ends after it.
            return
        self.moved_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.abort()

    # --------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        if self._body_done:
            self.transport.abort()  # A second request behind the first.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head is not None:
            return
        version = self._parser.get_http_version()
        problem = ambiguity(version, self._headers)
        self._head = Head(self._parser.get_method(), self._target, version, list(self._headers), problem)
        self._chunked = is_chunked(self._headers)

    def on_body(self, body: bytes) -> None:
        if self._phase in ("head", "collect"):
            self._body.append(body)
            self._collected()
        elif self.peer is not None:
            self.peer.transport.write(self._framed(body))

    def on_message_complete(self) -> None:
        self._body_done = True
        self._collected()
        if self._chunked and self.peer is not None:
            self.peer.transport.write(LAST_CHUNK)

    def _framed(self, body: bytes) -> bytes:
        return chunk(body) if self._chunked else body


class TargetSide(Side):
    """The target's side. `parse`: the answer is one HTTP message that is read and written anew."""

    def __init__(self, *, parse: bool, head_only: bool = False, client_version: str = "1.1") -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self) if parse else None
        self._head_only = head_only
        self._client_version = client_version
        self._headers: Headers = []
        self._chunked = False
        self._framed = True
        self._begun = False
        self._complete = False

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            super().data_received(data)
            return
        self.moved_at = asyncio.get_running_loop().time()
        if self._complete:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._break_off()

    def eof_received(self) -> bool:
        if self._parser is None:
            return super().eof_received()
        self._end_of_target()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._parser is not None and not self._complete:
            self._end_of_target()
        super().connection_lost(exc)

    def _end_of_target(self) -> None:
        if self._begun and not self._framed:
            self._finish()
        elif not self._complete:
            self._break_off()

    def _break_off(self) -> None:
        """The answer is cut: so must it be for the client, lest it take a part for the whole."""
        self._complete = True
        peer, self.peer = self.peer, None
        self.transport.abort()
        if isinstance(peer, ClientSide):
            peer.peer = None
            if self._begun:
                peer.transport.abort()
            else:
                peer.answer(own_answer(502, "failed", "bad_answer", "The host ended the connection.\n"))

    def _finish(self) -> None:
        self._complete = True
        peer, self.peer = self.peer, None
        self.transport.close()
        if peer is not None:
            peer.peer = None
            if self._chunked:
                peer.transport.write(LAST_CHUNK)
            peer.transport.close()

    # --------------------------------------------------------------------------------------------- parser callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200 or self.peer is None:
            return
        coded = any(name == b"transfer-encoding" for name, _ in self._headers)
        self._framed = coded or any(name == b"content-length" for name, _ in self._headers)
        self._chunked = coded and self._client_version == "1.1" and not self._head_only
        self._begun = True
        self.peer.transport.write(response_head(status, self._headers, chunked=self._chunked))
        if self._head_only:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(chunk(data) if self._chunked else data)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._parser.get_status_code() < 200:
            self._headers = []
        elif not self._complete:
            self._finish()
