"""What do the clouds' ways of speaking the Messages API have in common?

The version is in the body, under a name of the cloud; features in beta pass by list; errors come in the cloud's own
form and go on as the envelope of the Messages API.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from hostler.gateway.errors import Refusal, error_body
from hostler.gateway.http1 import Headers
from hostler.gateway.upstream import AnswerSink

_log = logging.getLogger("hostler.gateway")

FIRST_VERSION = "2023-06-01"
"""Of the Messages API; what the harness says."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,2047}\Z")
_ERROR_BYTES = 1 << 20
"""More of an error's body is not read."""

KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The error type of the Messages API by status; others: `api_error`."""


def kind_of(status: int) -> str:
    return KINDS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def vet_model(spelled: str) -> str:
    """The name as it came. Raises Refusal (404) for one that is no name of a model, and would change the path."""
    if not _NAME.match(spelled) or ".." in spelled:
        raise Refusal(404, "not_found_error", f"model: {spelled[:128]}")
    return spelled


class Dialect:
    """How one upstream wants version and betas."""

    def __init__(self, upstream: str, version: str, betas: Collection[str]) -> None:
        """version: how this upstream calls 2023-06-01. betas: those that pass."""
        self._upstream = upstream
        self._version = version
        self._betas = frozenset(betas)
        self._told: set[str] = set()

    def version(self, headers: Headers) -> str:
        """Newer versions have the same name everywhere; the first one has one of each cloud's own."""
        asked = dict(headers).get(b"anthropic-version", b"").decode("latin-1")
        return self._version if asked in ("", FIRST_VERSION) else asked

    def betas(self, headers: Headers) -> list[str]:
        """Those of the request that this upstream knows. The rest is left out: it would refuse the whole request."""
        asked = [beta.strip() for beta in dict(headers).get(b"anthropic-beta", b"").decode("latin-1").split(",")]
        for beta in asked:
            if beta and beta not in self._betas and beta not in self._told and len(self._told) < 100:
                self._told.add(beta)
                _log.info("gateway.beta_left_out", extra={"upstream": self._upstream, "beta": beta[:128]})
        return [beta for beta in dict.fromkeys(asked) if beta in self._betas]


class ErrorsTranslated:
    """The AnswerSink before `sink`: answers of 400 and more become the Messages API's; the rest passes.

    Subclasses say how in `translate`, and may take in good answers themselves.
    """

    def __init__(self, sink: AnswerSink) -> None:
        self.sink = sink
        self._status = 0
        self._headers: Headers = []
        self._error: list[bytes] = []
        self._room = _ERROR_BYTES

    def translate(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, Headers, bytes]:
        """Status, further headers and body of the Messages API for an error."""
        raise TypeError("each cloud says how its errors read")

    def answer_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = headers
        if status < 400:
            self.good_head(status, headers)

    def answer_body(self, data: bytes) -> None:
        if self._status < 400:
            self.good_body(data)
        elif self._room > 0:
            self._error.append(data[: self._room])
            self._room -= len(data)

    def answer_flush(self) -> None:
        self.sink.answer_flush()

    def answer_end(self) -> None:
        if self._status < 400:
            self.good_end()
            return
        self.say_error(*self.translate(self._status, dict(self._headers), b"".join(self._error)))

    def answer_lost(self) -> None:
        if self._status >= 400:
            self.sink.answer_head(self._status, self._headers)
        self.sink.answer_lost()

    # ---------------------------------------------------------------------------------------------- for subclasses

    def good_head(self, status: int, headers: Headers) -> None:
        self.sink.answer_head(status, headers)

    def good_body(self, data: bytes) -> None:
        self.sink.answer_body(data)

    def good_end(self) -> None:
        self.sink.answer_end()

    def say_error(self, status: int, more: Headers, body: bytes) -> None:
        """A whole answer, in place of whatever came."""
        own: Headers = [(b"content-type", b"application/json"), *more]
        self.sink.answer_head(status, replaced(self._headers, own, (b"content-encoding",)))
        self.sink.answer_body(body)
        self.sink.answer_flush()
        self.sink.answer_end()


def replaced(headers: Headers, others: Headers, gone: Collection[bytes] = ()) -> Headers:
    """`headers` with `others` in place of those of the same name, and without those that say how long the body was."""
    names = {name for name, _ in others} | {b"content-length", b"transfer-encoding", *gone}
    return [*((name, value) for name, value in headers if name not in names), *others]


def envelope(status: int, message: str, request_id: bytes) -> bytes:
    return error_body(kind_of(status), message, request_id.decode("latin-1") or None)


def text_of(value: Any, fallback: str) -> str:
    return value if isinstance(value, str) and value else fallback
