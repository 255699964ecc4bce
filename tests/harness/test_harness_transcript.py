"""The transcript that a new process is given names its own last entry as the place to go on from."""

from __future__ import annotations

from typing import Any

from hostler.harness.claude import with_true_leaf


def _entry(uuid: str, **more: Any) -> dict[str, Any]:
    return {"type": "user", "uuid": uuid, "isSidechain": False, **more}


def test_a_leaf_mark_of_an_earlier_life_is_replaced() -> None:
    old = {"type": "last-prompt", "leafUuid": "a", "lastPrompt": "p", "sessionId": "s"}
    given = [_entry("a"), old, {"type": "mode"}, _entry("b"), _entry("side", isSidechain=True)]
    assert with_true_leaf(given) == [given[0], given[2], given[3], given[4], {**old, "leafUuid": "b"}]


def test_a_transcript_without_a_mark_stays_without_one() -> None:
    assert with_true_leaf([_entry("a"), _entry("b")]) == [_entry("a"), _entry("b")]
