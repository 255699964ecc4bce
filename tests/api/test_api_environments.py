"""Environments through the official client."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest


@pytest.mark.endpoint("environments.create", "environments.retrieve")
def test_environment_without_config_is_cloud_and_unrestricted(client: anthropic.Anthropic) -> None:
    made = client.beta.environments.create(name="dev")
    assert made.id.startswith("env_")
    assert made.config.to_dict() == {
        "type": "cloud",
        "networking": {"type": "unrestricted"},
        "packages": {"type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": []},
    }
    assert (made.description, made.metadata, made.scope, made.archived_at) == (None, {}, "organization", None)
    assert client.beta.environments.retrieve(made.id).to_dict() == made.to_dict()


@pytest.mark.endpoint("environments.create", "environments.update")
def test_left_out_keeps_inside_config_too(client: anthropic.Anthropic) -> None:
    config: Any = {
        "type": "cloud",
        "networking": {"type": "limited", "allowed_hosts": ["API.Example.com", "*.example.org", "api.example.com"]},
        "limits": {"memory_mb": 512, "cpus": 1, "pids": 64},
        "hosting": {"idle_timeout_seconds": 0, "max_live_sessions": 20},
    }
    made = client.beta.environments.create(name="dev", config=config, description="d", metadata={"a": "1", "b": "2"})

    def network(environment: Any) -> dict[str, Any]:
        shown: dict[str, Any] = environment.config.networking.to_dict()
        return shown

    hosts = ["api.example.com", "*.example.org"]
    limited = {"type": "limited", "allowed_hosts": hosts, "allow_mcp_servers": False, "allow_package_managers": False}
    assert network(made) == limited
    assert made.config.to_dict()["limits"] == {"memory_mb": 512, "cpus": 1.0, "pids": 64}
    assert made.config.to_dict()["hosting"] == {"idle_timeout_seconds": 0, "max_live_sessions": 20}

    same = client.beta.environments.update(made.id, config={"type": "cloud", "networking": {"type": "limited"}})
    assert same.to_dict() == made.to_dict()
    changed = client.beta.environments.update(
        made.id,
        extra_body={"config": {"type": "cloud", "limits": {"pids": None, "max_turns": 7}, "hosting": None}},
        metadata={"a": None, "b": "", "c": "3"},
    )
    assert changed.config.to_dict()["limits"] == {"memory_mb": 512, "cpus": 1.0, "max_turns": 7}
    assert "hosting" not in changed.config.to_dict()
    assert (network(changed), changed.metadata, changed.description) == (limited, {"c": "3"}, "d")
    opened = client.beta.environments.update(
        made.id, config={"type": "cloud", "networking": {"type": "unrestricted"}}, description=""
    )
    assert (network(opened), opened.description) == ({"type": "unrestricted"}, "")
    assert client.beta.environments.update(made.id, description=None, name="prod").description is None
    closed = client.beta.environments.update(made.id, config={"type": "cloud", "networking": {"type": "limited"}})
    assert network(closed)["allowed_hosts"] == []


@pytest.mark.endpoint("environments.create", "environments.update", "environments.retrieve")
def test_packages_are_kept_as_sent_and_changed_list_by_list(client: anthropic.Anthropic) -> None:
    wanted: Any = {"type": "packages", "pip": ["pandas==2.3.1", "six", "six"], "npm": ["@types/node@^22"]}
    limited: Any = {"type": "limited", "allowed_hosts": [], "allow_package_managers": True}
    made = client.beta.environments.create(
        name="dev", config={"type": "cloud", "networking": limited, "packages": wanted}
    )

    def packages(environment: Any) -> dict[str, Any]:
        shown: dict[str, Any] = environment.config.packages.to_dict()
        return {name: entries for name, entries in shown.items() if entries and name != "type"}

    assert packages(made) == {"pip": ["pandas==2.3.1", "six"], "npm": ["@types/node@^22"]}
    assert made.config.to_dict()["packages"]["go"] == []  # type: ignore[index]
    assert made.config.to_dict()["networking"]["allow_package_managers"] is True  # type: ignore[index]
    same = client.beta.environments.update(made.id, config={"type": "cloud", "packages": {"type": "packages"}})
    assert same.to_dict() == made.to_dict()
    changed = client.beta.environments.update(
        made.id, extra_body={"config": {"type": "cloud", "packages": {"apt": ["jq"], "npm": [], "pip": None}}}
    )
    assert packages(changed) == {"pip": ["pandas==2.3.1", "six"], "apt": ["jq"]}
    assert packages(client.beta.environments.retrieve(made.id)) == packages(changed)
    with pytest.raises(anthropic.BadRequestError, match="under limited networking packages need"):
        client.beta.environments.update(
            made.id, config={"type": "cloud", "networking": {"type": "limited", "allow_package_managers": False}}
        )
    opened = client.beta.environments.update(made.id, config={"type": "cloud", "networking": {"type": "unrestricted"}})
    assert packages(opened) == packages(changed)


@pytest.mark.endpoint("environments.archive", "environments.list", "environments.update")
def test_archived_environment_is_kept_hidden_and_unchangeable(client: anthropic.Anthropic) -> None:
    made, other = client.beta.environments.create(name="a"), client.beta.environments.create(name="b")
    archived = client.beta.environments.archive(made.id)
    assert archived.archived_at is not None
    assert client.beta.environments.archive(made.id).to_dict() == archived.to_dict()
    assert [row.id for row in client.beta.environments.list()] == [other.id]
    assert [row.id for row in client.beta.environments.list(include_archived=True, limit=1)] == [other.id, made.id]
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    for refused in (
        lambda: client.beta.environments.update(made.id, name="c"),
        lambda: client.beta.sessions.create(agent=agent.id, environment_id=made.id),
    ):
        with pytest.raises(anthropic.BadRequestError) as caught:
            refused()  # type: ignore[no-untyped-call]
        assert caught.value.body["error"]["details"] == {"error_code": "environment_archived"}  # type: ignore[index]


@pytest.mark.endpoint("environments.create", "environments.update", "environments.delete")
def test_names_are_unique_until_deleted(client: anthropic.Anthropic) -> None:
    made, other = client.beta.environments.create(name="dev"), client.beta.environments.create(name="prod")
    with pytest.raises(anthropic.ConflictError):
        client.beta.environments.create(name="dev")
    with pytest.raises(anthropic.ConflictError):
        client.beta.environments.update(other.id, name="dev")
    assert client.beta.environments.delete(made.id).to_dict() == {"id": made.id, "type": "environment_deleted"}
    with pytest.raises(anthropic.NotFoundError):
        client.beta.environments.retrieve(made.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.environments.delete(made.id)
    assert client.beta.environments.create(name="dev").name == "dev"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "self_hosted", "networking": {"type": "unrestricted"}}, "config.networking: is not a field"),
        ({"type": "elsewhere"}, "config: has type 'elsewhere'"),
        ({}, "config: needs a `type`"),
        ({"type": "cloud", "gpu": 1}, "config.gpu: is not a field"),
        ({"type": "cloud", "networking": {"type": "open"}}, "config.networking: has type 'open'"),
        (
            {"type": "cloud", "networking": {"type": "limited", "allow_package_managers": "yes"}},
            "config.networking.allow_package_managers: must be true or false",
        ),
        (
            {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["ok.example.com", "10.0.0.1"]}},
            "config.networking.allowed_hosts: has '10.0.0.1', which is an address",
        ),
        ({"type": "cloud", "packages": {"brew": ["jq"]}}, "config.packages.brew: is not a field"),
        ({"type": "cloud", "packages": {"pip": "six"}}, "config.packages.pip: must be an array"),
        ({"type": "cloud", "packages": {"pip": ["-r"]}}, "config.packages.pip: has '-r', which is not a pip package"),
        ({"type": "cloud", "packages": {"apt": ["a" * 201]}}, "config.packages.apt: has an entry of 201 characters"),
        ({"type": "cloud", "packages": {"npm": ["a"] * 129}}, "config.packages.npm: must have at most 128 items"),
        (
            {"type": "cloud", "networking": {"type": "limited"}, "packages": {"pip": ["six"]}},
            "config.packages: under limited networking packages need networking.allow_package_managers",
        ),
        ({"type": "cloud", "limits": {"memory_mb": 1}}, "config.limits.memory_mb: must be at least"),
        ({"type": "cloud", "limits": {"memory": 1}}, "config.limits.memory: is not a field"),
        ({"type": "cloud", "hosting": {"idle_timeout_seconds": -1}}, "idle_timeout_seconds: must be at least 0"),
        ({"type": "cloud", "hosting": {"max_live_sessions": 0}}, "max_live_sessions: must be at least 1"),
        ({"type": "cloud", "hosting": {"spares": -1}}, "config.hosting.spares: must be at least 0"),
        ({"type": "cloud", "hosting": {"spares": 51}}, "config.hosting.spares: must be at most 50"),
        ({"type": "cloud", "hosting": {"spares": "two"}}, "config.hosting.spares: must be"),
        ({"type": "self_hosted", "hosting": {"spares": 2}}, "config.hosting"),
    ],
)
def test_what_a_sandbox_can_not_enforce_is_refused(
    client: anthropic.Anthropic, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        client.beta.environments.create(name="dev", extra_body={"config": config})


def test_other_fields_are_refused_by_name(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="scope: account is not supported"):
        client.beta.environments.create(name="dev", scope="account")
    made = client.beta.environments.create(name="dev", scope="organization")
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.beta.environments.update(made.id, config={"type": "self_hosted"})
    assert caught.value.body["error"]["details"] == {"error_code": "invalid_config_type_change"}  # type: ignore[index]


def test_self_hosted_environment_shows_its_type_and_keeps_it(client: anthropic.Anthropic) -> None:
    made = client.beta.environments.create(name="mine", config={"type": "self_hosted"})
    assert made.config.model_dump() == {"type": "self_hosted"}
    same = client.beta.environments.update(made.id, config={"type": "self_hosted"}, description="on the build machine")
    assert (same.config.type, same.description) == ("self_hosted", "on the build machine")
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.beta.environments.update(made.id, config={"type": "cloud"})
    assert caught.value.body["error"]["details"] == {"error_code": "invalid_config_type_change"}  # type: ignore[index]
    assert client.beta.environments.retrieve(made.id).config.type == "self_hosted"
