"""What does the engine ask of the world outside it?

Every seam between the engine and an adapter is a Protocol in this module. Adapters (harness, sandbox, gateway, egress)
implement them; only the composition root knows which one is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket as BoundSocket
from typing import Literal, Protocol

from sqlalchemy import Connection

from hostler.engine.model_port import Caller, Grant, Purpose, Shortage, Wait
from hostler.store.sessions import Usage

# --------------------------------------------------------------------------------------------------------- two roads


@dataclass(frozen=True, slots=True)
class ModelRequestRecord:
    """One attempt of a request on the model road: what it asked for, what it used, how it ended."""

    session_id: str
    model: str
    """The one that was asked in the end; `requested_model` is what the harness named."""
    status: int
    """HTTP status of the upstream's answer; 0 when there was none, 499 when the sandbox hung up first."""
    usage: Usage
    stop_reason: str | None
    duration_ms: float
    first_byte_ms: float | None
    request_id: str = ""
    """`mreq_…`: the same for all attempts of a request."""
    attempt: int = 1
    requested_model: str = ""
    upstream: str = ""
    """Its name in the settings."""
    upstream_request_id: str = ""
    """As the upstream calls it, for a question to whoever runs it."""
    thread: str = ""
    agent_type: str = ""
    purpose: Purpose = "turn"
    agent_id: str = ""
    agent_version: int = 0
    environment_id: str = ""
    rule: str = ""
    """Id of the routing rule that chose the model."""
    why: str = ""
    waited_ms: float = 0.0
    """For room, and between attempts, before this one."""
    complete: bool = True
    """Whether the usage is all that the upstream can have counted: False when an answer broke off."""
    request_bytes: int = 0
    """Size of the body, as the harness sent it."""
    grant: Grant = field(default_factory=Grant)
    """What was set aside for it. Settled in the transaction that writes this down, when `last`."""
    last: bool = True
    """Whether no more attempts follow."""
    delivered: bool = True
    """Whether the harness was still there when it was written down. The end of the answer follows after that."""
    results: tuple[tuple[str, int], ...] = ()
    """Of tools, that it brought to the model: the tool, and the bytes of each."""

    @property
    def may_have_cost(self) -> bool:
        """Whether what was set aside for it is, or may be, used in part."""
        return not self.complete or self.usage != Usage()


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A tool call of a response that is kept back until the calls before it have results."""

    tool_use_id: str
    name: str
    input: Mapping[str, object]


class ModelRoadListener(Protocol):
    """Who is told what happens on one session's model road. Calls are awaited in order."""

    @property
    def caller(self) -> Caller:
        """Whose road it is, as things are now."""
        ...

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        """Called after the upstream's response is complete and before its end reaches the harness.

        `shown` is the id of the response's first call, the one that the harness sees. Must return only when the calls
        are durably announced or queued for announcement.
        """
        ...

    async def on_model_request(self, record: ModelRequestRecord) -> None: ...

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        """A request has no room in a budget and does not go upstream: the listener stops the run that made it."""
        ...

    def on_waiting(self, wait: Wait) -> None:
        """A request waits before it is asked again. May come several times for one. Does not wait, does not fail."""
        ...

    def on_going_on(self) -> None:
        """No request of the road waits any more. Does not wait, does not fail."""
        ...


class SequenceStore(Protocol):
    """Durable form of the held calls of one session. See `docs/explanation/parallel-calls.md`."""

    async def load(self) -> str | None: ...

    async def save(self, state: str) -> None: ...


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
        bound: BoundSocket | None = None,
    ) -> Road:
        """`bound`: what is bound to the path `socket` already, and from now on the road's; None: the road binds one."""
        ...


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

    workspace_id: str
    """Whose it will be."""
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
