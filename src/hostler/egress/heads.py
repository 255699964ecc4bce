"""What is a request that came, and who has to do with it?

The seams of `connection.ClientSide`: its `Host` decides, a `BodySink` takes the body, a `Meter` counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hostler.egress.http1 import Headers, value_of
from hostler.egress.limits import EgressLimits

if TYPE_CHECKING:
    from hostler.egress.connection import ClientSide


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
    keep: bool = False
    """Whether the client wants to say more on this connection."""
    upgrade: bool = False
    """It asks for a WebSocket."""

    @property
    def is_connect(self) -> bool:
        return self.method == b"CONNECT"

    @property
    def expects(self) -> bool:
        return (value_of(self.headers, b"expect") or b"").lower() == b"100-continue"


class BodySink(Protocol):
    """Who takes in the body of one request. What they call on the connection they call once only."""

    def body(self, data: bytes) -> None: ...

    def body_end(self) -> None: ...

    def client_lost(self) -> None: ...

    def client_blocked(self, blocked: bool) -> None:
        """The client can't take more of the answer for now."""
        ...


class Meter(Protocol):
    """Who counts bytes, and for how long that goes on."""

    def moved(self, count: int) -> bool:
        """False: that is more than may pass."""
        ...


class Host(Protocol):
    """What a connection belongs to."""

    limits: EgressLimits

    def joined(self, side: ClientSide) -> bool: ...

    def left(self, side: ClientSide) -> None: ...

    def meter(self) -> Meter | None: ...

    def begin(self, head: Head, side: ClientSide) -> None:
        """Decides about the request, in a task of its own."""
        ...


class Collector:
    """Implements `BodySink` for `ClientSide.collect`."""

    def __init__(self, most: int) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []
        self._left = most
        self._most = most

    def body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._left -= len(data)
        if self._left < 0:
            self._fail(BodyTooLarge(f"the body has more than {self._most} bytes"))

    def body_end(self) -> None:
        if not self.whole.done():
            self.whole.set_result(b"".join(self._pieces))

    def client_lost(self) -> None:
        self._fail(ConnectionResetError("the sandbox hung up"))

    def client_blocked(self, blocked: bool) -> None:
        return

    def _fail(self, error: Exception) -> None:
        self._pieces.clear()
        if not self.whole.done():
            self.whole.set_exception(error)
