"""What can an operator set about traces?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from hostler.config.section import Section


class Telemetry(Section):
    """Traces of requests, turns, tool calls, model requests and egress decisions, for an OpenTelemetry collector."""

    traces: Literal["off", "otlp"] = Field("off", description="`otlp`: export them, by OTLP over HTTP.")
    endpoint: str = Field(
        "http://127.0.0.1:4318/v1/traces", pattern=r"^https?://\S+$", description="Where the collector takes traces."
    )
    headers: SecretStr = Field(
        SecretStr(""), description="Headers for it: `name=value,name=value`, values percent-encoded."
    )
    compress: bool = Field(False, description="Send batches with gzip.")
    service_name: str = Field("hostler", min_length=1, max_length=255, description="`service.name` of this server.")
    sampling_ratio: float = Field(1.0, ge=0, le=1, description="How many of the traces that begin here are kept.")
    trust_callers: bool = Field(
        True,
        description="Whether the sampling flag of a client's `traceparent` counts. The trace itself is gone on with "
        "either way.",
    )
    content: bool = Field(
        False, description="Put prompts, tool inputs and results, and paths into spans. They may hold anything."
    )
    harness: bool = Field(True, description="Let `claude` trace itself, too, inside of each turn.")
    queue_spans: int = Field(8192, ge=64, le=1 << 20, description="Spans that wait for export; more are dropped.")
    export_seconds: float = Field(10.0, gt=0, le=300, description="How long one export may take.")
    flush_seconds: float = Field(5.0, ge=0, le=60, description="How long stopping waits for what was not sent yet.")


class Logs(Section):
    """What the server writes to its standard error."""

    format: Literal["auto", "text", "json"] = Field(
        "auto", description="`json`: an object on each line. `auto`: JSON with `--json`, else text."
    )
