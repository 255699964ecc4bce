"""Road two, from a sandbox to everything but the model: where do the roads of all sessions come from?"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from socket import socket as BoundSocket

from hostler.domain.clock import Clock
from hostler.egress.authority import Authority
from hostler.egress.deciding import Decider
from hostler.egress.limits import EgressLimits
from hostler.egress.mcp import McpClient, McpRelay
from hostler.egress.policy import BLOCKED_PORTS, PACKAGE_HOSTS, WEB_PORTS, Policy
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.egress.road import EgressRoad
from hostler.engine.egress_port import (
    Bearer,
    EgressRecorder,
    EgressRules,
    McpAccess,
    McpCredentials,
    RoadSecrets,
    TelemetryIntake,
)


class NoCredentials:
    """Implements `McpCredentials` where there are no vaults: every server is tried without a credential."""

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        return None

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        return None


class EgressProxy:
    """Opens one unix socket per session. Implements `EgressRoads`.

    private_allowed  addresses that are not checked, for tests and for a host that has a service of its own to offer;
                     it comes from the operator, never from a session
    ports            target ports that are open where a rule names none; tunnels to them are for TLS,
    plain_ports      except to these, where HTTP without TLS may be spoken inside of a tunnel, too
    blocked_ports    closed whatever a rule says
    package_hosts    what `EgressRules.package_managers` allows
    credentials      gives what MCP servers want to see
    tls              whom to trust, of MCP servers and of servers whose TLS is ended here (the host's certificates if
                     None); its application protocols are set
    telemetry        takes the spans of sessions' harnesses; None: nobody does
    socket_mode      the sandbox's user must be able to write to the socket; put it in a directory that only the worker
                     can enter
    """

    def __init__(
        self,
        recorder: EgressRecorder,
        *,
        resolver: Resolver | None = None,
        private_allowed: frozenset[str] = frozenset(),
        ports: frozenset[int] = WEB_PORTS,
        plain_ports: frozenset[int] = frozenset({80}),
        blocked_ports: frozenset[int] = BLOCKED_PORTS,
        package_hosts: Sequence[str] = PACKAGE_HOSTS,
        limits: EgressLimits | None = None,
        socket_mode: int = 0o666,
        credentials: McpCredentials | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        telemetry: TelemetryIntake | None = None,
    ) -> None:
        self._recorder = recorder
        self._telemetry = telemetry
        self._own_resolver: SystemResolver | None = None
        if resolver is None:
            resolver = self._own_resolver = SystemResolver()
        self._resolver = resolver
        self._private_allowed = private_allowed
        self._ports = ports
        self._plain_ports = plain_ports
        self._blocked_ports = blocked_ports
        self._package_hosts = package_hosts
        self._limits = limits or EgressLimits()
        self._socket_mode = socket_mode
        self._credentials = credentials or NoCredentials()
        self._tls = tls or ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._clock = clock
        self._mcp = McpClient(self._limits, self._tls)
        self._roads: set[EgressRoad] = set()

    def policy(self, rules: EgressRules) -> Policy:
        """The policy that a road with these rules has. Raises ValueError when a rule is malformed."""
        return Policy(rules, self._ports, package_hosts=self._package_hosts, blocked_ports=self._blocked_ports)

    async def open(
        self,
        session_id: str,
        socket: Path,
        rules: EgressRules,
        mcp: McpAccess | None = None,
        secrets: RoadSecrets | None = None,
        bound: BoundSocket | None = None,
    ) -> EgressRoad:
        """Listens on `socket`, replacing a left-over one unless it is `bound`. ValueError: a rule is malformed."""
        policy = self.policy(rules)
        decider = Decider(session_id, policy, self._recorder, self._resolver, self._private_allowed, self._limits)
        authority: Authority | None = None
        if policy.looks_inside or secrets is not None:
            authority = await Authority.create(session_id, self._clock, leaves=self._limits.leaves)
            for host in policy.inspected_names[:16]:
                authority.prepare(host)
        road = EgressRoad(
            decider,
            self._limits,
            self._tls,
            plain_ports=self._plain_ports,
            authority=authority,
            secrets=secrets,
            on_close=self._roads.discard,
        )
        if mcp is not None and mcp.routes:
            road.mcp = McpRelay(mcp, self._mcp, self._credentials, decider.judge_server, self._limits)
        if self._telemetry is not None:
            road.take_spans(session_id, self._telemetry)
        await road.start(socket, self._socket_mode, bound)
        self._roads.add(road)
        return road

    async def close(self) -> None:
        """Closes every road."""
        for road in list(self._roads):
            await road.close()
        await self._mcp.close()
        if self._own_resolver is not None:
            self._own_resolver.close()
