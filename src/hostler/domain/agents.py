"""What is an agent: the parts a version is made of, and what a client may send to create or change them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.compaction import Compaction
from hostler.domain.mcp import LocalServer, LocalServers, UrlServer, UrlServers, check_servers
from hostler.domain.routing import Routing
from hostler.domain.skills import PinnedSkill, SkillRequests, check_readable
from hostler.domain.tools import Tool, ToolRequests, resolve_tools
from hostler.domain.values import Items, Metadata, MetadataPatch, ModelId, Text, Value, problem, refuse_unless_empty

MAX_NAME: Final = 256
MAX_DESCRIPTION: Final = 2_048
MAX_SYSTEM: Final = 100_000

EffortLevel = Literal["low", "medium", "high", "xhigh", "max"]


class Effort(Value):
    type: EffortLevel


class ModelConfig(Value):
    """The model of an agent version as it is stored: the effort is always resolved."""

    id: str
    effort: Effort
    speed: Literal["standard"] = "standard"
    inference_geo: None = None


def _effort(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _standard_speed(value: object) -> object:
    if value == "fast":
        raise problem("fast is not supported by this server; leave it out, or send standard")
    return value


def _bare_model(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ModelRequest(Value):
    """A model as a client names it. A bare string is its `id`."""

    id: ModelId
    effort: Annotated[Effort | None, BeforeValidator(_effort)] = None
    speed: Annotated[Literal["standard"] | None, BeforeValidator(_standard_speed)] = None
    inference_geo: Annotated[
        None, refuse_unless_empty("is not supported: this server doesn't route inference; leave it out")
    ] = None


ModelChoice = Annotated[ModelRequest, BeforeValidator(_bare_model)]


def _service_account(value: object) -> object:
    if isinstance(value, dict) and value.get("type") == "aws_role":
        raise problem("of type aws_role is not supported by this server; leave it out")
    return value


class ServiceAccount(Value):
    type: Literal["service_account"] = "service_account"


PermissionMode = Literal["default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "auto"]
"""Our extension, with the Agent SDK's words: how policies are read. `engine.permissions` says what each one does."""


def _default_mode(value: object) -> object:
    return "default" if value is None else value


ModeRequest = Annotated[PermissionMode, BeforeValidator(_default_mode)]
"""What a `permission_mode` field of a request holds; null is `default`."""
NoMultiagent = Annotated[None, refuse_unless_empty("is not supported by this server yet; leave it out or send null")]
ExecutionIdentity = Annotated[ServiceAccount | None, BeforeValidator(_service_account)]
SystemPrompt = Annotated[Text, Field(max_length=MAX_SYSTEM)]


def _not_blank(name: str) -> str:
    if not name.strip():
        raise problem("must not be blank")
    return name


AgentName = Annotated[Text, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_not_blank)]


class CreateAgent(Value):
    """The body of `POST /v1/agents`."""

    name: AgentName
    model: ModelChoice
    description: Annotated[Text, Field(max_length=MAX_DESCRIPTION)] | None = None
    system: SystemPrompt | None = None
    tools: ToolRequests = ()
    metadata: Metadata = Field(default_factory=dict)
    mcp_servers: UrlServers = ()
    local_mcp_servers: LocalServers = ()
    permission_mode: ModeRequest = "default"
    skills: SkillRequests = ()
    compaction: Compaction | None = None
    routing: Routing | None = None
    multiagent: NoMultiagent = None
    execution_identity: ExecutionIdentity = None


class UpdateAgent(Value):
    """The body of `POST /v1/agents/{id}`. What was left out is not in `model_fields_set` and keeps its value."""

    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    name: AgentName | None = None
    model: ModelChoice | None = None
    description: Annotated[Text, Field(max_length=MAX_DESCRIPTION)] | None = None
    system: SystemPrompt | None = None
    tools: ToolRequests = ()
    metadata: MetadataPatch = Field(default_factory=dict)
    mcp_servers: UrlServers = ()
    local_mcp_servers: LocalServers = ()
    permission_mode: ModeRequest = "default"
    skills: SkillRequests = ()
    compaction: Compaction | None = None
    routing: Routing | None = None
    multiagent: NoMultiagent = None
    execution_identity: ExecutionIdentity = None


class AgentVersion(Value):
    """What one immutable version says."""

    name: str
    description: str | None
    model: ModelConfig
    system: str | None
    tools: tuple[Tool, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    mcp_servers: tuple[UrlServer, ...] = ()
    local_mcp_servers: tuple[LocalServer, ...] = ()
    permission_mode: PermissionMode = "default"
    skills: Items[PinnedSkill] = ()
    compaction: Compaction | None = None
    """Our extension: how long conversations are shortened."""
    routing: Routing | None = None
    """Our extension: which model answers which request."""

    def wire(self) -> dict[str, Any]:
        """The part of the wire object that depends on the version, with every key of the contract.

        Our extensions appear only where they were set.
        """
        shown = {
            **self.model_dump(mode="json"),
            "multiagent": None,
            "execution_identity": {"type": "service_account"},
        }
        if not self.local_mcp_servers:
            del shown["local_mcp_servers"]
        if self.permission_mode == "default":
            del shown["permission_mode"]
        if self.compaction is None:
            del shown["compaction"]
        else:
            shown["compaction"] = {key: value for key, value in shown["compaction"].items() if value is not None}
        if self.routing is None:
            del shown["routing"]
        else:
            shown["routing"] = self.routing.wire()
        return shown

    def check(self, at: str = "") -> None:
        """Raises InvalidRequest when tools, servers and skills contradict each other. `at`: as in `check_servers`."""
        check_servers(self.tools, self.mcp_servers, self.local_mcp_servers, at=at)
        check_readable(self.tools, self.skills, at=at)


def first_version(
    request: CreateAgent, *, default_effort: EffortLevel, skills: tuple[PinnedSkill, ...] = ()
) -> AgentVersion:
    """The version that `request` makes. `default_effort` is the one of its model. Raises InvalidRequest.

    `skills` are those of the request, each at a version.
    """
    version = AgentVersion(
        name=request.name,
        description=request.description or None,
        model=resolve_model(request.model, default_effort=default_effort),
        system=request.system or None,
        tools=resolve_tools(request.tools),
        metadata=dict(request.metadata),
        mcp_servers=request.mcp_servers,
        local_mcp_servers=request.local_mcp_servers,
        permission_mode=request.permission_mode,
        skills=skills,
        compaction=request.compaction,
        routing=request.routing,
    )
    version.check()
    return version


def resolve_model(
    request: ModelRequest, *, default_effort: EffortLevel, stored: ModelConfig | None = None
) -> ModelConfig:
    """The model to store: a whole replacement, except that an effort left out keeps that of the same model."""
    effort = request.effort
    if effort is None and stored is not None and stored.id == request.id:
        effort = stored.effort
    return ModelConfig(id=request.id, effort=effort or Effort(type=default_effort))
