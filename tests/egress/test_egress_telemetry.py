"""The door for the spans of a session's harness: what goes through it, and that there is none where traces are off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostler.egress import EgressProxy
from hostler.engine.egress_port import EgressDecision, EgressRules, IntakeAnswer

DEADLINE = 60.0
NOTHING = EgressRules("listed")
HOST = "telemetry.hostler.internal"


@dataclass
class Recorder:
    decisions: list[EgressDecision] = field(default_factory=list)

    async def record(self, decision: EgressDecision) -> None:
        self.decisions.append(decision)


@dataclass
class Intake:
    """Takes everything, except what says `bad`."""

    taken: list[tuple[str, bytes]] = field(default_factory=list)

    def take(self, session_id: str, body: bytes) -> IntakeAnswer:
        self.taken.append((session_id, body))
        return IntakeAnswer(400 if body == b"bad" else 200, b"{}")


@dataclass
class Open:
    socket: Path
    intake: Intake
    recorder: Recorder

    async def say(self, data: bytes) -> bytes:
        """Sends `data` and reads to the end of the connection."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(data)
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def opened(tmp_path: Path, session: str = "sesn_1", *, on: bool = True) -> AsyncIterator[Open]:
    intake, recorder = Intake(), Recorder()
    proxy = EgressProxy(recorder, telemetry=intake if on else None)
    road = await proxy.open(session, tmp_path / "s", NOTHING)
    try:
        yield Open(tmp_path / "s", intake, recorder)
    finally:
        await road.close()
        await proxy.close()


def post(body: bytes, *, path: str = "/v1/traces", host: str = HOST, more: str = "Connection: close\r\n") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


CONNECT = f"CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n".encode()


async def test_spans_come_through_a_tunnel_and_plainly_as_those_of_the_roads_session(tmp_path: Path) -> None:
    async with opened(tmp_path, "sesn_mine") as it:
        in_tunnel = await it.say(CONNECT + post(b"one", more="") + post(b"two"))
        assert in_tunnel.count(b"HTTP/1.1 200 ") == 3
        plain = await it.say(post(b"three", path=f"http://{HOST}/v1/traces"))
        assert plain.startswith(b"HTTP/1.1 200 OK\r\n")
        assert it.intake.taken == [("sesn_mine", b"one"), ("sesn_mine", b"two"), ("sesn_mine", b"three")]
        assert it.recorder.decisions == []  # nothing was connected to


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (post(b"bad"), 400),
        (post(b"x", path="/v1/logs"), 404),
        (post(b"x", path="/v1/traces/../metrics"), 404),
        (post(b"x", path="/v1/%74races"), 404),
        (post(b"x").replace(b"POST", b"GET"), 404),
        (post(b"x" * (600 << 10)), 413),
        (b"CONNECT somewhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (post(b"x", more="Transfer-Encoding: chunked\r\n"), 404),
        (b"\x16\x03\x01\x02\x00 tls", 404),
    ],
)
async def test_nothing_else_goes_through(tmp_path: Path, said: bytes, status: int) -> None:
    async with opened(tmp_path) as it:
        answer = await it.say(CONNECT + said)
        assert answer.split(b"\r\n\r\n", 1)[1].startswith(b"HTTP/1.1 %d " % status), answer
        assert it.intake.taken in ([], [("sesn_1", b"bad")])
        assert it.recorder.decisions == []


async def test_half_an_export_is_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        _, writer = await asyncio.open_unix_connection(str(it.socket))
        writer.write(CONNECT + post(b"whole")[:-1])
        await writer.drain()
        writer.close()
        assert (await it.say(CONNECT + post(b"next"))).count(b"200 ") == 2
        assert it.intake.taken == [("sesn_1", b"next")]


async def test_where_traces_are_off_it_is_a_host_like_any_other(tmp_path: Path) -> None:
    async with opened(tmp_path, on=False) as it:
        assert (await it.say(CONNECT)).startswith(b"HTTP/1.1 403 ")
        assert [decision.reason for decision in it.recorder.decisions] == ["host_not_allowed"]
        assert it.intake.taken == []
