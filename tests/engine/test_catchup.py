"""What only the transcript knew is recorded once, in order, and what the log knew already is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hostler.domain import events as ev
from hostler.engine import runs, state
from hostler.engine.catchup import Recalled, unrecorded
from hostler.engine.composer import Composer, joined
from hostler.engine.permissions import Permissions
from hostler.engine.state import Moment, OpenCall, SessionState, Totals

AT = Moment(1.0, "2026-01-01T00:00:00.000000Z")


def _call(name: str) -> runs.ToolCall:
    return runs.ToolCall(f"toolu_{name}", "bash", {"command": name}, custom=False)


def _result(name: str, *, is_error: bool = False) -> runs.ToolResult:
    return runs.ToolResult(f"toolu_{name}", (ev.text_block(f"of {name}"),), is_error)


def _open(name: str) -> OpenCall:
    return OpenCall(
        event_id=f"sevt_{name}", tool_use_id=f"toolu_{name}", kind="builtin", name="bash", gated=False, started=True
    )


def _catch_up(
    recalled: Sequence[Recalled], *, calls: Sequence[OpenCall] = (), known: Sequence[str] = (), messages: int = 0
) -> tuple[SessionState, list[Any]]:
    composer = Composer(Permissions(builtin={"bash": "always_allow"}), ())
    ids = {f"toolu_{name}" for name in known}
    ops = unrecorded(recalled, known_calls=ids, messages=messages, composer=composer)
    step = joined(ops)(SessionState(thread_id="t", agent_name="a", calls=tuple(calls)), AT, Totals({}))
    return step.state, [event.body for event in step.events]


def test_a_log_that_knows_everything_gets_nothing() -> None:
    recalled: list[Recalled] = [
        ("m1", [runs.TextBlock("hi")]),
        ("m1", [_call("a")]),
        ("", [_result("a")]),
        ("m2", [runs.TextBlock("bye")]),
    ]
    _, events = _catch_up(recalled, known=["a"], messages=2)
    assert events == []


def test_the_last_message_is_recorded_as_one_event_with_all_its_texts() -> None:
    recalled: list[Recalled] = [
        ("m1", [runs.TextBlock("hi")]),
        ("m2", [runs.TextBlock("one")]),
        ("m2", [runs.TextBlock("two")]),
    ]
    _, events = _catch_up(recalled, messages=1)
    assert [[block["text"] for block in event["content"]] for event in events] == [["one", "two"]]


def test_a_result_that_the_log_waits_for_is_recorded_as_it_is() -> None:
    recalled: list[Recalled] = [("m1", [_call("a")]), ("", [_result("a")])]
    after, events = _catch_up(recalled, calls=[_open("a")], known=["a"])
    assert after.calls == ()
    assert [(e["type"], e["tool_use_id"], e["is_error"]) for e in events] == [("agent.tool_result", "sevt_a", False)]


def test_a_call_that_was_not_announced_is_announced_as_not_begun() -> None:
    recalled: list[Recalled] = [("m1", [_call("a")]), ("m1", [_call("b")])]
    after, events = _catch_up(recalled, calls=[_open("a")], known=["a"])
    assert [e["type"] for e in events] == ["agent.tool_use"]
    assert [(call.tool_use_id, call.started) for call in after.calls] == [("toolu_a", True), ("toolu_b", False)]


def test_calls_before_the_last_known_one_are_not_announced_again() -> None:
    """A session remembers only so many settled calls."""
    recalled: list[Recalled] = [("m1", [_call("old")]), ("", [_result("old")]), ("m2", [_call("a")])]
    _, events = _catch_up(recalled, calls=[_open("a")], known=["a"])
    assert events == []


def test_how_the_harness_ended_calls_of_a_stopped_run_is_no_news() -> None:
    composer = Composer(Permissions(), ())
    composer.dropping_errors = True
    ops = unrecorded([("", [_result("a", is_error=True)])], known_calls=(), messages=0, composer=composer)
    step = joined(ops)(SessionState(thread_id="t", agent_name="a", calls=(_open("a"),)), AT, Totals({}))
    assert step.events == ()
    assert state.unanswered(step.state) == ()
