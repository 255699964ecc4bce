"""An agent's rules over the wire, what is refused, and what would have been chosen and paid."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from apikit_queue import Yard

from hostler.store import ledger
from hostler.store.ledger import RequestFacts
from hostler.store.sessions import Usage

RULES: dict[str, Any] = {
    "rules": [
        {
            "id": "cheap-helpers",
            "when": {
                "thread": "sub_agent",
                "agent_types": ["Explore"],
                "purposes": ["turn"],
                "models": ["claude-opus-5-5"],
                "min_bytes": 0,
                "max_bytes": 400_000,
                "tags": {"tier": "batch"},
                "hours": {"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin", "days": ["mon", "tue"]},
            },
            "use": "claude-haiku-5-5",
        },
        {"id": "rest", "when": {}, "use": "asked"},
    ],
    "fallbacks": ["claude-sonnet-5-5"],
}


def made(client: anthropic.Anthropic, routing: Any, **more: Any) -> Any:
    return client.beta.agents.create(name="n", model="claude-opus-5-5", extra_body={"routing": routing}, **more)


def ours(client: anthropic.Anthropic, name: str, body: Any) -> Any:
    return client.post(f"/hostler/v1/routing/{name}", body=body, cast_to=object)


@pytest.mark.endpoint("agents.create", "agents.update", "agents.versions.list")
def test_rules_are_part_of_the_version_and_absent_where_there_are_none(client: anthropic.Anthropic) -> None:
    agent = made(client, RULES)
    assert agent.to_dict()["routing"] == RULES
    renamed = client.beta.agents.update(agent.id, name="m")
    assert renamed.to_dict()["routing"] == RULES
    assert client.beta.agents.update(agent.id, extra_body={"routing": RULES}).version == 2
    cleared = client.beta.agents.update(agent.id, extra_body={"routing": None})
    assert (cleared.version, "routing" in cleared.to_dict()) == (3, False)
    environment = client.beta.environments.create(name="e")
    session = client.beta.sessions.create(
        agent={"type": "agent", "id": agent.id, "version": 2}, environment_id=environment.id
    )
    assert session.agent.to_dict()["routing"] == RULES


def rule(use: str = "claude-haiku-5-5", id: str = "r", **when: Any) -> dict[str, Any]:
    return {"rules": [{"id": id, "when": when, "use": use}]}


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        (rule(use="claude-nothing"), "routing.rules[0].use: 'claude-nothing' is not in this server's catalogue"),
        ({"fallbacks": ["x"]}, "routing.fallbacks[0]: 'x' is not in this server's catalogue"),
        (rule(use="--model x"), "routing.rules[0].use: is not a model id"),
        ({"rules": [{"id": "r"}]}, "routing.rules[0].use: is required"),
        (rule(id="two words"), "routing.rules[0].id: is no id of a rule"),
        ({"rules": [*rule()["rules"], *rule()["rules"]]}, "routing.rules: has two rules with the id r"),
        (rule(thread="side"), "routing.rules[0].when.thread: must be"),
        (rule(purposes=["fun"]), "routing.rules[0].when.purposes[0]: must be"),
        (rule(purposes=[]), "routing.rules[0].when.purposes: must have at least 1"),
        (rule(min_bytes=5, max_bytes=4), "has a min_bytes above its max_bytes"),
        (rule(min_bytes="5"), "routing.rules[0].when.min_bytes: must be an integer"),
        (rule(thread="main", agent_types=["Explore"]), "asks for agent_types on the main thread"),
        (rule(hours={"start": "25:00", "end": "06:00"}), "hours.start: is no time of day"),
        (rule(hours={"start": "22:00", "end": "06:00", "time_zone": "Mars"}), "hours.time_zone: is no time zone"),
        (rule(hours={"start": "22:00", "end": "06:00", "time_zone": "../etc/passwd"}), "is no time zone"),
        (rule(hours={"start": "22:00"}), "hours.end: is required"),
        (rule(tags={"a": 1}), "has a value for 'a' that is not a string"),
        (rule(mood="good"), "routing.rules[0].when.mood: is not a field"),
        ({"rules": [{"id": f"r{n}", "use": "asked"} for n in range(51)]}, "routing.rules: must have at most 50"),
    ],
)
def test_rules_that_make_no_sense_are_refused_with_what_to_do(
    client: anthropic.Anthropic, routing: dict[str, Any], said: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        made(client, routing)
    assert said in str(raised.value)


def test_a_dry_run_says_which_rule_chooses_and_why_not_the_others(client: anthropic.Anthropic) -> None:
    agent = made(client, RULES)
    asked = {
        "agent_id": agent.id,
        "thread": "sub_agent",
        "agent_type": "Explore",
        "bytes": 1_000,
        "tags": {"tier": "batch"},
        "at": "2026-11-23T22:30:00Z",
    }
    answer = ours(client, "explain", asked)
    assert (answer["model"], answer["rule"]) == ("claude-haiku-5-5", "cheap-helpers")
    assert answer["fallbacks"] == ["claude-sonnet-5-5"]
    answer = ours(client, "explain", {**asked, "at": "2026-11-23T12:30:00Z"})
    assert (answer["model"], answer["rule"]) == ("claude-opus-5-5", "rest")
    assert answer["rules"][0] == {
        "rule": "cheap-helpers",
        "outcome": "does not match",
        "why": "it is 13:30 on mon (Europe/Berlin)",
    }
    tried = ours(client, "explain", {"agent_id": agent.id, "routing": rule(thread="main")})
    assert (tried["model"], tried["rule"]) == ("claude-haiku-5-5", "r")
    bare = ours(client, "explain", {"model": "whatever"})
    assert (bare["model"], bare["rule"], bare["why"]) == ("whatever", None, "there are no rules")
    for wrong in ({}, {"agent_id": agent.id, "at": "tomorrow"}, {"model": "x", "routing": rule(use="nobody")}):
        with pytest.raises(anthropic.BadRequestError):
            ours(client, "explain", wrong)


def test_two_sets_of_rules_are_compared_over_what_was_recorded(
    yard: Yard,
) -> None:
    client, server = yard.client, yard.server
    agent = made(client, None)
    environment = client.beta.environments.create(name="e")
    tagged = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, metadata={"tier": "batch"})
    plain = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    used = Usage(output_tokens=1_000_000, list_cost_nanos=20_000_000_000)

    def recorded(conn: Any) -> None:
        rows = ((tagged.id, "", 10), (tagged.id, "a1", 10), (plain.id, "a1", 5_000), (plain.id, "other", 1))
        for number, (session, thread, size) in enumerate(rows):
            ledger.record_model_request(
                conn,
                server.database.now(conn),
                session_id=session,
                model="claude-opus-5-5",
                status=200,
                usage=used,
                stop_reason="end_turn",
                duration_ms=1.0,
                first_byte_ms=None,
                facts=RequestFacts(
                    request_id=f"mreq_{number}",
                    requested_model="claude-opus-5-5",
                    thread=thread,
                    purpose="turn",
                    agent_id="agent_other" if thread == "other" else agent.id,
                    request_bytes=size,
                    rule="",
                    why="",
                ),
            )

    server.write(recorded)
    sets = [
        rule(use="claude-haiku-5-5", thread="sub_agent"),
        rule(use="claude-sonnet-5-5", tags={"tier": "batch"}),
        {},
    ]
    answer = ours(client, "compare", {"sets": sets, "agent_id": agent.id, "since": "last-1h"})
    assert (answer["attempts"], answer["complete"], answer["without_tags"]) == (3, True, 0)
    dollars = [sums["cost_nanos"] / 1e9 for sums in (answer["recorded"], *answer["sets"])]
    assert dollars == [60.0, 20 + 2 * 0.5, 20 + 2 * 10, 60.0]
    assert answer["sets"][0]["changed"] == 2
    assert answer["sets"][0]["by_rule"] == [{"rule": "r", "attempts": 2}]
    assert answer["sets"][0]["by_model"][0] == {
        "model": "claude-opus-5-5",
        "attempts": 1,
        "cost_nanos": 20_000_000_000,
    }
    everybodys = ours(client, "compare", {"sets": [{}]})
    assert everybodys["attempts"] == 4
    small = ours(client, "compare", {"sets": [rule(max_bytes=10)], "agent_id": agent.id})
    assert small["sets"][0]["changed"] == 2
    client.beta.sessions.archive(tagged.id)
    client.beta.sessions.delete(tagged.id)
    answer = ours(client, "compare", {"sets": sets, "agent_id": agent.id})
    assert answer["without_tags"] == 2
    assert answer["sets"][1]["changed"] == 0
    assert "same tokens" in answer["caveat"]
    later = ours(client, "compare", {"sets": [{}], "agent_id": agent.id, "since": "2099-01-01T00:00:00Z"})
    assert later["attempts"] == 0
    shown = client.get(f"/hostler/v1/sessions/{plain.id}/requests", cast_to=object)
    _, row = shown["data"]  # type: ignore[index]
    assert (row["thread"], row["request_bytes"], row["cost_nanos"]) == ("sub_agent", 5_000, 20_000_000_000)
    kept = client.get(f"/hostler/v1/sessions/{tagged.id}/requests?limit=1", cast_to=object)
    assert kept["next_page"] is not None  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError):
        ours(client, "compare", {"sets": []})
    with pytest.raises(anthropic.NotFoundError):
        client.get("/hostler/v1/sessions/sesn_1/requests", cast_to=object)
