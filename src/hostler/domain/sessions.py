"""What may a client ask of a session: its creation, its changes, its place in a list, its events and their stream."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.agents import MAX_SYSTEM, ModelChoice, ModeRequest
from hostler.domain.clock import rfc3339
from hostler.domain.inputs import ClientEvent, parse_initial_events
from hostler.domain.mcp import LocalServers, UrlServers
from hostler.domain.resources import FileResource, GithubResource, MemoryResource, ResourceRequests
from hostler.domain.skills import SkillRequests
from hostler.domain.tools import ToolRequests
from hostler.domain.values import (
    Identifier,
    Metadata,
    MetadataPatch,
    Text,
    Value,
    parse,
    problem,
)
from hostler.domain.vaults import VaultIds

MAX_TITLE: Final = 500

EVENT_TYPES: Final = frozenset(
    {
        "user.message",
        "user.interrupt",
        "user.tool_confirmation",
        "user.custom_tool_result",
        "user.tool_result",
        "user.define_outcome",
        "system.message",
        "agent.message",
        "agent.thinking",
        "agent.tool_use",
        "agent.tool_result",
        "agent.mcp_tool_use",
        "agent.mcp_tool_result",
        "agent.custom_tool_use",
        "agent.thread_context_compacted",
        "agent.thread_message_sent",
        "agent.thread_message_received",
        "session.error",
        "session.updated",
        "session.usage",
        "session.status_running",
        "session.status_idle",
        "session.status_rescheduled",
        "session.status_terminated",
        "session.thread_created",
        "session.thread_status_running",
        "session.thread_status_idle",
        "session.thread_status_rescheduled",
        "session.thread_status_terminated",
        "span.model_request_start",
        "span.model_request_end",
        "span.outcome_evaluation_start",
        "span.outcome_evaluation_ongoing",
        "span.outcome_evaluation_end",
        "workflow_run.created",
        "workflow_run.status_running",
        "workflow_run.status_idle",
        "workflow_run.status_ended",
        "workflow_run.error",
        "workflow_run.phase_started",
        "workflow_run.phase_ended",
    }
)
"""Every type a list of events can be filtered by: all that are kept. (`session.deleted` is only ever streamed.)"""

SessionStatus = Literal["rescheduling", "running", "idle", "terminated"]
Order = Literal["asc", "desc"]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


class AgentRef(Value):
    """An agent at a version; without one, at its latest."""

    type: Literal["agent"] = "agent"
    id: Identifier
    version: Version | None = None


def _effort_is_ignored(value: object) -> object:
    # The contract: an override names another model at that model's own default effort.
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if key != "effort"}
    if value is None:
        raise problem("can't be cleared; leave it out to keep the agent's model", code="agent_model_required")
    return value


class AgentOverrides(Value):
    """An agent, with parts replaced for one session. What is not in `model_fields_set` is inherited."""

    type: Literal["agent_with_overrides"]
    id: Identifier
    version: Version | None = None
    model: Annotated[ModelChoice | None, BeforeValidator(_effort_is_ignored)] = None
    system: Annotated[Text, Field(max_length=MAX_SYSTEM)] | None = None
    tools: ToolRequests = ()
    mcp_servers: UrlServers = ()
    local_mcp_servers: LocalServers = ()
    permission_mode: ModeRequest = "default"
    skills: SkillRequests = ()


def _bare_agent(value: object) -> object:
    return {"type": "agent", "id": value} if isinstance(value, str) else value


AgentChoice = Annotated[
    Annotated[AgentRef | AgentOverrides, Field(discriminator="type")],
    BeforeValidator(_bare_agent),
]
Title = Annotated[Text, Field(max_length=MAX_TITLE)]


def _whole_cents(amount: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,11}", amount):
        raise problem('must be whole cents as text, more than 0 and without leading zeros, such as "2500" for $25')
    return amount


class Amount(Value):
    amount: Annotated[str, AfterValidator(_whole_cents)]
    currency: Literal["USD"]


class BudgetLimit(Value):
    """How much a session may cost, at list price."""

    type: Literal["limit"]
    max_list_cost: Amount

    def wire(self) -> dict[str, Any]:
        return self.model_dump()


class _CreateSessionBody(Value):
    agent: AgentChoice
    environment_id: Identifier
    title: Title | None = None
    metadata: Metadata = Field(default_factory=dict)
    initial_events: Any = None
    resources: ResourceRequests = ()
    vault_ids: VaultIds = ()
    budget: BudgetLimit | None = None


@dataclass(frozen=True, slots=True)
class CreateSession:
    """The body of `POST /v1/sessions`."""

    agent: AgentRef | AgentOverrides
    environment_id: str
    title: str | None
    metadata: dict[str, str]
    initial_events: list[ClientEvent]
    resources: Sequence[FileResource | GithubResource | MemoryResource] = ()
    vault_ids: Sequence[str] = ()
    """In the order in which they are asked for a credential."""
    budget: dict[str, Any] | None = None
    """As the wire has it."""


def parse_create_session(raw: object) -> CreateSession:
    """Raises InvalidRequest; then nothing of the request was taken."""
    body = parse(_CreateSessionBody, raw)
    return CreateSession(
        agent=body.agent,
        environment_id=body.environment_id,
        title=body.title,
        metadata=dict(body.metadata),
        initial_events=parse_initial_events(body.initial_events),
        resources=body.resources,
        vault_ids=body.vault_ids or (),
        budget=body.budget.wire() if body.budget else None,
    )


class SessionAgentUpdate(Value):
    """What of a session's agent may change while the session lives."""

    tools: ToolRequests = ()
    mcp_servers: UrlServers = ()
    local_mcp_servers: LocalServers = ()
    permission_mode: ModeRequest = "default"


