"""Rate limits on the road to the model, over HTTP: who sets them, who sees them, and what is said of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from apikit_raw import RawAnswer, send
from apikit_server import Access, RunningServer
from sqlalchemy import Connection

from hostler.domain.principals import DEFAULT_WORKSPACE
from hostler.domain.rates import Bucket
from hostler.store import rates
from hostler.store.keys import create_key
from hostler.store.rates import Said, Wish

NONE = {"requests_per_minute": None, "input_tokens_per_minute": None, "output_tokens_per_minute": None}


def call(access: Access, verb: str, body: Any = None, query: str = "") -> RawAnswer:
    raw = None if verb == "GET" else json.dumps({} if body is None else body).encode()
    return send(access.base_url, verb, f"/hostler/v1/rate_limits{query}", key=access.key, body=raw)


def ok(answer: RawAnswer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


@pytest.fixture
def installer(server: RunningServer) -> Access:
    def make(conn: Connection) -> str:
        return create_key(conn, server.database.now(conn), DEFAULT_WORKSPACE, "installer")[1]

    return Access(server.base_url, DEFAULT_WORKSPACE, server.write(make))


def agent_of(access: Access) -> str:
    with access.client() as client:
        return client.beta.agents.create(name="Coder", model="claude-opus-5-5").id


def test_limits_of_a_workspace_and_its_agents_are_set_changed_and_taken_away(access: Access, installer: Access) -> None:
    assert ok(call(access, "GET"))["limits"] == NONE
    wanted = {"workspace_id": access.workspace, "requests_per_minute": 50, "input_tokens_per_minute": 30_000}
    shown = ok(call(installer, "POST", wanted))
    assert shown["limits"] == {**NONE, "requests_per_minute": 50, "input_tokens_per_minute": 30_000}
    agent = agent_of(access)
    ok(call(access, "POST", {"agent_id": agent, "output_tokens_per_minute": 8_000}))
    ok(call(installer, "POST", {"workspace_id": access.workspace, "requests_per_minute": None}))
    shown = ok(call(access, "GET"))
    assert shown["limits"] == {**NONE, "input_tokens_per_minute": 30_000}
    assert shown["agents"] == [{"agent_id": agent, "limits": {**NONE, "output_tokens_per_minute": 8_000}}]
    assert ok(call(access, "POST", {"agent_id": agent, "output_tokens_per_minute": None}))["agents"] == []
    acts = send(access.base_url, "GET", "/hostler/v1/audit?act=rate_limits.set", key=access.key).json["data"]
    assert [(act["target_id"], act["details"]["limits"]["requests_per_minute"]) for act in acts] == [
        (agent, None),
        (access.workspace, None),
        (agent, None),
        (access.workspace, 50),
    ]


def test_nobody_raises_the_limits_of_their_own_workspace(access: Access) -> None:
    refused = call(access, "POST", {"requests_per_minute": 1_000})
    assert refused.status == 403
    assert "its agents (agent_id)" in refused.json["error"]["message"]
    assert ok(call(access, "GET"))["limits"] == NONE


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute: must be at least 1"),
        ({"requests_per_minute": "50"}, "requests_per_minute: must be an integer"),
        ({"output_tokens_per_minute": 10**13}, "must be at most"),
        ({"tokens_per_minute": 1}, "is not a field of this request"),
        ({"agent_id": "a b"}, "agent_id: is not an identifier"),
    ],
)
def test_what_is_no_limit_is_refused(installer: Access, body: Any, said: str) -> None:
    refused = call(installer, "POST", body)
    assert refused.status == 400
    assert said in refused.json["error"]["message"]


def test_an_agent_of_another_workspace_does_not_exist(access: Access, server: RunningServer) -> None:
    other = Access(server.base_url, *server.new_workspace())
    theirs = agent_of(other)
    assert call(access, "POST", {"agent_id": theirs, "requests_per_minute": 1}).status == 404
    assert call(access, "GET", query=f"?workspace_id={other.workspace}").status == 404
    assert ok(call(other, "GET"))["agents"] == []


def test_what_is_left_is_shown_to_whom_it_concerns(access: Access, installer: Access, server: RunningServer) -> None:
    theirs, model = Bucket("workspace", access.workspace, "requests", access.workspace), "claude/claude-opus-5-5"

    def unit(conn: Connection) -> None:
        now = server.database.now(conn)
        rates.take(conn, now, [Wish(theirs, 10.0, 0.0, 50.0)], server="s")
        rates.learn(
            conn, now, [Said(Bucket("model", model, "requests"), 4_000.0, 3_000.0), Said(theirs, None, None, 0.0)]
        )
        rates.learn(conn, now, [Said(Bucket("upstream", "claude", "requests"), closed=90.0)])

    server.write(unit)
    [mine] = ok(call(access, "GET"))["buckets"]
    assert (mine["scope"], mine["workspace_id"], mine["kind"]) == ("workspace", access.workspace, "requests")
    assert (mine["per_minute"], mine["configured"], mine["learned"], mine["capacity"]) == (50.0, 50.0, None, 50.0)
    assert 40.0 <= mine["level"] <= 50.0
    everything = ok(call(installer, "GET"))
    shown = {(row["scope"], row["upstream"], row["model"]): row for row in everything["buckets"]}
    told = shown[("model", "claude", "claude-opus-5-5")]
    assert (told["learned"], told["configured"], told["per_minute"]) == (4_000.0, None, 4_000.0)
    assert told["learned_at"] is not None
    closed = shown[("upstream", "claude", None)]
    assert closed["per_minute"] is None
    assert closed["closed_until"] is not None
    assert everything["complete"] is True
    assert everything["waiting"] == []
