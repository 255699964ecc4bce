"""How are the parts of a span written as OTLP has them in protobuf?

Of the wire format only what spans need. The official library makes an object of every attribute first, which costs more
than serving the model request that a span tells of. Field numbers are those of `opentelemetry/proto/trace/v1` and
`common/v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hostler.telemetry.spans import Value

_ONE: Final = tuple(bytes((number,)) for number in range(0x80))
_SMALL: Final = (*_ONE, *(bytes((number & 0x7F | 0x80, number >> 7)) for number in range(0x80, 0x1000)))
"""Numbers as they are written: lengths and counts are mostly such."""
_64_BITS: Final = (1 << 64) - 1
_LEAST, _MOST = -1 << 63, (1 << 63) - 1

real: Final = Struct("<d").pack
"""A number that isn't whole."""

ATTRIBUTES: Final = 9
"""Of a span."""


def varint(number: int) -> bytes:
    """Of 64 bits; what doesn't fit into them is the nearest that does: a number that somebody else has made up must not
    lose a whole batch."""
    if 0 <= number < 0x1000:
        return _SMALL[number]
    number = min(max(number, _LEAST), _MOST) & _64_BITS
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def field(number: int, value: bytes) -> bytes:
    """One with a length. `number` is less than 16, as all are here."""
    return _ONE[number << 3 | 2] + varint(len(value)) + value


def text(value: str) -> bytes:
    """What can't be written is a question mark: one such text would lose a whole batch."""
    return value.encode("utf-8", "replace")


def heads(number: int) -> tuple[bytes, ...]:
    """What stands before the value of a `field` of so many bytes, less than 4096."""
    return tuple(_ONE[number << 3 | 2] + size for size in _SMALL)


def attribute(key: str, value: Value, number: int = ATTRIBUTES) -> bytes:
    """One `KeyValue`, as the field `number` of what has attributes."""
    said = _any(value)
    return _head(key, len(said), number) + said


def attributes(all_of_them: Mapping[str, Value], number: int = ATTRIBUTES) -> bytes:
    return b"".join([attribute(key, value, number) for key, value in all_of_them.items()])


def text_heads(key: str) -> tuple[bytes, ...]:
    """What stands before a text of so many ASCII characters, less than 128: together they are its attribute."""
    return tuple(_head(key, 2 + size, ATTRIBUTES) + b"\x0a" + varint(size) for size in range(128))


def whole_heads(key: str) -> tuple[bytes, ...]:
    """What stands before a whole number, by how many bytes `varint` makes of it: together they are its attribute."""
    return b"", *(_head(key, 1 + size, ATTRIBUTES) + b"\x18" for size in range(1, 11))


def real_head(key: str) -> bytes:
    """What stands before what `real` makes of a number: together they are its attribute."""
    return _head(key, 9, ATTRIBUTES) + b"\x21"


def _any(value: Value) -> bytes:
    """An `AnyValue`."""
    match value:
        case str():
            return field(1, text(value))
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + varint(value)
        case float():
            return b"\x21" + real(value)
        case tuple():
            return field(5, b"".join([field(1, _any(one)) for one in value]))


@lru_cache(1024)
def _head(key: str, size: int, number: int) -> bytes:
    """All of an attribute that stands before an `AnyValue` of `size` bytes."""
    named = field(1, text(key)) + b"\x12" + varint(size)
    return _ONE[number << 3 | 2] + varint(len(named) + size) + named
