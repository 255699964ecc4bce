"""What may a connection cost before it has said what it wants? Bounded bytes and bounded time, for anybody.

uvicorn bounds neither the size of a request's head nor the time it takes to arrive, so that one stranger without a key
could fill the memory with a header that never ends, or hold every descriptor with heads that trickle (A11). Pass
`http=BoundedHttpProtocol` to `uvicorn.Config`.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hostler.api.errors import envelope
from hostler.api.rendering import json_bytes
from hostler.domain.ids import new_id

MAX_HEAD_BYTES: Final = 64 << 10
"""Request line and headers together."""
HEAD_SECONDS: Final = 20.0
"""From the first byte of a head, or the start of the connection, to its end."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a bounded head, and errors of the parser in the envelope of the wire."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Counted afterwards: what finished a head may be followed by a long body in the same piece.
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _begin_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        request_id = new_id("req")
        body = json_bytes(envelope("invalid_request_error", message, request_id))
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nrequest-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self._stop_timer()
        self.transport.write(head.encode() + body)
        self.transport.close()
