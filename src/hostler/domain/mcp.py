"""Which MCP servers may an agent use, and do its toolsets and its servers agree?

Remote servers are the contract's (`mcp_servers`). Local ones are our extension, in a field of their own
(`local_mcp_servers`): the contract's list is closed, and a strict client could not read another kind in it. Both share
one set of names; every server has exactly one `mcp_toolset`, and every toolset a server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.errors import InvalidRequest
from hostler.domain.tools import AgentToolset, CustomTool, McpServerName, McpToolset
from hostler.domain.values import Items, Text, Value, problem

MAX_SERVERS: Final = 20
MAX_LOCAL_BYTES: Final = 65_536
"""All local servers of an agent together, as JSON: they travel to the sandbox on one command line."""


def _server_url(url: str) -> str:
    advice = "write it as https://host/path"
    if not url.isascii() or not url.isprintable() or any(char in url for char in ' \\"<>^`{|}'):
        raise problem(f"holds characters that no URL has; {advice}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise problem(f"is not a URL; {advice}") from None
    if parts.scheme.lower() not in ("https", "http") or not host:
        raise problem(f"is not the URL of an MCP server; {advice}")
    if "@" in parts.netloc:
        raise problem("holds a user or a password; put the secret into a credential of a vault instead")
    if "#" in url:
        raise problem("holds a fragment, which no server gets to see; leave it out")
    return url


class UrlServer(Value):
    """A remote MCP server that speaks streamable HTTP."""

    type: Literal["url"]
    name: McpServerName
    url: Annotated[Text, Field(min_length=1, max_length=2_048), AfterValidator(_server_url)]


def _variables(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
            raise problem(f"has the name {name[:40]!r}; use letters, digits and underscores")
    return env


class LocalServer(Value):
    """Our extension: a program that `claude` starts in the session's sandbox and speaks to over its standard streams.

    It sees the sandbox and nothing else. What is in `env` is shown to whoever may read the agent.
    """

    type: Literal["stdio"] = "stdio"
    name: McpServerName
    command: Annotated[Text, Field(min_length=1, max_length=1_024)]
    args: Annotated[Items[Annotated[Text, Field(max_length=4_096)]], Field(max_length=64)] = ()
    env: Annotated[
        dict[str, Annotated[Text, Field(max_length=4_096)]], Field(max_length=64), AfterValidator(_variables)
    ] = Field(default_factory=dict)


def _null_is_empty(value: object) -> object:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


def _urls_only(value: object) -> object:
    if isinstance(value, dict) and value.get("type") == "stdio":
        raise problem("is a local server; put it into local_mcp_servers")
    return value


def _small(servers: tuple[LocalServer, ...]) -> tuple[LocalServer, ...]:
    size = sum(len(server.model_dump_json()) for server in servers)
    if size > MAX_LOCAL_BYTES:
        raise problem(f"takes {size} bytes; at most {MAX_LOCAL_BYTES} are allowed, move what is long into a file")
    return servers


UrlServers = Annotated[
    tuple[Annotated[UrlServer, BeforeValidator(_urls_only)], ...],
    Field(max_length=MAX_SERVERS),
    BeforeValidator(_null_is_empty),
]
"""What an `mcp_servers` field of a request holds; null is the empty list."""
LocalServers = Annotated[
    tuple[LocalServer, ...], Field(max_length=MAX_SERVERS), BeforeValidator(_null_is_empty), AfterValidator(_small)
]
"""What a `local_mcp_servers` field of a request holds; null is the empty list."""


def check_servers(
    tools: Sequence[AgentToolset | McpToolset | CustomTool],
    servers: Sequence[UrlServer],
    local: Sequence[LocalServer],
    *,
    at: str = "",
) -> None:
    """Raises InvalidRequest when a name is taken twice, or servers and toolsets don't belong together.

    `at` is put before the names of the fields: where they are in the request.
    """
    names = [server.name for server in servers] + [server.name for server in local]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"{at}mcp_servers: the name {name!r} is taken twice; every server needs its own")
    toolsets = {tool.mcp_server_name: tool for tool in tools if isinstance(tool, McpToolset)}
    for name in toolsets:
        if name not in names:
            raise InvalidRequest(
                f"{at}tools: an mcp_toolset names the server {name!r}, which is not in mcp_servers; add it there, or "
                "remove the toolset"
            )
    for name in names:
        if name not in toolsets:
            raise InvalidRequest(
                f"{at}mcp_servers: no mcp_toolset in tools refers to the server {name!r}; add one, or remove the server"
            )
    for server in local:
        if not toolsets[server.name].default_config.enabled:
            raise InvalidRequest(
                f"{at}tools: the mcp_toolset of the local server {server.name!r} is disabled by default, which works "
                "for remote servers only; disable its tools by name"
            )


def dumped(servers: Sequence[UrlServer | LocalServer]) -> list[dict[str, Any]]:
    """The servers as JSON."""
    return [server.model_dump(mode="json") for server in servers]


__all__ = ["LocalServer", "LocalServers", "UrlServer", "UrlServers", "check_servers", "dumped"]
