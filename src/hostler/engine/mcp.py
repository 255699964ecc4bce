"""Under which names does the harness know an agent's MCP servers, and where does it reach them?

A server's name on the wire is any text. The harness makes tool names of it (`mcp__<server>__<tool>`), so it gets an
alias: the name itself when that is safe, else something like it with a digest. The alias follows from the name alone,
because the conversation remembers tools by it.

Remote servers are not reached by their URL: `claude` gets an address that only the session's egress road knows, and the
road makes the request to the server, with the credential that the sandbox never sees.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from hostler.domain.tools import mcp_tool_key
from hostler.engine.egress_port import MCP_HOST, McpRoute
from hostler.engine.runs import McpServer
from hostler.engine.state import OpenCall

_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]|_(?!_))*(?<!_)\Z")
_LONGEST = 40
_RESERVED = frozenset({"custom", "hostler", "ide", "workspace"})
"""`custom` is ours; the others have, or may have, a meaning for the harness."""


def alias(name: str) -> str:
    """Letters, digits, hyphens and single underscores; different names have different aliases."""
    taken = name.lower() in _RESERVED or name.lower().startswith(("claude", "anthropic", "computer", "plugin"))
    if len(name) <= _LONGEST and _PLAIN.match(name) and not taken and not re.search(r"-[0-9a-f]{10}\Z", name):
        return name
    like = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[: _LONGEST - 11].rstrip("-") or "server"
    return f"{like}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def aliases(agent: Mapping[str, Any]) -> dict[str, str]:
    """The alias of every MCP server of a session's snapshot of an agent, by name."""
    servers = [*(agent.get("mcp_servers") or ()), *(agent.get("local_mcp_servers") or ())]
    return {server["name"]: alias(server["name"]) for server in servers}


def routes(agent: Mapping[str, Any]) -> tuple[McpRoute, ...]:
    """Where the egress road sends what comes for each remote server."""
    return tuple(McpRoute(alias(server["name"]), server["url"]) for server in agent.get("mcp_servers") or ())


def harness_servers(agent: Mapping[str, Any]) -> tuple[McpServer, ...]:
    """The servers as the harness is told of them."""
    remote = [McpServer(route.alias, url=f"http://{MCP_HOST}/{route.alias}") for route in routes(agent)]
    local = [
        McpServer(alias(server["name"]), command=server["command"], args=tuple(server["args"]), env=dict(server["env"]))
        for server in agent.get("local_mcp_servers") or ()
    ]
    return (*remote, *local)


def input_digest(arguments: Mapping[str, Any]) -> str:
    """What tells the arguments of one call from those of another, however they are written down."""
    return hashlib.sha256(json.dumps(_one_form(arguments), sort_keys=True).encode()).hexdigest()


def _one_form(value: object) -> object:
    """Numbers as JavaScript knows them, since the harness is written in it: 1 and 1.0 are the same there."""
    match value:
        case bool() | str() | None:
            return value
        case int() | float():
            try:
                return float(value) + 0.0
            except OverflowError:
                return float("inf")
        case Mapping():
            return {str(key): _one_form(item) for key, item in value.items()}
        case list() | tuple():
            return [_one_form(item) for item in value]
        case _:
            return repr(value)


class PermittedCalls:
    """Calls of remote MCP tools that were announced and permitted, and are not on their way yet.

    A program in the sandbox can speak to the egress road like `claude` does. The road asks here, so that it gets
    nothing through that the gate did not let pass, and nothing twice.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str, str]] = []

    def permit(self, call: OpenCall) -> None:
        """Calls of other tools than those of MCP servers don't come by here; they are not kept."""
        if call.server is not None:
            self._waiting.append((call.server, mcp_tool_key(call.name), call.input_digest))

    def begin(self, alias: str, tool: str, arguments: Mapping[str, object]) -> bool:
        key = (alias, mcp_tool_key(tool), input_digest(arguments))
        if key not in self._waiting:
            return False
        self._waiting.remove(key)
        return True

    def not_begun(self, alias: str, tool: str, arguments: Mapping[str, object]) -> None:
        self._waiting.append((alias, mcp_tool_key(tool), input_digest(arguments)))
