"""Tunnels that the road ends: what is said inside is judged by host, method and path, and made anew for the server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from tlskit import (
    DEADLINE,
    PLACEHOLDER,
    SECRET,
    Asked,
    FailsToOpen,
    SwapsPlaceholders,
    ok,
    trusting,
    ways,
    world,
)

from hostler.egress import EgressLimits
from hostler.egress.authority import Authority
from hostler.engine.egress_port import (
    EgressRules,
    Filter,
    HostRule,
    RequestHead,
    SecretExchange,
    SecretRefused,
)

BOTH = EgressRules("listed", ("secret.example", "other.example"))


async def test_what_the_rule_allows_reaches_the_site_and_each_request_is_a_record() -> None:
    async with ways() as w:
        answer = await w.ask(w.get("/v1/files/a?b=c"), "narrow.example")
        assert answer.endswith(b"\r\n\r\nok")
        assert w.secure.asked[0].line == "GET /v1/files/a?b=c HTTP/1.1"
        assert w.secure.asked[0].headers["host"] == f"narrow.example:{w.secure.port}"
        tunnel, request = w.recorder.decisions
        assert (tunnel.method, tunnel.path, tunnel.allowed) == ("CONNECT", "", True)
        assert (request.method, request.path, request.allowed) == ("GET", "/v1/files/a", True)


@pytest.mark.parametrize(
    ("method", "path", "reason", "hint"),
    [
        ("DELETE", "/v1/files/a", "method_not_allowed", "add DELETE to the methods"),
        ("GET", "/v1/admin", "path_not_allowed", 'add "/v1/admin"'),
        ("GET", "/v1/filesystem", "path_not_allowed", ""),
        ("GET", "/v1/files/../admin", "path_not_allowed", ""),
        ("GET", "/v1/files/%2e%2e/admin", "path_not_allowed", ""),
        ("GET", "/v1/files/..%2fadmin", "path_not_allowed", ""),
        ("GET", "//v1/files", "path_not_allowed", ""),
        ("OPTIONS", "*", "method_not_allowed", ""),
    ],
)
async def test_what_the_rule_does_not_allow_is_denied_inside_of_the_tunnel(
    method: str, path: str, reason: str, hint: str
) -> None:
    async with ways() as w:
        answer = await w.ask(w.get(path, method=method), "narrow.example")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert f"x-hostler-egress: denied; reason={reason}\r\n".encode() in answer
        denied = await w.recorder.denied(reason)
        assert (denied.method, denied.path) == (method, path)
        assert hint in denied.hint
        assert denied.hint.encode() in answer
        assert w.secure.connections == 0


@pytest.mark.parametrize("field", ["X-HTTP-Method-Override: DELETE", "x-original-url: /admin", "X-Rewrite-URL: /"])
async def test_a_header_that_gives_another_method_or_path_is_denied(field: str) -> None:
    async with ways() as w:
        assert b"reason=override_header" in await w.ask(w.get("/v1/files", "narrow.example", field), "narrow.example")
        assert w.secure.asked == []


async def test_the_site_is_signed_for_by_the_sessions_own_authority_and_speaks_http_1() -> None:
    async with ways() as w:
        _, writer = await w.tls("narrow.example", alpn=("h2", "http/1.1"))
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert tls.getpeercert()["issuer"][1][0][1] == "Hostler session sesn_1"
        assert tls.getpeercert()["subjectAltName"] == (("DNS", "narrow.example"),)
        assert w.secure.connections == 0  # Nothing has been asked for.


async def test_another_server_name_than_the_tunnels_is_denied_there_too() -> None:
    async with ways() as w:
        with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
            await w.tls("narrow.example", name="other.example")
        await w.recorder.denied("server_name_mismatch")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET /v1/files HTTP/1.1\r\nHost: other.example\r\n\r\n", 403, "host_header_mismatch"),
        (b"GET /v1/files HTTP/1.1\r\nHost: narrow.example:1\r\n\r\n", 403, "host_header_mismatch"),
        (b"GET /v1/files HTTP/1.1\r\nHost: narrow.example@other.example\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/files HTTP/1.1\r\nX: y\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/files HTTP/1.1\r\nHost: HOST\r\nHost: other.example\r\n\r\n", 400, "bad_request"),
        (b"GET https://narrow.example/v1/files HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "bad_request"),
        (b"GET http://other.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "bad_request"),
        (b"CONNECT other.example:443 HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "bad_request"),
        (b"CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/files HTTP/1.1\r\nHost: HOST\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/files HTTP/1.1\r\nHost: HOST\r\nX: a\r\n b\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/files HTTP/1.1\r\nHost: HOST\r\nX: a\rb\r\n\r\n", 400, "bad_request"),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            400,
            "bad_request",
        ),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0000",
            400,
            "bad_request",
        ),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"POST /v1/files HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
    ],
)
async def test_a_request_for_another_host_or_with_two_readings_does_not_leave(
    data: bytes, status: int, reason: str
) -> None:
    async with ways() as w:
        data = data.replace(b"HOST", b"narrow.example:%d" % w.secure.port)
        answer = await w.ask(data, "narrow.example")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert reason.encode() in answer
        assert (b"There are no tunnels inside of a tunnel." in answer) is data.startswith(b"CONNECT")
        await w.recorder.denied(reason)
        assert w.secure.connections == 0


async def test_requests_of_one_client_and_the_next_share_a_connection_to_the_site() -> None:
    async with ways() as w:
        for _ in range(2):
            reader, writer = await w.tls("narrow.example")
            for _ in range(2):
                writer.write(f"GET /v1/files HTTP/1.1\r\nHost: narrow.example:{w.secure.port}\r\n\r\n".encode())
                async with asyncio.timeout(DEADLINE):
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
                    assert await reader.readexactly(2) == b"ok"
        assert (len(w.secure.asked), w.secure.connections) == (4, 1)


async def test_two_sessions_never_share_a_connection() -> None:
    async with ways() as w:
        await w.ask(w.get("/v1/files"), "narrow.example")
        rules = EgressRules("listed", rules=(HostRule("narrow.example", methods=frozenset({"GET"})),))
        road = await w.proxy.open("sesn_2", w.socket.with_name("s2"), rules)
        assert road.authority != w.road.authority
        w.socket, w.road = w.socket.with_name("s2"), road
        await w.ask(w.get("/v1/files"), "narrow.example")
        assert w.secure.connections == 2


async def test_a_kept_connection_is_used_again_and_closed_when_nobody_asks_any_more() -> None:
    async with ways(limits=EgressLimits(kept_seconds=0.3)) as w:
        reader, writer = await w.tls("narrow.example")
        head = f"GET /v1/files HTTP/1.1\r\nHost: narrow.example:{w.secure.port}\r\n\r\n".encode()
        for _ in range(5):
            writer.write(head)
            async with asyncio.timeout(DEADLINE):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(2) == b"ok"
        assert w.secure.connections < 5
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await w.secure.writers[-1].wait_closed()


async def test_a_kept_connection_is_not_used_for_a_name_that_has_moved() -> None:
    async with ways() as w:
        await w.ask(w.get("/v1/files"), "narrow.example")
        w.names.address = "127.0.0.2"
        assert b" 502 " in await w.ask(w.get("/v1/files"), "narrow.example")
        assert w.secure.connections == 1


async def test_a_connection_that_the_site_closed_meanwhile_is_replaced() -> None:
    async with ways() as w:
        await w.ask(w.get("/v1/files"), "narrow.example")

        def dies(asked: Asked) -> bytes:
            w.secure.answer = ok
            w.secure.writers[0].transport.abort()
            return b""

        w.secure.answer = dies
        assert b"200 OK" in await w.ask(w.get("/v1/files"), "narrow.example")
        assert w.secure.connections == 2


async def test_a_site_with_a_certificate_that_nobody_trusts_is_not_spoken_to() -> None:
    async with ways(trusted=Authority("another").pem) as w:
        answer = await w.ask(w.get("/v1/files"), "narrow.example")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"no certificate that is trusted here" in answer
        assert w.secure.asked == []


async def test_a_site_with_the_certificate_of_another_is_not_spoken_to() -> None:
    rules = EgressRules("listed", rules=(HostRule("unknown.example", methods=frozenset({"GET"})),))
    async with ways(rules) as w:
        answer = await w.ask(w.get("/", "unknown.example"), "unknown.example")
        assert b"no certificate that is trusted here" in answer
        assert w.secure.asked == []


async def test_a_cut_answer_is_cut_inside_of_the_tunnel() -> None:
    async with ways() as w:
        w.secure.answer = lambda asked: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
        reader, writer = await w.tls("narrow.example")
        writer.write(w.get("/v1/files"))
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"half")
            w.secure.writers[0].transport.abort()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
                await reader.readexactly(5)


async def test_large_bodies_cross_in_both_directions() -> None:
    size = 3_000_000
    async with ways() as w:
        w.secure.answer = lambda asked: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + asked.body
        request = w.get("/v1/files", "narrow.example", f"Content-Length: {size}", "Expect: 100-continue", method="POST")
        reader, writer = await w.tls("narrow.example")
        writer.write(request)
        async with asyncio.timeout(DEADLINE):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"x" * size)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(size) == b"x" * size


async def test_http_on_a_plain_port_is_read_and_goes_to_the_named_host_only() -> None:
    async with ways() as w:
        for host, status in (("allowed.example", b"200"), ("other.example", b"403")):
            reader, writer = await w.tunnel("allowed.example", w.plain.port)
            writer.write(f"GET /x HTTP/1.1\r\nHost: {host}:{w.plain.port}\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE):
                assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
        assert [asked.line for asked in w.plain.asked] == ["GET /x HTTP/1.1"]
        await w.recorder.denied("host_header_mismatch")


async def test_a_decision_inside_that_is_not_recorded_lets_nothing_through() -> None:
    async with ways() as w:
        reader, writer = await w.tls("narrow.example")
        w.recorder.fail = True
        writer.write(w.get("/v1/files"))
        async with asyncio.timeout(DEADLINE):
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert w.secure.asked == []


async def test_an_endless_head_inside_is_refused() -> None:
    async with ways(limits=EgressLimits(head_bytes=8192)) as w:
        reader, writer = await w.tls("narrow.example")
        writer.write(b"GET /v1/files HTTP/1.1\r\nX: " + b"y" * 20_000)
        async with asyncio.timeout(DEADLINE):
            assert b"the head of the request is too large" in (await reader.read()).lower()


async def test_an_endless_head_of_the_site_is_cut() -> None:
    async with ways(limits=EgressLimits(head_bytes=8192)) as w:
        w.secure.answer = lambda asked: b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000
        assert b"reason=bad_answer" in await w.ask(w.get("/v1/files"), "narrow.example")


@pytest.mark.parametrize("limits", [EgressLimits(connection_bytes=200_000), EgressLimits(session_bytes=200_000)])
async def test_bytes_are_bounded(limits: EgressLimits) -> None:
    async with ways(limits=limits) as w:
        w.secure.answer = lambda asked: b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000
        received = 0
        reader, writer = await w.tls("narrow.example")
        writer.write(w.get("/v1/files"))
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while data := await reader.read(65536):
                    received += len(data)
        assert received < 500_000
        reason = "connection_bytes" if limits.connection_bytes else "session_bytes"
        await w.recorder.denied(reason)
        answer = await w.say(f"CONNECT allowed.example:{w.secure.port} HTTP/1.1\r\nHost: x\r\n\r\nx".encode())
        assert (b"reason=session_bytes" in answer) is bool(limits.session_bytes)


# ------------------------------------------------------------------------------------------------------------- secrets


def told(asked: Asked) -> bytes:
    """Everything that the site was told, told again."""
    body = asked.line.encode() + str(asked.headers).encode() + asked.body
    return b"HTTP/1.1 200 OK\r\nX-Echo: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        asked.headers.get("authorization", "").encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("framing", ["small", "chunked", "large"])
async def test_placeholders_become_secrets_on_the_way_and_secrets_placeholders_on_the_way_back(
    secure: bool, framing: str
) -> None:
    async with ways(BOTH, secrets=SwapsPlaceholders()) as w:
        w.secure.answer = w.plain.answer = told
        port = (w.secure if secure else w.plain).port
        filler = b"x" * (300_000 if framing == "large" else 10)
        body = filler + PLACEHOLDER + b"end"
        length = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {len(body)}"
        target = "/p?key=PLACEHOLDER" if secure else f"http://secret.example:{port}/p?key=PLACEHOLDER"
        head = f"POST {target} HTTP/1.1\r\nHost: secret.example:{port}\r\n{length}\r\n"
        head += "Authorization: Bearer PLACEHOLDER\r\n"
        sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:15], body[15:])) + b"0\r\n\r\n"
        data = head.encode() + b"Connection: close\r\n\r\n" + (sent if framing == "chunked" else body)
        answer = await (w.ask(data, "secret.example") if secure else w.say(data))
        (asked,) = (w.secure if secure else w.plain).asked
        assert asked.line == "POST /p?key=the-true-secret HTTP/1.1"
        assert asked.headers["authorization"] == "Bearer the-true-secret"
        assert asked.body == filler + SECRET + b"end"
        assert ("content-length" in asked.headers) is (framing == "small")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert SECRET not in answer
        assert b"x-echo: Bearer PLACEHOLDER" in answer
        assert w.recorder.decisions[-1].path == "/p"


async def test_a_placeholder_for_another_host_is_refused_with_the_hint() -> None:
    async with ways(BOTH, secrets=SwapsPlaceholders()) as w:
        data = f"GET http://other.example:{w.plain.port}/ HTTP/1.1\r\nHost: x\r\nX: PLACEHOLDER\r\n\r\n".encode()
        answer = await w.say(data)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"This secret is for secret.example only." in answer
        denied = await w.recorder.denied("secret_elsewhere")
        assert denied.hint == "This secret is for secret.example only."
        assert w.plain.asked == []


@pytest.mark.parametrize("secret", [b"a\r\nHost: evil", b"a\nb", b"a\0b"])
async def test_a_secret_that_would_begin_a_line_of_its_own_is_not_sent(secret: bytes) -> None:
    async with ways(BOTH, secrets=SwapsPlaceholders(secret=secret)) as w:
        answer = await w.ask(w.get("/", "secret.example", "Authorization: PLACEHOLDER"), "secret.example")
        assert b"reason=unsafe_request" in answer
        answer = await w.ask(w.get("/PLACEHOLDER", "secret.example"), "secret.example")
        assert b"reason=unsafe_request" in answer
        assert w.secure.asked == []


async def test_a_secret_does_not_lead_a_path_out_of_its_rule() -> None:
    rules = EgressRules("listed", rules=(HostRule("secret.example", paths=("/v1",)),))
    async with ways(rules, secrets=SwapsPlaceholders(secret=b"../admin")) as w:
        assert b"reason=path_not_allowed" in await w.ask(w.get("/v1/PLACEHOLDER", "secret.example"), "secret.example")
        assert w.secure.asked == []


async def test_a_secret_that_cannot_be_opened_lets_nothing_through() -> None:
    async with ways(BOTH, secrets=FailsToOpen()) as w:
        assert b"reason=secret_unavailable" in await w.ask(w.get("/", "secret.example"), "secret.example")
        assert w.secure.asked == []


async def test_hosts_without_a_secret_are_passed_through() -> None:
    secrets = SwapsPlaceholders()
    async with ways(BOTH, secrets=secrets) as w:
        _, writer = await w.tls("other.example", trust=world().pem)
        assert writer.get_extra_info("ssl_object").getpeercert()["issuer"][1][0][1].endswith("the sites' authority")
        assert secrets.begun == []


@dataclass
class RefusesAnswers(SwapsPlaceholders):
    """Implements `RoadSecrets`: the answer can't be read, at its head, in its middle or at its end."""

    at: str = "head"

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        return RefusedAnswer(head, self.at)


