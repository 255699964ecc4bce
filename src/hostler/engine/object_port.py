"""What does the engine ask of the place where bytes are kept that must outlive every host?

Objects are written once under a name and never changed. Two kinds of place implement it: a folder, and object storage
that speaks S3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    name: str
    size: int
    """Bytes."""
    modified_at: float
    """Seconds since 1970, by the clock of the place."""


class ObjectMissing(Exception):
    """There is nothing of that name."""


class ObjectsUnavailable(Exception):
    """The place can't be reached, or refuses. The message says what to do; trying again later may help."""


class Objects(Protocol):
    """Names are `/`-separated words of letters, digits, `.`, `_` and `-`. Safe to call from several tasks."""

    async def put(self, name: str, data: bytes | Path) -> None:
        """Keeps all of `data` (or of that file) under `name`; durable when it returns, and nothing of it before.

        What is there already under the name stays: the same name always has the same bytes. Raises ObjectsUnavailable.
        """
        ...

    async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes, or that part of them. Raises ObjectMissing, ObjectsUnavailable."""
        ...

    async def delete(self, names: Iterable[str]) -> None:
        """Names without an object are passed over. Raises ObjectsUnavailable."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """All whose name begins with `prefix`, in any order. Raises ObjectsUnavailable."""
        ...
