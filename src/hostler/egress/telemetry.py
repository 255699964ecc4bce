"""Where do the spans of a session's harness leave its sandbox?

The harness exports them to `http://telemetry.hostler.internal/v1/traces`, through its egress proxy: plainly, or in a
tunnel to port 80. They end here. Nothing is connected to, so nothing is judged or recorded as a decision; what is in
them is judged by whoever takes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hostler.egress import http1
from hostler.egress.connection import ClientSide
from hostler.egress.heads import BodyTooLarge, Head
from hostler.egress.limits import EgressLimits
from hostler.egress.metering import ConnectionMeter
from hostler.engine.egress_port import TelemetryIntake

_log = logging.getLogger("hostler.egress")

_PATH = "/v1/traces"
_BODY_BYTES = 512 << 10
_ATTEMPTS = 4
"""Exports of one session that are read at the same moment."""


class TelemetryDoor:
    """Of one session's road. Implements `Host` for the inside of its tunnels."""

    def __init__(
        self,
        session_id: str,
        intake: TelemetryIntake,
        limits: EgressLimits,
        keep: Callable[[ClientSide], bool],
        left: Callable[[ClientSide], None],
        begin: Callable[[Head, ClientSide], None],
    ) -> None:
        """`keep`, `left`: of the road, for the connections of its tunnels. `begin` makes a task that calls `serve`."""
        self.limits = limits
        self._session_id = session_id
        self._intake = intake
        self._keep = keep
        self._left = left
        self._begin = begin
        self._reading = 0

    def joined(self, side: ClientSide) -> bool:
        return self._keep(side)

    def left(self, side: ClientSide) -> None:
        self._left(side)

    def meter(self) -> ConnectionMeter | None:
        return None

    def begin(self, head: Head, side: ClientSide) -> None:
        self._begin(head, side)

    def enter(self, side: ClientSide) -> None:
        """A tunnel to this host: what is said in it is read here."""
        raw, inner = side.transport, ClientSide(self)
        raw.write(http1.ESTABLISHED)
        rest = side.hand_over(inner)
        inner.connection_made(raw)
        inner.data_received(rest)
        if not raw.is_closing() and not inner.holds_back:
            raw.resume_reading()

    async def serve(self, head: Head, path: str, side: ClientSide) -> None:
        """Answers one request."""
        if head.problem is not None or head.method != b"POST" or path.partition("?")[0] != _PATH:
            side.answer(_answer(404, b'{"message":"POST /v1/traces is all that is here"}'))
            return
        if self._reading >= _ATTEMPTS:
            side.answer(_answer(429, b'{"message":"one export after the other"}'))
            return
        self._reading += 1
        try:
            async with asyncio.timeout(self.limits.head_seconds):
                body = await side.collect(_BODY_BYTES)
        except BodyTooLarge:
            side.answer(_answer(413, b'{"message":"smaller batches"}'))
            return
        except TimeoutError:
            side.transport.abort()
            return
        except ConnectionResetError:
            return
        finally:
            self._reading -= 1
        taken = self._intake.take(self._session_id, body)
        if head.keep and taken.status == 200:
            side.write(_answer(taken.status, taken.body, keep=True))
            side.done(keep=True)
        else:
            side.answer(_answer(taken.status, taken.body))


_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 413: b"Content Too Large", 429: b"Too Many Requests"}


def _answer(status: int, body: bytes, *, keep: bool = False) -> bytes:
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: %b\r\n\r\n%b" % (
        status,
        _REASONS[status],
        len(body),
        b"keep-alive" if keep else b"close",
        body,
    )
