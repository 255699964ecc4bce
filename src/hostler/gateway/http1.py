"""What does HTTP/1.1 look like on the model road: which requests are let in, which headers cross?

Pure functions over bytes. Headers cross by list, not by exception: what isn't named here stays behind, so that neither
a key, nor an organisation, nor a cookie, nor a hop-by-hop header of one side ever reaches the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, in the order of the wire."""

MESSAGES = b"/v1/messages"
COUNT_TOKENS = b"/v1/messages/count_tokens"

_QUERY = re.compile(rb"[A-Za-z0-9_.~%=&+\-]*\Z")

_REQUEST_HEADERS = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-dangerous-direct-browser-access",
        b"anthropic-version",
        b"content-type",
        b"idempotency-key",
        b"user-agent",
        b"x-app",
        b"x-client-request-id",
    }
)
_REQUEST_PREFIXES = (b"x-stainless-", b"x-claude-code-")
_RESPONSE_HEADERS = frozenset({b"content-type", b"request-id", b"retry-after", b"retry-after-ms", b"x-should-retry"})
_RESPONSE_PREFIXES = (b"anthropic-ratelimit-",)


@dataclass(slots=True)
class Request:
    """One whole request of the harness."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]


@dataclass(frozen=True, slots=True)
class BadHead:
    """Why a request head is refused: status, error type and message of the envelope."""

    status: int
    kind: str
    message: str


def vet_head(method: bytes, target: bytes, version: str, headers: Headers) -> BadHead | None:
    """None when the request may go on. The path must be one of two byte strings: nothing is decoded or normalised."""
    if version != "1.1":
        return BadHead(400, "invalid_request_error", "Only HTTP/1.1 is spoken here.")
    seen = [name for name, _ in headers]
    if seen.count(b"host") != 1:
        return BadHead(400, "invalid_request_error", "A request has exactly one Host header.")
    lengths = seen.count(b"content-length")
    codings = seen.count(b"transfer-encoding")
    if lengths + codings > 1:
        return BadHead(400, "invalid_request_error", "The length of the body is given more than once.")
    if codings and dict(headers)[b"transfer-encoding"].strip().lower() != b"chunked":
        return BadHead(400, "invalid_request_error", "The only transfer coding is chunked.")
    if b"content-encoding" in seen and dict(headers)[b"content-encoding"].strip().lower() != b"identity":
        return BadHead(415, "invalid_request_error", "Send the body without a content encoding.")
    path, _, query = target.partition(b"?")
    if path not in (MESSAGES, COUNT_TOKENS) or not _QUERY.match(query):
        if path.startswith(b"/v1/"):
            return BadHead(403, "permission_error", "This session may use /v1/messages and nothing else of the API.")
        return BadHead(404, "not_found_error", "Not found.")
    if method != b"POST":
        return BadHead(403, "permission_error", "This path takes POST only.")
    return None


def request_headers(headers: Headers) -> Headers:
    """What of the harness's headers goes to the upstream."""
    return [(name, value) for name, value in headers if name in _REQUEST_HEADERS or name.startswith(_REQUEST_PREFIXES)]


def response_headers(headers: Headers) -> Headers:
    """What of the upstream's headers goes to the harness."""
    return [
        (name, value) for name, value in headers if name in _RESPONSE_HEADERS or name.startswith(_RESPONSE_PREFIXES)
    ]


def render_head(first_line: bytes, headers: Headers) -> bytes:
    """Start line and headers, with the empty line that ends them."""
    lines = [first_line]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` (not empty) as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
