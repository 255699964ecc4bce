"""The egress road through real sockets: what is let through, to which address, and what is written down about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hostler.egress import EgressLimits, EgressProxy, EgressRoad
from hostler.engine.egress_port import EgressDecision, EgressRules, HostRule

DEADLINE = 60.0
LISTED = EgressRules("listed", ("allowed.example", "*.below.example", "rebinds.example", "mixed.example"))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Recorder:
    decisions: list[EgressDecision] = field(default_factory=list)
    fail: bool = False

    async def record(self, decision: EgressDecision) -> None:
        if self.fail:
            raise OSError("no database")
        self.decisions.append(decision)

    def last(self) -> tuple[str, str, bool, str]:
        decision = self.decisions[-1]
        return decision.method, decision.host, decision.allowed, decision.reason


@dataclass
class Names:
    """A resolver with one list of answers for each name; each question takes the next answer."""

    answers: dict[str, list[Sequence[str]]]
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        known = self.answers.get(host)
        if not known:
            raise OSError("no such name")
        return known.pop(0) if len(known) > 1 else known[0]


@dataclass
class Road:
    socket: Path
    recorder: Recorder
    names: Names
    road: EgressRoad
    port: int
    connected: list[bytes]
    ended: asyncio.Event
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        self.writers.append(writer)
        return reader, writer

    async def say(self, data: bytes) -> bytes:
        """Sends `data` and reads to the end of the connection."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(DEADLINE):
            return await reader.read()

    async def tunnel(self, host: str = "allowed.example") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{self.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        return reader, writer


class KeepingReader(asyncio.StreamReader):
    """Also keeps what it is fed, in its place of a list."""

    def __init__(self, kept: list[bytes]) -> None:
        super().__init__(limit=1 << 16)
        self._kept = kept
        self._place = len(kept) - 1

    def feed_data(self, data: bytes) -> None:
        self._kept[self._place] += data
        super().feed_data(data)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def answers(response: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    return serve


@asynccontextmanager
async def road(
    tmp_path: Path,
    serve: Serve = echo,
    *,
    rules: EgressRules = LISTED,
    recorder: Recorder | None = None,
    limits: EgressLimits | None = None,
    all_ports: bool = False,
) -> AsyncIterator[Road]:
    """A road whose allowed names lead to a server on this machine that keeps what it reads first.

    Its port is one that a rule opens, so a tunnel to it may carry anything.
    """
    connected: list[bytes] = []
    ended = asyncio.Event()
    open_writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        try:
            await serve(reader, writer)
        finally:
            ended.set()
            writer.close()

    def accept() -> asyncio.StreamReaderProtocol:
        connected.append(b"")
        return asyncio.StreamReaderProtocol(KeepingReader(connected), handle)

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names = Names(
        {
            "allowed.example": [["127.0.0.1"]],
            "a.below.example": [["127.0.0.1"]],
            "private.example": [["127.0.0.2"]],
            "rebinds.example": [["127.0.0.1"], ["127.0.0.2"]],
            "mixed.example": [["127.0.0.1", "10.0.0.1"]],
        }
    )
    recorder = recorder or Recorder()
    proxy = EgressProxy(
        recorder,
        resolver=names,
        private_allowed=frozenset({"127.0.0.1"}),
        ports=frozenset({80, 443} if rules.allow == "listed" else {port, 80, 443}),
        limits=limits,
    )
    raw = tuple(HostRule(host, ports=frozenset({port})) for host in rules.hosts)
    opened = await proxy.open("sesn_1", tmp_path / "egress.sock", replace(rules, rules=raw))
    made = Road(tmp_path / "egress.sock", recorder, names, opened, port, connected, ended)
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await proxy.close()
        server.close()
        for writer in open_writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        await server.wait_closed()


# ------------------------------------------------------------------------------------------------------------ tunnels


async def test_a_tunnel_carries_bytes_both_ways_and_is_recorded_first(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        reader, writer = await r.tunnel()
        assert r.recorder.decisions == [
            EgressDecision("sesn_1", "CONNECT", "allowed.example", r.port, True, "allowed_rule")
        ]
        writer.write(b"\x16\x03\x01hello")
        async with asyncio.timeout(DEADLINE):
            assert await reader.readexactly(8) == b"\x16\x03\x01hello"


async def test_names_below_a_wildcard_are_allowed(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        await r.tunnel("A.below.example.")
        assert r.recorder.last() == ("CONNECT", "a.below.example", True, "allowed_rule")


async def test_bytes_sent_before_the_answer_arrive_after_it(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        reader, writer = await r.connect()
        writer.write(f"CONNECT allowed.example:{r.port} HTTP/1.1\r\nHost: x\r\n\r\nearly".encode())
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"early"


async def test_the_end_of_one_direction_leaves_the_other_open(tmp_path: Path) -> None:
    async def sum_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d bytes" % len(await reader.read()))

    async with road(tmp_path, sum_up) as r:
        reader, writer = await r.tunnel()
        writer.write(b"x" * 300_000)
        writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b"300000 bytes"


async def test_a_client_that_goes_takes_its_target_along(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        _, writer = await r.tunnel()
        writer.transport.abort()
        async with asyncio.timeout(DEADLINE):
            await r.ended.wait()


async def test_a_slow_reader_slows_the_target_down(tmp_path: Path) -> None:
    size = 30_000_000
    wrote = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * size)
        for _ in range(2000):
            await asyncio.sleep(0)  # Turns of the loop, so that everything that can move has moved.
        assert writer.transport.get_write_buffer_size() > size // 3
        wrote.set()
        await writer.drain()

    async with road(tmp_path, flood) as r:
        reader, _ = await r.tunnel()
        async with asyncio.timeout(DEADLINE):
            await wrote.wait()
            received = 0
            while data := await reader.read(1 << 20):
                received += len(data)
        assert received == size


async def test_a_tunnel_that_moves_nothing_is_closed(tmp_path: Path) -> None:
    async with road(tmp_path, limits=EgressLimits(idle_seconds=0.05)) as r:
        reader, _ = await r.tunnel()
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await r.ended.wait()


# ------------------------------------------------------------------------------------------------------------- denials


@pytest.mark.parametrize(
    ("request_line", "status", "host", "reason"),
    [
        ("CONNECT evil-allowed.example:443", 403, "evil-allowed.example", "host_not_allowed"),
        ("CONNECT allowed.example.evil.tld:443", 403, "allowed.example.evil.tld", "host_not_allowed"),
        ("CONNECT below.example:443", 403, "below.example", "host_not_allowed"),
        ("CONNECT allowed.example:22", 403, "allowed.example", "port_blocked"),
        ("GET http://allowed.example:6379/", 403, "allowed.example", "port_blocked"),
        ("CONNECT 127.0.0.1:443", 403, "127.0.0.1", "address_literal"),
        ("CONNECT 2130706433:80", 403, "2130706433", "address_literal"),
        ("CONNECT 0x7f.1:80", 403, "0x7f.1", "address_literal"),
        ("CONNECT 017700000001:80", 403, "017700000001", "address_literal"),
        ("CONNECT [0:0::1]:80", 403, "::1", "address_literal"),
        ("GET http://169.254.169.254/latest/meta-data/", 403, "169.254.169.254", "address_literal"),
        ("CONNECT a:b@allowed.example:443", 400, "a:b@allowed.example:443", "bad_request"),
        ("CONNECT allowed.example", 400, "allowed.example", "bad_request"),
        ("GET http://user@allowed.example/", 400, "http://user@allowed.example/", "bad_request"),
        ("GET https://allowed.example/", 400, "https://allowed.example/", "bad_request"),
        ("GET /etc/passwd", 400, "/etc/passwd", "bad_request"),
        ("GET http://allowed.example%00.evil/", 400, "http://allowed.example%00.evil/", "bad_request"),
    ],
)
async def test_what_is_not_allowed_is_denied_with_its_reason_and_recorded(
    tmp_path: Path, request_line: str, status: int, host: str, reason: str
) -> None:
    async with road(tmp_path) as r:
        answer = await r.say(f"{request_line} HTTP/1.1\r\nHost: allowed.example\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nx-hostler-egress: denied; reason=" + reason.encode() in head
        assert reason in body.decode()
        assert r.recorder.last() == (request_line.split(" ")[0], host, False, reason)
        assert r.names.asked == []
        assert r.connected == []


async def test_a_denial_says_which_rule_would_allow_it(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        answer = await r.say(b"CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'add "other.example" to the allowed hosts' in answer


async def test_an_empty_list_is_nothing_and_not_everything(tmp_path: Path) -> None:
    async with road(tmp_path, rules=EgressRules("listed")) as r:
        for host in ("allowed.example", "private.example", "127.0.0.1"):
            assert b" 403 " in await r.say(f"CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert [d.allowed for d in r.recorder.decisions] == [False] * 3


async def test_public_is_every_name_but_not_the_private_ones(tmp_path: Path) -> None:
    async with road(tmp_path, rules=EgressRules("public")) as r:
        await r.tunnel()
        assert r.recorder.last()[3] == "public_host"
        answer = await r.say(f"CONNECT private.example:{r.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"reason=private_address" in answer
        answer = await r.say(b"CONNECT unknown.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert r.recorder.last()[3] == "unresolvable"


async def test_one_private_address_among_public_ones_is_enough_to_refuse(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        answer = await r.say(f"CONNECT mixed.example:{r.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"reason=private_address" in answer
        assert r.connected == []


async def test_a_name_is_resolved_once_and_only_the_checked_address_is_used(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        await r.tunnel("rebinds.example")
        assert r.names.asked == ["rebinds.example"]
        answer = await r.say(f"CONNECT rebinds.example:{r.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"reason=private_address" in answer


async def test_a_decision_that_cannot_be_recorded_lets_nothing_through(tmp_path: Path) -> None:
    async with road(tmp_path, recorder=Recorder(fail=True)) as r:
        for host in ("allowed.example", "other.example"):
            answer = await r.say(f"CONNECT {host}:{r.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 503 ")
        assert r.connected == []


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\x05\x01\x00\x00\r\n\r\n",
        b"GET http://allowed.example/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET http://allowed.example/ HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        b"GET http://allowed.example/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST http://allowed.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST http://allowed.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://allowed.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET http://allowed.example/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT allowed.example:443\nHost: x\n\n",
        b"GET http://allowed.example/ HTTP/1.1\r\nX: " + b"y" * 70_000,
    ],
)
async def test_what_two_readers_could_take_differently_is_400(tmp_path: Path, data: bytes) -> None:
    async with road(tmp_path) as r:
        assert (await r.say(data)).startswith(b"HTTP/1.1 400 ")
        assert r.recorder.last()[2:] == (False, "bad_request")
        assert r.connected == []


async def test_a_client_that_trickles_is_dropped(tmp_path: Path) -> None:
    async with road(tmp_path, limits=EgressLimits(head_seconds=0.05)) as r:
        assert await r.say(b"CONNECT allo") == b""


async def test_connections_of_a_session_are_bounded(tmp_path: Path) -> None:
    async with road(tmp_path, limits=EgressLimits(connections=1)) as r:
        await r.tunnel()
        reader, _ = await r.connect()
        async with asyncio.timeout(DEADLINE):
            assert b"too_many_connections" in await reader.read()


async def test_an_allowed_host_that_does_not_answer_is_502(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        answer = await r.say(b"CONNECT allowed.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"x-hostler-egress: failed; reason=unreachable" in answer


# ---------------------------------------------------------------------------------------------------------- plain HTTP


async def test_a_plain_request_goes_on_with_the_checked_host_and_without_hop_by_hop_headers(tmp_path: Path) -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n\r\nok"
    async with road(tmp_path, answers(response)) as r:
        answer = await r.say(
            f"POST http://allowed.example:{r.port}/a?b=c HTTP/1.1\r\nHost: internal.example\r\nContent-Length: 4\r\n"
            "Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nConnection: X-Named, close\r\n"
            "X-Named: 1\r\nX-Kept: 2\r\n\r\nbody".encode()
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b"\r\n") == [b"HTTP/1.1 200 OK", b"content-length: 2", b"x-kept: 1", b"connection: close"]
        assert body == b"ok"
        sent, _, sent_body = r.connected[0].partition(b"\r\n\r\n")
        assert sent.decode().split("\r\n") == [
            "POST /a?b=c HTTP/1.1",
            f"host: allowed.example:{r.port}",
            "content-length: 4",
            "x-kept: 2",
        ]
        assert sent_body == b"body"
        assert r.recorder.last() == ("POST", "allowed.example", True, "allowed_rule")


async def test_chunked_bodies_cross_both_ways(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    async with road(tmp_path, serve) as r:
        reader, writer = await r.connect()
        head = f"POST http://allowed.example:{r.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        head += "Connection: close\r\n"
        writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"4\r\nwxyz\r\n")
            writer.write(b"0\r\n\r\n")
            answer = await reader.read()
        assert answer.endswith(b"\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert r.connected[0].endswith(b"transfer-encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n")
        assert b"expect" not in r.connected[0].lower()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"a\r\nto the end\r\n0\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_answers_of_every_framing_arrive(tmp_path: Path, response: bytes, expected: bytes) -> None:
    async with road(tmp_path, answers(response)) as r:
        answer = await r.say(
            f"GET http://allowed.example:{r.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.partition(b"\r\n\r\n")[2] == expected
        assert b"Early Hints" not in answer


async def test_the_answer_to_head_has_no_body(tmp_path: Path) -> None:
    async with road(tmp_path, answers(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")) as r:
        answer = await r.say(
            f"HEAD http://allowed.example:{r.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"content-length: 999\r\n" in answer


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ],
)
async def test_a_cut_answer_is_cut_for_the_client(tmp_path: Path, response: bytes) -> None:
    async with road(tmp_path, answers(response)) as r:
        try:
            answer = await r.say(
                f"GET http://allowed.example:{r.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
        except ConnectionError:
            return
        assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "response", [b"", b"SSH-2.0-OpenSSH\r\n", b"-ERR unknown command\r\n", b"HTTP/1.1 101 S\r\n\r\nraw"]
)
async def test_what_is_not_http_does_not_answer_plain_http(tmp_path: Path, response: bytes) -> None:
    async with road(tmp_path, answers(response)) as r:
        answer = await r.say(
            f"GET http://allowed.example:{r.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"SSH" not in answer
        assert b"ERR" not in answer


async def test_requests_on_one_connection_are_answered_in_their_order(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + head[5:7])

    async with road(tmp_path, serve) as r:
        one = f"GET http://allowed.example:{r.port}/11 HTTP/1.1\r\nHost: x\r\n\r\n"
        two = f"GET http://allowed.example:{r.port}/22 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await r.say((one + two).encode())
        assert answer.index(b"\r\n\r\n11") < answer.index(b"\r\n\r\n22")
        assert len(r.connected) == 1  # The second went over the connection that the first had left.
        assert [d.path for d in r.recorder.decisions] == ["/11", "/22"]


async def test_nothing_is_served_behind_a_request_that_said_it_is_the_last(tmp_path: Path) -> None:
    async with road(tmp_path, answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as r:
        one = f"GET http://allowed.example:{r.port}/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        two = f"GET http://allowed.example:{r.port}/2 HTTP/1.1\r\nHost: x\r\n\r\n"
        assert (await r.say((one + two).encode())).endswith(b"ok")
        assert not any(b"/2" in seen for seen in r.connected)
        assert [d.path for d in r.recorder.decisions] == ["/1"]


# ------------------------------------------------------------------------------------------------------ roads and rules


async def test_closing_a_road_ends_its_tunnels_and_removes_its_socket(tmp_path: Path) -> None:
    async with road(tmp_path) as r:
        reader, _ = await r.tunnel()
        await r.road.close()
        await r.road.close()
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await r.ended.wait()
        assert not r.socket.exists()


async def test_a_malformed_rule_opens_no_road(tmp_path: Path) -> None:
    proxy = EgressProxy(Recorder(), resolver=Names({}))
    with pytest.raises(ValueError, match=r"https://a\.example"):
        await proxy.open("s", tmp_path / "s", EgressRules("listed", ("https://a.example",)))
    assert not (tmp_path / "s").exists()
    await proxy.close()


async def test_loopback_names_of_the_system_resolver_are_private(tmp_path: Path) -> None:
    recorder = Recorder()
    proxy = EgressProxy(recorder, resolver=None)
    await proxy.open("s", tmp_path / "s", EgressRules("public"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    await proxy.close()
    assert b"reason=private_address" in answer
