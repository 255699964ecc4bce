"""What is a session's egress road, and how is each of its requests decided?

`EgressProxy` implements `EgressRoads`. For each request, in this order: read the target, judge name and port, resolve
the name once, judge every address, write the decision down, and only then connect, to an address that was judged. A
name that changes its address in between changes nothing, and a redirect is a new request with a new decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from hostler.egress import http1
from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.connection import ClientSide, EgressLimits, Head, TargetSide
from hostler.egress.mcp import McpClient, McpRelay
from hostler.egress.policy import (
    PACKAGE_HOSTS,
    BadTarget,
    McpTarget,
    Policy,
    Target,
    Verdict,
    parse_absolute,
    parse_authority,
)
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.engine.egress_port import (
    MCP_HOST,
    Bearer,
    EgressDecision,
    EgressRecorder,
    EgressRules,
    McpAccess,
    McpCredentials,
    RoadSecrets,
)
from hostler.engine.sockets import remove_stale_socket
from hostler.engine.tasks import Tasks

_log = logging.getLogger("hostler.egress")

WEB_PORTS = frozenset({80, 443})


class NoCredentials:
    """Implements `McpCredentials` where there are no vaults: every server is tried without a credential."""

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        return None

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        return None


class EgressProxy:
    """Opens one unix socket per session. Implements `EgressRoads`.

    `private_allowed` are addresses that are not checked, for tests and for a host that has a service of its own to
    offer; it comes from the operator, never from a session. `ports` are the target ports that may be reached.
    `credentials` gives what MCP servers want to see; `tls` is whom to trust there (the host's certificates if None).
    `socket_mode`: the sandbox's user must be able to write to the socket; put it in a directory that only the worker
    can enter.
    """

    def __init__(
        self,
        recorder: EgressRecorder,
        *,
        resolver: Resolver | None = None,
        private_allowed: frozenset[str] = frozenset(),
        ports: frozenset[int] = WEB_PORTS,
        package_hosts: Sequence[str] = PACKAGE_HOSTS,
        limits: EgressLimits | None = None,
        socket_mode: int = 0o666,
        credentials: McpCredentials | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._recorder = recorder
        self._own_resolver: SystemResolver | None = None
        if resolver is None:
            resolver = self._own_resolver = SystemResolver()
        self._resolver = resolver
        self._private_allowed = private_allowed
        self._ports = ports
        self._package_hosts = package_hosts
        self._limits = limits or EgressLimits()
        self._socket_mode = socket_mode
        self._credentials = credentials or NoCredentials()
        self._mcp = McpClient(self._limits, tls)
        self._roads: set[EgressRoad] = set()

    async def open(
        self,
        session_id: str,
        socket: Path,
        rules: EgressRules,
        mcp: McpAccess | None = None,
        secrets: RoadSecrets | None = None,
    ) -> EgressRoad:
        """Listens on `socket`, replacing a left-over one. Raises ValueError when a rule is malformed."""
        if secrets is not None:
            raise ValueError("this road can't put secrets into requests")
        road = EgressRoad(
            session_id,
            Policy(rules, self._ports, package_hosts=self._package_hosts),
            self._recorder,
            self._resolver,
            self._private_allowed,
            self._limits,
            on_close=self._roads.discard,
        )
        if mcp is not None and mcp.routes:
            road.mcp = McpRelay(mcp, self._mcp, self._credentials, road.judge_server, self._limits)
        await road.start(socket, self._socket_mode)
        self._roads.add(road)
        return road

    async def close(self) -> None:
        """Closes every road."""
        for road in list(self._roads):
            await road.close()
        await self._mcp.close()
        if self._own_resolver is not None:
            self._own_resolver.close()


class EgressRoad:
    """One session's open egress road. Made by `EgressProxy.open`."""

    def __init__(
        self,
        session_id: str,
        policy: Policy,
        recorder: EgressRecorder,
        resolver: Resolver,
        private_allowed: frozenset[str],
        limits: EgressLimits,
        *,
        on_close: Callable[[EgressRoad], None],
    ) -> None:
        self.limits = limits
        self._session_id = session_id
        self._policy = policy
        self._recorder = recorder
        self._resolver = resolver
        self._private_allowed = private_allowed
        self._on_close = on_close
        self._tasks = Tasks()
        self._lookups = asyncio.Semaphore(limits.lookups)
        self._clients: set[ClientSide] = set()
        self._targets: set[TargetSide] = set()
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._closed = False
        self.mcp: McpRelay | None = None
        """What answers for the session's MCP servers; None: it has none. Set before the road starts."""

    @property
    def authority(self) -> bytes | None:
        """See the port. This road passes TLS through as it is."""
        return None

    async def start(self, socket: Path, mode: int) -> None:
        remove_stale_socket(socket)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: ClientSide(self), str(socket))
        self._socket = socket
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
        sides = [*self._clients, *self._targets]
        for side in sides:
            side.transport.abort()
        for side in sides:
            await side.lost.wait()
        self._on_close(self)

    # ------------------------------------------------------------------------------------------ Host of connections

    def joined(self, side: ClientSide) -> bool:
        if self._closed or len(self._clients) >= self.limits.connections:
            return False
        self._clients.add(side)
        return True

    def left(self, side: ClientSide) -> None:
        self._clients.discard(side)

    def begin(self, head: Head, side: ClientSide) -> None:
        self._tasks.spawn(self._serve_or_drop(head, side), f"egress-{self._session_id}")

    # ---------------------------------------------------------------------------------------------------- one request

    async def _serve_or_drop(self, head: Head, side: ClientSide) -> None:
        try:
            await self._serve(head, side)
        except BaseException:
            side.transport.abort()
            raise

    async def _serve(self, head: Head, side: ClientSide) -> None:
        method = head.method.decode("ascii", "replace")
        shown = head.target.decode("ascii", "replace")
        try:
            if head.problem is not None:
                raise BadTarget(head.problem)
            if head.is_connect:
                target, path = parse_authority(shown), ""
            else:
                target, path = parse_absolute(shown)
        except BadTarget as bad:
            verdict = Verdict(False, "bad_request", f"{str(bad).capitalize()}.")
            decision = EgressDecision(self._session_id, method, _safe(shown), 0, False, "bad_request")
            await self._deny(side, 400, decision, verdict)
            return
        if target.host == MCP_HOST and not head.is_connect:
            if self.mcp is None:
                text = "This session has no MCP servers.\n"
                side.answer(http1.own_answer(404, "failed", "no_such_mcp_server", text))
            else:
                await self.mcp.serve(head, path, side)
            return
        verdict, addresses = await self._judge(target)
        decision = EgressDecision(self._session_id, method, target.host, target.port, verdict.allowed, verdict.reason)
        if not verdict.allowed:
            await self._deny(side, 502 if verdict.reason == "unresolvable" else 403, decision, verdict)
            return
        if not await self._record(decision):
            side.answer(_unrecorded())
            return
        joint = TargetSide(parse=not head.is_connect, head_only=head.method == b"HEAD", client_version=head.version)
        if not await self._connect(joint, addresses, target.port):
            text = f"Hostler: {target.host}:{target.port} is allowed but can't be reached.\n"
            side.answer(http1.own_answer(502, "failed", "unreachable", text))
        elif side.transport.is_closing():
            joint.transport.abort()
        elif head.is_connect:
            side.tunnel(joint, http1.ESTABLISHED)
        else:
            waits = dict(head.headers).get(b"expect", b"").lower() == b"100-continue"
            outgoing = http1.request_head(head.method, target, path, head.headers)
            side.exchange(joint, outgoing, http1.CONTINUE if waits else b"")

    async def _judge(self, target: Target) -> tuple[Verdict, Sequence[str]]:
        """The verdict on name, port and every address; the addresses when it is yes."""
        verdict = self._policy.judge(target)
        if not verdict.allowed:
            return verdict, ()
        return await self._judge_addresses(verdict, target.host, target.port, target.is_address)

    async def judge_server(self, target: McpTarget, method: str) -> tuple[Verdict, Sequence[str]]:
        """The same for an MCP server of the session, written down."""
        verdict, addresses = self._policy.judge_server(target), ()  # type: tuple[Verdict, Sequence[str]]
        if verdict.allowed:
            verdict, addresses = await self._judge_addresses(verdict, target.host, target.port, target.is_address)
        if verdict.allowed and target.scheme == "http" and not self._private_allowed.issuperset(addresses):
            hint = (
                "a server that is not in the operator's own network (egress.private_allowed) is reached by https only"
            )
            verdict, addresses = Verdict(False, "plain_http", hint), ()
        decision = EgressDecision(self._session_id, method, target.host, target.port, verdict.allowed, verdict.reason)
        if not await self._record(decision):
            return Verdict(False, "not_recorded", "the decision can't be written down, so nothing is let through"), ()
        return verdict, addresses

    async def _judge_addresses(
        self, verdict: Verdict, host: str, port: int, is_address: bool
    ) -> tuple[Verdict, Sequence[str]]:
        addresses: Sequence[str] = (host,)
        if not is_address:
            try:
                async with self._lookups:
                    addresses = await self._resolver.resolve(host, port)
            except (OSError, UnicodeError):
                addresses = ()
        if not addresses:
            return Verdict(False, "unresolvable", "The name has no address."), ()
        for address in addresses:
            if address in self._private_allowed:
                continue
            if not is_public(address):
                return Verdict(False, "private_address", "Only public addresses can be reached."), ()
            if is_this_host(address):
                return Verdict(False, "this_host", "A session doesn't reach the machine that it runs on."), ()
        return verdict, addresses

    async def _connect(self, side: TargetSide, addresses: Sequence[str], port: int) -> bool:
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                async with asyncio.timeout(self.limits.connect_seconds):
                    await loop.create_connection(lambda: side, address, port)
            except OSError:  # Includes TimeoutError.
                continue
            self._targets = {known for known in self._targets if not known.lost.is_set()} | {side}
            return True
        return False

    async def _deny(self, side: ClientSide, status: int, decision: EgressDecision, verdict: Verdict) -> None:
        if not await self._record(decision):
            side.answer(_unrecorded())
            return
        where = f"{decision.host}:{decision.port}" if decision.port else "this request"
        text = f"Hostler denied {where} ({verdict.reason}). {verdict.hint}\n"
        side.answer(http1.own_answer(status, "denied", verdict.reason, text))

    async def _record(self, decision: EgressDecision) -> bool:
        """Whether the decision is written down. One that isn't lets nothing through."""
        try:
            await self._recorder.record(decision)
        except Exception:
            _log.exception("egress.decision_not_recorded", extra={"session_id": self._session_id})
            return False
        return True


def _unrecorded() -> bytes:
    text = "Hostler can't write this decision down, so it lets nothing through.\n"
    return http1.own_answer(503, "denied", "not_recorded", text)


def _safe(text: str) -> str:
    """A malformed target as it may stand in a record: short and printable."""
    return "".join(char if char.isprintable() and char.isascii() else "?" for char in text[:255])
