"""What of the spans that come out of a sandbox is believed?

The harness makes spans of its own (OTLP as JSON). They come over the session's own road, so whose they are is known;
all else is the word of a program that may be hostile. A sandbox is given the id of a trace that doesn't exist. Only
spans of that trace are taken, and each is put into the trace of the turn in which it began: what a program says can
only ever stand in its own session's traces, and it never learns their ids.

Text is what it could smuggle: without content only known attributes are taken, and only values that look like labels.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from hostler.domain.clock import unix_ns
from hostler.domain.ids import new_span_id, new_trace_id
from hostler.engine.egress_port import TELEMETRY_HOST, IntakeAnswer
from hostler.telemetry.spans import Event, Span, Value, clean
from hostler.telemetry.tracing import RunningTurn, Tracer

_SPANS: Final = 1000
"""Of one request."""
_BURST: Final = 2000.0
_PER_SECOND: Final = 100.0
"""Spans of one session, in the long run."""
_BURST_BYTES: Final = 2.0 * (1 << 20)
_BYTES_PER_SECOND: Final = 64.0 * (1 << 10)
"""Of one session: reading JSON keeps everybody waiting, about 10 ms for a MiB."""
_SESSIONS: Final = 4096
_ATTRIBUTES: Final = 64
_EVENTS: Final = 16
_OLDEST_NS: Final = 6 * 3600 * 10**9
_AHEAD_NS: Final = 60 * 10**9
_CONTENT: Final = 16_384

_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}\Z")
_NAME: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}\Z")
_LABEL: Final = re.compile(r"[A-Za-z0-9_.:+-]{0,128}\Z")
_KEY: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}\Z")
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}\Z")

_ABOUT_SPANS: Final = frozenset(
    {
        "agent_id",
        "agent_type",
        "attempt",
        "bash_command_class",
        "cache_creation_tokens",
        "cache_read_tokens",
        "decision",
        "duration_ms",
        "effort",
        "error_class",
        "error.type",
        "first_content_ms",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.response.id",
        "gen_ai.tool.call.id",
        "gen_ai.tool.name",
        "input_tokens",
        "interaction.duration_ms",
        "interaction.sequence",
        "llm_request.context",
        "model",
        "output_tokens",
        "parent_agent_id",
        "query_source_safe",
        "request_id",
        "source",
        "span.type",
        "speed",
        "status_code",
        "stop_reason",
        "success",
        "tool_name_safe",
        "tool_use_id",
        "ttft_ms",
        "user_prompt_length",
    }
)
"""What the harness says about its spans that is neither content nor about the machine."""
_OURS: Final = ("gen_ai.conversation.id", "gen_ai.agent.", "anthropic.", "hostler.", "session.", "user.", "service.")
"""What only we say."""

Redact = Callable[[str], str]


@dataclass(slots=True)
class _Allowance:
    at: float
    spans: float = _BURST
    bytes: float = _BURST_BYTES


class Inside:
    """Implements `TelemetryIntake`, and says what sandboxes are told."""

    def __init__(self, tracer: Tracer, redact: Redact) -> None:
        """`redact` takes what must never be shown out of content."""
        self.trace_id = new_trace_id()
        """Of the trace that sandboxes believe to be in. No other span has it."""
        self._top = new_span_id()
        self._tracer = tracer
        self._redact = redact
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self.refused = 0
        """Spans, since the server began."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Makes the harness trace itself, and send that here."""
        content = {"OTEL_LOG_USER_PROMPTS": "1", "OTEL_LOG_TOOL_DETAILS": "1"} if self._tracer.terms.content else {}
        return {
            "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
            "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
            "CLAUDE_CODE_PROPAGATE_TRACEPARENT": "1",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{TELEMETRY_HOST}/v1/traces",
            "OTEL_TRACES_EXPORT_INTERVAL": "1000",
            "TRACEPARENT": f"00-{self.trace_id}-{self._top}-01",
            **content,
        }

    # ------------------------------------------------------------------------------------------------- the intake

    def take(self, session_id: str, body: bytes) -> IntakeAnswer:
        """See the port."""
        allowance = self._allowance(session_id)
        if len(body) > allowance.bytes:
            return IntakeAnswer(429, b'{"message":"fewer and smaller exports"}')
        allowance.bytes -= len(body)
        try:
            spans = list(_spans_in(json.loads(body)))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return IntakeAnswer(400, b'{"message":"send OTLP traces as JSON"}')
        asked = len(spans)
        room = min(asked, _SPANS, int(allowance.spans))
        allowance.spans -= room
        now, taken = unix_ns(), 0
        for said in spans[:room]:
            try:
                span = self._believed(session_id, said, now)
            except (ValueError, TypeError, KeyError, AttributeError):
                span = None
            if span is not None:
                taken += 1
                if span.end:
                    self._tracer.put(span)
        if taken == asked:
            return IntakeAnswer(200, b"{}")
        self.refused += asked - taken
        told = {"rejectedSpans": str(asked - taken), "errorMessage": "spans of another trace, malformed, or too many"}
        return IntakeAnswer(200, json.dumps({"partialSuccess": told}).encode())

    def _allowance(self, session_id: str) -> _Allowance:
        """What the session may say now."""
        now = monotonic()
        found = self._allowances.setdefault(session_id, _Allowance(now))
        self._allowances.move_to_end(session_id)
        while len(self._allowances) > _SESSIONS:
            self._allowances.popitem(last=False)
        found.spans = min(_BURST, found.spans + (now - found.at) * _PER_SECOND)
        found.bytes = min(_BURST_BYTES, found.bytes + (now - found.at) * _BYTES_PER_SECOND)
        found.at = now
        return found

    def _believed(self, session_id: str, said: Mapping[str, Any], now: int) -> Span | None:
        """The span, in the trace of its turn, with an end of 0 when nobody wants to see that; None: it is refused."""
        span_id, parent_id, name = said["spanId"], said.get("parentSpanId") or "", said["name"]
        start, end = _moment(said["startTimeUnixNano"]), _moment(said["endTimeUnixNano"])
        right = (
            said["traceId"] == self.trace_id
            and _SPAN_ID.match(span_id)
            and (not parent_id or _SPAN_ID.match(parent_id))
            and _NAME.match(name)
            and now - _OLDEST_NS <= start <= end <= now + _AHEAD_NS
        )
        turn = self._tracer.turn_at(session_id, start) if right else None
        if turn is None:
            return None
        if not turn.context.sampled:
            return Span(name, "", "", "", 0, 0, {})
        code = (said.get("status") or {}).get("code")
        return Span(
            name,
            turn.context.trace_id,
            span_id,
            turn.context.span_id if parent_id in ("", self._top) else parent_id,
            start,
            end,
            {**self._attributes(said.get("attributes"), turn), **turn.labels()},
            failed=code in (2, "STATUS_CODE_ERROR"),
            events=tuple(self._events(said.get("events"), turn, start, end)),
            inside=True,
        )

    # ------------------------------------------------------------------------------------------- what it says of itself

    def _attributes(self, said: Any, turn: RunningTurn) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for one in (said or [])[:_ATTRIBUTES]:
            key, value = one["key"], _value(one["value"])
            if value is None or not _KEY.match(key) or key.startswith(_OURS):
                continue
            if isinstance(value, str) and not (key in _ABOUT_SPANS and _LABEL.match(value)):
                if not self._tracer.terms.content:
                    continue
                value = clean(self._redact(turn.redact(value)), _CONTENT)
            elif key not in _ABOUT_SPANS and not self._tracer.terms.content:
                continue
            found[key] = value
        return found

    def _events(self, said: Any, turn: RunningTurn, start: int, end: int) -> Iterator[Event]:
        for one in (said or [])[:_EVENTS]:
            at = _moment(one["timeUnixNano"])
            if _NAME.match(one["name"]) and start <= at <= end:
                yield Event(one["name"], at, self._attributes(one.get("attributes"), turn))


def _spans_in(said: Any) -> Iterator[Mapping[str, Any]]:
    for of_resource in said["resourceSpans"]:
        for of_scope in of_resource["scopeSpans"]:
            yield from of_scope["spans"]


def _moment(said: Any) -> int:
    """Numbers of 64 bits are texts in OTLP's JSON; some write them as numbers all the same."""
    if isinstance(said, bool) or not isinstance(said, int | str) or not _NUMBER.match(str(said)[:21]):
        raise ValueError("no number of nanoseconds")
    return int(said)


def _value(said: Mapping[str, Any]) -> Value | None:
    """What an attribute says; None: nothing that is taken."""
    match said:
        case {"stringValue": str() as text}:
            return text
        case {"boolValue": bool() as truth}:
            return truth
        case {"doubleValue": float() as number}:
            return number if number == number and abs(number) < 1e18 else None
        case {"intValue": int() | str() as whole} if not isinstance(whole, bool) and _NUMBER.match(str(whole)[:21]):
            return int(whole) if abs(int(whole)) < 1 << 63 else None
        case {"arrayValue": {"values": [{"stringValue": str() as text}]}}:
            return text
        case _:
            return None
