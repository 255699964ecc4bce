"""Every policy under every mode: nothing that says ask or deny is opened by any of them."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from hostler.domain.agents import PermissionMode
from hostler.engine.mcp import PermittedCalls, alias, input_digest
from hostler.engine.permissions import Permissions, permissions
from hostler.engine.state import OpenCall

MODES = get_args(PermissionMode)
POLICIES: dict[str, dict[str, Any]] = {
    "always_allow": {"type": "always_allow"},
    "always_ask": {"type": "always_ask"},
    "auto": {"type": "auto"},
    "deny": {"type": "auto", "verdict": "deny"},
}
TABLE = {
    # policy: mode -> for read, bash, and a tool of an MCP server
    "always_allow": {"plan": "allow deny deny", None: "allow allow allow"},
    "auto": {
        "acceptEdits": "allow ask ask",
        "bypassPermissions": "allow allow allow",
        "plan": "ask deny deny",
        "dontAsk": "deny deny deny",
        None: "ask ask ask",
    },
    "always_ask": {"plan": "ask deny deny", "dontAsk": "deny deny deny", None: "ask ask ask"},
    "deny": {None: "deny deny deny"},
}


def rules(mode: str, policy: str) -> Permissions:
    default = {"enabled": True, "permission_policy": POLICIES[policy]}
    tools = [
        {"type": "agent_toolset_20260401", "default_config": default, "configs": []},
        {"type": "mcp_toolset", "mcp_server_name": "M", "default_config": default, "configs": []},
    ]
    return permissions({"tools": tools, "permission_mode": mode}, {"M": "m"})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICIES)
def test_policy_under_mode(mode: str, policy: str) -> None:
    rule = rules(mode, policy)
    row = TABLE[policy]
    judged = [rule.evaluate("read"), rule.evaluate("bash"), rule.evaluate("anything", "m")]
    assert [it.permission for it in judged] == row.get(mode, row[None]).split()
    assert rule.can_wait == any(it.permission == "ask" for it in judged)
    for it in judged:
        assert it.body is not None
        assert it.body["type"] == ("auto" if policy == "deny" else policy)
        assert bool(it.message) == (it.permission == "deny")
        if it.body["type"] == "auto":
            assert it.body["evaluated_permission"]["type"] == it.permission
            assert ("reason_code" in it.body["evaluated_permission"]) == (it.permission != "allow")


@pytest.mark.parametrize("mode", MODES)
def test_what_the_agent_does_not_have_is_denied_before_any_policy(mode: str) -> None:
    rule = Permissions(mode)
    for judged in (rule.evaluate("bash"), rule.evaluate("x", "m"), rules(mode, "always_allow").evaluate("x", "other")):
        assert (judged.permission, judged.body) == ("deny", None)


def test_named_tool_is_found_in_every_spelling_of_the_harness() -> None:
    config = {"name": "a.b", "enabled": False, "permission_policy": {"type": "always_allow"}}
    default = {"enabled": True, "permission_policy": {"type": "always_ask"}}
    toolset = {"type": "mcp_toolset", "mcp_server_name": "M", "default_config": default, "configs": [config]}
    rule = permissions({"tools": [toolset]}, {"M": "m"})
    assert not rule.offers("a.b", "m")
    assert not rule.offers("a_b", "m")
    assert rule.evaluate("a_b", "m").permission == "deny"
    assert rule.servers["m"].tool_name("a_b") == "a.b"
    assert rule.offers("c", "m")


def test_aliases_are_safe_and_differ_where_names_differ() -> None:
    names = ["github", "GitHub", "my server", "my-server", "my_server", "a__b", "a_", "custom", "Claude", "ü", "ö"]
    names += ["x" * 255, "x" * 254, "", "my-server-2bd0a2b4f2", alias("my server")]
    aliases = [alias(name) for name in names]
    assert len(set(aliases)) == len(names)
    assert aliases[:2] == names[:2]
    for made in aliases:
        assert "__" not in made
        assert not made.endswith("_")
        assert made != "custom"
        assert len(made) <= 40
        assert made.isascii()


def test_call_may_begin_once_and_only_as_it_was_announced() -> None:
    gate = PermittedCalls()
    call = OpenCall(
        event_id="e",
        tool_use_id="t",
        kind="mcp",
        name="a_b",
        server="m",
        input_digest=input_digest({"x": 1}),
        gated=True,
    )
    gate.permit(call)
    assert not gate.begin("m", "a_b", {"x": 2})
    assert not gate.begin("n", "a_b", {"x": 1})
    assert gate.begin("m", "a.b", {"x": 1.0})
    assert not gate.begin("m", "a.b", {"x": 1})
    gate.not_begun("m", "a.b", {"x": 1})
    assert gate.begin("m", "a.b", {"x": 1})
    assert not gate.begin("m", "a.b", {"x": True})
