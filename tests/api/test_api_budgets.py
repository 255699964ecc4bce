"""Budgets of agents and of a workspace over HTTP: made, shown, changed, removed, and refused where they can't be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from apikit_raw import RawAnswer, send
from apikit_server import Access

PATH = "/hostler/v1/budgets"


def limit(cents: str) -> dict[str, str]:
    return {"amount": cents, "currency": "USD"}


def ask(access: Access, method: str, path: str = "", body: Any = None) -> RawAnswer:
    raw = None if body is None else json.dumps(body).encode()
    return send(access.base_url, method, PATH + path, key=access.key, body=raw)


def test_a_budget_is_made_shown_changed_and_removed(access: Access) -> None:
    with access.client() as client:
        agent = client.beta.agents.create(name="A", model="claude-opus-5-5").id
    wanted = {"scope": "agent", "agent_id": agent, "period": "total", "limit": limit("2550"), "warn_at": [80, 50]}
    made = ask(access, "POST", body=wanted).json
    assert (made["scope"], made["agent_id"], made["period"], made["month"]) == ("agent", agent, "total", None)
    assert (made["limit"], made["warn_at"], made["available_nanos"]) == (limit("2550"), [50, 80], 25_500_000_000)
    assert ask(access, "GET", f"/{made['id']}").json == made
    assert [each["id"] for each in ask(access, "GET", f"?agent_id={agent}").json["data"]] == [made["id"]]
    assert ask(access, "GET", "?agent_id=agent_none").json["data"] == []
    changed = ask(access, "POST", f"/{made['id']}", {"limit": limit("100"), "warn_at": []}).json
    assert (changed["limit"], changed["warn_at"]) == (limit("100"), [])
    acts = send(access.base_url, "GET", f"/hostler/v1/audit?target_id={made['id']}", key=access.key).json["data"]
    assert [each["act"] for each in acts] == ["budget.update", "budget.create"]
    assert ask(access, "DELETE", f"/{made['id']}").json == {"id": made["id"], "type": "budget_deleted"}
    assert ask(access, "GET", f"/{made['id']}").status == 404


def test_one_for_each_period(access: Access) -> None:
    wanted = {"scope": "workspace", "limit": limit("1000")}
    assert ask(access, "POST", body=wanted).json["period"] == "month"
    again = ask(access, "POST", body=wanted)
    assert (again.status, "change its limit" in again.json["error"]["message"]) == (409, True)
    assert ask(access, "POST", body={**wanted, "period": "total"}).status == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"scope": "agent", "limit": limit("1")}, "agent_id"),
        ({"scope": "workspace", "agent_id": "agent_1", "limit": limit("1")}, "agent_id"),
        ({"scope": "workspace", "limit": limit("0")}, "amount"),
        ({"scope": "workspace", "limit": limit("1.5")}, "amount"),
        ({"scope": "workspace", "limit": {"amount": "1", "currency": "EUR"}}, "currency"),
        ({"scope": "workspace", "limit": limit("1"), "warn_at": [50, 50]}, "twice"),
        ({"scope": "workspace", "limit": limit("1"), "warn_at": [101]}, "warn_at"),
        ({"scope": "everybody", "limit": limit("1")}, "scope"),
        ({"scope": "workspace"}, "limit"),
        ({"scope": "workspace", "limit": limit("1"), "period": "week"}, "period"),
    ],
)
def test_what_can_not_be_is_refused_with_a_word_about_it(access: Access, body: Any, said: str) -> None:
    answer = ask(access, "POST", body=body)
    assert answer.status == 400
    assert said in answer.json["error"]["message"]


def test_null_changes_nothing_and_is_refused(access: Access) -> None:
    made = ask(access, "POST", body={"scope": "workspace", "limit": limit("1000")}).json
    assert ask(access, "POST", f"/{made['id']}", {"limit": None}).status == 400
    assert ask(access, "GET", f"/{made['id']}").json["limit"] == limit("1000")


def test_a_limit_above_all_sums_is_a_billion_dollars(access: Access) -> None:
    made = ask(access, "POST", body={"scope": "workspace", "limit": limit("999999999999")}).json
    assert made["available_nanos"] == 10**18
