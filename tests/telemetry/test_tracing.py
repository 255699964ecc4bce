"""Which spans follow from what a server is told, and whose word counts for what."""

from __future__ import annotations

import pytest
from telemetrykit import PARENT, SESSION, Traced

from hostler.engine.about import About
from hostler.engine.egress_port import EgressDecision
from hostler.engine.model_port import Asked, Caller, Ended, Target
from hostler.engine.runs import ToolCall, ToolResult
from hostler.engine.trace_port import RequestEnd
from hostler.store.sessions import Usage
from hostler.telemetry.requests import TracedRequests
from hostler.telemetry.spans import chosen, read_traceparent
from hostler.telemetry.tracing import Terms

TRACE = PARENT.split("-")[1]
OK = RequestEnd(200, "/v1/agents", "", known=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
    ],
)
def test_what_is_no_trace_context_begins_a_trace(text: str) -> None:
    assert read_traceparent(text) is None
    traced, about = Traced(), About()
    traced.tracer.request(about, "GET", text).ended(OK)
    [span] = traced.spans
    assert span.parent_id == ""
    assert span.trace_id != TRACE


def test_a_later_version_is_read_by_its_first_parts() -> None:
    found = read_traceparent(f"01-{TRACE}-b7ad6b7169203331-01-what-comes-later")
    assert found is not None
    assert found.trace_id == TRACE


@pytest.mark.parametrize(
    ("terms", "flag", "kept"),
    [
        (Terms(ratio=0.0), "01", True),
        (Terms(ratio=1.0), "00", False),
        (Terms(ratio=0.0, trust_callers=False), "01", False),
        (Terms(ratio=1.0, trust_callers=False), "00", True),
    ],
)
def test_whose_word_counts_for_keeping_a_trace(terms: Terms, flag: str, kept: bool) -> None:
    traced, about = Traced(terms), About()
    traced.tracer.request(about, "GET", PARENT[:-2] + flag).ended(OK)
    assert len(traced.spans) == kept
    assert about.traceparent == f"00-{TRACE}-{about.span_id}-{'01' if kept else '00'}"
    # What follows on another server follows that, whatever is set there.
    other = Traced(Terms(ratio=1.0 - terms.ratio, trust_callers=False))
    other.turn(parent=about.traceparent).ended()
    assert len(other.spans) == kept


def test_who_has_no_key_gets_into_nobodys_trace() -> None:
    traced, about = Traced(), About()
    traced.tracer.request(about, "GET", PARENT).ended(RequestEnd(401, "", "sesn_guessed", known=False))
    [span] = traced.spans
    assert span.trace_id != TRACE
    assert span.parent_id == ""
    assert "anthropic.session.id" not in span.attributes


def test_a_ratio_keeps_the_same_traces_everywhere() -> None:
    ids = [f"{'0' * 16}{n << 54:016x}" for n in range(1024)]
    assert sum(chosen(each, 0.25) for each in ids) == 256
    assert all(chosen(each, 0.5) for each in ids if chosen(each, 0.25))


def test_a_turn_names_every_request_that_it_serves() -> None:
    traced = Traced()
    answer = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    traced.turn(links=(answer, "nonsense"), waited=0.5).ended()
    wait, turn = traced.spans
    assert (wait.name, wait.parent_id, wait.end - wait.start) == ("wait for a worker", "b7ad6b7169203331", 500_000_000)
    assert [link.trace_id for link in turn.links] == ["4bf92f3577b34da6a3ce929d0e0e4736"]


def call(id_: str) -> ToolCall:
    return ToolCall(id_, "bash", {"command": "echo s3cr3t"}, False, None)


