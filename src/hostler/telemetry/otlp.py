"""How do spans leave the server? By the OTLP exporter of the OpenTelemetry SDK, over HTTP.

Imported only where traces are on, and in the thread that exports: importing it takes longer than all the rest here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from hostler.telemetry.spans import Context, Span

_KINDS = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}
_OK, _ERROR = Status(StatusCode.UNSET), StatusCode.ERROR


@dataclass(frozen=True, slots=True)
class Target:
    """Where spans go, and as whose."""

    endpoint: str
    """`http://collector:4318/v1/traces`"""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    seconds: float = 10.0
    """For one export, repetitions included."""
    resource: Mapping[str, str] = field(default_factory=dict)
    """What is said of this server with each batch: `service.name` and more."""
    gzip: bool = False


class OtlpExporter:
    """Implements `Exporter`."""

    def __init__(self, target: Target) -> None:
        # What it can't send it says again and again, with a traceback each time. The pipeline says it once a minute.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(
            endpoint=target.endpoint,
            headers=dict(target.headers),
            timeout=target.seconds,
            compression=Compression.Gzip if target.gzip else Compression.NoCompression,
        )
        self._resource = Resource(dict(target.resource))
        # The harness speaks for itself, under the name that it gives itself, on the resource of this server.
        self._inside = Resource({**target.resource, "service.name": "claude-code"})
        self._ours = InstrumentationScope("hostler")
        self._theirs = InstrumentationScope("com.anthropic.claude_code.tracing")

    def export(self, spans: Sequence[Span]) -> bool:
        return self._exporter.export([self._readable(span) for span in spans]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, TraceFlags(1)),
            parent=SpanContext(trace_id, int(span.parent_id, 16), True, TraceFlags(1)) if span.parent_id else None,
            resource=self._inside if span.inside else self._resource,
            attributes=span.attributes,
            events=[SdkEvent(event.name, event.attributes, event.at) for event in span.events],
            links=[Link(_context(context)) for context in span.links],
            kind=_KINDS[span.kind],
            status=Status(_ERROR, span.message or None) if span.failed else _OK,
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._theirs if span.inside else self._ours,
        )


def _context(context: Context) -> SpanContext:
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), True, TraceFlags(int(context.sampled)))
