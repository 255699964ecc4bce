"""What does the engine ask of the world outside it?

Every seam between the engine and an adapter is a Protocol in this module. Adapters (harness, sandbox, gateway, egress)
implement them; only the composition root knows which one is in use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import Connection

from hostler.store.sessions import Usage

# --------------------------------------------------------------------------------------------------------- sandbox


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one sandbox may use. `None` means: no limit of ours."""

    memory_bytes: int | None = 2 << 30
    """Hard limit of resident memory, page cache included, in bytes."""
    pids: int | None = 256
    """Processes and threads together."""
    cpus: float | None = 2.0
    """Share of processor time, in whole processors: 0.5 is half of one."""
    open_files: int = 4096
    """Descriptors of one process."""
    tmp_bytes: int = 256 << 20
    """Size of `/tmp`, and of the home directory outside the harness's own state, in bytes."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the host that is visible inside besides the session's own folders."""

    source: Path
    """Host file or directory. Read-only ones must be readable by everyone; writable ones are given to the sandbox."""
    inside: str
    """Absolute, normalised path inside. Missing parents are made."""
    writable: bool = False


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a sandbox is made from. Nothing else of the host is visible inside."""

    session_id: str
    workspace: Path
    """Host directory that is `/workspace` inside: readable, writable, kept when the sandbox is gone."""
    outputs: Path
    """Host directory that is `/mnt/session/outputs` inside: readable, writable, kept."""
    harness_state: Path
    """Host directory that is `/home/agent/.claude` inside: transcript and state of the harness."""
    model_socket: Path
    """Host unix socket of this session's gateway; inside it is `/run/hostler/model.sock`."""
    egress_socket: Path
    """Host unix socket of this session's egress proxy; inside, `127.0.0.1:3128` is forwarded to it."""
    program: Path
    """Host path of the `claude` binary; inside it is `/opt/hostler/claude`, read-only."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole environment of the program. Nothing of the worker's environment is inherited."""
    limits: SandboxLimits = SandboxLimits()
    mounts: tuple[Mount, ...] = ()
    """In this order: a later one may lie inside an earlier one."""


@dataclass(frozen=True, slots=True)
class IsolationLabel:
    """What this host really gives, said honestly. Shown by `hostler doctor` and kept with each session."""

    technology: Literal["bubblewrap"]
    host_user: Literal["per_sandbox", "shared"]
    """`per_sandbox`: one host uid each (worker runs as root). `shared`: the worker's own uid, in a user namespace."""
    limits_by: Literal["cgroup_v1", "cgroup_v2", "none"]
    missing: tuple[str, ...] = ()
    """Promises that this host can't keep, each in a sentence for a person."""


@dataclass(frozen=True, slots=True)
class SandboxStats:
    """Use of one sandbox at one moment. `None`: this host can't tell."""

    memory_bytes: int | None
    memory_peak_bytes: int | None
    cpu_seconds: float | None
    pids: int | None
    oom_kills: int | None


class Sandbox(Protocol):
    """One isolated place. `destroy` is idempotent; afterwards no process, mount or cgroup of it exists."""

    @property
    def label(self) -> IsolationLabel: ...

    @property
    def launcher(self) -> Path:
        """Host program that runs `claude` inside, with the arguments and the standard streams that it is given.

        It is started at most once. Its environment is ignored: `SandboxSpec.environment` counts.
        """
        ...

    async def stats(self) -> SandboxStats: ...

    async def destroy(self) -> None: ...


class SandboxProvider(Protocol):
    """Makes sandboxes of one technology on this host."""

    async def probe(self) -> IsolationLabel:
        """What this host gives. Raises SandboxUnavailable, with what to install or change, when it gives nothing."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox: ...

    async def sweep(self) -> Sequence[str]:
        """End and remove whatever an earlier process of this provider's state directory left; says what it was."""
        ...


class SandboxUnavailable(Exception):
    """This host can't give the sandbox that was asked for. The message says what to do."""


