"""An agent's compaction policy over the wire, and what is refused."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

POLICY: dict[str, Any] = {
    "strategy": "smart_retention",
    "threshold_tokens": 150_000,
    "keep_days": 2,
    "keep_tags": ["keep", "#decision"],
    "facts": ["Vera decides."],
    "summary_tokens": 3_000,
    "schedule": "monthly",
}


@pytest.mark.endpoint("agents.create", "agents.update", "agents.versions.list")
def test_policy_is_part_of_the_version_and_absent_where_it_was_not_set(client: anthropic.Anthropic) -> None:
    plain = client.beta.agents.create(name="plain", model="claude-opus-5-5")
    assert "compaction" not in plain.to_dict()
    made = client.beta.agents.create(name="long", model="claude-opus-5-5", extra_body={"compaction": POLICY})
    shown = {**POLICY, "keep_tags": ["keep", "decision"]}
    assert made.to_dict()["compaction"] == shown
    renamed = client.beta.agents.update(made.id, name="longer")
    assert renamed.to_dict()["compaction"] == shown
    cleared = client.beta.agents.update(made.id, extra_body={"compaction": None})
    assert "compaction" not in cleared.to_dict()
    assert cleared.version == 3
    versions = [version.to_dict().get("compaction") for version in client.beta.agents.versions.list(made.id)]
    assert versions == [None, shown, shown]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"strategy": "forget"}, "compaction.strategy: must be"),
        ({"threshold_tokens": 19_999}, "compaction.threshold_tokens: must be at least 20000"),
        ({"threshold_percent": 99}, "compaction.threshold_percent: must be at most 95"),
        ({"threshold_percent": 50, "threshold_tokens": 50_000}, "give one of them"),
        ({"keep_tags": ["two words"]}, "compaction.keep_tags[0]: is no tag"),
        ({"facts": ["  "]}, "compaction.facts[0]: is blank"),
        ({"facts": ["x" * 2_000] * 11}, "more than 20000 characters together"),
        ({"schedule": "* * * * *"}, "compaction.schedule: has the minute '*'"),
        ({"summary_words": 5}, "compaction.summary_words: is not a field"),
    ],
)
def test_policy_that_makes_no_sense_is_refused_with_what_to_do(
    client: anthropic.Anthropic, policy: dict[str, Any], said: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.beta.agents.create(name="n", model="claude-opus-5-5", extra_body={"compaction": policy})
    assert said in str(raised.value)


def test_session_that_is_not_there_has_no_archives(client: anthropic.Anthropic) -> None:
    for path in ("compaction", "compactions", "archives", "archives/search?q=x", "archives/arch_1"):
        with pytest.raises(anthropic.NotFoundError):
            client.get(f"/hostler/v1/sessions/sesn_none/{path}", cast_to=object)
    with pytest.raises(anthropic.NotFoundError):
        client.post("/hostler/v1/sessions/sesn_none/compact", body={}, cast_to=object)
    with pytest.raises(anthropic.NotFoundError):
        client.get("/hostler/v1/sessions/sesn_none/archives/search", cast_to=object)
