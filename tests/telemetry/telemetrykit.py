"""A tracer whose spans are kept in a list, with a session in a turn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hostler.domain.clock import unix_ns
from hostler.engine.about import About
from hostler.engine.trace_port import TurnBegun
from hostler.telemetry.inside import Inside
from hostler.telemetry.otlp import Envelope
from hostler.telemetry.pipeline import Exportable
from hostler.telemetry.spans import Span
from hostler.telemetry.tracing import RunningTurn, Terms, Tracer
from hostler.testing.otlp import ReceivedSpan, spans_in

SESSION = "sesn_1"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SPAN = "00f067aa0ba902b7"


def begun(session: str = SESSION, parent: str = PARENT, **more: Any) -> TurnBegun:
    return TurnBegun(
        "turn_1", session, "wrkspc_1", "env_1", "agent_1", 3, "Coder", "claude-opus-5-5", "start", parent, **more
    )


@dataclass
class Traced:
    """`spans` is what was made, but for `others`: what a span is made of where it is exported."""

    terms: Terms = field(default_factory=Terms)
    spans: list[Span] = field(default_factory=list)
    others: list[Exportable] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tracer = Tracer(self._put, self.terms)
        self.inside = Inside(self.tracer, lambda text: text.replace("s3cr3t", "[redacted]"))

    def _put(self, made: Exportable) -> None:
        if isinstance(made, Span):
            self.spans.append(made)
        else:
            self.others.append(made)

    def received(self) -> list[ReceivedSpan]:
        """The others, as a collector gets them."""
        return spans_in(Envelope({"service.name": "hostler"}).around(self.others))

    def turn(self, session: str = SESSION, parent: str = PARENT, **more: Any) -> RunningTurn:
        turn = self.tracer.turn(About(session_id=session), begun(session, parent, **more))
        assert isinstance(turn, RunningTurn)
        return turn

    def said(self, **changes: Any) -> dict[str, Any]:
        """A span as the harness says it. None leaves a field out."""
        now = unix_ns()
        span = {
            "traceId": self.inside.trace_id,
            "spanId": SPAN,
            "name": "claude_code.tool",
            "kind": 1,
            "startTimeUnixNano": str(now - 1000),
            "endTimeUnixNano": str(now),
            "attributes": [],
            **changes,
        }
        return {key: value for key, value in span.items() if value is not None}

    def take(self, *spans: Any, session: str = SESSION) -> dict[str, Any]:
        """What the harness is told."""
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]})
        answer = self.inside.take(session, body.encode())
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found


def text(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def whole(key: str, value: object) -> dict[str, Any]:
    return {"key": key, "value": {"intValue": value}}
