"""How do bytes move between a sandbox and a target, once it is decided that they may?

Two protocols that hold each other. Neither reads while the other can't write (back-pressure), the end of one direction
is passed on as such (half-close), and a pair that moves nothing for long is closed.

Where a server name was checked, the client's end stays shut until the server has begun to answer: a server may ask for
a second hello, and that one has to name the same host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hostler.egress.client_hello import Hello, NotTls, is_retry_request, read_hello
from hostler.egress.heads import Meter

_MOST_HELD = 64 << 10

NameCheck = Callable[[Hello | NotTls], bytes | None]
"""Judges a client's second hello. None: it may pass. Otherwise what the client is told before it is cut off."""
Change = Callable[[bytes], bytes]


class End(asyncio.Protocol):
    """One end of a tunnel. `peer` is None until they are joined and after the pair is closed."""

    def __init__(self) -> None:
        self.peer: End | None = None
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self.moved_at = 0.0
        self.meter: Meter | None = None
        self.change: Change | None = None
        """What goes to the other end instead of what came."""
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
            if self.meter is not None and not self.meter.moved(len(data)):
                self.abort()
                return
            if self.change is not None:
                try:
                    data = self.change(data)
                except ValueError:  # Not what it should be: nothing of it may pass.
                    self.abort()
                    return
            if data:
                self.peer.transport.write(data)

    def eof_received(self) -> bool:
        peer = self.peer
        if peer is None:
            return False
        self._ended = True
        if peer._ended:
            return False  # Both directions have ended: closing this side closes the other.
        if peer.transport.is_closing() or not peer.transport.can_write_eof():
            return False
        peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def abort(self) -> None:
        """Ends both."""
        peer = self.peer
        self.transport.abort()
        if peer is not None:
            peer.transport.abort()


class TargetEnd(End):
    """The target's end. Its first bytes are looked at for the client's end."""

    def __init__(self, on_lost: Callable[[TargetEnd], None]) -> None:
        super().__init__()
        self._on_lost = on_lost
        self._first: bytes | None = b""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._first is not None and isinstance(self.peer, ClientEnd):
            self._first += data[:64]
            again = is_retry_request(self._first)
            if again is not None:
                self._first = None
                self.peer.server_began(again=again)


class ClientEnd(End):
    """The sandbox's end, in the place of the `ClientSide` that was asked for the tunnel."""

    def __init__(
        self,
        transport: asyncio.Transport,
        idle_seconds: float,
        on_lost: Callable[[ClientEnd], None],
        *,
        meter: Meter | None = None,
    ) -> None:
        super().__init__()
        self.transport = transport
        self.meter = meter
        self._loop = asyncio.get_running_loop()
        self._idle = idle_seconds
        self._on_lost = on_lost
        self._check: NameCheck | None = None
        self._held = b""
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    def guard(self, check: NameCheck | None) -> None:
        """With `check`, nothing passes behind `first` until the server has begun to answer. Before `join`."""
        self._check = check

    def first(self, data: bytes, judged: int) -> None:
        """What the client has said; of it, the first `judged` bytes may pass in any case."""
        super().data_received(data[:judged])
        if len(data) > judged:
            self.data_received(data[judged:])

    def join(self, target: End) -> None:
        """Must be called once, before anything else happens on either."""
        self.peer, target.peer = target, self
        target.meter = self.meter
        self.moved_at = target.moved_at = self._loop.time()
        self._timer = self._loop.call_later(self._idle, self._check_idle)

    def data_received(self, data: bytes) -> None:
        if self._check is None:
            super().data_received(data)
            return
        self.moved_at = self._loop.time()
        self._held += data
        self._look()
        if self._check is not None and len(self._held) > _MOST_HELD:
            self.transport.pause_reading()

    def server_began(self, *, again: bool) -> None:
        """`again`: it asks for a second hello."""
        if self._check is None:
            return
        self._again = again
        if again:
            self._look()
        else:
            self._open()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        self._on_lost(self)

    def _look(self) -> None:
        if not self._again or self._check is None:
            return
        try:
            hello: Hello | NotTls | None = read_hello(self._held)
        except NotTls as problem:
            hello = problem
        if hello is None and len(self._held) > _MOST_HELD:
            hello = NotTls("the ClientHello is too large")
        if hello is None:
            return
        refusal = self._check(hello)
        if refusal is None:
            self._open()
            return
        self._check, self._held, peer, self.peer = None, b"", self.peer, None
        if peer is not None:
            peer.peer = None
            peer.transport.abort()
        self.transport.write(refusal)
        self.transport.close()

    def _open(self) -> None:
        held, self._held, self._check = self._held, b"", None
        if held:
            super().data_received(held)
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _check_idle(self) -> None:
        peer = self.peer
        if peer is None:
            return
        left = max(self.moved_at, peer.moved_at) + self._idle - self._loop.time()
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._check_idle)
        else:
            self.abort()
