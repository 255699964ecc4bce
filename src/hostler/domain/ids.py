"""How are things named? Identifiers of the wire: a prefix that tells the kind, and a random part.

The only module that draws random numbers for names. Identifiers are opaque to everyone else.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import NewType

WorkspaceId = NewType("WorkspaceId", str)
AgentId = NewType("AgentId", str)
EnvironmentId = NewType("EnvironmentId", str)
SessionId = NewType("SessionId", str)
ThreadId = NewType("ThreadId", str)
EventId = NewType("EventId", str)
WorkerId = NewType("WorkerId", str)

_ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
_LENGTH = 24
_FAIR = 256 - 256 % len(_ALPHABET)
"""Bytes below it stand for every letter equally often."""
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_UNFAIR = bytes(range(_FAIR, 256))


def new_id(prefix: str) -> str:
    """A fresh identifier such as `sesn_01k3…`: 24 characters of 5.7 bits, so collisions are not a concern."""
    # One call for all letters: drawing them one by one costs 20 µs, which a record of every request would pay.
    letters = secrets.token_bytes(40).translate(_LETTERS, _UNFAIR)
    while len(letters) < _LENGTH:
        letters += secrets.token_bytes(40).translate(_LETTERS, _UNFAIR)
    return prefix + "_" + letters[:_LENGTH].decode()


def new_secret(prefix: str) -> str:
    """A fresh bearer secret with 256 bits of randomness, safe in a URL, a header and a shell."""
    return prefix + "-" + secrets.token_urlsafe(32)


def derived_uuid(*parts: str) -> str:
    """A UUID that is the same for the same parts: the idempotency key of a prompt handed to the harness."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def new_uuid() -> str:
    """A random UUID, for formats that ask for one (transcript entries)."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
