"""What crosses of a plain HTTP message, and how does the proxy itself answer?

Pure functions over bytes. Hop-by-hop headers, those that `Connection` names, and everything meant for a proxy stay
behind.
"""

from __future__ import annotations

from http import HTTPStatus

from hostler.egress.policy import Target

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, in the order of the wire."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def end_to_end(headers: Headers) -> Headers:
    """Without what belongs to this hop only."""
    named = {
        name.strip().lower() for field, value in headers if field == b"connection" for name in value.split(b",")
    } - {b"content-length"}
    return [
        (name, value)
        for name, value in headers
        if name not in _HOP_BY_HOP and name not in named and not name.startswith(b"proxy-")
    ]


def request_head(method: bytes, target: Target, path: str, headers: Headers) -> bytes:
    """The head that goes to the target: its own Host whatever the client said, one request per connection."""
    kept = [(name, value) for name, value in end_to_end(headers) if name != b"host"]
    fields = [(b"host", target.authority.encode()), *kept, (b"connection", b"close")]
    if is_chunked(headers):
        fields.append((b"transfer-encoding", b"chunked"))
    return _render(b"%b %b HTTP/1.1" % (method, path.encode()), fields)


def response_head(status: int, headers: Headers, *, chunked: bool) -> bytes:
    """The head that goes to the client."""
    fields = [*end_to_end(headers), (b"connection", b"close")]
    if chunked:
        fields.append((b"transfer-encoding", b"chunked"))
    return _render(_status_line(status), fields)


def own_answer(status: int, verdict: str, reason: str, text: str) -> bytes:
    """An answer of the proxy itself. `verdict`: `denied` or `failed`."""
    body = text.encode()
    fields: Headers = [
        (b"x-hostler-egress", f"{verdict}; reason={reason}".encode()),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return _render(_status_line(status), fields) + body


def ambiguity(version: str, headers: Headers) -> str | None:
    """What about a request's head two readers could take differently; None when it is clear."""
    names = [name for name, _ in headers]
    if version not in ("1.0", "1.1"):
        return "only HTTP/1.1 is spoken here"
    if names.count(b"host") > 1:
        return "there is more than one Host header"
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        return "the length of the body is given more than once"
    if b"transfer-encoding" in names and not is_chunked(headers):
        return "the only transfer coding is chunked"
    return None


def is_chunked(headers: Headers) -> bool:
    return any(name == b"transfer-encoding" and value.strip().lower() == b"chunked" for name, value in headers)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _render(first: bytes, headers: Headers) -> bytes:
    return b"\r\n".join([first, *(name + b": " + value for name, value in headers)]) + b"\r\n\r\n"


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    return b"HTTP/1.1 %d %b" % (status, phrase.encode())
