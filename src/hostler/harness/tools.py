"""How are tools called on either side? Names and inputs of built-in tools, wire ↔ harness.

The wire says `bash {command, timeout_ms}`, the harness says `Bash {command, timeout, description}`. Inputs that have no
counterpart on the wire are passed on as they are; only prose for a person at a terminal (`description`) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostler.domain.tools import mcp_tool_key

BUILTIN: Mapping[str, str] = {
    "bash": "Bash",
    "read": "Read",
    "write": "Write",
    "edit": "Edit",
    "glob": "Glob",
    "grep": "Grep",
    "web_fetch": "WebFetch",
    "web_search": "WebSearch",
}
_WIRE = {harness: wire for wire, harness in BUILTIN.items()}

CUSTOM_SERVER = "custom"
_MCP_PREFIX = "mcp__"
_CUSTOM_PREFIX = f"mcp__{CUSTOM_SERVER}__"


def to_wire_name(name: str) -> tuple[str, bool, str | None]:
    """The wire's name of a harness tool, whether it is a custom tool, and the alias of its MCP server."""
    if name.startswith(_CUSTOM_PREFIX):
        return name.removeprefix(_CUSTOM_PREFIX), True, None
    if name.startswith(_MCP_PREFIX):
        server, separator, tool = name.removeprefix(_MCP_PREFIX).partition("__")  # no alias has two underscores
        if separator and server and tool:
            return tool, False, server
    return _WIRE.get(name, name), False, None


def to_harness_name(name: str, custom: bool = False, server: str | None = None) -> str:
    if server is not None:
        return f"{_MCP_PREFIX}{server}__{mcp_tool_key(name)}"
    return _CUSTOM_PREFIX + name if custom else BUILTIN.get(name, name)


def to_wire_input(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The input of the built-in tool `name` (wire name), as the wire shows it."""
    out = dict(given)
    match name:
        case "bash":
            out.pop("description", None)
            if "timeout" in out:
                out["timeout_ms"] = out.pop("timeout")
        case "read":
            offset, limit = out.pop("offset", None), out.pop("limit", None)
            if offset is not None or limit is not None:
                first = max(1, int(offset or 1))
                out["view_range"] = [first, first + int(limit) - 1 if limit is not None else -1]
    return out


def to_harness_input(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The input of the built-in tool `name` (wire name), as the harness takes it."""
    out = dict(given)
    match name:
        case "bash":
            if "timeout_ms" in out:
                out["timeout"] = out.pop("timeout_ms")
        case "read":
            span = out.pop("view_range", None)
            if span is not None:
                first, last = int(span[0]), int(span[1])
                out["offset"] = first
                if last > 0:
                    out["limit"] = max(1, last - first + 1)
    return out
