"""Secrets in the place of placeholders: on their hosts only, in their places only, and never in an answer (B1, B2)."""

from __future__ import annotations

import base64
import gzip
import html
import json
import zlib
from collections.abc import Callable, Sequence
from urllib.parse import quote, quote_plus

import pytest

from hostler.domain.errors import SecretUnreadable
from hostler.egress.answers import MOST_INFLATED
from hostler.egress.injection import InjectingSecrets
from hostler.engine.egress_port import (
    Filter,
    RequestHead,
    SecretExchange,
    SecretRefused,
    SessionVariable,
    VariableUse,
)
from hostler.engine.placeholders import new_placeholder

SECRET = 's3cr/t+"<&>=~é ;'
PLACEHOLDER = new_placeholder()
HOST = "api.example.com"


class Variables:
    """Implements `SessionVariables` with one variable for `HOST`, and remembers what it is told."""

    def __init__(self, value: str = SECRET, **but: bool) -> None:
        self.value = value
        self.places = {"header": True, "body": True, "read_only": False, **but}
        self.placeholders = {"TOKEN": PLACEHOLDER}
        self.uses: list[VariableUse] = []
        self.opened = 0

    def concerns(self, host: str) -> bool:
        return host == HOST

    async def open(self, host: str) -> Sequence[SessionVariable]:
        self.opened += 1
        value = self.value if host == HOST else None
        return [SessionVariable("TOKEN", PLACEHOLDER, "vlt_1", "vcrd_1", value, **self.places)]

    async def used(self, uses: Sequence[VariableUse]) -> None:
        self.uses += uses

    def note(self, use: VariableUse) -> None:
        self.uses.append(use)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(use.place, use.outcome) for use in self.uses]


class Unopenable(Variables):
    async def open(self, host: str) -> Sequence[SessionVariable]:
        raise SecretUnreadable("no key")


class Unrecorded(Variables):
    async def used(self, uses: Sequence[VariableUse]) -> None:
        raise SecretUnreadable("the disk is full")


