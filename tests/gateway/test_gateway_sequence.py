"""Holding calls: the upstream must see what it would have seen had the harness run the calls in parallel."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.gateway import sequence
from hostler.gateway.body import dump
from hostler.gateway.response import split_message
from hostler.gateway.sequence import CONTINUE, INTERRUPTED, Call, Forward, Serve

Message = dict[str, Any]
REMINDER = "<system-reminder>\nremember\n</system-reminder>"


def text(value: str) -> Message:
    return {"type": "text", "text": value}


def use(call_id: str) -> Message:
    return {"type": "tool_use", "id": call_id, "name": "Bash", "input": {"command": call_id}}


def result(call_id: str, content: Any = None, *, is_error: bool = False) -> Message:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content or f"did {call_id}"}
    return {**block, "is_error": True} if is_error else block


def said(*blocks: Message) -> Message:
    return {"role": "assistant", "content": list(blocks)}


def told(*blocks: Message) -> Message:
    return {"role": "user", "content": list(blocks)}


def closed_calls(stored: str | None) -> dict[str, tuple[Any, bool]]:
    """Of the stored form, those that got a result without being shown."""
    return {key: (c.content, c.is_error) for group in sequence.load(stored).groups for key, c in group.closed.items()}


def assert_valid(messages: list[Message]) -> None:
    """The rule of the Messages API: every tool_use is answered once, in the next message, and by nothing else."""
    seen: set[str] = set()
    for at, message in enumerate(messages):
        content = message["content"] if isinstance(message["content"], list) else []
        uses = [b["id"] for b in content if b["type"] == "tool_use"]
        results = [b["tool_use_id"] for b in content if b["type"] == "tool_result"]
        assert len(uses) == len(set(uses))
        assert not seen & set(uses)
        seen |= set(uses)
        if uses:
            answered = [b["tool_use_id"] for b in messages[at + 1]["content"] if b["type"] == "tool_result"]
            assert answered == uses
        if results:
            assert message["role"] == "user"
            first_other = next((i for i, b in enumerate(content) if b["type"] != "tool_result"), len(content))
            assert all(b["type"] != "tool_result" for b in content[first_other:])
            assert messages[at - 1]["role"] == "assistant"


@dataclass
class Harness:
    """The gateway's pure part with a `claude` in front that executes what it is shown, one call after the other."""

    history: list[Message] = field(default_factory=list)
    expected: list[Message] = field(default_factory=list)
    saved: str | None = None
    state: sequence.State = field(default_factory=sequence.State)

    def prompt(self, value: str) -> None:
        self.history.append(told(text(value)))
        self.expected.append(told(text(value)))

    def restart(self) -> None:
        self.state = sequence.load(self.saved)

    def ask(self) -> Serve | Forward:
        plan = sequence.plan(self.state, self.history)
        again = sequence.plan(sequence.load(sequence.dump(self.state)), json.loads(json.dumps(self.history)))
        assert sequence.dump(again.state) == sequence.dump(plan.state)
        assert dump(again.action.messages if isinstance(again.action, Forward) else again.action.call.block()) == dump(
            plan.action.messages if isinstance(plan.action, Forward) else plan.action.call.block()
        )
        if plan.must_save:
            self.saved = sequence.dump(plan.state)
        self.state = plan.state
        self.newest = plan.newest
        if isinstance(plan.action, Forward):
            upstream = self.history if plan.action.messages is None else plan.action.messages
            assert_valid(upstream)
            assert upstream == self.expected
        return plan.action

    def respond(self, message: Message) -> list[Call]:
        """The upstream answers; claude sees the first call. Returns all calls."""
        shown, calls = split_message(message)
        if len(calls) > 1:
            self.state = sequence.add_group(self.state, calls, self.newest)
            self.saved = sequence.dump(self.state)
        self.history.append({"role": "assistant", "content": shown["content"]})
        return calls


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_upstream_sees_what_parallel_execution_would_have_shown_it(data: st.DataObject) -> None:
    harness = Harness()
    ids = iter(range(1000))
    harness.prompt("go")
    for _ in range(data.draw(st.integers(1, 5), label="responses")):
        assert isinstance(harness.ask(), Forward)
        count = data.draw(st.integers(0, 4), label="calls")
        calls = [use(f"toolu_{next(ids)}") for _ in range(count)]
        lead = [text(f"text {next(ids)}")] if count == 0 or data.draw(st.booleans(), label="text before") else []
        response = said(*lead, *calls)
        if data.draw(st.integers(0, 9), label="title request") == 0:
            assert sequence.plan(harness.state, [told(text("title?"))]).action == Forward(None)
        harness.respond(response)
        if not calls:
            harness.expected.append(response)
            harness.prompt(f"prompt {next(ids)}")
            continue
        if data.draw(st.integers(0, 9), label="first call dropped by a crash") == 0:
            harness.history.pop()
            harness.restart()
            continue
        run_calls(harness, response, [c["id"] for c in calls], data, ids)
    assert isinstance(harness.ask(), Forward)


