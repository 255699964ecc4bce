"""How are things named? Identifiers of the wire: a prefix that tells the kind, and a random part.

The only module that draws random numbers for names. Identifiers are opaque to everyone else.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterator
from itertools import count

_ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
"""In the order of their codes, so that texts sort like the numbers that they stand for."""
_LENGTH = 24
_MOMENT = 9
"""Letters for a moment in microseconds, enough until the year 2093."""
_FAIR = 256 - 256 % len(_ALPHABET)
"""Bytes below it stand for every letter equally often."""
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_UNFAIR = bytes(range(_FAIR, 256))
_64_BITS = (1 << 64) - 1
_SPANS = count(secrets.randbits(64))


def new_id(prefix: str) -> str:
    """A fresh identifier such as `sesn_01k3…`: 24 characters of 5.7 bits, so collisions are not a concern."""
    return prefix + "_" + _letters(_LENGTH)


def ids_in_order(prefix: str, now: float) -> Iterator[str]:
    """Fresh identifiers that sort behind all that were made at an earlier `now` (seconds since 1970).

    For tables that only grow: an index of random keys is written to in another place for every row. What such an id
    tells beyond a random one is when it was made. 15 characters are random.
    """
    rest, moment = int(now * 1e6), ""
    for _ in range(_MOMENT):
        rest, letter = divmod(rest, len(_ALPHABET))
        moment = chr(_ALPHABET[letter]) + moment
    start = f"{prefix}_{moment}"
    while True:
        yield start + _letters(_LENGTH - _MOMENT)


def _letters(count: int) -> str:
    # One call for all of them: drawing them one by one costs 20 µs, which a record of every request would pay.
    letters = secrets.token_bytes(40).translate(_LETTERS, _UNFAIR)
    while len(letters) < count:
        letters += secrets.token_bytes(40).translate(_LETTERS, _UNFAIR)
    return letters[:count].decode()


def new_secret(prefix: str) -> str:
    """A fresh bearer secret with 256 bits of randomness, safe in a URL, a header and a shell."""
    return prefix + "-" + secrets.token_urlsafe(32)


def derived_id(prefix: str, *parts: str) -> str:
    """An identifier that is the same for the same parts: what is written down again meets what is there."""
    rest, letters = int.from_bytes(hashlib.sha256("\x00".join(parts).encode()).digest()), bytearray()
    for _ in range(_LENGTH):
        rest, letter = divmod(rest, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return f"{prefix}_{letters.decode()}"


def derived_uuid(*parts: str) -> str:
    """A UUID that is the same for the same parts: the idempotency key of a prompt handed to the harness."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def chance() -> float:
    """A random number from 0 to 1 (exclusive), for waiting times that are not to be the same everywhere."""
    return secrets.randbits(53) / (1 << 53)


def new_uuid() -> str:
    """A random UUID, for formats that ask for one (transcript entries)."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def new_trace_id() -> str:
    """Of a trace, as W3C wants it: 32 hexadecimal digits, not all of them zero."""
    return secrets.token_hex(16)


def new_span_id() -> str:
    """Of a span of a trace: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def new_span_number() -> int:
    """The same as a number of 64 bits: the one after the last one, since only its trace must not have it twice."""
    return next(_SPANS) & _64_BITS
