"""How do traces follow from the settings? Where they are off, nothing of OpenTelemetry is imported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from time import monotonic
from typing import Any
from urllib.parse import unquote

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.engine.egress_port import EgressDecision, EgressRecorder, TelemetryIntake
from hostler.engine.redaction import scrubbed
from hostler.engine.trace_port import UNTRACED, Tracing
from hostler.gateway import Desk
from hostler.telemetry.inside import Inside
from hostler.telemetry.pipeline import Exporter, Pipeline
from hostler.telemetry.requests import TracedRequests
from hostler.telemetry.tracing import Terms, Tracer


@dataclass(frozen=True, slots=True)
class Traces:
    """What the parts of a server are given."""

    tracing: Tracing = UNTRACED
    intake: TelemetryIntake | None = None
    environment: Mapping[str, str] | None = None
    """What sandboxes are told besides."""
    watcher: TracedRequests | None = None
    figures: Callable[[], Mapping[str, Any]] | None = None
    """For `/hostler/v1/health`."""

    def watching(self, desk: Desk) -> Desk:
        """The same desk, with its requests traced."""
        return desk if self.watcher is None else desk.watched_by(self.watcher)

    def recording(self, recorder: EgressRecorder) -> EgressRecorder:
        """The same recorder, with its decisions traced."""
        return recorder if self.tracing is UNTRACED else _TracedDecisions(recorder, self.tracing)


class _TracedDecisions:
    """Implements `EgressRecorder`."""

    def __init__(self, recorder: EgressRecorder, tracing: Tracing) -> None:
        self._recorder = recorder
        self._tracing = tracing

    async def record(self, decision: EgressDecision) -> None:
        since = monotonic()
        await self._recorder.record(decision)
        self._tracing.decided(decision, monotonic() - since)


def open_traces(settings: Settings, owner: str, stack: contextlib.AsyncExitStack) -> Traces:
    """`owner`: the name of this server's worker. `stack` sends what is left, and ends what is started.

    Raises InvalidRequest for headers that can't be read.
    """
    telemetry = settings.telemetry
    if telemetry.traces == "off":
        return Traces()
    headers = read_headers(telemetry.headers.get_secret_value())
    resource = {
        "service.name": telemetry.service_name,
        "service.version": version("hostler"),
        "service.instance.id": owner,
    }

    def make() -> Exporter:
        from hostler.telemetry.otlp import OtlpExporter, Target

        return OtlpExporter(
            Target(telemetry.endpoint, headers, telemetry.export_seconds, resource, gzip=telemetry.compress)
        )

    pipeline = Pipeline(make, most=telemetry.queue_spans)
    stack.push_async_callback(asyncio.to_thread, pipeline.close, telemetry.flush_seconds)
    terms = Terms(telemetry.sampling_ratio, telemetry.trust_callers, telemetry.content)
    tracer = Tracer(pipeline.put, terms)
    secrets = settings.secrets_known
    inside = Inside(tracer, lambda text: scrubbed(text, secrets))

    def figures() -> Mapping[str, Any]:
        now = pipeline.figures()
        return {
            "sent": now.sent,
            "dropped": now.dropped,
            "failed": now.failed,
            "waiting": now.waiting,
            "refused": inside.refused,
        }

    return Traces(
        tracer,
        inside if telemetry.harness else None,
        inside.environment if telemetry.harness else None,
        TracedRequests(tracer, inside.trace_id),
        figures,
    )


def read_headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, as OTEL_EXPORTER_OTLP_HEADERS has it. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = part.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not equals or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise InvalidRequest("option telemetry.headers: write name=value, with commas between several")
        if not value.isprintable() or not value.isascii():
            raise InvalidRequest(f"option telemetry.headers: the value of {name} can't be sent in a header")
        found[name] = value
    return found
