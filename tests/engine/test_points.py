"""When is a session at a point? Between two turns, with nothing that waits to be taken up."""

from __future__ import annotations

from typing import Any

import pytest

from hostler.domain.errors import Conflict, HostlerError, InvalidRequest
from hostler.engine.points import refuse_unless_between_turns
from hostler.engine.state import BUDGET_REACHED, Ask, Queued, SessionState, Turn

IDLE = SessionState(thread_id="sthr_1", agent_name="Coder")
BLOCKED = IDLE.model_copy(update={"turn": Turn(id="turn_1", prompts=(), phase="blocked")})


@pytest.mark.parametrize("state", [IDLE, BLOCKED])
def test_an_idle_session_is_at_a_point_and_one_that_waits_for_an_answer_is(state: SessionState) -> None:
    refuse_unless_between_turns(state, "a checkpoint")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": "running"}, Conflict),
        ({"status": "rescheduling"}, Conflict),
        ({"interrupt": Queued(body={})}, Conflict),
        ({"status": "terminated"}, InvalidRequest),
        ({"self_hosted": True}, InvalidRequest),
        ({"turn": Turn(id="turn_1", prompts=(), phase="paused"), "stop_reason": BUDGET_REACHED}, InvalidRequest),
        ({"turn": Turn(id="turn_1", prompts=(), phase="handed"), "stop_reason": BUDGET_REACHED}, InvalidRequest),
        ({"queue": (Queued(body={}),)}, InvalidRequest),
        ({"ask": Ask(id="cmpn_1", trigger="manual")}, InvalidRequest),
    ],
)
def test_anything_else_is_refused_with_what_to_do(changes: dict[str, Any], error: type[HostlerError]) -> None:
    with pytest.raises(error, match="a checkpoint"):
        refuse_unless_between_turns(BLOCKED.model_copy(update=changes), "a checkpoint")
