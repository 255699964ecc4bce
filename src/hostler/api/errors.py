"""Which HTTP answer does an error get? The only place where an error becomes a status.

Every answer that is not 2xx has the same envelope, and carries the request's id. `x-should-retry: false` goes with what
fails in the same way every time although its status class invites clients to retry (409, a counted quota, 5xx).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hostler.api.rendering import json_bytes
from hostler.domain.errors import (
    Busy,
    Conflict,
    HeartbeatRefused,
    HostlerError,
    InvalidRequest,
    MemoryChanged,
    MemoryPathTaken,
    NotFound,
    NotSupported,
    PermissionDenied,
    QuotaExceeded,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
)

MAX_RETRY_AFTER_SECONDS: Final = 30.0
"""Clients wait for as long as they are told, without a bound of their own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as it goes over the wire."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


def envelope(kind: str, message: str, request_id: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": message}
    if details:
        error["details"] = dict(details)
    return {"type": "error", "error": error, "request_id": request_id}


def plain_answer(
    status: int, kind: str, message: str, request_id: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Answer:
    """An answer for what is not an error of the domain: unknown path, wrong verb, timeout, a bug."""
    return Answer(status, json_bytes(envelope(kind, message, request_id)), headers)


_NO_RETRY: Final = (b"x-should-retry", b"false")


def stopped(verb: str, request_id: str) -> Answer:
    """The answer to a request that was under way when the server stopped."""
    if verb in ("GET", "HEAD"):
        return plain_answer(503, "api_error", "The server is stopping. Ask again.", request_id)
    return plain_answer(
        503,
        "api_error",
        "The server is stopping. Whether the request was carried out is not known: look before you send it again.",
        request_id,
        headers=(_NO_RETRY,),
    )


def answer(error: HostlerError, request_id: str) -> Answer:
    """The answer to `error`. Errors that no caller can act on are a 500 without detail."""
    status, kind, headers = 500, "api_error", ()
    extra: tuple[tuple[bytes, bytes], ...] = headers
    message = error.message
    more: dict[str, str] = {}
    match error:
        case InvalidRequest():
            status, kind = 400, "invalid_request_error"
        case Unauthenticated():
            status, kind = 401, "authentication_error"
        case PermissionDenied():
            status, kind = 403, "permission_error"
        case NotFound():
            status, kind = 404, "not_found_error"
        case MemoryPathTaken(memory_id=memory_id, path=path):
            status, kind, extra = 409, "memory_path_conflict_error", (_NO_RETRY,)
            more = {"conflicting_memory_id": memory_id, "conflicting_path": path}
        case MemoryChanged():
            status, kind, extra = 409, "memory_precondition_failed_error", (_NO_RETRY,)
        case Conflict():
            status, kind, extra = 409, "conflict_error", (_NO_RETRY,)
        case HeartbeatRefused():
            status, kind, extra = 412, "invalid_request_error", (_NO_RETRY,)
        case QuotaExceeded():
            status, kind, extra = 429, "rate_limit_error", (_NO_RETRY,)
        case TooLarge():
            status, kind = 413, "request_too_large"
        case NotSupported():
            status, kind, extra = 501, "api_error", (_NO_RETRY,)
        case Busy(retry_after_seconds=seconds):
            seconds = min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
            # 529 is the server's own trouble (its database is away, its disk is full), 429 the sender's.
            often = isinstance(error, TooManyRequests)
            status, kind = (429, "rate_limit_error") if often else (529, "overloaded_error")
            extra = (
                (b"retry-after", str(int(seconds) + (seconds % 1 > 0)).encode()),
                (b"retry-after-ms", str(int(seconds * 1000)).encode()),
            )
        case _:
            message = "Internal server error."
    details: dict[str, Any] | None = {"error_code": error.code} if error.code is not None else None
    if details is not None and isinstance(error, HeartbeatRefused):
        details["current_state"] = error.current_state
    body = envelope(kind, message, request_id, details)
    body["error"] |= more
    return Answer(status, json_bytes(body), extra)


def stream_error(error: Exception, request_id: str) -> str:
    """The data of an `event: error` frame, on one line."""
    if isinstance(error, HostlerError):
        return answer(error, request_id).body.decode()
    return json_bytes(envelope("api_error", "Internal server error.", request_id)).decode()
