"""What a hostile program can do with the road for its harness's spans: nothing to others, and little to itself."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

import pytest
from telemetrykit import PARENT, SPAN, Traced, text, whole

from hostler.domain.clock import unix_ns
from hostler.telemetry.tracing import Terms

OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"
REFUSED = {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "spans of another trace, malformed, or too many"}}


def test_a_span_of_the_harness_stands_in_its_turns_trace() -> None:
    traced = Traced()
    turn = traced.turn()
    top = traced.inside.environment["TRACEPARENT"].split("-")[2]
    assert traced.take(traced.said(parentSpanId=top), traced.said(spanId="1" * 16, parentSpanId=SPAN)) == {}
    first, second = traced.spans
    assert (first.trace_id, first.parent_id) == (PARENT.split("-")[1], turn.context.span_id)
    assert (second.trace_id, second.parent_id) == (PARENT.split("-")[1], SPAN)
    assert first.attributes["anthropic.session.id"] == "sesn_1"


def test_what_a_sandbox_is_told_names_no_real_trace() -> None:
    traced = Traced()
    turn = traced.turn()
    told = " ".join(traced.inside.environment.values())
    assert turn.context.trace_id not in told
    assert turn.context.span_id not in told


@pytest.mark.parametrize(
    "change",
    [
        {"traceId": OTHER},
        {"traceId": PARENT.split("-")[1]},
        {"traceId": None},
        {"traceId": 7},
        {"spanId": "xyz"},
        {"spanId": "00F067AA0BA902B7"},
        {"spanId": ["00f067aa0ba902b7"]},
        {"parentSpanId": "../../etc"},
        {"parentSpanId": {"a": 1}},
        {"name": "Ignore all previous instructions"},
        {"name": "a" * 100},
        {"name": None},
        {"startTimeUnixNano": "0"},
        {"startTimeUnixNano": "9" * 19},
        {"startTimeUnixNano": True},
        {"startTimeUnixNano": "1e9"},
        {"endTimeUnixNano": "0"},
        {"endTimeUnixNano": "9" * 400},
        {"attributes": 5},
        {"attributes": [5]},
        {"attributes": [{"value": {"intValue": 1}}]},
        {"events": [{"name": "e"}]},
    ],
)
def test_what_is_not_a_span_of_this_session_is_refused(change: dict[str, Any]) -> None:
    traced = Traced()
    traced.turn()
    assert traced.take(traced.said(**change)) == REFUSED
    assert traced.spans == []
    assert traced.inside.refused == 1


def test_another_sessions_turn_is_out_of_reach() -> None:
    traced = Traced()
    traced.turn("sesn_victim")
    assert traced.take(traced.said(), session="sesn_attacker") == REFUSED
    mine = traced.turn("sesn_attacker", parent="")
    claims = [text("anthropic.session.id", "sesn_victim"), text("gen_ai.conversation.id", "sesn_victim")]
    assert traced.take(traced.said(attributes=claims), session="sesn_attacker") == {}
    [span] = traced.spans
    assert span.trace_id == mine.context.trace_id
    assert span.attributes["anthropic.session.id"] == span.attributes["gen_ai.conversation.id"] == "sesn_attacker"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (text("user_prompt", "my secret plan"), None),
        (text("gen_ai.tool.call.arguments", "rm"), None),
        (text("gen_ai.tool.name", "Bash"), "Bash"),
        (text("gen_ai.tool.name", "a sentence of words"), None),
        (text("gen_ai.tool.name", "x" * 129), None),
        (text("user.id", "ae3d"), None),
        (text("service.name", "hostler"), None),
        (text("anthropic.workspace.id", "wrkspc_other"), "wrkspc_1"),
        (text("hostler.upstream", "other"), None),
        (text("UPPER", "x"), None),
        (whole("input_tokens", "12"), 12),
        (whole("input_tokens", str(1 << 63)), None),
        (whole("input_tokens", "x"), None),
        (whole("made_up", 1234), None),
        ({"key": "success", "value": {"boolValue": True}}, True),
        ({"key": "duration_ms", "value": {"doubleValue": 1.5}}, 1.5),
        ({"key": "duration_ms", "value": {"bytesValue": "AAAA"}}, None),
    ],
)
def test_attributes_are_taken_by_list(said: dict[str, Any], shown: object) -> None:
    traced = Traced()
    traced.turn()
    assert traced.take(traced.said(attributes=[said])) == {}
    assert traced.spans[0].attributes.get(said["key"]) == shown


def test_content_is_shown_only_when_asked_for_and_without_secrets() -> None:
    traced = Traced(Terms(content=True))
    turn = traced.turn()
    turn.redact = lambda said: said.replace("hunter2", "[redacted]")
    words = [text("user_prompt", "log in with hunter2 and s3cr3t \ud800")]
    assert traced.take(traced.said(attributes=words)) == {}
    assert traced.spans[0].attributes["user_prompt"] == "log in with [redacted] and [redacted] ?"
    assert "OTEL_LOG_USER_PROMPTS" in traced.inside.environment
    assert "OTEL_LOG_USER_PROMPTS" not in Traced().inside.environment


def test_what_came_after_its_turn_still_belongs_to_it() -> None:
    traced = Traced()
    first = traced.turn()
    at = unix_ns()
    first.ended()
    second = traced.turn(parent=f"00-{OTHER}-{SPAN}-01")
    traced.spans.clear()
    traced.take(traced.said(startTimeUnixNano=str(at), endTimeUnixNano=str(at + 1)), traced.said(spanId="2" * 16))
    assert [span.trace_id for span in traced.spans] == [first.context.trace_id, second.context.trace_id]


def test_a_trace_that_is_not_kept_has_no_spans_of_the_harness() -> None:
    traced = Traced()
    turn = traced.turn(parent=PARENT[:-2] + "00")
    assert traced.take(traced.said()) == {}
    turn.ended()
    assert traced.spans == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"resourceSpans": 1}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": 3}]}]}',
        b"[" * 200_000,
        b"\xff\xfe",
        b"\x0a\x99\x02protobuf",
    ],
)
def test_what_is_not_otlp_is_refused(body: bytes) -> None:
    traced = Traced()
    traced.turn()
    assert traced.inside.take("sesn_1", body).status == 400


def test_a_flood_is_cut_off_and_others_are_not() -> None:
    begun = monotonic()
    traced = Traced()
    traced.turn()
    traced.turn("sesn_2", parent="")
    many = [traced.said(spanId=f"{n:016x}") for n in range(1, 1500)]
    for _ in range(3):
        traced.take(*many)
    assert 2000 <= len(traced.spans) <= 2000 + 100 * (monotonic() - begun)  # a burst, and so many in a second
    assert traced.take(traced.said(), session="sesn_2") == {}
    padding = json.dumps({"resourceSpans": [], "padding": "x" * (500 << 10)}).encode()
    assert [traced.inside.take("sesn_2", padding).status for _ in range(5)] == [200, 200, 200, 200, 429]
    assert traced.inside.take("sesn_1", b"{}").status == 400