def run_calls(harness: Harness, response: Message, waiting: list[str], data: st.DataObject, ids: Any) -> None:
    """Executes one response's calls with mishaps, and writes down what parallel execution would have given."""
    results: dict[str, Message] = {}
    extras: list[Message] = []
    tail: list[Message] = []
    current = waiting[0]
    while True:
        what = data.draw(
            st.sampled_from(["run", "run", "reminder", "system", "deferred", "interrupted", "prompt", "new message"]),
            label=f"call {current}",
        )
        interrupted = what == "interrupted"
        results[current] = result(current, "[Tool call interrupted]" if interrupted else None, is_error=interrupted)
        blocks = [results[current]]
        after: list[Message] = []
        if what == "reminder":
            blocks.append(text(REMINDER))
            extras.append(text(REMINDER))
        if what == "deferred":
            harness.restart()
            blocks.append(text(CONTINUE))
        if what == "prompt":
            blocks.append(text("something new"))
            extras.append(text("something new"))
        if what == "system":
            after.append({"role": "system", "content": "note"})
        if what == "new message":
            after.append(told(text("something new")))
        harness.history += [told(*blocks), *after]
        tail += after
        moved_on = what in ("prompt", "new message")
        held = [c for c in waiting if c not in results]
        if held and data.draw(st.integers(0, 4), label="person closes held") == 0:
            closing = data.draw(st.sets(st.sampled_from(held)), label="closed")
            given_results = {c: (f"no {c}", True) for c in closing}
            harness.state = sequence.close_held(harness.state, given_results)
            harness.saved = sequence.dump(harness.state)
            results.update({c: result(c, f"no {c}", is_error=True) for c in closing})
        held = [c for c in waiting if c not in results]
        if moved_on or not held:
            results.update({c: result(c, INTERRUPTED, is_error=True) for c in held})
            break
        action = harness.ask()
        assert isinstance(action, Serve)
        assert action.call.block() == use(held[0])
        current = held[0]
        if data.draw(st.integers(0, 4), label="crash: the call is dropped and served again") == 0:
            harness.restart()
            last = next(m for m in reversed(harness.history) if m["role"] == "user")
            if last["content"][-1] != text(CONTINUE):
                last["content"].append(text(CONTINUE))
            assert harness.ask() == action
        harness.history.append(said(action.call.block()))
    harness.expected.append(response)
    harness.expected.append(told(*(results[c] for c in waiting), *extras))
    harness.expected += tail


def group_state(*ids: str) -> sequence.State:
    return sequence.add_group(sequence.State(), [Call(i, "Bash", {"command": i}) for i in ids], None)


def forwarded(state: sequence.State, history: list[Message]) -> list[Message]:
    action = sequence.plan(state, history).action
    assert isinstance(action, Forward)
    return history if action.messages is None else action.messages


def test_cache_markers_are_kept_and_never_multiply() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    history = [
        told(text("go")),
        said(use("a")),
        told({**result("a"), **mark}),
        said(use("b")),
        told(result("b"), {**text(CONTINUE), **mark}),
    ]
    sent = forwarded(group_state("a", "b"), history)
    assert sent[2]["content"] == [{**result("a"), **mark}, {**result("b"), **mark}]
    assert json.dumps(sent).count("cache_control") == json.dumps(history).count("cache_control")


def test_continue_after_a_single_gated_call_is_taken_away_and_its_marker_moves() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    history = [told(text("go")), said(use("a")), told(result("a"), {**text(CONTINUE), **mark})]
    assert forwarded(sequence.State(), history)[2] == told({**result("a"), **mark})
    untouched = [told(text(CONTINUE)), said(use("a")), told(result("a"), text("Continue"))]
    assert sequence.plan(sequence.State(), untouched).action == Forward(None)


def test_text_between_calls_stays_in_the_model_s_own_message() -> None:
    history = [
        told(text("go")),
        said(text("x"), use("a"), text("y")),
        told(result("a")),
        said(use("b")),
        told(result("b")),
    ]
    sent = forwarded(group_state("a", "b"), history)
    assert sent[1:] == [said(text("x"), use("a"), text("y"), use("b")), told(result("a"), result("b"))]


def test_a_shown_call_without_a_result_is_healed_when_the_conversation_goes_on() -> None:
    sent = forwarded(group_state("a", "b"), [told(text("go")), said(use("a")), told(text("new"))])
    assert_valid(sent)
    assert sent[-2:] == [
        told(result("a", INTERRUPTED, is_error=True), result("b", INTERRUPTED, is_error=True)),
        told(text("new")),
    ]


