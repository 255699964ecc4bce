"""Rules that choose models on the whole server: the agent's and the operator's, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, House, open_house

from hostler import compose
from hostler.domain.errors import InvalidRequest
from hostler.testing.rehearsal import step

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
RULES = {
    "rules": [
        {"id": "summaries", "when": {"purposes": ["compaction"]}, "use": HAIKU},
        {"id": "batch", "when": {"tags": {"tier": "batch"}}, "use": SONNET},
    ]
}


NOTHING = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
USED = {
    "input_tokens": 0,
    "output_tokens": 1_000,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_creation": NOTHING,
}


async def begin(house: House, routing: Any, **session: Any) -> str:
    agent = await house.client.beta.agents.create(
        name="A", model=OPUS, tools=ALLOW_ALL, extra_body={} if routing is None else {"routing": routing}
    )
    made = await house.client.beta.sessions.create(agent=agent.id, environment_id=await house.environment(), **session)
    return made.id


async def requests_of(house: House, session: str) -> list[Any]:
    """Oldest first."""
    path = f"/hostler/v1/sessions/{session}/requests"
    answer: Any = await house.client.get(path, cast_to=object)
    return list(reversed(answer["data"]))


@pytest.mark.endpoint("agents.create", "sessions.create")
async def test_session_is_answered_by_the_models_its_rules_name_and_tells_why(house: House) -> None:
    session = await begin(house, RULES, metadata={"tier": "batch"})
    events = await house.turn(session, [step("Hi.", usage=USED)])
    assert events[-1].stop_reason.type == "end_turn"
    await house.client.post(f"/hostler/v1/sessions/{session}/compact", body={}, cast_to=object)
    await house.until_idle(session, len(events) + 1)
    said, shortened = await requests_of(house, session)
    assert (said["requested_model"], said["model"], said["rule"]) == (OPUS, SONNET, "batch")
    assert said["why"] == f"tags tier=batch: {SONNET}"
    # What Sonnet costs, not what the agent's own model would have: 10 USD for a million tokens of output.
    assert said["cost_nanos"] == 1_000 * 10_000
    assert said["request_bytes"] > 1_000
    assert (shortened["purpose"], shortened["model"], shortened["rule"]) == ("compaction", HAIKU, "summaries")
    assert [request.body["model"] for request in house.model.message_requests] == [SONNET, HAIKU]
    shown = await house.client.beta.sessions.retrieve(session)
    assert shown.usage.list_cost is not None

    compared: Any = await house.client.post("/hostler/v1/routing/compare", body={"sets": [RULES, {}]}, cast_to=object)
    same, bare = compared["sets"]
    assert same["cost_nanos"] == compared["recorded"]["cost_nanos"] < bare["cost_nanos"]
    assert (same["changed"], bare["changed"]) == (0, 2)


@pytest.mark.one_database
async def test_operators_rules_hold_for_agents_that_have_none(tmp_path: Path, store_url: str) -> None:
    file = tmp_path / "routing.json"
    file.write_text(json.dumps({"after": [{"id": "night", "use": SONNET}]}))
    async with open_house(tmp_path, store_url, routing__file=str(file)) as house:
        session = await begin(house, None)
        await house.turn(session, [step("Hi.")])
        (said,) = await requests_of(house, session)
        assert (said["model"], said["rule"], said["why"]) == (SONNET, "operator:night", f"every request: {SONNET}")
        explained: Any = await house.client.post("/hostler/v1/routing/explain", body={"model": OPUS}, cast_to=object)
        assert explained["rule"] == "operator:night"
        with pytest.raises(anthropic.BadRequestError, match="not in this server's catalogue"):
            await begin(house, {"fallbacks": ["nobody"]})
    for wrong, said in (
        ("[", "routing.file"),
        ('{"before": [{"id": "x"}]}', r"before\[0\].use: is required"),
        ('{"after": [{"id": "x", "use": "nobody"}]}', r"after\[0\].use: 'nobody' is not in"),
        (
            '{"before": [{"id": "x", "use": "asked"}], "after": [{"id": "x", "use": "asked"}]}',
            "two rules with the id x",
        ),
    ):
        file.write_text(wrong)
        with pytest.raises(InvalidRequest, match=said):
            async with compose.running(house.loaded()):
                raise AssertionError("it started")
