"""What is a span here, before anybody exports it, and how is its context written?"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, Literal

from hostler.domain.ids import new_span_id, new_trace_id
from hostler.telemetry import protobuf

Value = str | int | float | bool | tuple[str, ...]

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Kinds, by their numbers in OTLP."""
Kind = Literal[1, 2, 3]

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_LOW: Final = 1 << 64
_ROOT_STAMP: Final = Struct("<2s8sBQBQ").pack
_STAMP: Final = Struct("<2s8s2s8sBQBQ").pack
_CHILD_STAMP: Final = Struct("<2sQ2s8sBQBQ").pack
_AT: Final = Struct("<BQ").pack
_IS_OURS: Final = b"\x85\x01\x00\x01\x00\x00"
_IS_REMOTE: Final = b"\x85\x01\x00\x03\x00\x00"
_LINK_IS_REMOTE: Final = b"\x35\x00\x03\x00\x00"
"""Flags: whether the span that is named came from somewhere else."""


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

    def written(self) -> bytes:
        """As OTLP's protobuf has it."""
        parts = [
            placed(self.trace_id, bool(self.parent_id)),
            stamped(bytes.fromhex(self.span_id), bytes.fromhex(self.parent_id), self.start, self.end),
            protobuf.field(5, protobuf.text(self.name)),
            b"\x30",
            protobuf.varint(self.kind),
            protobuf.attributes(self.attributes),
        ]
        for event in self.events:
            said = protobuf.field(2, protobuf.text(event.name)) + protobuf.attributes(event.attributes, 3)
            parts.append(protobuf.field(11, _AT(0x09, event.at) + said))
        for link in self.links:
            ids = protobuf.field(1, bytes.fromhex(link.trace_id)) + protobuf.field(2, bytes.fromhex(link.span_id))
            parts.append(protobuf.field(13, ids + _LINK_IS_REMOTE))
        if self.failed:
            parts.append(failure(self.message))
        return b"".join(parts)


def placed(trace_id: str, has_parent: bool) -> bytes:
    """What a written span says of its place that others in the trace say, too."""
    return protobuf.field(1, bytes.fromhex(trace_id)) + (_IS_REMOTE if has_parent else _IS_OURS)


def stamped(span_id: bytes, parent_id: bytes, start: int, end: int) -> bytes:
    """What a written span says that no other does. `parent_id` is empty for a root."""
    if parent_id:
        return _STAMP(b"\x12\x08", span_id, b"\x22\x08", parent_id, 0x39, start, 0x41, end)
    return _ROOT_STAMP(b"\x12\x08", span_id, 0x39, start, 0x41, end)


def stamped_child(span: int, parent_id: bytes, start: int, end: int) -> bytes:
    """As `stamped`, faster: `span` is a number of 64 bits."""
    return _CHILD_STAMP(b"\x12\x08", span, b"\x22\x08", parent_id, 0x39, start, 0x41, end)


def failure(message: str = "") -> bytes:
    """What a written span says if its work has failed."""
    return protobuf.field(15, (protobuf.field(2, protobuf.text(message)) if message else b"") + b"\x18\x02")


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
