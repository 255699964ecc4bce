"""What may a process that belongs to no session do, and who hears of it once it belongs to one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hostler.engine.late_ties import LateTies, Ties
from hostler.engine.runs import Allow, Deny, NotNow, ToolCall, ToolOutcome, Verdict

CALL = ToolCall("toolu_1", "bash", {"command": "id"}, custom=False)


class Session:
    """Allows everything and remembers what is kept."""

    def __init__(self) -> None:
        self.kept: list[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]] = []

    async def permit(self, call: ToolCall) -> Verdict:
        return Allow()

    async def result(self, tool_use_id: str) -> ToolOutcome:
        return ToolOutcome([{"type": "text", "text": tool_use_id}], False)

    def gapless(self) -> Session:
        return self

    async def append(self, key: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
        self.kept.append((key, entries))


async def test_nothing_is_allowed_and_nothing_is_kept_before_there_is_a_session() -> None:
    ties = LateTies("spare")
    assert isinstance(await ties.permit(CALL), Deny)
    assert (await ties.result("toolu_1")).is_error
    assert isinstance(await ties.before("auto", None), NotNow)
    assert await ties.besides("summary") is None
    assert await ties.load({"project_key": "p", "session_id": "spare"}) is None
    with pytest.raises(LookupError):
        await ties.append({"project_key": "p", "session_id": "spare"}, [{"uuid": "1"}])


async def test_afterwards_all_is_the_session_s_and_under_its_name() -> None:
    ties, session = LateTies("spare"), Session()
    ties.tie(Ties("own", session, session, None))
    assert isinstance(await ties.permit(CALL), Allow)
    assert not (await ties.result("toolu_1")).is_error
    entries = [{"uuid": "1", "sessionId": "spare"}, {"uuid": "2", "sessionId": "other"}, {"type": "mark"}]
    await ties.append({"project_key": "p", "session_id": "spare", "subpath": "agents/1"}, entries)
    key, kept = session.kept[0]
    assert key == {"project_key": "p", "session_id": "own", "subpath": "agents/1"}
    assert kept == [{"uuid": "1", "sessionId": "own"}, {"uuid": "2", "sessionId": "other"}, {"type": "mark"}]
    with pytest.raises(AssertionError):
        ties.tie(Ties("other", session, session, None))
