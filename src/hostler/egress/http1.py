"""What crosses of an HTTP message, and how does the proxy itself answer?

Pure functions over bytes. Hop-by-hop headers, those that `Connection` names, and everything meant for a proxy stay
behind. What is sent on is written anew, so that the next reader can take it in one way only.
"""

from __future__ import annotations

from http import HTTPStatus

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
OVERRIDES = frozenset(
    {
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"x-original-uri",
    }
)
"""By which some servers let a request have another method or path than its first line says."""
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_TOKEN = b"!#$%&'*+.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"
_IN_TARGETS = bytes(range(0x21, 0x7F))


def end_to_end(headers: Headers) -> Headers:
    """Without what belongs to this hop only."""
    stay = _HOP_BY_HOP
    if named := names_in(headers, b"connection"):
        stay = stay | (named - {b"content-length"})
    return [field for field in headers if field[0] not in stay and not field[0].startswith(b"proxy-")]


def request_head(
    method: bytes, authority: bytes, target: bytes, headers: Headers, *, length: int | None, upgrade: bool = False
) -> bytes:
    """The head that goes to the target: the Host that was checked, whatever the client said.

    length  of the body; None: as the headers have it; -1: not known, so that the body has to be chunked.
    Raises ValueError when something in it would begin a line of its own, or ends the request's first one.
    """
    fields = [(b"host", authority), *(field for field in end_to_end(headers) if field[0] != b"host")]
    if length is not None:
        fields = [field for field in fields if field[0] != b"content-length"]
        fields.append((b"transfer-encoding", b"chunked") if length < 0 else (b"content-length", b"%d" % length))
    elif is_chunked(headers):
        fields.append((b"transfer-encoding", b"chunked"))
    if upgrade:
        fields += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    # Looked through as one text each: a check of every header by itself costs a tenth of the whole request.
    if not target or target.translate(None, _IN_TARGETS):
        raise ValueError("the path holds characters that no path has")
    names = [field[0] for field in fields]
    values = b"".join([field[1] for field in fields])
    if b"" in names or b"".join(names).translate(None, _TOKEN) or b"\r" in values or b"\n" in values or b"\0" in values:
        raise ValueError("a header holds a line break or a NUL")
    return _render(b"%b %b HTTP/1.1" % (method, target), fields)


def response_head(status: int, headers: Headers, *, chunked: bool, keep: bool = False) -> bytes:
    """The head that goes to the client."""
    fields = end_to_end(headers)
    if not keep:
        fields.append((b"connection", b"close"))
    if chunked:
        fields = [field for field in fields if field[0] != b"content-length"]
        fields.append((b"transfer-encoding", b"chunked"))
    return _render(_status_line(status), fields)


def switching_head(headers: Headers) -> bytes:
    """The head that tells the client that its WebSocket is open."""
    return _render(_status_line(101), [*end_to_end(headers), (b"connection", b"upgrade"), (b"upgrade", b"websocket")])


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
    if b"transfer-encoding" in names and (version == "1.0" or not is_chunked(headers)):
        return "the only transfer coding is chunked, of HTTP/1.1"
    return None


def is_chunked(headers: Headers) -> bool:
    coding = value_of(headers, b"transfer-encoding")
    return coding is not None and coding.strip().lower() == b"chunked"


def names_in(headers: Headers, field: bytes) -> set[bytes]:
    """The members of a list header such as `Connection`, in lower case."""
    found: set[bytes] = set()
    for name, value in headers:
        if name == field:
            found.update([item.strip().lower() for item in value.split(b",")])
    return found


def value_of(headers: Headers, field: bytes) -> bytes | None:
    for name, value in headers:
        if name == field:
            return value
    return None


def wants_websocket(method: bytes, version: str, headers: Headers) -> bool:
    """Whether a request for an upgrade is one for a WebSocket, complete and without a body."""
    names = {name for name, _ in headers}
    return (
        method == b"GET"
        and version == "1.1"
        and names_in(headers, b"upgrade") == {b"websocket"}
        and b"sec-websocket-key" in names
        and not names & {b"content-length", b"transfer-encoding"}
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _render(first: bytes, headers: Headers) -> bytes:
    lines = [name + b": " + value for name, value in headers]
    return b"\r\n".join([first, *lines, b"\r\n"])


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status" % status


_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b" % (status, status.phrase.encode()) for status in HTTPStatus}