@dataclass
class RefusedAnswer:
    head: RequestHead
    at: str
    body: Filter | None = None

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        if self.at == "head":
            raise SecretRefused("answer_unreadable", "It is in a coding that can't be searched.")
        return [field for field in headers if field[0] != b"content-length"], self

    def feed(self, piece: bytes) -> bytes:
        if self.at == "body":
            raise SecretRefused("answer_unreadable", "It is damaged.")
        return piece

    def end(self) -> bytes:
        raise SecretRefused("answer_unreadable", "It is cut off.")


@pytest.mark.parametrize("at", ["head", "body", "end"])
async def test_an_answer_that_cannot_be_searched_for_secrets_is_not_taken_for_a_whole_one(at: str) -> None:
    async with ways(BOTH, secrets=RefusesAnswers(at=at)) as w:
        try:
            answer = await w.ask(w.get("/", "secret.example"), "secret.example")
        except (ConnectionError, ssl.SSLError):
            answer = b""
        assert not answer.endswith(b"0\r\n\r\n")
        assert (b"x-hostler-egress: denied; reason=answer_unreadable\r\n" in answer) is (at == "head")
        await w.recorder.denied("answer_unreadable")


# ---------------------------------------------------------------------------------------------------------- websockets

UPGRADE = (
    "GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: PLACEHOLDER\r\n\r\n"
)
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


