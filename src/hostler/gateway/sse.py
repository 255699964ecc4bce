"""Where does one server-sent event end and the next begin?

Works on whatever pieces the network gives. Events keep their bytes, so that forwarding one is forwarding what came.
"""

from __future__ import annotations

import re

_GAP = re.compile(rb"\r?\n\r?\n|\r\r")
_TYPE = re.compile(rb'"type"\s*:\s*"([a-z_]+)"')


class SseFramer:
    """Cuts a byte stream into whole events, each with the empty line that ends it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._more: list[bytes] = []
        """What came behind the rest and did not end it either: looking at it all each time would be quadratic."""
        self._size = 0
        self._near = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises ValueError when one event grows beyond the limit."""
        if self._rest:
            near = self._near + data  # an empty line has four bytes at most
            if b"\n\n" not in near and (b"\r" not in near or _GAP.search(near) is None):
                self._more.append(data)
                self._near = near[-3:]
                self._size += len(data)
                if self._size > self._limit:
                    raise ValueError("a single event is too large")
                return []
            data = self._whole() + data
        if b"\r" in data:
            events, start = [], 0
            for gap in _GAP.finditer(data):
                events.append(data[start : gap.end()])
                start = gap.end()
            self._rest = data[start:]
        else:
            parts = data.split(b"\n\n")
            self._rest = parts.pop()
            events = [part + b"\n\n" for part in parts]
        self._size, self._near = len(self._rest), self._rest[-3:]
        if self._size > self._limit:
            raise ValueError("a single event is too large")
        return events

    def rest(self) -> bytes:
        """Bytes of an event that never ended."""
        rest = self._whole()
        self._rest = b""
        return rest

    def _whole(self) -> bytes:
        whole = b"".join((self._rest, *self._more))
        self._more = []
        return whole


def event_type(event: bytes) -> bytes:
    """The event's name, from its `event:` line or else from `"type"` in its data; empty when it has none."""
    if event.startswith(b"event:"):
        return event[6 : event.find(b"\n")].strip()
    for line in event.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip()
    found = _TYPE.search(event)
    return found.group(1) if found else b""


def event_data(event: bytes) -> bytes:
    """The data lines, joined as the format says."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def render_event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
