"""The table of the state machine's page, row by row, against the state machine itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from docpages import DOCS

from hostler.domain.errors import InvalidRequest
from hostler.engine import inputs, state, turns
from hostler.engine.state import Moment, OpenCall, SessionState, Totals, Turn

PAGE = (DOCS / "explanation" / "session-state-machine.md").read_text("utf-8")
AT = Moment(1000.0, "2026-01-02T03:04:05.000000Z")
STATES = ("idle", "waiting", "running", "rescheduling", "terminated")
BODIES: dict[str, dict[str, Any]] = {
    "user.message": {"type": "user.message", "content": [{"type": "text", "text": "Hello."}]},
    "user.interrupt": {"type": "user.interrupt"},
    "user.tool_confirmation": {"type": "user.tool_confirmation", "tool_use_id": "call", "result": "allow"},
    "user.custom_tool_result": {"type": "user.custom_tool_result", "custom_tool_use_id": "call", "content": []},
    "user.tool_result": {"type": "user.tool_result", "tool_use_id": "call", "content": []},
}
KINDS = {"user.custom_tool_result": "custom", "user.tool_result": "hosted"}


def rows() -> list[tuple[str, str, str, str]]:
    return re.findall(r"^\| `(user\.\w+)` \| (\w+) \| (.+?) \| (\w+) \|$", PAGE, re.MULTILINE)


def session(name: str, kind: Any) -> SessionState:
    base = SessionState(thread_id="thread", agent_name="Agent", self_hosted=kind == "hosted")
    call = OpenCall(event_id="call", tool_use_id="toolu", kind=kind, name="bash", gated=True)
    turn = Turn(id="turn", prompts=(), phase="handed")
    match name:
        case "waiting":
            blocked = turn.model_copy(update={"phase": "blocked"})
            reason = {"type": "requires_action", "event_ids": ["call"]}
            return base.model_copy(update={"turn": blocked, "calls": (call,), "stop_reason": reason})
        case "running" | "rescheduling":
            return base.model_copy(update={"turn": turn, "calls": (call,), "status": name})
        case _:
            return base.model_copy(update={"status": name})


def named(after: SessionState) -> str:
    waits = after.turn is not None and after.turn.phase == "blocked"
    return "waiting" if waits else after.status


def test_table_has_every_input_in_every_state() -> None:
    assert [(row[0], row[1]) for row in rows()] == [(body, name) for body in BODIES for name in STATES]


@pytest.mark.parametrize(("sent", "before", "recorded", "then"), rows())
def test_input_does_what_the_table_says(sent: str, before: str, recorded: str, then: str) -> None:
    held = session(before, KINDS.get(sent, "builtin"))
    if recorded == "refused":
        with pytest.raises(InvalidRequest):
            inputs.submit(held, AT, Totals({}), [BODIES[sent]])
        assert then == before
        return
    step = inputs.submit(held, AT, Totals({}), [BODIES[sent]])
    assert [event.type for event in step.events] == re.findall(r"`(\S+)`", recorded)
    assert named(step.state) == then
    assert ("waits" in recorded) == bool(step.state.queue or step.state.interrupt)


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"At most {state.QUEUE_LIMIT:,} may wait" in " ".join(PAGE.split())
    assert f"last {state.ANSWERS_KEPT} settled calls" in " ".join(PAGE.split())
    assert turns.MAX_RECOVERIES == 3, "the page says: a fourth time"
