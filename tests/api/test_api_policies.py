"""The policy simulator: recorded decisions against a changed list, and the smallest list for what was used."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from apikit_queue import QueueServer, Yard

from hostler.store import ledger

DAY = 86_400.0


class Road:
    """One cloud environment with one session, and what the proxy wrote down about it."""

    def __init__(self, server: QueueServer, yard: Yard, networking: dict[str, Any]) -> None:
        self.server = server
        self.client = yard.access.client()
        agent = self.client.beta.agents.create(name="Coder", model="claude-opus-5-5")
        config: Any = {"type": "cloud", "networking": networking}
        self.environment = self.client.beta.environments.create(name="road", config=config).id
        self.agent = agent.id
        self.session = self.begin()

    def begin(self) -> str:
        return self.client.beta.sessions.create(agent=self.agent, environment_id=self.environment).id

    def went(self, host: str, reason: str = "allowed_host", *, ago: float = 0.0, **more: Any) -> None:
        """A recorded decision; `reason` says whether it was allowed."""
        facts: dict[str, Any] = {"session_id": self.session, "method": "CONNECT", "port": 443, **more}
        allowed = reason in ("allowed_host", "public_host", "mcp_server", "allowed_rule", "package_host")
        database = self.server.database
        self.server.write(
            lambda c: ledger.record_egress(c, database.now(c) - ago, host=host, allowed=allowed, reason=reason, **facts)
        )

    def test(self, networking: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        body = {"environment_id": self.environment, **({"networking": networking} if networking else {}), **more}
        return self.post("test", body)

    def suggest(self, **body: Any) -> dict[str, Any]:
        return self.post("suggest", body or {"session_id": self.session})

    def post(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: Any = self.client.post(f"/hostler/v1/policy/{name}", cast_to=object, body=body)
        return dict(answer)


@pytest.fixture
def road(queue_server: QueueServer, yard: Yard) -> Any:
    made = Road(queue_server, yard, {"type": "limited", "allowed_hosts": ["api.example.com", "cdn.example.com"]})
    yield made
    made.client.close()


def hosts(uses: list[dict[str, Any]]) -> list[str]:
    return sorted(use["host"] for use in uses)


def test_a_changed_list_is_tried_against_what_was_recorded(road: Road) -> None:
    road.went("api.example.com")
    road.went("api.example.com")
    road.went("cdn.example.com")
    road.went("new.example.com", "host_not_allowed")
    road.went("inner.example.com", "private_address")

    same = road.test()
    assert (same["would_block"], same["newly_allowed"], same["unknown"]) == ([], [], [])
    assert same["unchanged"] == {"allowed": 3, "denied": 2}
    assert same["complete"] is True

    changed = road.test({"type": "limited", "allowed_hosts": ["cdn.example.com", "new.example.com"]})
    (blocked,) = changed["would_block"]
    assert (blocked["host"], blocked["count"], blocked["sessions"]) == ("api.example.com", 2, 1)
    assert (blocked["recorded"], blocked["reason"]) == ("allowed_host", "host_not_allowed")
    assert blocked["allow"] == {"allowed_hosts": ["api.example.com"]}
    assert hosts(changed["newly_allowed"]) == ["new.example.com"]
    # What an address kept out stays out, whatever the list says about the name.
    opened = road.test({"type": "unrestricted"})
    assert hosts(opened["newly_allowed"]) == ["new.example.com"]
    assert opened["unchanged"] == {"allowed": 3, "denied": 1}


def test_a_rule_that_looks_inside_is_tried_where_the_inside_was_read(road: Road) -> None:
    road.went("api.example.com")
    road.went("api.example.com", method="GET", path="/v1/files/x")
    road.went("api.example.com", method="POST", path="/v1/files/x")
    road.went("cdn.example.com")
    rules = [
        {"host": "api.example.com", "methods": ["get"], "paths": ["/v1/files"]},
        {"host": "cdn.example.com", "methods": ["GET"]},
    ]
    answer = road.test({"type": "limited", "allowed_hosts": [], "rules": rules})
    (blocked,) = answer["would_block"]
    assert (blocked["method"], blocked["path"], blocked["reason"]) == ("POST", "/v1/files/x", "method_not_allowed")
    assert blocked["allow"] == {"rules": [{"host": "api.example.com", "methods": ["POST"]}]}
    # Of one host the requests were read, so its tunnel says nothing more; of the other nobody knows.
    assert hosts(answer["unknown"]) == ["cdn.example.com"]
    assert answer["unchanged"] == {"allowed": 1, "denied": 0}


def test_it_changes_nothing(road: Road) -> None:
    before = road.client.beta.environments.retrieve(road.environment)
    road.test({"type": "limited", "allowed_hosts": []})
    assert road.client.beta.environments.retrieve(road.environment) == before


def test_only_the_window_counts(road: Road) -> None:
    road.went("api.example.com", ago=8 * DAY)
    road.went("cdn.example.com", ago=6 * DAY)
    nothing = {"type": "limited", "allowed_hosts": []}
    assert hosts(road.test(nothing)["would_block"]) == ["cdn.example.com"]
    assert hosts(road.test(nothing, since="last-2w")["would_block"]) == ["api.example.com", "cdn.example.com"]
    assert hosts(road.test(nothing, since="2100-01-01T00:00:00Z")["would_block"]) == []
    for window in ("last-7", "last-0d", "yesterday", "2026-01-02T03:04:05"):
        with pytest.raises(anthropic.BadRequestError, match="since"):
            road.test(nothing, since=window)


def test_sessions_of_other_environments_and_deleted_ones(road: Road) -> None:
    """Those of another environment don't count; that a session is gone takes nothing away."""
    config: Any = {"type": "cloud"}
    other = road.client.beta.environments.create(name="other", config=config).id
    elsewhere = road.client.beta.sessions.create(agent=road.agent, environment_id=other).id
    road.went("elsewhere.example.com", session_id=elsewhere)
    road.went("api.example.com")
    road.client.beta.sessions.delete(road.session)
    assert hosts(road.test({"type": "limited", "allowed_hosts": []})["would_block"]) == ["api.example.com"]
    assert road.suggest()["networking"]["allowed_hosts"] == ["api.example.com"]


