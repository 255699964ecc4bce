"""Where does one message of an AWS event stream end, and what is in it?

The format (application/vnd.amazon.eventstream): lengths of the whole and of the headers, a checksum of these, typed
headers, the payload, a checksum of everything. A stream that fails a checksum is not read on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

_PRELUDE = struct.Struct(">III")
_END = struct.Struct(">I")
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Sizes of the values by their type; 6 (bytes) and 7 (text) say theirs."""


class BadEventStream(Exception):
    """The bytes are no event stream, or were changed on their way."""


@dataclass(frozen=True, slots=True)
class Message:
    headers: dict[str, str]
    """Those that are text; the others matter to nobody here."""
    payload: bytes


class EventStreamFramer:
    """Cuts bytes into messages."""

    def __init__(self, limit: int) -> None:
        """limit: bytes of the largest message."""
        self._limit = limit
        self._rest = b""

    @property
    def unfinished(self) -> bool:
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. Raises BadEventStream."""
        data = self._rest + data if self._rest else data
        messages: list[Message] = []
        at = 0
        while len(data) - at >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(data, at)
            if crc32(data[at : at + 8]) != checksum:
                raise BadEventStream("the checksum of a prelude is wrong")
            if total > self._limit or total < _PRELUDE.size + headers + _END.size:
                raise BadEventStream("a message has an impossible length")
            if len(data) - at < total:
                break
            end = at + total - _END.size
            if crc32(data[at:end]) != _END.unpack_from(data, end)[0]:
                raise BadEventStream("the checksum of a message is wrong")
            start = at + _PRELUDE.size
            messages.append(Message(_headers(data[start : start + headers]), data[start + headers : end]))
            at += total
        self._rest = data[at:]
        return messages


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            name = raw[at + 1 : at + 1 + raw[at]].decode()
            at += 1 + raw[at]
            kind = raw[at]
            at += 1
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            if kind not in (6, 7):
                raise BadEventStream("a header has an unknown type")
            size = int.from_bytes(raw[at : at + 2], "big")
            value = raw[at + 2 : at + 2 + size]
            at += 2 + size
            if kind == 7:
                found[name] = value.decode()
    except (IndexError, UnicodeDecodeError) as error:
        raise BadEventStream("the headers of a message can't be read") from error
    if at != len(raw):
        raise BadEventStream("the headers of a message end in the middle")
    return found