@pytest.mark.parametrize("way", ["plain", "ended", "passed through"])
async def test_a_websocket_is_open_in_both_directions(way: str) -> None:
    async with ways() as w:
        site = w.plain if way == "plain" else w.secure
        site.answer = lambda asked: AGREED + b"\x81\x02hi"
        host = "narrow.example" if way == "ended" else "allowed.example"
        target = f"http://{host}:{site.port}/v1/files/ws" if way == "plain" else "/v1/files/ws"
        request = UPGRADE.format(target=target, host=host, port=site.port).encode()
        if way == "plain":
            reader, writer = await w.connect()
        else:
            reader, writer = await w.tls(host, trust=world().pem if way == "passed through" else None)
        writer.write(request + b"\x81\x85early")
        async with asyncio.timeout(DEADLINE):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"upgrade: websocket" in head.lower()
            assert await reader.readexactly(4) == b"\x81\x02hi"
            assert await reader.readexactly(7) == b"\x81\x85early"
            writer.write(b"\x81\x84more")
            assert await reader.readexactly(6) == b"\x81\x84more"
        assert site.asked[0].headers["upgrade"] == "websocket"


async def test_a_secret_in_a_websockets_frames_is_taken_out_again() -> None:
    async with ways(BOTH, secrets=SwapsPlaceholders()) as w:
        whole = b"\x81" + bytes((len(SECRET) + 4,)) + b"a " + SECRET + b" b"
        split = b"\x01\x05" + SECRET[:5] + b"\x80" + bytes((len(SECRET) - 5,)) + SECRET[5:]
        w.secure.answer = lambda asked: AGREED + whole + split + b"\x89" + bytes((len(SECRET),)) + SECRET
        reader, writer = await w.tls("secret.example")
        writer.write(UPGRADE.format(target="/", host="secret.example", port=w.secure.port).encode())
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(2 + 15) == b"\x81\x0fa PLACEHOLDER b"
            assert await reader.readexactly(4 + 11) == b"\x01\x00\x80\x0bPLACEHOLDER"
            assert await reader.readexactly(2 + 11) == b"\x89\x0bPLACEHOLDER"
        assert w.secure.asked[0].headers["authorization"] == SECRET.decode()
        assert "sec-websocket-extensions" not in w.secure.asked[0].headers


async def test_an_answer_that_does_not_agree_to_the_websocket_is_an_answer() -> None:
    async with ways() as w:
        reader, writer = await w.tls("narrow.example")
        writer.write(UPGRADE.format(target="/v1/files", host="narrow.example", port=w.secure.port).encode())
        w.secure.answer = lambda asked: b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno"
        async with asyncio.timeout(DEADLINE):
            assert (await reader.read()).endswith(b"no")


async def test_a_switch_that_nobody_asked_for_is_no_answer() -> None:
    async with ways() as w:
        w.secure.answer = lambda asked: AGREED + b"raw"
        assert b"reason=bad_answer" in await w.ask(w.get("/v1/files"), "narrow.example")


async def test_the_authoritys_certificate_is_one_that_strict_clients_take() -> None:
    authority = Authority("sesn_x")
    context = trusting(authority.pem)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("a.example", "127.0.0.1", "x" * 60 + ".example"):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=host)
        server = authority.make(host).wrap_bio(outgoing, incoming, server_side=True)
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert client.version() == "TLSv1.3"