def head(
    *headers: tuple[str, str | bytes],
    method: str = "GET",
    target: str = "/",
    host: str = HOST,
    scheme: str = "https",
    own_network: bool = False,
) -> RequestHead:
    fields = tuple((name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers)
    port = 443 if scheme == "https" else 80
    return RequestHead(method, scheme, host, port, target.encode(), fields, own_network)  # type: ignore[arg-type]


async def begun(variables: Variables, request: RequestHead) -> SecretExchange:
    exchange = await InjectingSecrets(variables).begin(request)
    assert exchange is not None
    return exchange


async def sent(variables: Variables, *headers: tuple[str, str | bytes], **of: str) -> dict[str, bytes]:
    exchange = await begun(variables, head(*headers, **of))  # type: ignore[arg-type]
    return {name.decode(): value for name, value in exchange.head.headers}


def through(filter_: Filter | None, data: bytes, piece: int = 1 << 20) -> bytes:
    assert filter_ is not None
    out = b"".join(filter_.feed(data[at : at + piece]) for at in range(0, len(data), piece))
    return out + filter_.end()


# ---------------------------------------------------------------------------------------------------------- the request


async def test_a_header_gets_the_secret_and_the_use_is_written_down() -> None:
    variables = Variables()
    given = [("authorization", f"Bearer {PLACEHOLDER}"), ("x-a", "1"), ("cookie", f"a={PLACEHOLDER}")]
    assert await sent(variables, *given) == {
        "authorization": f"Bearer {SECRET}".encode(),
        "x-a": b"1",
        "cookie": f"a={SECRET}".encode(),
        "accept-encoding": b"identity",
    }  # fmt: skip
    assert variables.uses == [VariableUse("vlt_1", "vcrd_1", "GET", HOST, 443, "header", "substituted")]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
async def test_basic_authentication_gets_the_secret_inside(encode: Callable[[bytes], bytes]) -> None:
    blob = encode(f"x?>:{PLACEHOLDER}".encode())
    exchange = await begun(Variables(), head(("authorization", b"basic " + blob)))
    fields = dict(exchange.head.headers)
    assert base64.b64decode(fields[b"authorization"].removeprefix(b"basic ")) == f"x?>:{SECRET}".encode()
    _, reader = exchange.answer(200, [])
    echoed = through(reader, b'{"authorization": "' + fields[b"authorization"] + b'"}')
    assert echoed == b'{"authorization": "basic ' + blob + b'"}', "the sandbox reads what it wrote"


@pytest.mark.parametrize("header", ["host", "referer", "content-length", "transfer-encoding", "connection", "upgrade"])
async def test_nothing_is_put_into_what_frames_or_routes_a_message(header: str) -> None:
    variables = Variables()
    assert (await sent(variables, (header, PLACEHOLDER)))[header] == PLACEHOLDER.encode()
    assert variables.uses == []


async def test_a_url_keeps_the_placeholder() -> None:
    variables = Variables()
    exchange = await begun(variables, head(target=f"/?token={PLACEHOLDER}"))
    assert exchange.head.target == f"/?token={PLACEHOLDER}".encode()
    assert variables.outcomes == [("url", "place_not_allowed")]


async def test_another_host_gets_the_placeholder_and_it_is_written_down() -> None:
    variables = Variables()
    request = head(("authorization", f"Bearer {PLACEHOLDER}"), host="evil.example.com", target=f"/{PLACEHOLDER}")
    assert await InjectingSecrets(variables).begin(request) is None
    assert variables.outcomes == [("url", "host_not_allowed"), ("header", "host_not_allowed")]
    blob = base64.b64encode(f"u:{PLACEHOLDER}".encode())
    assert await InjectingSecrets(variables).begin(head(("a", b"Basic " + blob), host="evil.example.com")) is None
    assert len(variables.uses) == 3


async def test_requests_that_concern_no_secret_ask_nobody() -> None:
    variables = Variables()
    assert await InjectingSecrets(variables).begin(head(("a", "b"), host="other.example.com")) is None
    assert variables.opened == 0


async def test_a_placeholder_of_nobody_stays() -> None:
    variables, other = Variables(), new_placeholder()
    assert (await sent(variables, ("a", other)))["a"] == other.encode()
    assert variables.uses == []


@pytest.mark.parametrize(("method", "allowed"), [("GET", True), ("HEAD", True), ("POST", False), ("DELETE", False)])
async def test_a_credential_for_reading_is_kept_from_requests_that_write(method: str, allowed: bool) -> None:
    variables = Variables(read_only=True)
    request = head(("a", PLACEHOLDER), ("content-length", "3"), method=method)
    if allowed:
        assert dict((await begun(variables, request)).head.headers)[b"a"] == SECRET.encode()
        return
    with pytest.raises(SecretRefused, match="reading only") as refused:
        await InjectingSecrets(variables).begin(request)
    assert refused.value.reason == "secret_read_only"
    assert SECRET not in str(refused.value)
    assert variables.outcomes == [("header", "read_only")]
    assert (await begun(variables, head(("content-length", "3"), method=method))).body is None


@pytest.mark.parametrize("override", ["x-http-method-override", "x-original-url"])
async def test_a_header_that_stands_for_another_method_is_no_way_around(override: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        await InjectingSecrets(Variables(read_only=True)).begin(head(("a", PLACEHOLDER), (override, "DELETE")))
    assert refused.value.reason == "secret_read_only"


async def test_plain_http_carries_no_secret_except_in_the_operators_network() -> None:
    variables = Variables()
    with pytest.raises(SecretRefused, match="https") as refused:
        await InjectingSecrets(variables).begin(head(("a", PLACEHOLDER), scheme="http"))
    assert refused.value.reason == "plain_http"
    posted = await begun(variables, head(("content-length", "3"), method="POST", scheme="http"))
    assert posted.body is None
    own = await begun(variables, head(("a", PLACEHOLDER), scheme="http", own_network=True))
    assert dict(own.head.headers)[b"a"] == SECRET.encode()


@pytest.mark.parametrize("stored", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
async def test_a_line_break_in_a_stored_secret_ends_no_line(stored: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        await InjectingSecrets(Variables(stored)).begin(head(("a", PLACEHOLDER)))
    assert refused.value.reason == "secret_unsendable"
    exchange = await begun(Variables(stored), head(("content-length", "9"), method="POST"))
    assert through(exchange.body, PLACEHOLDER.encode()) == PLACEHOLDER.encode()


@pytest.mark.parametrize(
    ("variables", "reason"), [(Unopenable(), "secret_unavailable"), (Unrecorded(), "not_recorded")]
)
async def test_what_cannot_be_opened_or_written_down_is_not_sent(variables: Variables, reason: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        await InjectingSecrets(variables).begin(head(("a", PLACEHOLDER)))
    assert refused.value.reason == reason


async def test_what_would_make_an_answer_unreadable_is_not_sent() -> None:
    fields = await sent(
        Variables(), ("accept-encoding", "br, zstd"), ("range", "bytes=0-3"), ("if-range", '"a"'), ("accept", "*/*")
    )
    assert fields == {"accept": b"*/*", "accept-encoding": b"identity"}


# ------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("piece", [1, 7, 52, 1 << 20])
@pytest.mark.parametrize(
    ("content_type", "written"),
    [
        ("application/json; charset=utf-8", json.dumps(SECRET)[1:-1]),
        ("application/problem+json", json.dumps(SECRET)[1:-1]),
        ("application/x-www-form-urlencoded", quote_plus(SECRET)),
        ("multipart/form-data; boundary=x", SECRET),
        ("text/plain", SECRET),
    ],
)
async def test_a_body_gets_the_secret_as_its_type_writes_it(content_type: str, written: str, piece: int) -> None:
    variables = Variables()
    request = head(("content-type", content_type), ("transfer-encoding", "chunked"), method="POST")
    exchange = await begun(variables, request)
    body = f'hostler_ {{"a": "{PLACEHOLDER}", "b": "x{PLACEHOLDER}hostler_placeholder_short"}} hostler_placeh'
    assert through(exchange.body, body.encode(), piece) == body.replace(PLACEHOLDER, written).encode()
    assert variables.uses == [VariableUse("vlt_1", "vcrd_1", "POST", HOST, 443, "body", "substituted")]


async def test_places_that_are_switched_off_keep_the_placeholder() -> None:
    variables = Variables(header=False)
    exchange = await begun(variables, head(("a", PLACEHOLDER), ("content-length", "52"), method="POST"))
    assert dict(exchange.head.headers)[b"a"] == PLACEHOLDER.encode()
    assert through(exchange.body, PLACEHOLDER.encode()) == SECRET.encode()
    assert variables.outcomes == [("header", "place_not_allowed"), ("body", "substituted")]
    exchange = await begun(Variables(body=False), head(("content-length", "52"), method="POST"))
    assert exchange.body is None


@pytest.mark.parametrize(
    "headers", [[("content-length", "0")], [], [("content-length", "9"), ("content-encoding", "gzip")]]
)
async def test_bodies_that_hold_nothing_readable_go_as_they_are(headers: list[tuple[str, str]]) -> None:
    assert (await begun(Variables(), head(*headers, method="POST"))).body is None


# ------------------------------------------------------------------------------------------------------------ answers


def _by_numbers(raw: bytes, chars: str, style: str) -> bytes:
    escaped = json.dumps(raw.decode(), ensure_ascii=False)[1:-1]
    for char in chars:
        escaped = escaped.replace('\\"' if char == '"' else char, f"\\u{ord(char):{style}}")
    return escaped.replace("é", f"\\u{ord('é'):{style}}").encode()


ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda raw: raw,
    "base64": base64.b64encode,
    "base64 after one byte": lambda raw: base64.b64encode(b"k" + raw),
    "base64 after two bytes": lambda raw: base64.b64encode(b"k=" + raw),
    "base64 in a text": lambda raw: base64.b64encode(b"user:" + raw + b":more"),
    "base64 for URLs": lambda raw: base64.urlsafe_b64encode(b"u:" + raw),
    "base64 in a URL": lambda raw: quote(base64.b64encode(raw), safe="").encode(),
    "base64 in JSON with slashes escaped": lambda raw: base64.b64encode(raw).replace(b"/", b"\\/"),
    "percent": lambda raw: quote(raw, safe="").encode(),
    "percent in lower case": lambda raw: quote(raw, safe="").lower().encode(),
    "percent as in paths": lambda raw: quote(raw).encode(),
    "form": lambda raw: quote_plus(raw).encode(),
    "JSON": lambda raw: json.dumps(raw.decode()).encode(),
    "JSON in UTF-8": lambda raw: json.dumps(raw.decode(), ensure_ascii=False).encode(),
    "JSON with slashes escaped": lambda raw: json.dumps(raw.decode()).replace("/", "\\/").encode(),
    "JSON as .NET writes it": lambda raw: _by_numbers(raw, "<>&'\"+`", "04X"),
    "JSON as Gson writes it": lambda raw: _by_numbers(raw, "<>&='", "04x"),
    "JSON as Go writes it": lambda raw: _by_numbers(raw, "<>&", "04x"),
    "HTML as Go writes it": lambda raw: html.escape(raw.decode()).replace("&quot;", "&#34;").encode(),
    "HTML": lambda raw: html.escape(raw.decode()).encode(),
    "HTML with decimal quotes": lambda raw: html.escape(raw.decode()).replace("&#x27;", "&#39;").encode(),
    "read byte by byte": lambda raw: raw.decode("latin-1").encode(),
    "read byte by byte, in JSON": lambda raw: json.dumps(raw.decode("latin-1")).encode(),
    "in Latin-1": lambda raw: raw.decode().encode("latin-1"),
    "hexadecimal": lambda raw: raw.hex().encode(),
    "hexadecimal in upper case": lambda raw: raw.hex().upper().encode(),
}  # fmt: skip


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_an_answer_repeats_no_form_of_the_secret(echo: Callable[[bytes], bytes], piece: int) -> None:
    exchange = await begun(Variables(), head())
    form = echo(SECRET.encode())
    around = b"<p>Error: 401 " + form + b" is not valid. s3" + form + b"s3cr/"
    _, reader = exchange.answer(401, [(b"content-type", b"text/html")])
    shown = through(reader, around, piece)
    assert form not in shown
    assert shown.count(PLACEHOLDER.encode()) == 2
    assert shown.startswith(b"<p>Error: 401 ")
    assert shown.endswith(b"s3cr/"), "what only begins like it is not lost"
    assert not any(shape in shown for shape in (SECRET.encode(), base64.b64encode(SECRET.encode())[:-4]))


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_headers_repeat_it_neither(echo: Callable[[bytes], bytes]) -> None:
    exchange = await begun(Variables(), head())
    form = echo(SECRET.encode())
    headers = [(b"location", b"https://a.example.com/?t=" + form), (b"set-cookie", b"t=" + form + b"; Path=/")]
    shown, reader = exchange.answer(302, headers)
    assert all(form not in value and PLACEHOLDER.encode() in value for _, value in shown)
    assert [name for name, _ in shown] == [b"location", b"set-cookie"]
    assert reader is not None


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"GZip, identity", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]) + b"\0" * 4),
        (b"deflate", zlib.compress),
        (b"deflate", _raw_deflate),
    ],
)
async def test_a_compressed_answer_is_unpacked_and_searched(
    coding: bytes, pack: Callable[[bytes], bytes], piece: int
) -> None:
    exchange = await begun(Variables(), head())
    plain = b"x" * 1000 + SECRET.encode() + b"y" * 1000
    headers, reader = exchange.answer(200, [(b"content-encoding", coding), (b"content-length", b"9"), (b"a", b"b")])
    assert headers == [(b"a", b"b")]
    assert through(reader, pack(plain), piece) == plain.replace(SECRET.encode(), PLACEHOLDER.encode())


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        *((b"content-encoding", coding) for coding in (b"br", b"zstd", b"gzip, gzip", b"gzip, br", b"unheard-of")),
        (b"transfer-encoding", b"gzip, chunked"),
    ],
)
async def test_an_answer_that_cannot_be_read_is_refused(name: bytes, coding: bytes) -> None:
    exchange = await begun(Variables(), head())
    with pytest.raises(SecretRefused) as refused:
        exchange.answer(200, [(name, coding)])
    assert refused.value.reason == "answer_unreadable"
    assert exchange.answer(200, [(b"transfer-encoding", b"chunked"), (b"content-encoding", b"identity")])[1] is not None


