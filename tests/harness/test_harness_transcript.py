"""The transcript that a new process is given names its own last entry as the place to go on from."""

from __future__ import annotations

import json
from typing import Any

from hostler.domain.events import to_text
from hostler.harness.claude import with_true_leaf


def _entry(uuid: str, **more: Any) -> str:
    return to_text({"type": "user", "uuid": uuid, "isSidechain": False, **more})


def test_a_leaf_mark_of_an_earlier_life_is_replaced() -> None:
    old = {"type": "last-prompt", "leafUuid": "a", "lastPrompt": "p", "sessionId": "s"}
    given = [_entry("a"), to_text(old), to_text({"type": "mode"}), _entry("b"), _entry("side", isSidechain=True)]
    found = with_true_leaf(given)
    assert found[:-1] == [given[0], given[2], given[3], given[4]]
    assert json.loads(found[-1]) == {**old, "leafUuid": "b"}


def test_a_transcript_without_a_mark_stays_without_one() -> None:
    assert with_true_leaf([_entry("a"), _entry("b")]) == [_entry("a"), _entry("b")]


def test_an_entry_that_only_speaks_of_marks_is_none() -> None:
    given = [_entry("a", message={"content": [{"type": "last-prompt", "leafUuid": "x"}]}), _entry("b")]
    assert with_true_leaf(given) == given