def test_the_suggested_list_is_the_smallest_that_blocks_nothing(road: Road) -> None:
    for host in ("b.example.com", "a.example.com", "a.example.com"):
        road.went(host, "public_host")
    road.went("files.example.org", "allowed_rule", port=8443)
    road.went("mcp.example.net", "mcp_server", method="POST", path="/")
    road.went("denied.example.com", "host_not_allowed")
    road.went("10.0.0.7", "allowed_host")

    found = road.suggest()
    assert found["networking"] == {
        "type": "limited",
        "allowed_hosts": ["a.example.com", "b.example.com"],
        "allow_mcp_servers": True,
        "rules": [{"host": "files.example.org", "ports": [8443]}],
    }
    assert found["folded"] == []
    assert found["unlisted"] == ["10.0.0.7"]
    assert hosts(found["denied"]) == ["denied.example.com"]
    # It is what an environment takes as it stands.
    config: Any = {"type": "cloud", "networking": found["networking"]}
    road.client.beta.environments.update(road.environment, config=config)
    assert hosts(road.test()["would_block"]) == ["10.0.0.7"]


def test_many_names_of_one_owner_are_folded_and_that_is_said(road: Road) -> None:
    shards = [f"img{n}.example.com" for n in range(6)]
    tenants = [f"customer{n}.github.io" for n in range(6)]
    country = [f"shop{n}.co.uk" for n in range(6)]
    for host in (*shards, *tenants, *country, "api.example.org"):
        road.went(host, "public_host")
    found = road.suggest(environment_id=road.environment)
    assert found["folded"] == [{"wildcard": "*.example.com", "hosts": shards}]
    assert sorted(found["networking"]["allowed_hosts"]) == sorted(
        ["*.example.com", "api.example.org", *tenants, *country]
    )
    exact = road.suggest(environment_id=road.environment, fold=False)
    assert exact["folded"] == []
    assert set(shards) <= set(exact["networking"]["allowed_hosts"])
    assert "*.example.com" not in exact["networking"]["allowed_hosts"]