@pytest.mark.parametrize("packed", [b"\x1f\x8bnonsense of any kind", gzip.compress(b"x" * 99, mtime=0)[:-9], b"\x1f"])
async def test_a_damaged_compressed_answer_is_broken_off(packed: bytes) -> None:
    _, reader = (await begun(Variables(), head())).answer(200, [(b"content-encoding", b"gzip")])
    with pytest.raises(SecretRefused):
        through(reader, packed)


async def test_a_bomb_is_broken_off() -> None:
    _, reader = (await begun(Variables(), head())).answer(200, [(b"content-encoding", b"gzip")])
    with pytest.raises(SecretRefused, match="grows too much"):
        through(reader, gzip.compress(b"\0" * (MOST_INFLATED + 1)))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_without_a_body_keeps_its_length(method: str, status: int) -> None:
    exchange = await begun(Variables(), head(method=method))
    headers, reader = exchange.answer(status, [(b"content-length", b"9"), (b"content-encoding", b"br")])
    assert reader is None
    assert headers == [(b"content-length", b"9"), (b"content-encoding", b"br")]


async def test_a_short_secret_is_taken_out_as_it_is() -> None:
    _, reader = (await begun(Variables("ab"), head())).answer(200, [])
    assert through(reader, b"1ab2", 1) == b"1" + PLACEHOLDER.encode() + b"2"


async def test_nothing_is_held_back_that_cannot_be_a_secret() -> None:
    _, reader = (await begun(Variables(), head())).answer(200, [(b"content-type", b"text/event-stream")])
    assert reader is not None
    assert reader.feed(b"data: tick\n\n") == b"data: tick\n\n"
