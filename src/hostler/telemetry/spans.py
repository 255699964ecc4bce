"""What is a span here, before anybody exports it, and how is its context written?"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from hostler.domain.ids import new_span_id, new_trace_id

Value = str | int | float | bool | tuple[str, ...]

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Kinds, by their numbers in OTLP."""
Kind = Literal[1, 2, 3]

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_LOW: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Context:
    """Where a span is: of which trace, under which span."""

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(slots=True)
class Event:
    """A moment within a span."""

    name: str
    at: int
    """Nanoseconds since 1970, as all times of spans."""
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Span:
    """One that has ended, or is made to be."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it is the root."""
    start: int
    end: int
    attributes: dict[str, Value]
    kind: Kind = INTERNAL
    failed: bool = False
    message: str = ""
    """With `failed`, for a person."""
    links: tuple[Context, ...] = ()
    events: tuple[Event, ...] = ()
    inside: bool = False
    """Whether the harness says it, from inside a sandbox."""


def clean(text: str, most: int = 128) -> str:
    """What somebody else has made up, as it may stand in a span: one text that can't be written loses a whole batch."""
    return text[:most] if text.isascii() else text[:most].encode("utf-8", "replace").decode()


def read_traceparent(text: str) -> Context | None:
    """None: it is no trace context, or one without ids."""
    found = _TRACEPARENT.match(text)
    if found is None or (text.startswith("00") and found[4]):
        return None
    trace_id, span_id, flags = found[1], found[2], found[3]
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Context(trace_id, span_id, bool(int(flags, 16) & 1))


def chosen(trace_id: str, ratio: float) -> bool:
    """Whether a trace is among those that are kept: the same answer on every server with the same `ratio`, for the
    last half of the id decides, as in OpenTelemetry's `TraceIdRatioBased`."""
    return ratio >= 1.0 or int(trace_id[16:], 16) < ratio * _LOW


def new_context(parent: Context | None, ratio: float, *, trust: bool) -> Context:
    """Of a span that begins. `trust`: whether `parent` may say if its trace is kept."""
    trace_id = parent.trace_id if parent is not None else new_trace_id()
    sampled = parent.sampled if parent is not None and trust else chosen(trace_id, ratio)
    return Context(trace_id, new_span_id(), sampled)