# --------------------------------------------------------------------------------------------------------- two roads


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What a session may reach besides its model. The empty list means nothing."""

    allow: Literal["public", "listed"]
    hosts: tuple[str, ...] = ()
    """Exact host names, or `*.example.com` for every name below it (not the name itself)."""
    mcp_servers: bool = False
    """Whether the session's own MCP servers are allowed, and only as MCP servers, wherever they are."""


@dataclass(frozen=True, slots=True)
class EgressDecision:
    """One decision of the egress proxy, as it is recorded."""

    session_id: str
    method: str
    host: str
    port: int
    allowed: bool
    reason: str
    """`allowed_host`, `public_host`, `host_not_allowed`, `private_address`, `port_blocked`, `bad_request`, …"""


@dataclass(frozen=True, slots=True)
class ModelRequestRecord:
    """One request on the model road: what it asked for, what it used, how it ended."""

    session_id: str
    model: str
    status: int
    """HTTP status of the upstream's answer; 0 when there was none, 499 when the sandbox hung up first."""
    usage: Usage
    stop_reason: str | None
    duration_ms: float
    first_byte_ms: float | None


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A tool call of a response that is kept back until the calls before it have results."""

    tool_use_id: str
    name: str
    input: Mapping[str, object]


class ModelRoadListener(Protocol):
    """Who is told what happens on one session's model road. Calls are awaited in order."""

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        """Called after the upstream's response is complete and before its end reaches the harness.

        `shown` is the id of the response's first call, the one that the harness sees. Must return only when the calls
        are durably announced or queued for announcement.
        """
        ...

    async def on_model_request(self, record: ModelRequestRecord) -> None: ...

    async def may_request(self) -> bool:
        """Asked before each request goes upstream. False: it must not; the listener stops the run that asks."""
        ...


class SequenceStore(Protocol):
    """Durable form of the held calls of one session. See `docs/explanation/parallel-calls.md`."""

    async def load(self) -> str | None: ...

    async def save(self, state: str) -> None: ...


MCP_HOST = "mcp.hostler.internal"
"""The host name under which a sandbox reaches its session's remote MCP servers, one path for each: `/<alias>`.

No resolver knows it; the session's egress road does.
"""


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


class Road(Protocol):
    """An open unix socket for one session."""

    async def close(self) -> None: ...


class ModelRoads(Protocol):
    """The gateway: opens one socket per session, the only way from a sandbox to a model."""

    async def open(
        self,
        session_id: str,
        socket: Path,
        listener: ModelRoadListener,
        *,
        one_call_at_a_time: bool,
        sequence: SequenceStore,
        allowed_models: frozenset[str] | None,
    ) -> Road: ...


class EgressRoads(Protocol):
    """The egress proxy: opens one socket per session, the only way from a sandbox to anything but the model."""

    async def open(self, session_id: str, socket: Path, rules: EgressRules, mcp: McpAccess | None = None) -> Road: ...


class EgressRecorder(Protocol):
    async def record(self, decision: EgressDecision) -> None: ...


# ------------------------------------------------------------------------------------------------------------- events

Announce = Callable[[Connection, float, str, str, Mapping[str, str]], object]
"""Told inside a transaction what happens in it: the connection, `Database.now`, the workspace, the type of the webhook
event (`vault.created`), and the fields of its data besides the type (`id`, and `vault_id` for credentials)."""


def announce_nothing(conn: Connection, now: float, workspace: str, kind: str, data: Mapping[str, str]) -> None:
    """Where nobody listens."""


# --------------------------------------------------------------------------------------------------------- webhooks


class WebhookTargetRefused(Exception):
    """The address of a webhook endpoint may not be reached. The message says which rule forbids it."""


class WebhookUnanswered(Exception):
    """Nobody answered, or what answered was no HTTP. The message says what happened."""


