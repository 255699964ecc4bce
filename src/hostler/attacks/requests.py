"""A6 and A9: can a session speak another protocol through the road, or make two readers see two requests?

Where the proxy may either refuse a malformed request or pass on a clear one, a strict reader in place of the server
counts what arrived: a second request, or one whose length is in doubt, is a break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hostler.attacks.canary import Met
from hostler.attacks.cases import Case, OnProxy, Severity
from hostler.attacks.grounds import ProxyGround, connect, get, heard

SMUGGLED = b"/smuggled"
_NAME = "allowed.example:PORT"
_AT = f"http://{_NAME}/"


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


def strict(data: bytes) -> str | None:
    """What is wrong with these bytes as exactly one whole HTTP/1.1 request. None: nothing."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return "the head does not end"
    lines = head.split(b"\r\n")
    if any(b"\n" in line or b"\r" in line or b"\0" in line for line in lines):
        return "a bare line feed, carriage return or NUL in the head"
    words = lines[0].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not words[1].isascii():
        return f"the request line is {lines[0][:60]!r}"
    if any(byte < 0x21 or byte == 0x7F for byte in words[1]):
        return f"a control character in the path {words[1][:60]!r}"
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name or b" " in name or b"\t" in name:
            return f"the header line {line[:60]!r}"
        fields.append((name.lower(), value.strip(b" \t")))
    named = b",".join(value.lower() for name, value in fields if name == b"connection")
    if any(word.strip() in (b"content-length", b"transfer-encoding", b"host") for word in named.split(b",")):
        return f"the Connection header names {named!r}, which the next reader would drop"
    if any(name == b"upgrade" and value.lower() != b"websocket" for name, value in fields):
        return "an upgrade to another protocol"
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if len([name for name, _ in fields if name == b"host"]) != 1:
        return "not exactly one Host"
    if len(lengths) + len(codings) > 1 or (codings and codings != [b"chunked"]):
        return f"the length is given as {lengths} and {codings}"
    if codings:
        return _strict_chunks(body)
    if lengths:
        if not lengths[0].isdigit() or int(lengths[0]) >= 1 << 63:
            return f"the length is {lengths[0]!r}"
        return None if len(body) <= int(lengths[0]) else f"{len(body)} bytes after a head that says {lengths[0]!r}"
    return f"{len(body)} bytes after a head without a length" if body else None


def _strict_chunks(body: bytes) -> str | None:
    while body:
        line, end, rest = body.partition(b"\r\n")
        if not end:
            return None  # cut off: nobody can take it for a whole request
        try:
            size = int(line, 16) if line.isalnum() else -1
        except ValueError:
            size = -1
        if not 0 <= size < 1 << 63:
            return f"the chunk size {line[:40]!r}"
        if size == 0:
            return None if rest in (b"", b"\r\n") else f"{len(rest)} bytes after the last chunk"
        if len(rest) >= size + 2 and rest[size : size + 2] != b"\r\n":
            return "a chunk that doesn't end where it says"
        body = rest[size + 2 :]
    return None


