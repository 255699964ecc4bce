"""Agents through the official client: shapes, versions, what is cleared and what is kept."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from apikit_server import Access, RunningServer

CUSTOM: Any = {
    "type": "custom",
    "name": "weather",
    "description": "Looks out of the window.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "x-own": 1},
}


@pytest.mark.endpoint("agents.create", "agents.retrieve")
def test_agent_comes_back_as_it_was_created(client: anthropic.Anthropic) -> None:
    made = client.beta.agents.create(
        name="Coder",
        model="claude-opus-5-5",
        system="Be brief.",
        description="Writes code",
        tools=[{"type": "agent_toolset_20260401"}, CUSTOM],
        metadata={"team": "red"},
    )
    assert made.id.startswith("agent_")
    assert made.version == 1
    assert made.model.to_dict() == {
        "id": "claude-opus-5-5", "effort": {"type": "medium"}, "speed": "standard", "inference_geo": None,
    }  # fmt: skip
    assert made.tools[1].to_dict() == CUSTOM
    assert made.execution_identity.type == "service_account"
    assert (made.mcp_servers, made.skills, made.multiagent, made.archived_at) == ([], [], None, None)
    assert client.beta.agents.retrieve(made.id).to_dict() == made.to_dict()
    assert client.beta.agents.retrieve(made.id, version=1).to_dict() == made.to_dict()
    with pytest.raises(anthropic.NotFoundError):
        client.beta.agents.retrieve(made.id, version=2)


@pytest.mark.endpoint("agents.create")
def test_defaults_of_the_toolset_are_resolved(client: anthropic.Anthropic) -> None:
    plain, configured = client.beta.agents.create(
        name="a", model="claude-haiku-4-5", tools=[{"type": "agent_toolset_20260401"}]
    ).tools + client.beta.agents.create(
        name="b",
        model="claude-haiku-4-5",
        tools=[
            {
                "type": "agent_toolset_20260401",
                "default_config": {"permission_policy": {"type": "always_ask"}},
                "configs": [
                    {"name": "bash", "permission_policy": {"type": "auto"}},
                    {"name": "web_fetch", "enabled": False},
                ],
            }
        ],
    ).tools  # fmt: skip
    assert plain.to_dict() == {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
        "configs": [],
    }
    assert configured.to_dict() == {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": True, "permission_policy": {"type": "always_ask"}},
        "configs": [
            {"type": "bash", "name": "bash", "enabled": True, "permission_policy": {"type": "auto"}},
            {"type": "web_fetch", "name": "web_fetch", "enabled": False, "permission_policy": {"type": "always_ask"}},
        ],
    }


@pytest.mark.endpoint("agents.update")
def test_left_out_keeps_null_and_empty_clear(client: anthropic.Anthropic) -> None:
    full: dict[str, Any] = {"system": "s", "description": "d", "tools": [CUSTOM], "metadata": {"a": "1", "b": "2"}}
    for clearing in ({"system": None}, {"system": ""}, {"description": None}, {"description": ""}):
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5", **full)
        changed = client.beta.agents.update(agent.id, **clearing)  # type: ignore[arg-type]
        (field,) = clearing
        assert getattr(changed, field) is None
        assert changed.version == 2
        kept = {"name", "system", "description", "tools", "metadata", "model"} - {field}
        assert {name: getattr(changed, name) for name in kept} == {name: getattr(agent, name) for name in kept}
    for empty in (None, []):
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5", **full)
        assert client.beta.agents.update(agent.id, tools=empty).tools == []
        assert client.beta.agents.update(agent.id, metadata={"a": None, "c": "3"}).metadata == {"b": "2", "c": "3"}


@pytest.mark.endpoint("agents.update")
@pytest.mark.parametrize("field", ["name", "model"])
def test_name_and_model_can_not_be_cleared(client: anthropic.Anthropic, field: str) -> None:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    with pytest.raises(anthropic.BadRequestError, match=f"{field}: can't be cleared"):
        client.beta.agents.update(agent.id, extra_body={field: None})


@pytest.mark.endpoint("agents.update")
def test_effort_is_kept_for_the_same_model_and_resolved_for_another(client: anthropic.Anthropic) -> None:
    def effort(agent: Any) -> str:
        return str(agent.model.effort.type)

    agent = client.beta.agents.create(name="n", model={"id": "claude-opus-5-5", "effort": "max"})
    assert effort(agent) == "max"
    same = client.beta.agents.update(agent.id, model="claude-opus-5-5")
    assert (effort(same), same.version) == ("max", 1)
    assert effort(client.beta.agents.update(agent.id, model="claude-sonnet-5-5")) == "high"
    assert effort(client.beta.agents.update(agent.id, model={"id": "x", "effort": {"type": "low"}})) == "low"


@pytest.mark.endpoint("agents.update")
def test_update_that_changes_nothing_keeps_the_version(client: anthropic.Anthropic) -> None:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5", tools=[CUSTOM], metadata={"a": "1"})
    same = client.beta.agents.update(
        agent.id, name="n", model="claude-opus-5-5", tools=[CUSTOM], metadata={"a": "1", "gone": None}, version=1
    )
    assert same.to_dict() == agent.to_dict()


@pytest.mark.endpoint("agents.update")
def test_stale_version_conflicts_once_even_when_nothing_would_change(server: RunningServer, access: Access) -> None:
    with access.client(max_retries=2) as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        client.beta.agents.update(agent.id, name="m")
        before = len(server.requests)
        with pytest.raises(anthropic.ConflictError) as caught:
            client.beta.agents.update(agent.id, name="m", version=1)
    assert len(server.requests) - before == 1
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.body["error"]["type"] == "conflict_error"  # type: ignore[index]
    assert caught.value.request_id


@pytest.mark.endpoint("agents.retrieve", "agents.versions.list")
def test_every_version_stays_as_it_was(client: anthropic.Anthropic) -> None:
    first = client.beta.agents.create(name="v1", model="claude-opus-5-5")
    for number in (2, 3, 4):
        client.beta.agents.update(first.id, name=f"v{number}")
    assert client.beta.agents.retrieve(first.id, version=1).to_dict() == first.to_dict()
    assert client.beta.agents.retrieve(first.id).version == 4
    listed = list(client.beta.agents.versions.list(first.id, limit=3))
    assert [(agent.version, agent.name) for agent in listed] == [(4, "v4"), (3, "v3"), (2, "v2"), (1, "v1")]


@pytest.mark.endpoint("agents.archive", "agents.list")
def test_archived_agent_is_kept_hidden_and_unchangeable(client: anthropic.Anthropic) -> None:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    other = client.beta.agents.create(name="m", model="claude-opus-5-5")
    archived = client.beta.agents.archive(agent.id)
    assert archived.archived_at is not None
    assert client.beta.agents.archive(agent.id).to_dict() == archived.to_dict()
    assert [row.id for row in client.beta.agents.list()] == [other.id]
    assert [row.id for row in client.beta.agents.list(include_archived=True)] == [other.id, agent.id]
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        client.beta.agents.update(agent.id, name="x")
    environment = client.beta.environments.create(name="e")
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        client.beta.sessions.create(agent=agent.id, environment_id=environment.id)


@pytest.mark.endpoint("agents.list")
def test_pages_hold_every_agent_once_while_others_are_made(client: anthropic.Anthropic) -> None:
    made = [client.beta.agents.create(name=f"a{number}", model="claude-opus-5-5").id for number in range(25)]
    seen: list[str] = []
    for agent in client.beta.agents.list(limit=4):
        seen.append(agent.id)
        if len(seen) % 4 == 0:
            client.beta.agents.create(name="later", model="claude-opus-5-5")
    assert seen == made[::-1]
    oldest = client.beta.agents.retrieve(made[0]).created_at
    assert [agent.id for agent in client.beta.agents.list(created_at_lte=oldest)] == [made[0]]
    assert made[0] in [agent.id for agent in client.beta.agents.list(created_at_gte=oldest, limit=100)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name: must have at least 1 characters"),
        ({"name": "x" * 257}, "name: must have at most 256"),
        ({"name": "   "}, "name: must not be blank"),
        ({"model": "--dangerously-skip-permissions"}, "model.*is not a model id"),
        ({"model": {"id": "m", "speed": "fast"}}, "model.speed: fast is not supported"),
        ({"model": {"id": "m", "inference_geo": "eu"}}, "model.inference_geo: is not supported"),
        ({"model": {"id": "m", "effort": "huge"}}, "model.effort: must be"),
        ({"system": "x" * 100_001}, "system: must have at most 100000"),
        ({"description": "x" * 2049}, "description: must have at most 2048"),
        ({"description": "nul\x00"}, "description: contains a NUL"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata: has 17 pairs"),
        ({"metadata": {"k" * 65: "v"}}, "metadata: has a key of 65"),
        ({"metadata": {"k": "v" * 513}}, "metadata: has a value for 'k' of 513"),
        ({"metadata": {"k": 1}}, "metadata: has a value for 'k' that is not a string"),
        ({"skills": [{"type": "anthropic", "skill_id": "xlsx"}]}, "skills: of type anthropic are published by"),
        ({"multiagent": {"type": "coordinator", "agents": []}}, "multiagent: is not supported"),
        ({"execution_identity": {"type": "aws_role", "role_arn": "a"}}, "execution_identity: of type aws_role"),
        ({"tools": [{"type": "bash_20250124"}]}, r"tools\[0\]: has type 'bash_20250124'"),
        ({"tools": [{"type": "agent_toolset_20260401"}] * 2}, "tools: has agent_toolset_20260401 twice"),
        (
            {"tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "bush"}]}]},
            r"tools\[0\].configs\[0\].name: must be",
        ),
        (
            {
                "tools": [
                    {
                        "type": "agent_toolset_20260401",
                        "configs": [{"name": "web_fetch", "allowed_domains": ["example.com"]}],
                    }
                ]
            },
            r"tools\[0\].configs\[0\]: sets allowed_domains",
        ),
        ({"tools": [CUSTOM, CUSTOM]}, "tools: defines the tool weather twice"),
        ({"tools": [CUSTOM | {"name": "bash"}]}, r"tools\[0\].name: bash is the name of a built-in"),
        ({"tools": [CUSTOM | {"name": "mcp__a__b"}]}, r"tools\[0\].name: starts with mcp__"),
        ({"tools": [CUSTOM | {"name": "no spaces"}]}, r"tools\[0\].name: is not a tool name"),
        ({"tools": [CUSTOM | {"input_schema": {"type": "string"}}]}, r"tools\[0\].input_schema: must have"),
        (
            {"tools": [CUSTOM | {"input_schema": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}]},
            r"tools\[0\].input_schema: uses \$ref",
        ),
        ({"tools": [CUSTOM | {"input_schema": {"type": "object", "oneOf": []}}]}, "has oneOf at the top level"),
        ({"tools": [CUSTOM | {"name": f"t{n}"} for n in range(257)]}, "tools: has 257 tools"),
        ({"colour": "red"}, "colour: is not a field"),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(
    client: anthropic.Anthropic, fields: dict[str, Any], message: str
) -> None:
    body = {"name": "n", "model": "claude-opus-5-5"} | fields
    with pytest.raises(anthropic.BadRequestError, match=message):
        client.beta.agents.create(name="n", model="claude-opus-5-5", extra_body=body)
    assert list(client.beta.agents.list()) == []


def test_missing_fields_are_all_named(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="name: is required; model: is required"):
        client.post("/v1/agents", body={}, cast_to=object)
