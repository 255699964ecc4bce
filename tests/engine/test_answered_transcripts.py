"""When has a conversation said its last word? What stands in a transcript may have been written by a sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from hostler.engine.transcript import is_answered

ASKED = {"type": "user", "uuid": "a", "message": {"role": "user", "content": "Hello?"}}


def said(**message: Any) -> dict[str, Any]:
    return {"type": "assistant", "uuid": "b", "message": {"role": "assistant", "content": [], **message}}


def test_an_answer_with_its_end_is_the_last_word() -> None:
    after = [{"type": "last-prompt", "leafUuid": "b"}, {**ASKED, "uuid": "c", "isSidechain": True}]
    assert is_answered([ASKED, said(stop_reason="end_turn"), *after])


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [ASKED],
        [ASKED, said()],
        [ASKED, said(stop_reason="tool_use")],
        [ASKED, said(stop_reason="end_turn"), {**ASKED, "uuid": "c"}],
        [ASKED, {"type": "assistant", "uuid": "b", "message": 7}],
        [ASKED, {"type": "assistant", "uuid": "b", "message": "end_turn"}],
        [ASKED, {**said(stop_reason="end_turn"), "isSidechain": True}],
    ],
    ids=["empty", "asked", "no end", "a call", "asked again", "a number", "a word", "a sub-agent"],
)
def test_anything_else_is_not(entries: list[Any]) -> None:
    assert not is_answered(entries)
