"""What does the engine ask of the egress proxy, the only way from a sandbox to anything but its model?

The proxy (`hostler.egress`) implements `EgressRoads`. What it needs to know of a session
(policy, MCP servers, secrets) comes through the Protocols of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket as BoundSocket
from typing import Literal, Protocol

from hostler.engine.ports import Road

# ----------------------------------------------------------------------------------------------------------- policy


@dataclass(frozen=True, slots=True)
class HostRule:
    """Hosts that may be reached, and what for. An empty field of the last two means: anything."""

    host: str
    """Exact host name, or `*.example.com` for every name below it (not the name itself)."""
    ports: frozenset[int] = frozenset()
    """Empty: those that are open to every rule (80 and 443). Another port is open for whatever protocol, unless the
    rule looks inside."""
    methods: frozenset[str] = frozenset()
    """In upper case. A rule with methods or paths needs TLS to be ended by the proxy."""
    paths: tuple[str, ...] = ()
    """Prefixes of whole segments: `/v1/files` allows `/v1/files/x` and `/v1/files?y`, not `/v1/filesystem`.

    Plain ones: no `%`, no `.` or `..` segment, no empty segment.
    """

    @property
    def looks_inside(self) -> bool:
        return bool(self.methods or self.paths)


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What a session may reach besides its model. The empty list means nothing."""

    allow: Literal["public", "listed"]
    hosts: tuple[str, ...] = ()
    """Exact host names, or `*.example.com` for every name below it (not the name itself)."""
    mcp_servers: bool = False
    """Whether the session's own MCP servers are allowed, and only as MCP servers, wherever they are."""
    rules: tuple[HostRule, ...] = ()
    """Narrower than `hosts`: what one of these allows is allowed too."""
    package_managers: bool = False
    """Whether the registries of the package managers are allowed; which ones those are is the server's setting."""


@dataclass(frozen=True, slots=True)
class EgressDecision:
    """One decision of the egress proxy, as it is recorded."""

    session_id: str
    method: str
    host: str
    port: int
    allowed: bool
    reason: str
    """A stable word; docs/how-to/read-a-denial.md lists them all."""
    hint: str = ""
    """For a person: what would have changed the decision."""
    path: str = ""
    """Of a request that the proxy could read, without the query, as the sandbox sent it: with placeholders, never with
    secrets. Empty for a tunnel."""


MCP_HOST = "mcp.hostler.internal"
"""The host name under which a sandbox reaches its session's remote MCP servers, one path for each: `/<alias>`.

No resolver knows it; the session's egress road does.
"""


TELEMETRY_HOST = "telemetry.hostler.internal"
"""The host name under which a sandbox reaches whoever takes the spans of its harness, where somebody does."""


@dataclass(frozen=True, slots=True)
class IntakeAnswer:
    """What the harness is told."""

    status: int
    body: bytes
    """JSON."""


class TelemetryIntake(Protocol):
    """Who takes the spans of sessions' harnesses."""

    def take(self, session_id: str, body: bytes) -> IntakeAnswer:
        """One export, as it came over the session's road: OTLP as JSON, or anything. Quick; waits for nobody."""
        ...


@dataclass(frozen=True, slots=True)
class McpRoute:
    """A remote MCP server of one session."""

    alias: str
    url: str


@dataclass(frozen=True, slots=True)
class Bearer:
    """A credential of a vault, opened for requests to one MCP server."""

    token: str = field(repr=False)
    workspace: str
    vault_id: str
    credential_id: str


class McpCredentials(Protocol):
    """Who holds the secrets for MCP servers. The only other place where a token may be is one outgoing request."""

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        """The credential for `url` from the first of the vaults that has one, as it is now. None: there is none.

        What it raises means that there is one that can't be opened or renewed: the request isn't made.
        """
        ...

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        """The server answered 401 to this one: another to try once, or None. Idempotent for the same bearer."""
        ...


McpFailure = Literal["connection", "authentication"]


class McpGate(Protocol):
    """Who decides what of one session may pass to its MCP servers. Called by the road, outside the sandbox."""

    def offers(self, alias: str, tool: str) -> bool:
        """Whether the model may be shown this tool."""
        ...

    def begin_call(self, alias: str, tool: str, arguments: Mapping[str, object]) -> bool:
        """True, once, for each call that was announced and permitted: it is on its way now."""
        ...

    def not_begun(self, alias: str, tool: str, arguments: Mapping[str, object]) -> None:
        """The call that was just begun did not reach its server, or was not taken there: it may be sent again."""
        ...

    def failed(self, alias: str, failure: McpFailure, message: str) -> None:
        """The server could not be spoken to. May be said often."""
        ...