def test_wrong_questions_say_what_to_do(road: Road) -> None:
    self_hosted = road.client.beta.environments.create(name="workers", config={"type": "self_hosted"}).id
    wild = {"type": "limited", "allowed_hosts": ["*"]}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("test", {"environment_id": self_hosted}, "self-hosted"),
        ("test", {}, "environment_id: is required"),
        ("test", {"environment_id": road.environment, "networking": wild}, "wildcard"),
        ("suggest", {}, "either session_id or environment_id"),
        ("suggest", {"session_id": road.session, "environment_id": road.environment}, "either"),
    ]
    for name, body, said in cases:
        with pytest.raises(anthropic.BadRequestError, match=said):
            road.post(name, body)
    with pytest.raises(anthropic.NotFoundError):
        road.suggest(session_id="sesn_unknown")


def test_decisions_of_a_session_can_be_narrowed_to_denials(road: Road) -> None:
    road.went("api.example.com")
    road.went("x.example.com", "host_not_allowed", hint="To allow it, add it.", path="/p")
    path = f"/hostler/v1/sessions/{road.session}/egress"

    def rows(**query: Any) -> list[Any]:
        answer: Any = road.client.get(path, cast_to=object, options={"params": query})
        found: list[Any] = answer["data"]
        return found

    assert [row["host"] for row in rows()] == ["x.example.com", "api.example.com"]
    assert [row["host"] for row in rows(allowed="true")] == ["api.example.com"]
    (denied,) = rows(allowed="false")
    assert (denied["hint"], denied["path"]) == ("To allow it, add it.", "/p")
    assert denied["allow"] == {"allowed_hosts": ["x.example.com"]}
    with pytest.raises(anthropic.BadRequestError):
        rows(allowed="maybe")
    road.client.beta.sessions.delete(road.session)
    assert rows(allowed="true", limit=1)


def test_what_no_rule_would_allow_is_not_said_to_be_allowed_by_one(road: Road) -> None:
    path = f"/hostler/v1/sessions/{road.session}/egress"
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"host": "x.example.com", "reason": "host_not_allowed"}, {"allowed_hosts": ["x.example.com"]}),
        (
            {"host": "x.example.com", "port": 8443, "reason": "host_not_allowed"},
            {"rules": [{"host": "x.example.com", "ports": [8443]}]},
        ),
        (
            {"host": "x.example.com", "port": 8443, "reason": "port_blocked"},
            {"rules": [{"host": "x.example.com", "ports": [8443]}]},
        ),
        ({"host": "x.example.com", "port": 25, "reason": "port_blocked"}, None),  # closed by the operator
        (
            {"host": "api.example.com", "method": "POST", "path": "/v1", "reason": "path_not_allowed"},
            {"rules": [{"host": "api.example.com", "methods": ["POST"], "paths": ["/v1"]}]},
        ),
        ({"host": "api.example.com", "method": "GET", "path": "/%2e%2e/x", "reason": "path_not_allowed"}, None),
        ({"host": "printer.local", "reason": "host_not_allowed"}, None),
        ({"host": "10.0.0.1", "reason": "address_literal"}, None),
        ({"host": "inner.example.com", "reason": "private_address"}, None),
    ]
    for facts, allow in cases:
        road.went(**facts)
        answer: Any = road.client.get(path, cast_to=object, options={"params": {"limit": 1}})
        assert answer["data"][0]["allow"] == allow, facts
