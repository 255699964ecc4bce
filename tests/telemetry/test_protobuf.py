"""What we write is what the official library would read and write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OfficialSpan
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from telemetrykit import SESSION, Traced

from hostler.engine.model_port import Asked, Caller, Ended, Purpose, Target
from hostler.store.sessions import Usage
from hostler.telemetry import protobuf
from hostler.telemetry.otlp import Envelope
from hostler.telemetry.requests import TracedRequests
from hostler.telemetry.spans import Context, Event, Kind, Span, Value

_INT = st.integers(-(1 << 63), (1 << 63) - 1)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
_VALUES: st.SearchStrategy[Value] = st.one_of(
    _TEXT, st.booleans(), _INT, st.floats(allow_nan=False), st.lists(_TEXT, max_size=3).map(tuple)
)
_ATTRIBUTES = st.dictionaries(_TEXT, _VALUES, max_size=20)
_TIME = st.integers(0, (1 << 64) - 1)
_SPAN_ID = st.binary(min_size=8, max_size=8).map(bytes.hex)
_TRACE_ID = st.binary(min_size=16, max_size=16).map(bytes.hex)
_EVENTS = st.lists(st.builds(Event, _TEXT, _TIME, _ATTRIBUTES), max_size=2).map(tuple)
_LINKS = st.lists(st.builds(Context, _TRACE_ID, _SPAN_ID, st.booleans()), max_size=2).map(tuple)
_KINDS: st.SearchStrategy[Kind] = st.sampled_from((1, 2, 3))
_SPANS = st.builds(
    Span, _TEXT, _TRACE_ID, _SPAN_ID, st.just("") | _SPAN_ID, _TIME, _TIME, _ATTRIBUTES, _KINDS, st.booleans(), _TEXT,
    _LINKS, _EVENTS, st.booleans(),
)  # fmt: skip
REMOTE = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
OURS = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK


def official_value(value: Value) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=value)
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case tuple():
            return AnyValue(array_value=ArrayValue(values=[official_value(one) for one in value]))


def official(span: Span) -> OfficialSpan:
    def all_of(attributes: dict[str, Value]) -> list[KeyValue]:
        return [KeyValue(key=key, value=official_value(value)) for key, value in attributes.items()]

    made = OfficialSpan(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=OfficialSpan.SpanKind.Name(span.kind),
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=all_of(span.attributes),
        events=[
            OfficialSpan.Event(name=one.name, time_unix_nano=one.at, attributes=all_of(one.attributes))
            for one in span.events
        ],
        links=[
            OfficialSpan.Link(trace_id=bytes.fromhex(one.trace_id), span_id=bytes.fromhex(one.span_id), flags=REMOTE)
            for one in span.links
        ],
        flags=REMOTE if span.parent_id else OURS,
    )
    if span.failed:
        made.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.message))
    return made


@given(_SPANS)
def test_a_span_is_what_the_official_library_would_have_made(span: Span) -> None:
    assert OfficialSpan.FromString(span.written()) == official(span)


@given(st.lists(_SPANS, max_size=5))
def test_a_batch_says_whose_spans_they_are(spans: list[Span]) -> None:
    read = ExportTraceServiceRequest.FromString(Envelope({"service.name": "mine", "x": "y"}).around(spans))
    said = {
        of_resource.scope_spans[0].scope.name: (
            {one.key: one.value.string_value for one in of_resource.resource.attributes},
            list(of_resource.scope_spans[0].spans),
        )
        for of_resource in read.resource_spans
    }
    expected: dict[str, Any] = {
        "hostler": ({"service.name": "mine", "x": "y"}, [official(span) for span in spans if not span.inside]),
        "com.anthropic.claude_code.tracing": (
            {"service.name": "claude-code", "x": "y"},
            [official(span) for span in spans if span.inside],
        ),
    }
    assert said == {scope: what for scope, what in expected.items() if what[1]}


@given(_TEXT, st.text(st.characters(codec="ascii"), max_size=127), _INT, st.floats(allow_nan=False))
def test_the_fast_ways_write_the_same(key: str, text: str, whole: int, real: float) -> None:
    said = text.encode()
    assert protobuf.text_heads(key)[len(said)] + said == protobuf.attribute(key, text)
    assert protobuf.heads(2)[len(said)] + said == protobuf.field(2, said)
    number = protobuf.varint(whole)
    assert protobuf.whole_heads(key)[len(number)] + number == protobuf.attribute(key, whole)
    assert protobuf.real_head(key) + protobuf.real(real) == protobuf.attribute(key, real)


@pytest.mark.parametrize(
    ("made_up", "shown"),
    [(10**30, (1 << 63) - 1), (-(10**30), -1 << 63), ("half \ud800 a letter", "half ? a letter"), (1 << 63, 2**63 - 1)],
)
def test_what_can_not_be_written_loses_no_batch(made_up: Value, shown: Value) -> None:
    span = Span("a", "ab" * 16, "cd" * 8, "", 1, 2, {"key": made_up})
    [read] = OfficialSpan.FromString(span.written()).attributes
    assert read.value == official_value(shown)


_PURPOSES: st.SearchStrategy[Purpose] = st.sampled_from(("turn", "compaction", "auxiliary"))
_MODELS = st.sampled_from(("claude-opus-5-5", "claude-haiku-4-5", "modèle " + "x" * 200))
_TOKENS = st.integers(0, 1 << 40)


@given(
    _MODELS, _PURPOSES, _MODELS, st.integers(1, 300), st.sampled_from((0, 200, 429, 529)), st.booleans(), st.booleans(),
    st.none() | st.floats(0, 600), st.none() | st.just("end_turn"), st.text(max_size=200), _TOKENS, _TOKENS, _TOKENS,
    _TOKENS,
)  # fmt: skip
def test_what_attempts_say_alike_is_not_what_they_say_themselves(
    asked_for: str, purpose: Purpose, model: str, number: int, status: int, failed: bool, gone: bool,
    first_byte: float | None, stop_reason: str | None, upstream_id: str, given_in: int, given_out: int, read: int,
    made: int,
) -> None:  # fmt: skip
    traced = Traced()
    turn = traced.turn()
    target = Target("first", model, "spelled")
    ended = Ended(
        target, number, status, "broke" if failed else "", None, True, 1.0, 0.5, first_byte=first_byte,
        stop_reason=stop_reason, upstream_request_id=upstream_id, gone=gone,
    )  # fmt: skip
    asked = Asked("mreq_1", Caller(SESSION), asked_for, {}, 10, True, purpose=purpose)
    usage = Usage(given_in, given_out, cache_read_input_tokens=read, cache_creation_1h_input_tokens=made)
    TracedRequests(traced.tracer, traced.inside.trace_id).ended(asked, ended, usage)
    [got] = traced.received()
    shown_model = model[:128]
    expected = {
        "gen_ai.provider.name": "anthropic",
        "gen_ai.conversation.id": SESSION,
        "gen_ai.agent.id": "agent_1",
        "anthropic.workspace.id": "wrkspc_1",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": shown_model,
        "gen_ai.usage.input_tokens": given_in + read + made,
        "gen_ai.usage.output_tokens": given_out,
        "http.response.status_code": status,
        "hostler.model_request.id": "mreq_1",
        "hostler.model_request.attempt": number,
        "hostler.upstream": "first",
        "gen_ai.usage.cache_read.input_tokens": read or None,
        "gen_ai.usage.cache_creation.input_tokens": made or None,
        "hostler.model_request.purpose": None if purpose == "turn" else purpose,
        "hostler.requested_model": None if asked_for == model else asked_for[:128],
        "anthropic.request.id": upstream_id[:128].encode("utf-8", "replace").decode() or None,
        "gen_ai.response.time_to_first_chunk": first_byte,
        "gen_ai.response.finish_reasons": stop_reason and [stop_reason],
        "error.type": "cancelled" if gone else (str(status) if status >= 400 else "no_answer") if failed else None,
    }
    assert got.attributes == {key: value for key, value in expected.items() if value is not None}
    assert (got.name, got.error, got.kind) == (f"chat {shown_model}", failed, 3)
    assert (got.trace_id, got.parent_id) == (turn.context.trace_id, turn.context.span_id)
    assert got.end - got.start == 500_000_000
