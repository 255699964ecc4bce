"""What was used and what it cost, over HTTP: added up, filtered, in pages, and nobody else's. On both databases."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from apikit_raw import send
from apikit_server import Access, RunningServer
from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.domain.principals import DEFAULT_WORKSPACE
from hostler.store import ledger, reconcile
from hostler.store.keys import create_key
from hostler.store.ledger import RequestFacts
from hostler.store.sessions import NewSession, Usage, create_session


def get(access: Access, path: str, **query: Any) -> Any:
    answer = send(access.base_url, "GET", f"/hostler/v1{path}?{urlencode(query, doseq=True)}", key=access.key)
    return answer.json if answer.status == 200 else (answer.status, answer.json["error"]["message"])


@pytest.fixture
def spent(server: RunningServer, access: Access) -> str:
    """A session with two requests to one model and one to another, of 0.75 USD in all."""
    with access.client() as client:
        agent = client.beta.agents.create(name="A", model="claude-opus-5-5").id
        environment = client.beta.environments.create(name="e").id
    session = new_id("sesn")
    begun = NewSession(session, access.workspace, agent, 1, environment, new_id("sthr"), {}, {}, "{}")

    def unit(conn: Connection) -> None:
        create_session(conn, server.database.now(conn), begun)
        for model, nanos, results in (
            ("claude-opus-5-5", 500_000_001, [("bash", 10)]),
            ("claude-opus-5-5", 1, []),
            ("=cmd()", 250_000_000, [("bash", 30), ("read", 10)]),
        ):
            ledger.record_model_request(
                conn,
                server.database.now(conn),
                session_id=session,
                model=model,
                status=200,
                usage=Usage(input_tokens=10, list_cost_nanos=nanos),
                stop_reason=None,
                duration_ms=1.0,
                first_byte_ms=None,
                facts=RequestFacts(agent_id=agent, environment_id=environment),
                results=results,
            )
        reconcile.note(conn, server.database.now(conn), access.workspace, session, [("harness_tokens", {"n": 4})])

    server.write(unit)
    return session


def test_groups_have_exact_sums(access: Access, spent: str) -> None:
    (day,) = get(access, "/usage")["data"]
    assert (day["requests"], day["list_cost_usd"], day["input_tokens"]) == (3, "0.750000002", 30)
    assert list(day["group"]) == ["day"]
    models = get(access, "/usage", **{"group_by[]": ["model", "session"]})["data"]
    assert [(row["group"]["model"], row["group"]["session"]) for row in models] == [
        ("=cmd()", spent),
        ("claude-opus-5-5", spent),
    ]
    tools = get(access, "/usage", **{"group_by[]": "tool"})["data"]
    assert {row["group"]["tool"]: row["list_cost_usd"] for row in tools} == {
        None: "0.000000001",
        "bash": "0.687500001",
        "read": "0.062500000",
    }


def test_pages_hold_each_group_once(access: Access, spent: str) -> None:
    found, token = [], None
    while True:
        query: dict[str, Any] = {"group_by[]": ["model", "tool"], "limit": 1, **({"page": token} if token else {})}
        page = get(access, "/usage", **query)
        found += page["data"]
        if (token := page["next_page"]) is None:
            break
        status, message = get(access, "/usage", page=token)
        assert (status, "page: is not a page token" in message) == (400, True)
    assert found == get(access, "/usage", **{"group_by[]": ["model", "tool"]})["data"]
    assert len(found) == 4


def test_only_what_was_asked_for_counts(access: Access, spent: str) -> None:
    assert get(access, "/usage", model="=cmd()")["data"][0]["list_cost_usd"] == "0.250000000"
    assert get(access, "/usage", session_id=spent)["data"][0]["requests"] == 3
    assert get(access, "/usage", upstream="none")["data"] == []
    assert get(access, "/usage", **{"created_at[lt]": "2026-01-01T00:00:00Z"})["data"] == []
    status, message = get(access, "/usage", group_by="moon")
    assert (status, "'moon' is not allowed; use agent" in message) == (400, True)
    assert get(access, "/usage", **{"group_by[]": ["day", "agent", "model", "tool"]})[0] == 400
    assert get(access, "/usage", since="today")[0] == 400


def test_a_workspace_sees_its_own_and_the_installation_all(
    server: RunningServer, access: Access, stranger: Access, spent: str
) -> None:
    assert get(stranger, "/usage")["data"] == []
    assert get(stranger, "/usage", **{"group_by[]": "workspace"})["data"] == []
    assert get(stranger, "/usage", workspace_id=access.workspace)[0] == 404
    assert get(stranger, "/usage/mismatches")["data"] == []
    assert get(stranger, "/usage/mismatches", workspace_id=access.workspace)[0] == 404
    secret = server.write(lambda c: create_key(c, server.database.now(c), DEFAULT_WORKSPACE, "installer")[1])
    installer = Access(server.base_url, DEFAULT_WORKSPACE, secret)
    every = get(installer, "/usage", **{"group_by[]": "workspace", "limit": 1000})["data"]
    mine = next(row for row in every if row["group"]["workspace"] == access.workspace)
    assert mine["list_cost_usd"] == "0.750000002"
    assert get(installer, "/usage", workspace_id=access.workspace)["data"][0]["requests"] == 3


def test_what_did_not_agree_is_shown(access: Access, spent: str) -> None:
    (row,) = get(access, "/usage/mismatches", session_id=spent)["data"]
    assert (row["type"], row["kind"], row["details"]) == ("usage_mismatch", "harness_tokens", {"n": 4})


def test_prices_are_shown_with_their_sources(access: Access) -> None:
    found = get(access, "/prices")
    opus = next(row for row in found["models"] if row["model"] == "claude-opus-5-5")
    assert (opus["input"], opus["output"], opus["from"]) == ("4", "20", None)
    assert found["server_tools"][0]["usd_per_1000"] == "10.000000000"
    assert {row["source"] for row in found["models"]} <= set(found["sources"])
