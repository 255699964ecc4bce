"""MCP servers, their toolsets and permission modes, as agents and sessions say them."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

SERVER: Any = {"type": "url", "name": "github", "url": "https://mcp.example.com/github"}
TOOLSET: Any = {"type": "mcp_toolset", "mcp_server_name": "github"}
ALLOW: Any = {"type": "always_allow"}
ASK: Any = {"type": "always_ask"}


def create(client: anthropic.Anthropic, **more: Any) -> Any:
    extension = {key: more.pop(key) for key in ("local_mcp_servers", "permission_mode") if key in more}
    return client.beta.agents.create(name="a", model="claude-opus-5-5", extra_body=extension, **more)


@pytest.mark.endpoint("agents.create")
def test_defaults_of_a_toolset_are_resolved_and_ask(client: anthropic.Anthropic) -> None:
    """T14."""
    made = create(client, tools=[TOOLSET], mcp_servers=[SERVER])
    assert made.tools[0].to_dict() == {
        **TOOLSET, "default_config": {"enabled": True, "permission_policy": ASK}, "configs": [],
    }  # fmt: skip
    assert [server.to_dict() for server in made.mcp_servers] == [SERVER]
    configs = [{"name": "a"}, {"name": "b.c", "enabled": False}, {"name": "d", "permission_policy": ALLOW}]
    off = {**TOOLSET, "default_config": {"enabled": False}, "configs": configs}
    shown = create(client, tools=[off], mcp_servers=[SERVER]).tools[0].to_dict()
    assert shown["default_config"] == {"enabled": False, "permission_policy": ASK}
    assert shown["configs"] == [
        {"name": "a", "enabled": False, "permission_policy": ASK},
        {"name": "b.c", "enabled": False, "permission_policy": ASK},
        {"name": "d", "enabled": False, "permission_policy": ALLOW},
    ]


LOCAL: Any = {"name": "notes", "command": "python3", "args": ["-m", "notes"], "env": {"DIR": "/workspace"}}
NOTES: Any = {"type": "mcp_toolset", "mcp_server_name": "notes"}


def test_extensions_are_shown_only_where_they_were_set(client: anthropic.Anthropic) -> None:
    plain = create(client, tools=[TOOLSET], mcp_servers=[SERVER]).to_dict()
    assert "local_mcp_servers" not in plain
    assert "permission_mode" not in plain
    made = create(client, tools=[NOTES], local_mcp_servers=[LOCAL], permission_mode="dontAsk").to_dict()
    assert made["local_mcp_servers"] == [{"type": "stdio", **LOCAL}]
    assert made["permission_mode"] == "dontAsk"
    assert made["mcp_servers"] == []
    cleared = client.beta.agents.update(
        made["id"], version=1, tools=[], extra_body={"local_mcp_servers": None, "permission_mode": None}
    )
    assert cleared.version == 2
    assert not {"local_mcp_servers", "permission_mode"} & set(cleared.to_dict())


def test_deny_is_a_policy_that_a_strict_client_can_read(client: anthropic.Anthropic) -> None:
    deny: Any = {"type": "deny"}
    bash: Any = {"type": "agent_toolset_20260401", "configs": [{"name": "bash", "permission_policy": deny}]}
    made = create(
        client, tools=[bash, {**TOOLSET, "default_config": {"permission_policy": deny}}], mcp_servers=[SERVER]
    )
    shown = {"type": "auto", "verdict": "deny"}
    assert made.tools[0].configs[0].permission_policy.to_dict() == shown
    assert made.tools[1].default_config.permission_policy.to_dict() == shown
    again = client.beta.agents.update(made.id, version=1, tools=[tool.to_dict() for tool in made.tools])  # type: ignore[misc]
    assert again.version == 1, "what was shown can be sent back, and changes nothing"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mcp_servers": [SERVER]}, "no mcp_toolset in tools refers to the server 'github'"),
        ({"tools": [TOOLSET]}, "an mcp_toolset names the server 'github', which is not in mcp_servers"),
        ({"tools": [TOOLSET, TOOLSET], "mcp_servers": [SERVER]}, "two mcp_toolset entries for the server github"),
        ({"tools": [TOOLSET], "mcp_servers": [SERVER, SERVER]}, "the name 'github' is taken twice"),
        (
            {"tools": [TOOLSET], "mcp_servers": [SERVER], "local_mcp_servers": [{**LOCAL, "name": "github"}]},
            "taken twice",
        ),
        ({"mcp_servers": [{**SERVER, "name": str(n)} for n in range(21)]}, "mcp_servers: must have at most 20"),
        ({"mcp_servers": [{**SERVER, "name": ""}]}, r"mcp_servers\[0\].name: must have at least 1"),
        ({"mcp_servers": [{**SERVER, "name": "x" * 256}]}, r"mcp_servers\[0\].name: must have at most 255"),
        ({"mcp_servers": [{**SERVER, "url": "ftp://x/"}]}, "is not the URL of an MCP server"),
        ({"mcp_servers": [{**SERVER, "url": "https:///x"}]}, "is not the URL of an MCP server"),
        ({"mcp_servers": [{**SERVER, "url": "https://u:p@x/"}]}, "holds a user or a password"),
        ({"mcp_servers": [{**SERVER, "url": "https://x/#f"}]}, "holds a fragment"),
        ({"mcp_servers": [{**SERVER, "url": "https://x/\r\nHost: y"}]}, "characters that no URL has"),
        ({"mcp_servers": [{**SERVER, "url": "https://x:99999/"}]}, "is not a URL"),
        ({"mcp_servers": [{**SERVER, "headers": {}}]}, r"mcp_servers\[0\].headers: is not a field"),
        ({"mcp_servers": [{"type": "stdio", **LOCAL}]}, "put it into local_mcp_servers"),
        ({"mcp_servers": [{**SERVER, "authorization_token": "t"}]}, "authorization_token: is not a field"),
        (
            {"tools": [{**TOOLSET, "configs": [{"name": "x*"}]}], "mcp_servers": [SERVER]},
            "wildcards are not understood",
        ),
        (
            {"tools": [{**TOOLSET, "configs": [{"name": "a.b"}, {"name": "a_b"}]}], "mcp_servers": [SERVER]},
            "configures a.b and a_b, which the model can't tell apart",
        ),
        ({"tools": [{**TOOLSET, "configs": [{"name": "a"}] * 2}], "mcp_servers": [SERVER]}, "configures a twice"),
        ({"tools": [{**TOOLSET, "configs": [{"name": "a", "type": "a"}]}]}, "type: is not a field"),
        ({"local_mcp_servers": [{**LOCAL, "env": {"A B": "x"}}]}, "has the name 'A B'"),
        ({"local_mcp_servers": [{**LOCAL, "command": "a\0b"}]}, "contains a NUL"),
        ({"local_mcp_servers": [{**LOCAL, "args": ["x" * 4096] * 17}]}, "takes .* bytes; at most 65536"),
        (
            {"tools": [{**NOTES, "default_config": {"enabled": False}}], "local_mcp_servers": [LOCAL]},
            "is disabled by default, which works for remote servers only",
        ),
        ({"permission_mode": "yolo"}, "permission_mode: must be"),
    ],
)
def test_what_contradicts_itself_is_refused(client: anthropic.Anthropic, fields: Any, message: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        create(client, **fields)


@pytest.mark.endpoint("agents.update")
def test_update_is_checked_as_a_whole(client: anthropic.Anthropic) -> None:
    made = create(client, tools=[TOOLSET], mcp_servers=[SERVER])
    for fields in ({"mcp_servers": []}, {"mcp_servers": None}, {"tools": []}):
        with pytest.raises(anthropic.BadRequestError, match="github"):
            client.beta.agents.update(made.id, version=1, **fields)  # type: ignore[arg-type]
    moved: Any = {**SERVER, "url": "https://elsewhere.example.com/"}
    changed = client.beta.agents.update(made.id, version=1, mcp_servers=[moved])
    assert (changed.version, changed.mcp_servers[0].url) == (2, moved["url"])
    cleared = client.beta.agents.update(made.id, version=2, mcp_servers=None, tools=None)
    assert (cleared.version, cleared.mcp_servers, cleared.tools) == (3, [], [])


@pytest.mark.endpoint("sessions.create", "sessions.update")
def test_session_takes_overrides_and_updates_checked_as_a_whole(client: anthropic.Anthropic) -> None:
    agent = create(client, tools=[TOOLSET], mcp_servers=[SERVER], permission_mode="plan")
    environment = client.beta.environments.create(name="e").id

    def session(**overrides: Any) -> Any:
        choice: Any = {"type": "agent_with_overrides", "id": agent.id, **overrides}
        return client.beta.sessions.create(agent=choice, environment_id=environment)

    inherited = session()
    assert [server.to_dict() for server in inherited.agent.mcp_servers] == [SERVER]
    assert inherited.agent.to_dict()["permission_mode"] == "plan"
    assert "permission_mode" not in session(permission_mode=None).agent.to_dict()
    for dangling in ({"mcp_servers": None}, {"mcp_servers": []}, {"tools": None}):
        with pytest.raises(anthropic.BadRequestError, match=r"agent\.(tools|mcp_servers): .*github"):
            session(**dangling)
    cleared = session(mcp_servers=None, tools=[])
    assert (cleared.agent.mcp_servers, cleared.agent.tools) == ([], [])
    with pytest.raises(anthropic.BadRequestError, match=r"agent\.mcp_servers: .*github"):
        client.beta.sessions.update(cleared.id, agent={"mcp_servers": [SERVER]})
    updated = client.beta.sessions.update(cleared.id, agent={"mcp_servers": [SERVER], "tools": [TOOLSET]})
    assert [server.to_dict() for server in updated.agent.mcp_servers] == [SERVER]
    assert updated.agent.id == agent.id
    assert (
        client.beta.sessions.update(updated.id, agent={"tools": [TOOLSET]}).agent.to_dict() == updated.agent.to_dict()
    )


@pytest.mark.endpoint("environments.create", "environments.update")
def test_environment_keeps_whether_it_allows_mcp_servers(client: anthropic.Anthropic) -> None:
    networking: Any = {"type": "limited", "allow_mcp_servers": True}
    made = client.beta.environments.create(name="e", config={"type": "cloud", "networking": networking})
    assert made.config.networking.to_dict()["allow_mcp_servers"] is True
    kept: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["a.example.com"]}}
    assert client.beta.environments.update(made.id, config=kept).config.networking.to_dict() == {
        "type": "limited", "allowed_hosts": ["a.example.com"], "allow_mcp_servers": True,
        "allow_package_managers": False,
    }  # fmt: skip
    networking["allow_mcp_servers"] = False
    off = client.beta.environments.update(made.id, config={"type": "cloud", "networking": networking})
    assert off.config.networking.to_dict()["allow_mcp_servers"] is False
