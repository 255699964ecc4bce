"""Which rule chooses, which is passed over, and what another model is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from hostler.domain.errors import InvalidRequest
from hostler.domain.prices import Prices
from hostler.domain.routing import Hours, OperatorRouting, Routing
from hostler.domain.values import parse
from hostler.engine.budget import check_priced
from hostler.engine.model_fit import ModelFit
from hostler.engine.model_port import Asked, Caller, Choice
from hostler.engine.models import Model, Models
from hostler.engine.routing import Compiled, Facts, RuleRouter, check_routing, tried, within

FIT = ModelFit(Models())
OPUS, SONNET, HAIKU, OLD_HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-haiku-4-5"


def rules(*of: dict[str, Any], fallbacks: list[str] | None = None) -> Routing:
    return parse(Routing, {"rules": list(of), "fallbacks": fallbacks or []})


def choose(routing: Routing, facts: Facts, operator: OperatorRouting | None = None) -> Choice:
    return Compiled(operator or OperatorRouting(), routing).choose(facts, FIT)


@pytest.mark.parametrize(
    ("when", "facts", "matches"),
    [
        ({}, Facts(OPUS), True),
        ({"thread": "sub_agent"}, Facts(OPUS), False),
        ({"thread": "sub_agent"}, Facts(OPUS, "sub_agent"), True),
        ({"agent_types": ["Explore"]}, Facts(OPUS, "sub_agent", "Explore"), True),
        ({"agent_types": ["Explore"]}, Facts(OPUS, "sub_agent", "custom"), False),
        ({"purposes": ["compaction", "auxiliary"]}, Facts(OPUS, purpose="compaction"), True),
        ({"purposes": ["compaction", "auxiliary"]}, Facts(OPUS), False),
        ({"models": [OPUS]}, Facts(OPUS), True),
        ({"models": ["opus"]}, Facts(OPUS), True),
        ({"models": ["opus"]}, Facts(HAIKU), False),
        ({"min_bytes": 10, "max_bytes": 20}, Facts(OPUS, size=9), False),
        ({"min_bytes": 10, "max_bytes": 20}, Facts(OPUS, size=10), True),
        ({"min_bytes": 10, "max_bytes": 20}, Facts(OPUS, size=20), True),
        ({"min_bytes": 10, "max_bytes": 20}, Facts(OPUS, size=21), False),
        ({"tags": {"tier": "batch", "team": "a"}}, Facts(OPUS, tags={"tier": "batch", "team": "a", "x": "y"}), True),
        ({"tags": {"tier": "batch", "team": "a"}}, Facts(OPUS, tags={"tier": "batch"}), False),
        ({"thread": "sub_agent", "max_bytes": 5}, Facts(OPUS, "sub_agent", size=6), False),
    ],
)
def test_everything_that_a_rule_asks_for_must_hold(when: dict[str, Any], facts: Facts, matches: bool) -> None:
    choice = choose(rules({"id": "r", "when": when, "use": SONNET}), facts)
    assert choice.models == ((SONNET,) if matches else (facts.model,))
    assert choice.rule == ("r" if matches else "")


def test_first_rule_that_matches_wins_and_says_why() -> None:
    routing = rules(
        {"id": "small", "when": {"max_bytes": 100}, "use": HAIKU},
        {"id": "helpers", "when": {"thread": "sub_agent"}, "use": SONNET},
        fallbacks=[SONNET, OPUS],
    )
    choice, looked = tried(Compiled(OperatorRouting(), routing), Facts(OPUS, "sub_agent", size=101), FIT)
    assert choice == Choice((SONNET, OPUS), "helpers", f"thread sub_agent: {SONNET}")
    assert [(each.rule, each.outcome) for each in looked] == [("small", "does not match"), ("helpers", "chosen")]
    assert looked[0].why == "it has 101 bytes"
    assert choose(routing, Facts(OPUS, "sub_agent", size=1)).rule == "small"
    assert choose(routing, Facts(OPUS, size=200)) == Choice((OPUS, SONNET), "", "")


def test_operators_rules_stand_around_those_of_the_agent() -> None:
    operator = parse(
        OperatorRouting,
        {
            "before": [{"id": "law", "when": {"tags": {"tier": "gold"}}, "use": "asked"}],
            "after": [{"id": "rest", "use": HAIKU}],
            "fallbacks": [SONNET],
        },
    )
    own = rules({"id": "helpers", "when": {"thread": "sub_agent"}, "use": SONNET})
    assert choose(own, Facts(OPUS, "sub_agent", tags={"tier": "gold"}), operator).rule == "operator:law"
    assert choose(own, Facts(OPUS, "sub_agent", tags={"tier": "gold"}), operator).models == (OPUS, SONNET)
    assert choose(own, Facts(OPUS, "sub_agent"), operator).rule == "helpers"
    assert choose(own, Facts(OPUS), operator) == Choice((HAIKU, SONNET), "operator:rest", f"every request: {HAIKU}")
    assert choose(rules(fallbacks=[OPUS]), Facts(SONNET), operator).models == (HAIKU, OPUS)


def test_rule_whose_model_can_not_hold_the_request_is_passed_over_with_the_reason() -> None:
    routing = rules(
        {"id": "cheap", "use": OLD_HAIKU}, {"id": "next", "use": SONNET}, fallbacks=["claude-sonnet-4-5", HAIKU]
    )
    fits = choose(routing, Facts(OPUS, size=500_000))
    assert fits.models == (OLD_HAIKU, "claude-sonnet-4-5", HAIKU)
    longer = choose(routing, Facts(OPUS, size=700_000))
    assert longer.models == (SONNET, HAIKU)
    assert longer.rule == "next"
    assert "rule cheap passed over: the request has about 233,333 tokens" in longer.why
    assert choose(rules({"id": "x", "use": "gone-model"}), Facts(OPUS)).models == (OPUS,)


@pytest.mark.parametrize(
    ("hours", "at", "inside"),
    [
        ({"start": "22:00", "end": "06:00"}, "2026-11-20T21:59:59", False),
        ({"start": "22:00", "end": "06:00"}, "2026-11-20T22:00:00", True),
        ({"start": "22:00", "end": "06:00"}, "2026-11-21T05:59:59", True),
        ({"start": "22:00", "end": "06:00"}, "2026-11-21T06:00:00", False),
        ({"start": "09:00", "end": "17:00", "days": ["fri"]}, "2026-11-20T12:00:00", True),
        ({"start": "09:00", "end": "17:00", "days": ["fri"]}, "2026-11-21T12:00:00", False),
        # Saturday's small hours belong to Friday's night.
        ({"start": "22:00", "end": "06:00", "days": ["fri"]}, "2026-11-21T05:00:00", True),
        ({"start": "22:00", "end": "06:00", "days": ["fri"]}, "2026-11-20T05:00:00", False),
        ({"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin"}, "2026-11-20T21:30:00", True),
        ({"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin"}, "2026-07-20T20:30:00", True),
        ({"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin"}, "2026-11-20T20:30:00", False),
        ({"start": "00:00", "end": "00:00"}, "2026-11-20T13:00:00", True),
    ],
)
def test_hours_are_those_of_the_clock_in_their_zone(hours: dict[str, Any], at: str, inside: bool) -> None:
    assert within(parse(Hours, hours), datetime.fromisoformat(at).replace(tzinfo=UTC)) is inside


def asked(agent: dict[str, Any], **more: Any) -> Asked:
    return Asked("mreq_1", Caller("sesn_1", agent=agent, tags={"tier": "batch"}), OPUS, {}, 10, True, **more)


async def test_rules_of_an_agent_are_read_once_and_none_cost_nothing() -> None:
    router = RuleRouter(FIT, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    agent = {"routing": rules({"id": "b", "when": {"tags": {"tier": "batch"}}, "use": HAIKU}).wire()}
    assert (await router.choose(asked(agent))).rule == "b"
    agent["routing"]["rules"][0]["use"] = SONNET  # A snapshot never changes; this shows who reads it.
    assert (await router.choose(asked(agent))).models == (HAIKU,)
    assert await router.choose(asked({})) == Choice((OPUS,))
    helpers = {"routing": rules({"id": "h", "when": {"thread": "sub_agent"}, "use": SONNET}).wire()}
    assert (await router.choose(asked(helpers))).models == (OPUS,)
    assert (await router.choose(asked(helpers, thread="a1"))).models == (SONNET,)


def test_every_model_that_may_be_chosen_must_have_a_price_under_a_budget() -> None:
    own = Model("house-model", "House", None)
    routing = rules({"id": "r", "use": "house-model"})
    models = Models((own,))
    check_routing(models, routing)
    check_priced(Prices(), models, OPUS)
    with pytest.raises(InvalidRequest, match="house-model has no list price"):
        check_priced(Prices(), models, OPUS, routing)
    with pytest.raises(InvalidRequest, match="house-model has no list price"):
        check_priced(Prices(), Models((own,), frozenset({"house-model"})), OPUS)
    with pytest.raises(InvalidRequest, match=r"routing.fallbacks\[0\]: 'nobody' is not in this server's catalogue"):
        check_routing(models, rules(fallbacks=["nobody"]))
    retired = Models((Model("old-model", "Old", None, lifecycle="retired"),))
    with pytest.raises(InvalidRequest, match=r"routing.rules\[0\].use: old-model is retired"):
        check_routing(retired, rules({"id": "r", "use": "old-model"}))


# ------------------------------------------------------------------------------------------- what another model is sent

EDIT = {"type": "clear_thinking_20251015", "keep": "all"}
REQUEST: dict[str, Any] = {
    "model": OPUS,
    "max_tokens": 128_000,
    "thinking": {"type": "adaptive", "display": "updates"},
    "context_management": {"edits": [EDIT, {"type": "clear_tool_uses_20250919"}]},
    "output_config": {"effort": "xhigh", "format": {"type": "json_schema"}},
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "It is late."},
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "…", "signature": "s"}]},
    ],
}


def test_a_model_of_the_same_generation_is_sent_the_same() -> None:
    assert FIT.changes(SONNET, REQUEST) == {}
    assert FIT.changes("a-model-that-nobody-lists", REQUEST) == {}


def test_an_older_model_is_sent_what_claude_sends_it() -> None:
    changed = FIT.changes(OLD_HAIKU, REQUEST)
    assert changed["max_tokens"] == 64_000
    assert changed["thinking"] == {"type": "enabled", "display": "updates", "budget_tokens": 31_999}
    assert changed["output_config"] == {"format": {"type": "json_schema"}}
    assert "context_management" not in changed
    assert [message["role"] for message in changed["messages"]] == ["user", "user", "user", "assistant"]
    assert changed["messages"][1]["content"] == [
        {"type": "text", "text": "<system-reminder>\nIt is late.\n</system-reminder>"}
    ]
    assert changed["messages"][2]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert changed["messages"][3] is REQUEST["messages"][3]  # The API drops what a model can't read.
    assert FIT.changes("claude-opus-4-6", REQUEST)["output_config"]["effort"] == "high"
    assert FIT.changes("claude-opus-4-7", {**REQUEST, "max_tokens": 1_000}).keys() == {"messages"}


def test_thinking_that_has_no_room_is_left_out_together_with_what_clears_it() -> None:
    changed = FIT.changes(OLD_HAIKU, {**REQUEST, "max_tokens": 1_024})
    assert changed["thinking"] == {"type": "disabled"}
    assert changed["context_management"] == {"edits": [{"type": "clear_tool_uses_20250919"}]}
    least = FIT.changes(OLD_HAIKU, {**REQUEST, "max_tokens": 1_025})
    assert least["thinking"]["budget_tokens"] == 1_024


def test_a_newer_model_decides_itself_how_long_it_thinks() -> None:
    enabled = {**REQUEST, "thinking": {"type": "enabled", "budget_tokens": 8_000}, "max_tokens": 32_000}
    assert FIT.changes(OPUS, enabled) == {"thinking": {"type": "adaptive"}}
    assert "thinking" not in FIT.changes(OLD_HAIKU, enabled)
    assert FIT.changes(OPUS, {"model": "x", "thinking": {"type": "disabled"}}) == {}