def test_calls_closed_by_moving_on_stay_closed() -> None:
    state = group_state("a", "b")
    history = [told(text("go")), said(use("a")), told(result("a"), text("new"))]
    plan = sequence.plan(state, history)
    assert plan.must_save
    assert closed_calls(sequence.dump(plan.state)) == {"b": (INTERRUPTED, True)}
    assert isinstance(sequence.plan(plan.state, [*history[:2], told(result("a"))]).action, Forward)


def test_closing_on_the_stored_form_is_what_the_next_road_sees() -> None:
    stored = sequence.close_held_text(
        sequence.dump(group_state("a", "b")), {"b": ("interrupted", True), "zz": ("", False)}
    )
    sent = forwarded(sequence.load(stored), [told(text("go")), said(use("a")), told(result("a"))])
    assert sent[2] == told(result("a"), result("b", "interrupted", is_error=True))
    assert closed_calls(stored) == {"b": ("interrupted", True)}
    assert closed_calls(None) == {}


def test_calls_that_nobody_was_told_of_are_not_the_model_s_either() -> None:
    stored = sequence.dump(sequence.add_group(group_state("a", "b"), [Call(i, "Bash", {}) for i in "xyz"], "a"))
    assert sequence.without_unannounced(stored, {"a", "b"}) is None  # of a turn before
    assert sequence.without_unannounced(stored, {"x", "y", "z"}) is None
    left = sequence.without_unannounced(stored, {"x", "y"})
    assert [[call.id for call in group.calls] for group in sequence.load(left).groups] == [["a", "b"], ["x", "y"]]
    left = sequence.without_unannounced(stored, {"x"})
    assert [[call.id for call in group.calls] for group in sequence.load(left).groups] == [["a", "b"]]
    closed = sequence.close_held_text(stored, {"z": ("No.", True)})
    left = sequence.without_unannounced(closed, {"x"})
    assert [call.id for call in sequence.load(left).groups[-1].calls] == ["x", "z"]
    assert sequence.without_unannounced(None, {"x"}) is None


def test_compaction_drops_old_groups_and_side_conversations_drop_none() -> None:
    state = group_state("a", "b")
    state = sequence.add_group(state, [Call("c", "Bash", {}), Call("d", "Bash", {})], "a")
    sub_agent = [told(text("sub"))]
    assert sequence.plan(state, sub_agent).state == state
    state = sequence.add_group(state, [Call("s", "Bash", {}), Call("t", "Bash", {})], None)
    sub_agent += [said(use("s")), told(result("s"), text("x"))]
    assert {g.key for g in sequence.plan(state, sub_agent).state.groups} == {"a", "c", "s"}
    compacted = [told(text("summary")), said(use("c")), told(result("c")), said(use("d")), told(result("d"))]
    assert {g.key for g in sequence.plan(state, compacted).state.groups} == {"c", "s"}


def test_the_state_is_bounded() -> None:
    state = sequence.State()
    for n in range(sequence.MAX_GROUPS + 10):
        state = sequence.add_group(state, [Call(f"a{n}", "x", {}), Call(f"b{n}", "x", {})], None)
    assert len(state.groups) == sequence.MAX_GROUPS


def test_inputs_are_forgotten_once_the_history_has_gone_past_them() -> None:
    state = group_state("a", "b")
    history = [
        told(text("go")),
        said(use("a")),
        told(result("a")),
        said(use("b")),
        told(result("b")),
        said(text("done")),
    ]
    after = sequence.plan(state, history).state
    assert all(not call.input for call in after.groups[0].calls)
    assert forwarded(after, history) == forwarded(state, history)


@pytest.mark.parametrize("junk", [None, 1, "x", [], {}, {"role": "user"}, {"role": "assistant", "content": [None, 3]}])
def test_histories_that_are_not_messages_pass_untouched(junk: Any) -> None:
    assert sequence.plan(group_state("a", "b"), [junk, junk]).action == Forward(None)


def test_no_held_call_is_shown_before_the_shown_one_has_a_result() -> None:
    sent = forwarded(group_state("a", "b"), [told(text("go")), said(use("a")), told(text(REMINDER))])
    assert_valid(sent[:3])
    assert [b["tool_use_id"] for b in sent[2]["content"]] == ["a", "b"]
    prefilled = [told(text("go")), said(use("a"))]
    assert sequence.plan(group_state("a", "b"), prefilled) == sequence.Plan(
        Forward(None), group_state("a", "b"), False, "a"
    )


def test_a_group_with_a_known_first_call_takes_the_place_of_the_old_one() -> None:
    again = sequence.add_group(group_state("a", "b"), [Call("a", "Bash", {}), Call("z", "Bash", {})], None)
    assert [[call.id for call in group.calls] for group in again.groups] == [["a", "z"]]