def test_an_egress_decision_stands_under_the_call_that_made_it_if_that_is_clear() -> None:
    traced = Traced()
    turn = traced.turn()
    decision = EgressDecision(SESSION, "GET", "example.com", 443, False, "host_not_allowed", path="/s3cr3t")
    turn.permitted(call("toolu_1"))
    traced.tracer.decided(decision, 0.001)
    turn.permitted(call("toolu_2"))
    traced.tracer.decided(decision, 0.001)
    turn.told(ToolResult("toolu_1", (), False))
    turn.ended()
    traced.tracer.decided(decision, 0.001)
    one, several, first, second, whole = traced.spans
    assert one.parent_id == first.span_id
    assert several.parent_id == whole.span_id
    assert (first.failed, second.failed, second.attributes["error.type"]) == (False, True, "no_result")
    assert "s3cr3t" not in repr(traced.spans)


def test_content_has_its_secrets_taken_out() -> None:
    traced = Traced(Terms(content=True))
    turn = traced.turn(prompts=({"type": "text", "text": "use s3cr3t"},))
    turn.redact = lambda text: text.replace("s3cr3t", "[redacted]")
    turn.told(call("toolu_1"))
    turn.permitted(call("toolu_1"))
    turn.told(ToolResult("toolu_1", ({"type": "text", "text": "s3cr3t!"},), False))
    turn.ended()
    called, whole = traced.spans
    assert "echo [redacted]" in str(called.attributes["gen_ai.tool.call.arguments"])
    assert "[redacted]!" in str(called.attributes["anthropic.tool_result.content"])
    assert "use [redacted]" in str(whole.attributes["gen_ai.input.messages"])


@pytest.mark.parametrize("genuine", [True, False])
def test_an_attempt_stands_under_what_the_harness_names_in_its_own_trace(genuine: bool) -> None:
    traced = Traced()
    turn = traced.turn()
    watcher = TracedRequests(traced.tracer, traced.inside.trace_id)
    named = traced.inside.trace_id if genuine else TRACE
    asked = Asked("mreq_1", Caller(SESSION), "claude-opus-5-5", {}, 10, True, trace=f"00-{named}-{'7' * 16}-01")
    target = Target("first", "claude-haiku-4-5", "haiku")
    watcher.ended(asked, Ended(target, 1, 529, "status 529", None, False, 0.2, 0.1), Usage())
    watcher.ended(
        asked,
        Ended(
            target,
            2,
            200,
            "",
            None,
            True,
            0.9,
            0.5,
            first_byte=0.1,
            stop_reason="end_turn",
            upstream_request_id="req_9",
        ),
        Usage(3, 4, cache_read_input_tokens=5),
    )
    watcher.ended(asked, Ended(target, 3, 200, "", None, True, 0.9, 0.5, gone=True), Usage())
    failed, answered, cancelled = traced.received()
    assert (cancelled.error, cancelled.attributes["error.type"]) == (False, "cancelled")
    assert failed.parent_id == answered.parent_id == ("7" * 16 if genuine else turn.context.span_id)
    assert (failed.error, failed.attributes["error.type"]) == (True, "529")
    assert answered.attributes["gen_ai.usage.input_tokens"] == 8
    assert answered.attributes["hostler.requested_model"] == "claude-opus-5-5"
    assert answered.attributes["gen_ai.response.time_to_first_chunk"] == 0.1
    assert answered.end - answered.start == 500_000_000


@pytest.mark.parametrize("said", ["0" * 16, "g" * 16, "7777 77777777777", "77  77  77  77  ", "é" * 16])
def test_an_attempt_whose_trace_context_names_no_span_stands_under_its_turn(said: str) -> None:
    traced = Traced()
    turn = traced.turn()
    asked = Asked("mreq_1", Caller(SESSION), "m", {}, 10, True, trace=f"00-{traced.inside.trace_id}-{said}-01")
    watcher = TracedRequests(traced.tracer, traced.inside.trace_id)
    watcher.ended(asked, Ended(Target("u", "m", "m"), 1, 200, "", None, True, 0.2, 0.1), Usage())
    [attempt] = traced.received()
    assert attempt.parent_id == turn.context.span_id
