"""Which tools may an agent use, and who is asked before a call runs?

`ToolRequest` is what a client sends; `Tool` is what is stored and shown, with every default resolved. Which MCP servers
a toolset may name is in `domain.mcp`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from hostler.domain.values import Items, Text, Value, problem

BuiltinName = Literal["bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search"]
BUILTIN_NAMES: Final[tuple[BuiltinName, ...]] = get_args(BuiltinName)
MAX_TOOLS: Final = 256
McpServerName = Annotated[Text, Field(min_length=1, max_length=255)]


class AlwaysAllow(Value):
    type: Literal["always_allow"] = "always_allow"


class AlwaysAsk(Value):
    type: Literal["always_ask"] = "always_ask"


class Auto(Value):
    """The server judges each call. Without a judge the agent's permission mode decides; mostly that is `ask`.

    `verdict` is our extension: the judge that always says no. Clients write it `{"type": "deny"}`; it is kept and shown
    as an `auto` policy because the contract's policies are a closed union, and a strict client could not read another.
    """

    type: Literal["auto"] = "auto"
    verdict: Literal["deny"] | None = None

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        shown: dict[str, Any] = serialise(self)
        return {key: value for key, value in shown.items() if value is not None}


def _deny_is_a_verdict(value: object) -> object:
    return {"type": "auto", "verdict": "deny"} if value == {"type": "deny"} else value


PermissionPolicy = Annotated[
    Annotated[AlwaysAllow | AlwaysAsk | Auto, Field(discriminator="type")], BeforeValidator(_deny_is_a_verdict)
]


class ToolDefault(Value):
    """What holds for every tool of a toolset that has no entry of its own."""

    enabled: bool
    permission_policy: PermissionPolicy


class ToolConfig(Value):
    """What holds for one built-in tool."""

    type: BuiltinName
    name: BuiltinName
    enabled: bool
    permission_policy: PermissionPolicy


class AgentToolset(Value):
    """The built-in tools, with every default resolved."""

    type: Literal["agent_toolset_20260401"] = "agent_toolset_20260401"
    default_config: ToolDefault
    configs: Items[ToolConfig]

    def of(self, name: str) -> ToolDefault | ToolConfig:
        """What holds for the built-in tool `name`."""
        return next((config for config in self.configs if config.name == name), self.default_config)


class McpToolConfig(Value):
    """What holds for one tool of an MCP server."""

    name: str
    enabled: bool
    permission_policy: PermissionPolicy


class McpToolset(Value):
    """The tools of one MCP server, with every default resolved."""

    type: Literal["mcp_toolset"] = "mcp_toolset"
    mcp_server_name: str
    default_config: ToolDefault
    configs: Items[McpToolConfig]


class CustomTool(Value):
    """A tool that the client runs."""

    type: Literal["custom"] = "custom"
    name: str
    description: str
    input_schema: dict[str, Any]


Tool = Annotated[AgentToolset | McpToolset | CustomTool, Field(discriminator="type")]

# ------------------------------------------------------------------------------------------------------- as sent


def _null_is_empty(value: object) -> object:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


class _ToolDefaultRequest(Value):
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


_WEB_RULES: Final = ("allowed_domains", "blocked_domains", "max_content_tokens", "url_sources", "user_location")


def _no_web_rules(value: object) -> object:
    if isinstance(value, dict):
        for rule in _WEB_RULES:
            if value.get(rule) is not None:
                raise problem(
                    f"sets {rule}, which this server can't enforce yet; leave it out, or disable the tool with "
                    '"enabled": false'
                )
        return {key: item for key, item in value.items() if key not in _WEB_RULES}
    return value


class _ToolConfigRequest(Value):
    name: BuiltinName
    type: BuiltinName | None = None
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class AgentToolsetRequest(Value):
    type: Literal["agent_toolset_20260401"]
    default_config: _ToolDefaultRequest | None = None
    configs: Annotated[
        tuple[Annotated[_ToolConfigRequest, BeforeValidator(_no_web_rules)], ...], BeforeValidator(_null_is_empty)
    ] = ()


def _custom_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", name):
        raise problem("is not a tool name; use 1 to 128 letters, digits, underscores and hyphens")
    if name in BUILTIN_NAMES:
        raise problem(f"{name} is the name of a built-in tool; choose another one")
    if name.startswith("mcp__"):
        raise problem("starts with mcp__, which is kept for tools of MCP servers; choose another name")
    return name


def _input_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "object":
        raise problem('must have "type": "object"')
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            raise problem(f"has {key} at the top level; describe one object, with optional properties instead")
    properties = schema.get("properties")
    if properties is not None and not isinstance(properties, dict):
        raise problem("has `properties` that are not an object")
    required = schema.get("required")
    if required is not None and not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        raise problem("has `required` that is not an array of strings")
    if _mentions_reference(schema):
        raise problem("uses $ref; write the referenced schema in its place")
    return schema


def _mentions_reference(schema: object) -> bool:
    waiting = [schema]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            # A property may be *named* $ref: only a string value makes it a reference.
            if isinstance(here.get("$ref"), str):
                return True
            waiting.extend(here.values())
        elif isinstance(here, list):
            waiting.extend(here)
    return False


class CustomToolRequest(Value):
    type: Literal["custom"]
    name: Annotated[str, AfterValidator(_custom_name)]
    description: Text = Field(min_length=1, max_length=16_384)
    input_schema: Annotated[dict[str, Any], AfterValidator(_input_schema)]


def _mcp_tool_name(name: str) -> str:
    if "*" in name:
        raise problem("holds a *; name one tool: wildcards are not understood, default_config is for the rest")
    return name


class _McpToolConfigRequest(Value):
    name: Annotated[Text, Field(min_length=1, max_length=128), AfterValidator(_mcp_tool_name)]
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class McpToolsetRequest(Value):
    type: Literal["mcp_toolset"]
    mcp_server_name: McpServerName
    default_config: _ToolDefaultRequest | None = None
    configs: Annotated[tuple[_McpToolConfigRequest, ...], BeforeValidator(_null_is_empty)] = ()


ToolRequest = Annotated[AgentToolsetRequest | McpToolsetRequest | CustomToolRequest, Field(discriminator="type")]
Requested = AgentToolsetRequest | McpToolsetRequest | CustomToolRequest


def mcp_tool_key(name: str) -> str:
    """How the harness spells the tool `name` of an MCP server: two names with one key are one tool to the model."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def resolve_tools(requests: tuple[Requested, ...]) -> tuple[Tool, ...]:
    """The tools as they are stored. Raises a problem when they contradict each other."""
    tools = tuple(resolve_tool(request) for request in requests)
    names = [tool.name for tool in tools if isinstance(tool, CustomTool)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise problem(f"defines the tool {twice[0]} twice; tool names are unique")
    toolsets = sum(isinstance(tool, AgentToolset) for tool in tools)
    if toolsets > 1:
        raise problem("has agent_toolset_20260401 twice; merge the two into one")
    servers = [tool.mcp_server_name for tool in tools if isinstance(tool, McpToolset)]
    if repeated := sorted({name for name in servers if servers.count(name) > 1}):
        raise problem(f"has two mcp_toolset entries for the server {repeated[0]}; merge the two into one")
    named = sum(len(tool.configs) for tool in tools if isinstance(tool, McpToolset))
    total = len(names) + toolsets * len(BUILTIN_NAMES) + named
    if total > MAX_TOOLS:
        raise problem(f"has {total} tools; at most {MAX_TOOLS} are allowed")
    return tools


def resolve_tool(request: Requested) -> AgentToolset | McpToolset | CustomTool:
    """The tool as it is stored: defaults filled in. Raises a problem when one tool is configured twice."""
    match request:
        case CustomToolRequest():
            return CustomTool(name=request.name, description=request.description, input_schema=request.input_schema)
        case McpToolsetRequest():
            default = _default(request.default_config, AlwaysAsk())
            return McpToolset(
                mcp_server_name=request.mcp_server_name,
                default_config=default,
                configs=tuple(McpToolConfig(name=c.name, **_resolved(c, default)) for c in _distinct(request.configs)),
            )
        case AgentToolsetRequest():
            default = _default(request.default_config, AlwaysAllow())
            for config in request.configs:
                if config.type is not None and config.type != config.name:
                    raise problem(f"configures {config.name} with type {config.type}; the two must be equal")
            return AgentToolset(
                default_config=default,
                configs=tuple(
                    ToolConfig(type=c.name, name=c.name, **_resolved(c, default)) for c in _distinct(request.configs)
                ),
            )


def _default(asked: _ToolDefaultRequest | None, policy: AlwaysAllow | AlwaysAsk) -> ToolDefault:
    asked = asked or _ToolDefaultRequest()
    return ToolDefault(
        enabled=True if asked.enabled is None else asked.enabled,
        permission_policy=asked.permission_policy or policy,
    )


def _resolved(config: _ToolConfigRequest | _McpToolConfigRequest, default: ToolDefault) -> dict[str, Any]:
    return {
        "enabled": default.enabled if config.enabled is None else config.enabled,
        "permission_policy": config.permission_policy or default.permission_policy,
    }


Config = TypeVar("Config", _ToolConfigRequest, _McpToolConfigRequest)


def _distinct(configs: tuple[Config, ...]) -> tuple[Config, ...]:
    known: dict[str, str] = {}
    for config in configs:
        key = mcp_tool_key(config.name)
        if known.get(key) == config.name:
            raise problem(f"configures {config.name} twice; merge the two entries")
        if key in known:
            raise problem(f"configures {known[key]} and {config.name}, which the model can't tell apart; keep one")
        known[key] = config.name
    return configs


def _agree(requests: tuple[Requested, ...]) -> tuple[Requested, ...]:
    resolve_tools(requests)
    return requests


ToolRequests = Annotated[tuple[ToolRequest, ...], BeforeValidator(_null_is_empty), AfterValidator(_agree)]
"""What a `tools` field of a request holds; null is the empty list. `resolve_tools` of it can't fail."""

__all__ = [
    "BUILTIN_NAMES",
    "MAX_TOOLS",
    "AgentToolset",
    "AgentToolsetRequest",
    "AlwaysAllow",
    "AlwaysAsk",
    "Auto",
    "BuiltinName",
    "CustomTool",
    "CustomToolRequest",
    "McpServerName",
    "McpToolConfig",
    "McpToolset",
    "McpToolsetRequest",
    "PermissionPolicy",
    "Tool",
    "ToolConfig",
    "ToolDefault",
    "ToolRequest",
    "ToolRequests",
    "mcp_tool_key",
    "resolve_tool",
    "resolve_tools",
]
