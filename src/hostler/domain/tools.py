"""Which tools may an agent use, and who is asked before a call runs?

`ToolRequest` is what a client sends; `Tool` is what is stored and shown, with every default resolved. MCP toolsets are
part of the contract and refused here until they work.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.values import Items, Text, Value, problem

BuiltinName = Literal["bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search"]
BUILTIN_NAMES: Final[tuple[BuiltinName, ...]] = get_args(BuiltinName)
MAX_TOOLS: Final = 256


class AlwaysAllow(Value):
    type: Literal["always_allow"] = "always_allow"


class AlwaysAsk(Value):
    type: Literal["always_ask"] = "always_ask"


class Auto(Value):
    """The server judges each call. Without a judge every call is answered `ask`, reason `indeterminate`."""

    type: Literal["auto"] = "auto"


PermissionPolicy = Annotated[AlwaysAllow | AlwaysAsk | Auto, Field(discriminator="type")]


class ToolDefault(Value):
    """What holds for every built-in tool that has no entry of its own."""

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


class CustomTool(Value):
    """A tool that the client runs."""

    type: Literal["custom"] = "custom"
    name: str
    description: str
    input_schema: dict[str, Any]


Tool = Annotated[AgentToolset | CustomTool, Field(discriminator="type")]

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


def _no_mcp(value: object) -> object:
    if isinstance(value, dict) and value.get("type") == "mcp_toolset":
        raise problem("is an mcp_toolset; MCP servers are not supported by this server yet, remove it")
    return value


ToolRequest = Annotated[
    Annotated[AgentToolsetRequest | CustomToolRequest, Field(discriminator="type")], BeforeValidator(_no_mcp)
]


def resolve_tools(requests: tuple[AgentToolsetRequest | CustomToolRequest, ...]) -> tuple[Tool, ...]:
    """The tools as they are stored. Raises a problem when they contradict each other."""
    tools = tuple(resolve_tool(request) for request in requests)
    names = [tool.name for tool in tools if isinstance(tool, CustomTool)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise problem(f"defines the tool {twice[0]} twice; tool names are unique")
    toolsets = sum(isinstance(tool, AgentToolset) for tool in tools)
    if toolsets > 1:
        raise problem("has agent_toolset_20260401 twice; merge the two into one")
    total = len(names) + toolsets * len(BUILTIN_NAMES)
    if total > MAX_TOOLS:
        raise problem(f"has {total} tools; at most {MAX_TOOLS} are allowed")
    return tools


def resolve_tool(request: AgentToolsetRequest | CustomToolRequest) -> AgentToolset | CustomTool:
    """The tool as it is stored: defaults filled in. Raises a problem when one built-in tool is configured twice."""
    match request:
        case CustomToolRequest():
            return CustomTool(name=request.name, description=request.description, input_schema=request.input_schema)
        case AgentToolsetRequest():
            asked = request.default_config or _ToolDefaultRequest()
            default = ToolDefault(
                enabled=True if asked.enabled is None else asked.enabled,
                permission_policy=asked.permission_policy or AlwaysAllow(),
            )
            configs: list[ToolConfig] = []
            for config in request.configs:
                if config.type is not None and config.type != config.name:
                    raise problem(f"configures {config.name} with type {config.type}; the two must be equal")
                if any(known.name == config.name for known in configs):
                    raise problem(f"configures {config.name} twice; merge the two entries")
                configs.append(
                    ToolConfig(
                        type=config.name,
                        name=config.name,
                        enabled=default.enabled if config.enabled is None else config.enabled,
                        permission_policy=config.permission_policy or default.permission_policy,
                    )
                )
            return AgentToolset(default_config=default, configs=tuple(configs))


def _agree(
    requests: tuple[AgentToolsetRequest | CustomToolRequest, ...],
) -> tuple[AgentToolsetRequest | CustomToolRequest, ...]:
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
    "PermissionPolicy",
    "Tool",
    "ToolConfig",
    "ToolDefault",
    "ToolRequest",
    "ToolRequests",
    "resolve_tool",
    "resolve_tools",
]