async def _eager(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes in what comes for a moment before it answers, so that a second request is seen."""
    try:
        async with asyncio.timeout(0.05):
            while piece := await reader.read(65536):
                met.data += piece
    except TimeoutError:
        pass
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary")


def _clear(text: str) -> OnProxy:
    """Refused, or passed on as one request that every reader reads alike."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        async with ground.road() as road:
            ground.canaries.answer = _eager
            data = text.replace("PORT", str(ground.canaries.port)).encode("latin-1")
            await road.say(data)
            found = []
            for met in ground.canaries.met:
                problem = strict(bytes(met.data)) if met.data else None
                if problem is not None:
                    found.append(f"the server read: {problem}")
                if SMUGGLED in bytes(met.data).partition(b"\r\n\r\n")[0].split(b"\r\n")[0]:
                    found.append("the hidden request arrived as a request of its own")
            if not road.decisions.made:
                found.append("no decision was recorded")
            return found

    return attack


def _refused(text: str) -> OnProxy:
    async def attack(ground: ProxyGround) -> Sequence[str]:
        return await ground.refused(text.replace("PORT", str(ground.canaries.port)).encode("latin-1"))

    return attack


# ------------------------------------------------------------------------------------------- A6: ports and protocols


def _port(port: str, *, by_get: bool = False) -> OnProxy:
    """`OTHER` is a canary's port that nobody opened."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        wanted = port.replace("OTHER", str(ground.canaries.other_port)).replace("OPEN", str(ground.canaries.port))
        text = f"CONNECT allowed.example:{wanted} HTTP/1.1\r\nHost: x\r\n\r\n"
        if by_get:
            text = f"GET http://allowed.example:{wanted}/ HTTP/1.1\r\nHost: x\r\n\r\n"
        return await ground.refused(text.encode())

    return attack


_PORTS = (
    ("a port that is not open", "OTHER"),
    ("SSH", "22"),
    ("mail", "25"),
    ("a database", "6379"),
    ("port 0", "0"),
    ("port 65536 and more", "65979"),
    ("a port with a sign", "+OPEN"),
    ("a port with a blank", " OPEN"),
    ("a port with letters", "OPENx"),
    ("a hexadecimal port", "0x1bb"),
    ("two ports", "OPEN:OTHER"),
    ("an empty port", ""),
    ("full-width digits", "４４３"),
)


async def _connect_inside_connect(ground: ProxyGround) -> Sequence[str]:
    async with ground.road() as road:
        ground.canaries.answer = _eager
        reader, writer = await road.tunnel()
        before = len(ground.canaries.met)
        writer.write(connect("evil.tld", ground.canaries.port))
        await heard(reader, seconds=1.0)
        found = []
        if len(ground.canaries.met) > max(before, 1):
            found.append("a CONNECT inside a tunnel opened a second connection")
        if sum(decision.allowed for decision in road.decisions.made) != 1:
            found.append("the CONNECT inside the tunnel was recorded as allowed")
        return found


async def _connect_after_get(ground: ProxyGround) -> Sequence[str]:
    """A connection on which one request was allowed is no pass for a CONNECT after it."""
    async with ground.road() as road:
        ground.canaries.answer = _eager
        port = ground.canaries.port
        reader, writer = await road.connect()
        writer.write(get(f"http://allowed.example:{port}/") + connect("evil.tld", port))
        await heard(reader)
        if sum(1 for met in ground.canaries.met) > 1:
            return ("the CONNECT behind an allowed request was served",)
        if any(made.allowed and made.host == "evil.tld" for made in road.decisions.made):
            return ("the record says that the CONNECT behind an allowed request was allowed",)
        return ()


def _speaks(said: bytes, secret: bytes) -> OnProxy:
    """A service that isn't HTTP: what it says must not arrive as if it were an answer."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        async with ground.road() as road:

            async def banner(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(said)

            ground.canaries.answer = banner
            answer = await road.say(get(f"http://allowed.example:{ground.canaries.port}/"))
            return ("the words of the service arrived",) if secret in answer else ()

    return attack


async def _false_upgrade(ground: ProxyGround) -> Sequence[str]:
    """A server that switches protocols unasked must not get a tunnel."""
    async with ground.road() as road:

        async def switch(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\nraw-bytes")
            while piece := await reader.read(65536):
                met.data += piece

        ground.canaries.answer = switch
        reader, writer = await road.connect()
        writer.write(get(f"http://allowed.example:{ground.canaries.port}/"))
        answer = await heard(reader, seconds=1.0)
        writer.write(b"unframed-words")
        await heard(reader, seconds=0.5)
        found = []
        if b"raw-bytes" in answer:
            found.append("bytes of a protocol that nobody asked for arrived")
        if b"unframed-words" in ground.canaries.seen:
            found.append("bytes went out without being a request")
        return found


_WEBSOCKET = (
    "GET http://HOST:PORT/ HTTP/1.1\r\nHost: allowed.example\r\nUpgrade: UPGRADE\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_A6 = (
    *(_case(f"A6.{n}", f"CONNECT to {t}", _port(p)) for n, (t, p) in enumerate(_PORTS, 1)),
    _case("A6.21", "plain HTTP to a port that is not open", _port("OTHER", by_get=True)),
    _case("A6.22", "CONNECT inside a tunnel", _connect_inside_connect),
    _case("A6.23", "CONNECT behind an allowed request", _connect_after_get),
    _case("A6.24", "plain HTTP to an SSH server", _speaks(b"SSH-2.0-OpenSSH_9\r\n", b"SSH-2.0"), "high"),
    _case("A6.25", "plain HTTP to a database", _speaks(b"-ERR unknown command\r\n+PONG\r\n", b"PONG"), "high"),
    _case("A6.26", "a server that switches protocols unasked", _false_upgrade),
    _case(
        "A6.27",
        "a WebSocket to a denied host",
        _refused(_WEBSOCKET.replace("HOST", "evil.tld").replace("UPGRADE", "websocket")),
    ),
    _case(
        "A6.28", "an upgrade to HTTP/2", _clear(_WEBSOCKET.replace("HOST", "allowed.example").replace("UPGRADE", "h2c"))
    ),
    _case("A6.29", "HTTP/2 prior knowledge", _refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    _case("A6.30", "SOCKS 5", _refused("\x05\x01\x00\x05\x01\x00\x03\x08evil.tld\x01\xbb\r\n\r\n")),
    _case("A6.31", "SOCKS 4", _refused("\x04\x01\x01\xbb\x7f\x00\x00\x02\x00\r\n\r\n")),
    _case("A6.32", "TLS spoken to the proxy itself", _refused("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")),
    _case("A6.33", "an ftp URL", _refused("GET ftp://allowed.example:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n")),
    _case("A6.34", "a file URL", _refused("GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")),
    _case("A6.35", "a gopher URL", _refused("GET gopher://allowed.example:PORT/_x HTTP/1.1\r\nHost: x\r\n\r\n")),
    _case(
        "A6.36",
        "an https URL without CONNECT",
        _refused("GET https://allowed.example:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    ),
    _case("A6.37", "a path without a host", _refused("GET /etc/passwd HTTP/1.1\r\nHost: allowed.example:PORT\r\n\r\n")),
    _case("A6.38", "OPTIONS *", _refused("OPTIONS * HTTP/1.1\r\nHost: allowed.example:PORT\r\n\r\n"), "high"),
)

# ------------------------------------------------------------------------------------------------------- A9: smuggling

_HIDDEN = "GET /smuggled HTTP/1.1\r\nHost: evil.tld\r\n\r\n"
_END = "0\r\n\r\n"


def _post(*headers: str, body: str = "") -> str:
    return "\r\n".join([f"POST {_AT} HTTP/1.1", "Host: allowed.example", *headers]) + "\r\n\r\n" + body


_SMUGGLING = (
    ("a length and chunks", _post("Content-Length: 4", "Transfer-Encoding: chunked", body=_END + _HIDDEN)),
    ("chunks and a length", _post("Transfer-Encoding: chunked", "Content-Length: 5", body=_END + _HIDDEN)),
    ("two lengths that differ", _post("Content-Length: 0", f"Content-Length: {len(_HIDDEN)}", body=_HIDDEN)),
    ("the same length twice", _post("Content-Length: 3", "Content-Length: 3", body="abc")),
    ("a list of lengths", _post(f"Content-Length: 0, {len(_HIDDEN)}", body=_HIDDEN)),
    ("a length with a sign", _post("Content-Length: +3", body="abc" + _HIDDEN)),
    ("a negative length", _post("Content-Length: -1", body=_HIDDEN)),
    ("a hexadecimal length", _post("Content-Length: 0x3", body="abc" + _HIDDEN)),
    ("a length that overflows", _post("Content-Length: 18446744073709551616", body=_HIDDEN)),
    ("a length with a blank inside", _post("Content-Length: 1 0", body="a" + _HIDDEN)),
    ("two codings", _post("Transfer-Encoding: chunked, identity", body=_END + _HIDDEN)),
    ("chunked twice", _post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=_END + _HIDDEN)),
    ("chunked and an unknown coding", _post("Transfer-Encoding: xchunked", body=_END + _HIDDEN)),
    ("a coding with a vertical tab", _post("Transfer-Encoding: \x0bchunked", body=_END + _HIDDEN)),
    ("a coding in quotes", _post('Transfer-Encoding: "chunked"', body=_END + _HIDDEN)),
    (
        "a blank before the colon",
        _post("Transfer-Encoding : chunked", "Content-Length: 5", body=_END + _HIDDEN),
    ),
    ("a folded length", _post("X: y", f" Content-Length: {len(_HIDDEN)}", body=_HIDDEN)),
    ("a folded coding", _post("Transfer-Encoding:", " chunked", body=_END + _HIDDEN)),
    ("a blank before the first header", f"POST {_AT} HTTP/1.1\r\n Host: x\r\nContent-Length: 0\r\n\r\n" + _HIDDEN),
    ("two Host headers", _post("Host: evil.tld", "Content-Length: 0")),
    ("bare line feeds", f"GET {_AT} HTTP/1.1\nHost: allowed.example\n\n" + _HIDDEN),
    ("a bare carriage return in a value", _post("X: a\rContent-Length: 99", "Content-Length: 0", body=_HIDDEN)),
    ("a bare line feed in a value", _post("X: a\nTransfer-Encoding: chunked", "Content-Length: 5", body=_END)),
    ("NUL in a value", _post("X: a\0b", "Content-Length: 0")),
    ("NUL in a name", _post("X\0Y: a", "Content-Length: 0")),
    ("a blank in a name", _post("Content Length: 5", "Content-Length: 0", body=_HIDDEN)),
    ("a header without a colon", _post("Transfer-Encoding chunked", "Content-Length: 5", body=_END)),
    ("an underscored length", _post(f"Content_Length: {len(_HIDDEN)}", "Content-Length: 0", body=_HIDDEN)),
    ("a chunk size with 0x", _post("Transfer-Encoding: chunked", body="0x0\r\n\r\n" + _HIDDEN)),
    ("a chunk size with a sign", _post("Transfer-Encoding: chunked", body="+0\r\n\r\n" + _HIDDEN)),
    ("a negative chunk size", _post("Transfer-Encoding: chunked", body="-1\r\n\r\n" + _HIDDEN)),
    ("a chunk size that overflows", _post("Transfer-Encoding: chunked", body="10000000000000000\r\n\r\n" + _HIDDEN)),
    (
        "a chunk extension with a line feed",
        _post("Transfer-Encoding: chunked", body="3;\nx\r\nabc\r\n0\r\n\r\n" + _HIDDEN),
    ),
    ("a chunk longer than it says", _post("Transfer-Encoding: chunked", body="1\r\nabc\r\n0\r\n\r\n" + _HIDDEN)),
    ("a length in a trailer", _post("Transfer-Encoding: chunked", body="0\r\nContent-Length: 99\r\n\r\n" + _HIDDEN)),
    ("a connection header that names the length", _post("Connection: content-length", "Content-Length: 3", body="abc")),
    ("a connection header that names Host", _post("Connection: host", "Content-Length: 0")),
    ("a version that doesn't exist", f"GET {_AT} HTTP/1.2\r\nHost: x\r\n\r\n"),
    ("no version", f"GET {_AT}\r\n\r\n" + _HIDDEN),
    ("two versions", f"GET {_AT} HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (
        "a blank in the path",
        f"GET {_AT}a HTTP/1.1\r\nX: /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".replace("a HTTP", "a b HTTP", 1),
    ),
    ("an encoded line break in the path", f"GET {_AT}%0d%0aX:%20y HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a control character in the path", f"GET {_AT}\x01\x7f HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a method with a line break", f"GET\r\nX: y {_AT} HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("bytes of Latin-1 in the path", f"GET {_AT}\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n"),
)


async def _pipelined(ground: ProxyGround) -> Sequence[str]:
    """The second request of a connection is decided like the first, or not served."""
    async with ground.road() as road:
        ground.canaries.answer = _eager
        port = ground.canaries.port
        data = get(f"http://allowed.example:{port}/one") + get(f"http://evil.tld:{port}/smuggled")
        await road.say(data)
        found = []
        if SMUGGLED in ground.canaries.seen:
            found.append("the second request went out to a denied host's name")
        if any(made.allowed and made.host == "evil.tld" for made in road.decisions.made):
            found.append("the second request was recorded as allowed")
        return found


async def _late_second(ground: ProxyGround) -> Sequence[str]:
    """The same, with the second request sent after the answer to the first."""
    async with ground.road() as road:
        port = ground.canaries.port
        reader, writer = await road.connect()
        writer.write(get(f"http://allowed.example:{port}/one"))
        await heard(reader, seconds=1.0)
        ground.canaries.met.clear()
        writer.write(get(f"http://evil.tld:{port}/smuggled"))
        await heard(reader, seconds=0.5)
        return ("the second request went out",) if SMUGGLED in ground.canaries.seen else ()


def _answers(text: str, forbidden: bytes) -> OnProxy:
    """An answer that two readers see differently must not arrive as it is."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        async with ground.road() as road:

            async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(text.encode("latin-1"))

            ground.canaries.answer = answer
            request = get(f"http://allowed.example:{ground.canaries.port}/")
            got = await road.say(request, seconds=1.0, to_end=True)
            return (f"{forbidden!r} arrived in the answer",) if forbidden in got.lower() else ()

    return attack


_SPLIT = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n/smuggled"

_A9 = (
    *(_case(f"A9.{n}", f"a request with {t}", _clear(x)) for n, (t, x) in enumerate(_SMUGGLING, 1)),
    _case("A9.51", "a second request for a denied host on the same connection", _pipelined),
    _case("A9.52", "a second request for a denied host after the first answer", _late_second),
    _case(
        "A9.53",
        "an answer behind the answer",
        _answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + _SPLIT, SMUGGLED),
        "high",
    ),
    _case(
        "A9.54",
        "an answer with a length and chunks",
        _answers(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n/smuggled\r\n0\r\n\r\n",
            b"content-length: 0\r\ntransfer",
        ),
        "high",
    ),
    _case(
        "A9.55",
        "an answer with two lengths",
        _answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n/smuggled", SMUGGLED),
        "high",
    ),
)

CASES = (*_A6, *_A9)
