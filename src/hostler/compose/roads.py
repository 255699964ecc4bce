"""How does the proxy of the sessions' second road follow from the settings?"""

from __future__ import annotations

from hostler.compose.authorities import own_authorities, trusting
from hostler.compose.packages import package_hosts
from hostler.config import Settings
from hostler.egress import EgressLimits, EgressProxy, Resolver
from hostler.engine.egress_port import EgressRecorder, McpCredentials, TelemetryIntake


def egress_limits(settings: Settings) -> EgressLimits:
    egress = settings.egress
    return EgressLimits(
        head_bytes=egress.head_kb << 10,
        head_seconds=egress.head_seconds,
        connect_seconds=egress.connect_seconds,
        idle_seconds=egress.idle_seconds,
        connections=egress.connections,
        connection_bytes=egress.connection_mb << 20,
        session_bytes=egress.session_mb << 20,
    )


def egress_proxy(
    settings: Settings,
    recorder: EgressRecorder,
    credentials: McpCredentials,
    resolver: Resolver | None = None,
    telemetry: TelemetryIntake | None = None,
) -> EgressProxy:
    """Raises InvalidRequest for a bundle of authorities that can't be read."""
    return EgressProxy(
        recorder,
        resolver=resolver,
        private_allowed=frozenset(settings.egress.private_allowed),
        blocked_ports=frozenset(settings.egress.blocked_ports),
        package_hosts=package_hosts(settings),
        limits=egress_limits(settings),
        credentials=credentials,
        tls=trusting(own_authorities(settings)),
        telemetry=telemetry,
    )
