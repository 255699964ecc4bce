"""A10 and A11: what does a session gain when the proxy dies, and what when it is worn out?

The bounds of the proxy under attack are small, so that reaching them costs the host nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from hostler.attacks.canary import Decisions, Met
from hostler.attacks.cases import Case, OnProxy, Severity
from hostler.attacks.grounds import LISTED, Bounds, ProxyGround, connect, first_line, get, heard, is_denial


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


# ----------------------------------------------------------------------------------------------------------- A10: death


async def _closed_tunnel(ground: ProxyGround) -> Sequence[str]:
    """Both ends of an open tunnel hear of it, and nothing more is carried."""
    async with ground.road() as road:
        ground.canaries.answer = _takes_in
        reader, writer = await road.tunnel()
        writer.write(b"POST / HTTP/1.1\r\n\r\n")
        await road.road.close()
        writer.write(b"after-the-end")
        try:
            async with asyncio.timeout(2):
                ended = await reader.read() == b""
        except ConnectionError:
            ended = True
        except TimeoutError:
            ended = False
        found = [] if ended else ["a tunnel outlived its road"]
        if b"after-the-end" in ground.canaries.seen:
            found.append("bytes were carried after the road was closed")
        return found


async def _takes_in(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            met.data += piece


async def _closed_socket(ground: ProxyGround) -> Sequence[str]:
    async with ground.road() as road:
        await road.road.close()
        try:
            answer = await road.say(get(f"http://allowed.example:{ground.canaries.port}/"), seconds=1.0)
        except OSError:
            return ()
        return (f"somebody still answers: {first_line(answer)!r}",)


async def _no_record(ground: ProxyGround) -> Sequence[str]:
    """A decision that can't be written down lets nothing through."""
    found: list[str] = []
    for data in (
        connect("allowed.example", ground.canaries.port),
        get(f"http://allowed.example:{ground.canaries.port}/"),
    ):
        async with ground.road(decisions=Decisions(fails=True)) as road:
            answer = await road.say(data)
            if ground.canaries.met:
                found.append("an unrecorded request reached the server")
            if not is_denial(answer):
                found.append(f"an unrecorded request was answered {first_line(answer)!r}")
    return found


async def _no_resolver(ground: ProxyGround) -> Sequence[str]:
    return await ground.refused(connect("allowed.example", ground.canaries.port), names={"allowed.example": [[]]})


# ----------------------------------------------------------------------------------------------------- A11: wearing out


def _is_dropped(data: bytes, trickle: bytes = b"") -> OnProxy:
    """A request that never gets finished is given up after the time for a head (0.3 s here)."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        async with ground.road(bounds=Bounds(head_seconds=0.3)) as road:
            reader, writer = await road.connect()
            began = monotonic()
            with suppress(ConnectionError):
                writer.write(data)
                while monotonic() - began < 2.5:
                    try:
                        async with asyncio.timeout(0.05):
                            if not await reader.read(65536):
                                return ()
                    except TimeoutError:
                        writer.write(trickle)
            if monotonic() - began < 2.5:
                return ()
            return ("a request that never ends keeps its connection",)

    return attack


def _too_large(head: bytes) -> OnProxy:
    async def attack(ground: ProxyGround) -> Sequence[str]:
        return await ground.refused(head.replace(b"PORT", str(ground.canaries.port).encode()))

    return attack


async def _many_connections(ground: ProxyGround) -> Sequence[str]:
    """Of 64 connections of one session at most 8 are kept; a neighbour's road answers meanwhile."""
    async with ground.road(bounds=Bounds(connections=8)) as road:
        ground.canaries.answer = _takes_in
        refused = 0
        for _ in range(64):
            try:
                reader, writer = await road.connect()
                writer.write(connect("allowed.example", ground.canaries.port))
                answer = await heard(reader, seconds=2.0)
            except OSError:
                answer = b""
            refused += b" 200 " not in answer[:20]
        found = [] if refused >= 56 else [f"{64 - refused} connections of one session were kept; the bound is 8"]
        neighbour = ground.place / "neighbour.sock"
        other = await road.proxy.open("sesn_neighbour", neighbour, LISTED)
        road.socket = neighbour
        ground.canaries.forget()
        answer = await road.say(get(f"http://allowed.example:{ground.canaries.port}/"))
        if b"canary" not in answer:
            found.append(f"a neighbour was answered {first_line(answer)!r} meanwhile")
        await other.close()
        return found


async def _idle_tunnel(ground: ProxyGround) -> Sequence[str]:
    async with ground.road(bounds=Bounds(idle_seconds=0.3, head_seconds=0.3)) as road:
        ground.canaries.answer = _takes_in
        reader, _ = await road.tunnel()
        try:
            async with asyncio.timeout(3):
                await reader.read()
        except ConnectionError:
            return ()
        except TimeoutError:
            return ("a tunnel that moves nothing is kept",)
        return ()


async def _slow_reader(ground: ProxyGround) -> Sequence[str]:
    """A server that floods a reader who never reads: the proxy must stop taking, not keep it all."""
    taken = 0

    async def flood(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        with suppress(TimeoutError, OSError):
            for _ in range(512):
                writer.write(b"x" * 65536)
                async with asyncio.timeout(0.5):
                    await writer.drain()
                taken += 65536

    async with ground.road() as road:
        ground.canaries.answer = flood
        reader, writer = await road.connect()
        transport = writer.transport
        writer.write(get(f"http://allowed.example:{ground.canaries.port}/"))
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
        transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(60):
            before = taken
            await asyncio.sleep(0.1)
            if taken == before:
                break
        return (f"the proxy took {taken >> 20} MiB for a reader that reads nothing",) if taken > 24 << 20 else ()


_HEAD = b"GET http://allowed.example:PORT/ HTTP/1.1\r\nHost: allowed.example\r\n"

CASES = (
    _case("A10.1", "an open tunnel when the road is closed", _closed_tunnel),
    _case("A10.2", "a new connection when the road is closed", _closed_socket),
    _case("A10.3", "requests while decisions can't be recorded", _no_record),
    _case("A10.4", "a request while names can't be resolved", _no_resolver),
    _case("A11.1", "a request line that never ends", _is_dropped(b"CONNECT allo"), "high"),
    _case("A11.2", "a request line that trickles", _is_dropped(b"GET http://allowed.example/", b"a"), "high"),
    _case(
        "A11.3", "headers that trickle", _is_dropped(b"GET http://allowed.example/ HTTP/1.1\r\n", b"x: y\r\n"), "high"
    ),
    _case("A11.4", "a connection that says nothing", _is_dropped(b""), "high"),
    _case("A11.5", "a header without end", _too_large(_HEAD + b"X: " + b"y" * 40_000), "high"),
    _case("A11.6", "ten thousand headers", _too_large(_HEAD + b"x: y\r\n" * 10_000 + b"\r\n"), "high"),
    _case("A11.7", "a path without end", _too_large(b"GET http://allowed.example:PORT/" + b"a" * 40_000), "high"),
    _case("A11.8", "more connections than a session may have", _many_connections, "high"),
    _case("A11.9", "a tunnel that moves nothing", _idle_tunnel, "medium"),
    _case("A11.10", "a flood for a reader that doesn't read", _slow_reader, "high"),
)
