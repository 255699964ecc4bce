"""What happens to one session's requests on its egress road?

A plain request is judged, recorded, and made anew. A tunnel is passed through once its client has named the right
server; it is ended here where a rule or a secret has to do with what is said inside, and then each request inside goes
the way of a plain one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import socket as BoundSocket

from hostler.domain.values import sentence
from hostler.egress import http1
from hostler.egress.authority import Authority
from hostler.egress.client_hello import ACCESS_DENIED, Hello, NotTls
from hostler.egress.connection import ClientSide
from hostler.egress.deciding import UNRECORDED, Decider, denial, printable
from hostler.egress.heads import Head
from hostler.egress.limits import EgressLimits
from hostler.egress.mcp import McpRelay
from hostler.egress.metering import ConnectionMeter, Traffic
from hostler.egress.policy import BadTarget, Target, Verdict, parse_absolute, parse_authority
from hostler.egress.requests import RequestMaker, Subject
from hostler.egress.telemetry import TelemetryDoor
from hostler.egress.tls import TlsSide
from hostler.egress.tunnel import ClientEnd, TargetEnd
from hostler.egress.upstream import Origin, UpstreamPool
from hostler.engine.egress_port import MCP_HOST, TELEMETRY_HOST, RoadSecrets, TelemetryIntake
from hostler.engine.sockets import remove_stale_socket
from hostler.engine.tasks import Tasks

_log = logging.getLogger("hostler.egress")


class EgressRoad:
    """One session's open egress road. Made by `EgressProxy.open`. Implements `Host` for its socket's connections."""

    def __init__(
        self,
        decider: Decider,
        limits: EgressLimits,
        tls: ssl.SSLContext,
        *,
        plain_ports: frozenset[int],
        authority: Authority | None,
        secrets: RoadSecrets | None,
        on_close: Callable[[EgressRoad], None],
    ) -> None:
        self.limits = limits
        self.mcp: McpRelay | None = None
        """What answers for the session's MCP servers; None: it has none. Set before the road starts."""
        self._spans: TelemetryDoor | None = None
        self._decider = decider
        self._plain_ports = plain_ports
        self._authority = authority
        self._secrets = secrets
        self._on_close = on_close
        self._pool = UpstreamPool(limits, tls)
        self._traffic = Traffic(limits, self._too_much)
        self._requests = RequestMaker(decider, self._pool, secrets, self._traffic, self._adopt)
        self._tasks = Tasks()
        self._records = Tasks()
        """Of denials that nobody waits for; they are finished even when the road closes."""
        self._clients: set[ClientSide | ClientEnd] = set()
        self._targets: set[TargetEnd] = set()
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._closed = False

    @property
    def authority(self) -> bytes | None:
        """See the port."""
        return None if self._authority is None else self._authority.pem

    def take_spans(self, session_id: str, intake: TelemetryIntake) -> None:
        """From here on `intake` gets what the session's harness exports. Before the road starts."""

        def begin(head: Head, side: ClientSide) -> None:
            self._tasks.spawn(door.serve(head, head.target.decode("ascii", "replace"), side), "egress-spans")

        door = self._spans = TelemetryDoor(session_id, intake, self.limits, self.keep, self.left, begin)

    async def start(self, socket: Path, mode: int, bound: BoundSocket | None) -> None:
        loop = asyncio.get_running_loop()
        self._socket = socket
        if bound is not None:
            self._server = await loop.create_unix_server(lambda: ClientSide(self), sock=bound, backlog=512)
            return
        remove_stale_socket(socket)
        self._server = await loop.create_unix_server(lambda: ClientSide(self), str(socket), backlog=512)
        os.chmod(socket, mode)

    async def close(self) -> None:
        """Ends every connection of the session. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        await self._tasks.close(grace_seconds=0.0)
        ends = [*self._clients, *self._targets]
        for end in ends:
            end.transport.abort()
        for end in ends:
            await end.lost.wait()
        await self._pool.close()
        await self._records.close(grace_seconds=5.0)
        self._on_close(self)

    # ------------------------------------------------------------------------------------------ Host of connections

    def joined(self, side: ClientSide) -> bool:
        if self._closed or len(self._clients) >= self.limits.connections:
            return False
        self._clients.add(side)
        return True

    def left(self, side: ClientSide) -> None:
        self._clients.discard(side)

    def meter(self) -> ConnectionMeter | None:
        return self._traffic.meter()

    def begin(self, head: Head, side: ClientSide) -> None:
        self._tasks.spawn(self._or_drop(head, side, None), "egress-request")

    def begin_inside(self, subject: Subject, head: Head, side: ClientSide) -> None:
        """The same for a request from inside of a tunnel."""
        self._tasks.spawn(self._or_drop(head, side, subject), "egress-request")

    def keep(self, side: ClientSide) -> bool:
        """A connection that stands in the place of one that was counted."""
        self._clients.add(side)
        if self._closed:
            side.transport.abort()
        return True

    async def _or_drop(self, head: Head, side: ClientSide, inside: Subject | None) -> None:
        """The work of one request; what it dies of ends the connection."""
        try:
            if inside is None:
                await self._serve(head, side)
            else:
                await self._requests.serve(inside, head, side)
        except BaseException:
            side.transport.abort()
            raise

    def _adopt(self, transport: asyncio.Transport) -> ClientEnd:
        """The client's end of a tunnel that has just been agreed to."""
        end = ClientEnd(transport, self.limits.idle_seconds, self._clients.discard, meter=self._traffic.meter())
        self._clients.add(end)
        return end

    def _too_much(self, verdict: Verdict) -> None:
        self._records.spawn(self._write_down("-", "-", 0, verdict), "egress-denial")

    async def _write_down(self, method: str, host: str, port: int, verdict: Verdict) -> None:
        await self._decider.record(method, host, port, verdict)

    # ---------------------------------------------------------------------------------------------------- one request

    async def _serve(self, head: Head, side: ClientSide) -> None:
        method = head.method.decode("ascii", "replace")
        shown = head.target.decode("ascii", "replace")
        path = ""
        try:
            if head.problem is not None:
                raise BadTarget(head.problem)
            if head.is_connect:
                target = parse_authority(shown)
            else:
                target, path = parse_absolute(shown)
        except BadTarget as bad:
            verdict = Verdict(False, "bad_request", f"{sentence(str(bad))}.")
            if await self._recorded(side, method, printable(shown), 0, verdict):
                side.answer(denial("this request", verdict, 400))
            return
        if self._spans is not None and target.host == TELEMETRY_HOST:
            if head.is_connect:
                self._spans.enter(side)
            else:
                await self._spans.serve(head, path, side)
        elif head.is_connect:
            await self._connect(target, side)
        elif target.host != MCP_HOST:
            origin = Origin("http", target.host, target.port)
            await self._requests.serve(Subject(origin, target, path, None), head, side)
        elif self.mcp is not None:
            await self.mcp.serve(head, path, side)
        else:
            side.answer(http1.own_answer(404, "failed", "no_such_mcp_server", "This session has no MCP servers.\n"))

    async def _recorded(self, side: ClientSide, method: str, host: str, port: int, verdict: Verdict) -> bool:
        if await self._decider.record(method, host, port, verdict):
            return True
        side.answer(UNRECORDED)
        return False

    # --------------------------------------------------------------------------------------------------- one tunnel

    async def _connect(self, target: Target, side: ClientSide) -> None:
        verdict, addresses = self._decider.policy.judge(target), ()  # type: tuple[Verdict, Sequence[str]]
        if verdict.allowed and self._traffic.exhausted is not None:
            verdict = self._traffic.exhausted
        if verdict.allowed:
            verdict, addresses = await self._decider.judge_addresses(
                verdict, target.host, target.port, is_address=target.is_address
            )
        if not await self._recorded(side, "CONNECT", target.host, target.port, verdict):
            return
        if not verdict.allowed:
            status = 502 if verdict.reason == "unresolvable" else 403
            side.answer(denial(f"{target.host}:{target.port}", verdict, status))
            return
        ended = verdict.inside or (self._secrets is not None and self._secrets.concerns(target.host))
        if ended and self._authority is not None:
            await self._end_tunnel(target, addresses, side, plain=target.port in self._plain_ports)
        elif verdict.opened:
            await self._pass_through(target, addresses, side, check=False)
        elif target.port in self._plain_ports:
            await self._plain_tunnel(target, addresses, side)
        else:
            await self._pass_through(target, addresses, side, check=True)

    async def _pass_through(self, target: Target, addresses: Sequence[str], side: ClientSide, *, check: bool) -> None:
        end = await self._reach(target, addresses)
        if end is None:
            side.answer(unreachable(f"{target.host}:{target.port} is allowed but can't be reached."))
            return
        end.transport.pause_reading()  # What it says is for a client that has been heard first.
        try:
            side.transport.write(http1.ESTABLISHED)
            hello = await self._heard(target, side, ended=False) if check else None
            if check and hello is None:
                return
            if not side.transport.is_closing() and not end.lost.is_set():
                self._join(target, side, end, hello)
        finally:
            if end.peer is None:
                end.transport.abort()
                side.transport.close()

    async def _plain_tunnel(self, target: Target, addresses: Sequence[str], side: ClientSide) -> None:
        """To a port where servers speak HTTP without TLS: either that, read here, or TLS."""
        side.transport.write(http1.ESTABLISHED)
        words = await side.first_words()
        if isinstance(words, NotTls):
            self._read_inside(Origin("http", target.host, target.port), target, addresses, side, None)
        elif (hello := await self._heard(target, side, ended=False)) is not None:
            end = await self._reach(target, addresses)
            if end is None or side.transport.is_closing():
                side.transport.abort()
            else:
                self._join(target, side, end, hello)

    async def _end_tunnel(self, target: Target, addresses: Sequence[str], side: ClientSide, *, plain: bool) -> None:
        assert self._authority is not None
        self._authority.prepare(target.host)
        side.transport.write(http1.ESTABLISHED)
        words = await side.first_words()
        if plain and isinstance(words, NotTls):
            self._read_inside(Origin("http", target.host, target.port), target, addresses, side, None)
        elif await self._heard(target, side, ended=True):
            context = await self._authority.context(target.host)
            if not side.transport.is_closing():
                self._read_inside(Origin("https", target.host, target.port), target, addresses, side, context)

    async def _heard(self, target: Target, side: ClientSide, *, ended: bool) -> Hello | None:
        """The client's first words when they name the right server. If not, that is recorded and answered."""
        words = await side.first_words()
        if words is None:
            side.transport.abort()
            return None
        verdict = self._decider.judge_name(target, words, ended=ended)
        if verdict is None and isinstance(words, Hello):
            return words
        assert verdict is not None
        if await self._recorded(side, "CONNECT", target.host, target.port, verdict):
            tls = isinstance(words, Hello)
            side.answer(ACCESS_DENIED if tls else denial(f"{target.host}:{target.port}", verdict, 403))
        return None

    def _join(self, target: Target, side: ClientSide, end: TargetEnd, hello: Hello | None) -> None:
        """`hello` is what was judged of the client's words; None: it may say whatever it wants."""

        def second(words: Hello | NotTls) -> bytes | None:
            verdict = self._decider.judge_name(target, words, ended=False)
            if verdict is None:
                return None
            self._records.spawn(self._write_down("CONNECT", target.host, target.port, verdict), "egress-denial")
            return ACCESS_DENIED

        client = self._adopt(side.transport)
        client.guard(None if hello is None else second)
        rest = side.hand_over(client)
        client.join(end)
        if rest:
            client.first(rest, len(rest) if hello is None else hello.size)
        end.transport.resume_reading()
        side.transport.resume_reading()

    def _read_inside(
        self,
        origin: Origin,
        target: Target,
        addresses: Sequence[str],
        side: ClientSide,
        context: ssl.SSLContext | None,
    ) -> None:
        """Reads requests from inside of the tunnel; `context` ends TLS first."""
        inner = ClientSide(_Inside(self, origin, target, addresses))
        raw = side.transport
        if context is None:
            rest = side.hand_over(inner)
            inner.connection_made(raw)
            inner.data_received(rest)
        else:
            tls = TlsSide(raw, context, inner)
            rest = side.hand_over(tls)
            tls.begin(rest)
        if not raw.is_closing() and not inner.holds_back:
            raw.resume_reading()

    async def _reach(self, target: Target, addresses: Sequence[str]) -> TargetEnd | None:
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                async with asyncio.timeout(self.limits.connect_seconds):
                    _, end = await loop.create_connection(
                        lambda: TargetEnd(self._targets.discard), address, target.port
                    )
            except OSError:  # Includes TimeoutError.
                continue
            self._targets.add(end)
            return end
        return None


class _Inside:
    """Implements `Host` for the inside of one tunnel."""

    def __init__(self, road: EgressRoad, origin: Origin, target: Target, addresses: Sequence[str]) -> None:
        self.limits = road.limits
        self._road = road
        self._subject = Subject(origin, target, None, addresses)

    def joined(self, side: ClientSide) -> bool:
        return self._road.keep(side)

    def left(self, side: ClientSide) -> None:
        self._road.left(side)

    def meter(self) -> ConnectionMeter | None:
        return self._road.meter()

    def begin(self, head: Head, side: ClientSide) -> None:
        self._road.begin_inside(self._subject, head, side)


def unreachable(text: str) -> bytes:
    return http1.own_answer(502, "failed", "unreachable", f"Hostler: {text}\n")
