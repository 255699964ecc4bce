"""How does the gateway say no?

Every refusal is the error envelope of the Messages API, so that `claude` reads it as it reads the upstream's own
errors.
"""

from __future__ import annotations

import json
import math
import secrets
from http import HTTPStatus

from hostler.gateway.http1 import Headers


class Refusal(Exception):
    """An answer that the gateway gives itself. `retry`: whether asking again can help (`x-should-retry`); `after`: in
    how many seconds (`retry-after`)."""

    def __init__(
        self, status: int, kind: str, message: str, *, retry: bool = False, after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry = retry
        self.after = after

    def render(self) -> tuple[int, Headers, bytes]:
        """Status, headers and body of the answer."""
        request_id = "req_" + secrets.token_hex(12)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"request-id", request_id.encode()),
            (b"x-should-retry", b"true" if self.retry else b"false"),
        ]
        if self.after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.after))))
        return self.status, headers, error_body(self.kind, self.message, request_id)


def error_body(kind: str, message: str, request_id: str | None) -> bytes:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}` as bytes."""
    envelope = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return json.dumps(envelope).encode()


def error_event(kind: str, message: str) -> bytes:
    """The same as one server-sent event, for a stream that has already begun."""
    return b"event: error\ndata: " + error_body(kind, message, None) + b"\n\n"


def unavailable(message: str) -> Refusal:
    """The model can't be asked now; the harness waits and tries again."""
    return Refusal(503, "api_error", message, retry=True)


def reason_phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Overloaded" if status == 529 else b"Status"


__all__ = ["Refusal", "error_body", "error_event", "reason_phrase", "unavailable"]