def _no_vault_update(value: object) -> object:
    raise problem("is fixed when the session is created; leave it out")


class UpdateSession(Value):
    """The body of `POST /v1/sessions/{id}`. What is not in `model_fields_set` keeps its value; a null title clears."""

    title: Title | None = None
    metadata: MetadataPatch = Field(default_factory=dict)
    agent: SessionAgentUpdate | None = None
    budget: BudgetLimit | None = None
    """Null removes it, for good."""
    vault_ids: Annotated[None, BeforeValidator(_no_vault_update)] = None

    @property
    def wire_budget(self) -> dict[str, Any] | None:
        return None if self.budget is None else self.budget.wire()


# ------------------------------------------------------------------------------------------------------- lists


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Bounds of a moment; None means open."""

    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None

    def texts(self) -> dict[str, str | None]:
        """The bounds by name, as the wire and the store write moments."""
        return {
            name: None if bound is None else rfc3339(bound)
            for name, bound in (("gt", self.gt), ("gte", self.gte), ("lt", self.lt), ("lte", self.lte))
        }


class Position(NamedTuple):
    """A row's place in a list ordered by creation: its `created_at` as the wire writes it, then its id."""

    created_at: str
    id: str


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """One page of sessions. `after` and `before` are exclusive, in display order, and never both set.

    Rows come in display order either way: with `before`, they are the `limit` rows right before it.
    """

    limit: int = 20
    order: Order = "desc"
    after: Position | None = None
    before: Position | None = None
    agent_id: str | None = None
    agent_version: int | None = None
    deployment_id: str | None = None
    memory_store_id: str | None = None
    statuses: frozenset[SessionStatus] = frozenset()
    created_at: TimeRange = TimeRange()
    include_archived: bool = False


class SessionLine(NamedTuple):
    """One row of a page of sessions."""

    position: Position
    text: str
    """The session as JSON, every key present."""


@dataclass(frozen=True, slots=True)
class EventQuery:
    """One page of events. `after_seq` is exclusive, in the direction of `order`. `created_at` bounds `processed_at`."""

    limit: int = 100
    order: Order = "asc"
    after_seq: int | None = None
    types: frozenset[str] = frozenset()
    created_at: TimeRange = TimeRange()


# ------------------------------------------------------------------------------------------------------ streams


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of an event stream."""

    name: str
    """The event's `type`."""
    data: str
    """The event as JSON on one line."""
    seq: int | None = None
    """Its place in the log. None for what is not in the log (previews, waiting input): a reader can't resume there."""
    preview_of: str | None = None
    """Id of the event that this frame previews; None for events."""
    behind: int | None = None
    """Input that waited when the log ended with this sequence: out of date for a reader that has seen more."""
    encoded: list[bytes] = field(default_factory=list, compare=False, repr=False)
    """The bytes that go over the wire, kept by whoever made them first: all readers are sent the same."""