class WebhookSender(Protocol):
    """Brings one request to a webhook endpoint. Follows no redirect and reads no body."""

    def check(self, url: str) -> None:
        """Whether `url` could ever be allowed. Raises WebhookTargetRefused. Asks nobody."""
        ...

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The HTTP status of the answer, within a deadline of its own.

        The rules hold for the address that is connected to, whatever the name meant a moment before. Raises
        WebhookTargetRefused, and then nothing was sent; WebhookUnanswered.
        """
        ...


# ---------------------------------------------------------------------------------------------------------- secrets


class Sealer(Protocol):
    """Keeps secrets at rest. Both methods are quick and don't wait for anybody: call them inside a unit of work."""

    def seal(self, context: str, secret: bytes) -> str:
        """Text for a column of type `store.tables.Sealed`. It opens with the same context only.

        context  which field of which row of which workspace this is, such as `wrkspc_…/vcrd_…/token`: what is copied
                 to another row doesn't open there. Not secret.

        Raises InvalidRequest when there is no master key and none can be made.
        """
        ...

    def open(self, context: str, sealed: str) -> bytes:
        """The secret. Raises SecretUnreadable when it was changed, moved, or sealed with a key that isn't here."""


# ------------------------------------------------------------------------------------------------------ repositories


@dataclass(frozen=True, slots=True)
class CloneOrder:
    """A repository to be fetched."""

    url: str
    branch: str | None
    commit: str | None
    """At most one of the two; without either, what the remote's HEAD names."""
    token: bytes | None = field(repr=False)
    target: Path
    """Folder that does not exist yet. Its parent must let everybody through."""


CloneProblem = Literal["authentication", "forbidden", "not_found", "checkout", "clone"]


class CloneFailed(Exception):
    """There is no repository; nothing is left of the try. The message is for the session's log and holds no secret."""

    def __init__(self, kind: CloneProblem, message: str) -> None:
        super().__init__(message)
        self.kind: CloneProblem = kind
        self.message = message


class Cloner(Protocol):
    """Fetches repositories, outside every sandbox."""

    async def clone(self, order: CloneOrder) -> None:
        """A complete working copy in `order.target`, without the token in it. Raises CloneFailed."""
        ...


# ---------------------------------------------------------------------------------------------- the server's own calls


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A request that the server itself makes, to an address that a client named."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class OutgoingAnswer:
    status: int
    """As it came: redirects are not followed."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    truncated: bool
    """There was, or could have been, more."""


class OutgoingFailed(Exception):
    """There is no answer. `reason` is a stable word; the message is for a person and holds nothing of the request."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Outgoing(Protocol):
    """Makes requests to public addresses, and to those of the operator's own network that they have listed."""

    async def send(
        self,
        request: OutgoingRequest,
        *,
        seconds: float,
        limit_bytes: int,
        enough: Callable[[bytes], bool] | None = None,
    ) -> OutgoingAnswer:
        """One attempt on one connection. Raises OutgoingFailed.

        seconds      for everything, names included.
        limit_bytes  of the body; what follows is not read.
        enough       asked after each piece with the body so far: True ends the answer there, for streams.
        """
        ...


__all__ = [
    "MCP_HOST",
    "Announce",
    "AsyncIterator",
    "Bearer",
    "CloneFailed",
    "CloneOrder",
    "CloneProblem",
    "Cloner",
    "EgressDecision",
    "EgressRecorder",
    "EgressRoads",
    "EgressRules",
    "HeldCall",
    "IsolationLabel",
    "McpAccess",
    "McpCredentials",
    "McpFailure",
    "McpGate",
    "McpRoute",
    "ModelRequestRecord",
    "ModelRoadListener",
    "ModelRoads",
    "Mount",
    "Outgoing",
    "OutgoingAnswer",
    "OutgoingFailed",
    "OutgoingRequest",
    "Road",
    "Sandbox",
    "SandboxLimits",
    "SandboxProvider",
    "SandboxSpec",
    "SandboxStats",
    "SandboxUnavailable",
    "Sealer",
    "SequenceStore",
    "WebhookSender",
    "WebhookTargetRefused",
    "WebhookUnanswered",
    "announce_nothing",
]