@dataclass(frozen=True, slots=True)
class McpAccess:
    """What one session's road needs to know of its MCP servers."""

    routes: tuple[McpRoute, ...]
    workspace: str
    vault_ids: tuple[str, ...]
    gate: McpGate


# ---------------------------------------------------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a request says before its body, when the proxy can read it. Names of headers are in lower case."""

    method: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    target: bytes
    """Path and query."""
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    own_network: bool = False
    """Whether the operator has listed the address that it goes to as one of their own network."""


class Filter(Protocol):
    """Bytes in, bytes out, possibly later and of another length.

    Both methods may raise SecretRefused: the message is broken off there, in a way that its reader can tell.
    """

    def feed(self, piece: bytes) -> bytes: ...

    def end(self) -> bytes:
        """What was kept back. Called once, last."""
        ...


class SecretExchange(Protocol):
    """One request in which secrets take the place of placeholders, and its answer, from which they are taken again."""

    @property
    def head(self) -> RequestHead:
        """To be sent instead of the one that came."""
        ...

    @property
    def body(self) -> Filter | None:
        """What the request's body goes through. None: the body goes as it is, and so does its length.

        With a filter, a body that is short enough is collected first, so that its new length can be told.
        """
        ...

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        """The answer's headers as the sandbox may see them, and what its body goes through. None: as it is.

        With a filter the body's length may change: the headers that are given back have no `content-length` then.
        Called again for each message of a WebSocket that follows a status of 101: each has a filter of its own.
        Raises SecretRefused when the answer can't be shown: then nothing of it is.
        """
        ...


class SecretRefused(Exception):
    """The request must not be sent. `reason` is a stable word for the record, the message a sentence with a way out."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RoadSecrets(Protocol):
    """What one session's road may put into requests. Asked again for every request: rotation takes effect at once."""

    def concerns(self, host: str) -> bool:
        """Whether a secret may go to `host`, so that TLS to it has to be ended by the proxy. Quick; asks nobody."""
        ...

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        """Called once the policy has allowed the request. None: nothing of it is to be changed or watched.

        Raises SecretRefused.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionVariable:
    """An `environment_variable` credential, as one session has it, at the moment of one request."""

    name: str
    placeholder: str
    """What stands in the sandbox's environment."""
    vault_id: str
    credential_id: str
    value: str | None = field(repr=False)
    """The secret. None: it is not for the host that was asked about."""
    header: bool
    """Whether the value may be put into headers."""
    body: bool
    read_only: bool
    """Whether only requests with a safe method may carry it."""


UsePlace = Literal["header", "body", "url"]
UseOutcome = Literal["substituted", "host_not_allowed", "place_not_allowed", "read_only", "plain_http"]


@dataclass(frozen=True, slots=True)
class VariableUse:
    """A placeholder was seen in a request, and this became of it."""

    vault_id: str
    credential_id: str
    method: str
    host: str
    port: int
    place: UsePlace
    outcome: UseOutcome
    """`substituted`, or why it went on as it was, or kept the request from being sent."""


class SessionVariables(Protocol):
    """One session's variables. Nothing of it is kept from one request to the next but names of hosts."""

    @property
    def placeholders(self) -> Mapping[str, str]:
        """What the sandbox's environment holds, by the name of the variable."""
        ...

    def concerns(self, host: str) -> bool:
        """Whether one of them is for `host`, as far as is known. Asks nobody."""
        ...

    async def open(self, host: str) -> Sequence[SessionVariable]:
        """All of them as they are now, those for `host` with their values. Raises HostlerError."""
        ...

    async def used(self, uses: Sequence[VariableUse]) -> None:
        """Writes them down. Raises HostlerError."""
        ...

    def note(self, use: VariableUse) -> None:
        """The same, soon, by somebody else, for a caller that can't wait."""
        ...


# ------------------------------------------------------------------------------------------------------------ roads


class EgressRoads(Protocol):
    """The egress proxy: opens one socket per session, the only way from a sandbox to anything but the model."""

    async def open(
        self,
        session_id: str,
        socket: Path,
        rules: EgressRules,
        mcp: McpAccess | None = None,
        secrets: RoadSecrets | None = None,
        bound: BoundSocket | None = None,
    ) -> EgressRoad:
        """`bound`: what is bound to the path `socket` already, and from now on the road's; None: the road binds one."""
        ...


class EgressRoad(Road, Protocol):
    @property
    def authority(self) -> bytes | None:
        """Certificate (PEM) of the session's own authority, which signs for hosts whose TLS the proxy ends.

        None: no TLS is ended on this road.
        """
        ...


class EgressRecorder(Protocol):
    async def record(self, decision: EgressDecision) -> None: ...
