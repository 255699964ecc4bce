"""What does the HTTP layer need from the layers below? One frozen object, handed to `create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hostler.domain.inputs import ClientEvent
from hostler.domain.sessions import CreateSession, EventQuery, Frame, SessionLine, SessionQuery, UpdateSession
from hostler.engine.administration import Administration
from hostler.engine.agents import Agents
from hostler.engine.archives import Archives
from hostler.engine.audit_log import AuditLog
from hostler.engine.budgets import Budgets
from hostler.engine.bundle_port import Bundles
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.compactions import Compactions
from hostler.engine.credentials import Credentials
from hostler.engine.diffs import Diffs
from hostler.engine.environment_keys import EnvironmentKeys
from hostler.engine.environments import Environments
from hostler.engine.files import Files
from hostler.engine.forks import Forks
from hostler.engine.guards import Guards
from hostler.engine.keys import Keys
from hostler.engine.measures import Measures
from hostler.engine.memory_stores import MemoryStores
from hostler.engine.models import Models
from hostler.engine.oversight import Oversight
from hostler.engine.places import Places
from hostler.engine.policies import Policies
from hostler.engine.previews import Previews
from hostler.engine.probes import CredentialProbe
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.rate_limits import RateLimits
from hostler.engine.reach import Reach
from hostler.engine.retention import Retention
from hostler.engine.room_list import RoomList
from hostler.engine.routing_reports import RoutingReports
from hostler.engine.session_resources import SessionResources
from hostler.engine.skills import Skills
from hostler.engine.trace_port import UNTRACED, Tracing
from hostler.engine.usage_reports import UsageReports
from hostler.engine.vaults import Vaults
from hostler.engine.webhooks import Webhooks
from hostler.engine.work_queue import WorkQueue

SessionView = dict[str, Any]
"""A session as the wire shows it, every key present."""


class EventStream(Protocol):
    """An open subscription. Iterating ends when there is nothing more to come, as after `session.deleted`."""

    def __aiter__(self) -> AsyncIterator[Frame]: ...

    async def close(self) -> None:
        """End the subscription. May be called at any time, and twice."""
        ...


class SessionService(Protocol):
    """Sessions of a workspace. Every method raises NotFound for another workspace's session."""

    async def create(self, workspace: str, params: CreateSession) -> SessionView: ...

    async def retrieve(self, workspace: str, session_id: str) -> SessionView: ...

    async def update(self, workspace: str, session_id: str, patch: UpdateSession) -> SessionView: ...

    async def list(self, workspace: str, query: SessionQuery) -> tuple[list[SessionLine], bool, bool]:
        """The rows in display order, whether more come after them, whether more come before."""
        ...

    async def archive(self, workspace: str, session_id: str) -> SessionView: ...

    async def delete(self, workspace: str, session_id: str) -> None: ...

    async def send(
        self, workspace: str, session_id: str, events: Sequence[ClientEvent], *, token_id: str | None = None
    ) -> Sequence[str]:
        """The stored events as JSON text, in order. All are taken, or none is.

        token_id  of the worker that sends: PermissionDenied when its claim of the session's work item is over.
        """
        ...

    async def list_events(
        self, workspace: str, session_id: str, query: EventQuery
    ) -> tuple[Sequence[tuple[int, str]], bool]:
        """Sequence and JSON text of each event, and whether more follow."""
        ...

    async def open_stream(
        self, workspace: str, session_id: str, *, after_seq: int | None, deltas: frozenset[str]
    ) -> EventStream:
        """Subscribed when this returns: whatever is committed from then on will be in the stream.

        after_seq  replay the log behind this sequence first; None: only what is new.
        deltas     event types whose previews are wanted.
        """
        ...

    async def thread(self, workspace: str, session_id: str) -> dict[str, Any]:
        """The primary thread as the wire shows it."""
        ...


LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class ApiServices:
    """Everything a request can reach."""

    organization_id: str
    keys: Keys
    agents: Agents
    environments: Environments
    environment_keys: EnvironmentKeys
    work_queue: WorkQueue
    models: Models
    sessions: SessionService
    administration: Administration
    oversight: Oversight
    quotas: WorkspaceQuotas
    reach: Reach
    memory_stores: MemoryStores
    files: Files
    skills: Skills
    session_resources: SessionResources
    vaults: Vaults
    credentials: Credentials
    credential_probe: CredentialProbe
    webhooks: Webhooks
    policies: Policies
    budgets: Budgets
    compactions: Compactions
    archives: Archives
    checkpoints: Checkpoints
    forks: Forks
    bundles: Bundles
    diffs: Diffs
    previews: Previews
    rooms: RoomList
    measures: Measures
    usage: UsageReports
    retention: Retention
    routing: RoutingReports
    audit: AuditLog
    places: Places
    rate_limits: RateLimits
    guards: Guards
    watch_requests: Callable[[str | None, int, float | None], None] | None = None
    """Told of each request; see `api.transport`."""
    allowed_hosts: frozenset[str] | None = field(default=LOOPBACK_HOSTS)
    """Names the server answers to, without port, lower case. None: every name; only behind a proxy that checks."""
    keep_alive_seconds: float = 15.0
    """Silence on an event stream after which a comment is sent."""
    tracing: Tracing = UNTRACED
    slow_reader_seconds: float = 30.0
    """How long one write to an event stream may block before the reader is dropped."""
