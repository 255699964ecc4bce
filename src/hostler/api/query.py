"""How is a query string read? Every encoding of the official clients, and nothing that is not understood.

Arrays come as `statuses[]=a&statuses[]=b`, with the brackets percent-encoded, or as plain repeats; ranges as
`created_at[gte]=…`. A parameter that nobody asked for is refused: a filter that is ignored is a lie.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import Request

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import InvalidRequest
from hostler.domain.sessions import TimeRange
from hostler.domain.values import listed

C = TypeVar("C", bound=str)

MAX_FIELDS: Final = 1_000
_IGNORED: Final = frozenset({"beta"})
"""`?beta=true` is what clients of the old generation add to every path."""


class Query:
    """The parameters of one request. Read what you know, then call `finish`."""

    def __init__(self, request: Request) -> None:
        raw: bytes = request.scope["query_string"]
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except (UnicodeDecodeError, ValueError):
            raise InvalidRequest("the query string is not percent-encoded UTF-8, or has too many fields") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(re.sub(r"\[\d*\]$", "", name), []).append(value)
        self._read: set[str] = set(_IGNORED)

    def text(self, name: str, *, longest: int = 512) -> str | None:
        """The one value of `name`; None when absent or empty."""
        self._read.add(name)
        values = self._values.get(name, [])
        if len(values) > 1:
            raise InvalidRequest(f"{name}: was sent {len(values)} times; send it once")
        if not values or values[0] == "":
            return None
        if len(values[0]) > longest:
            raise InvalidRequest(f"{name}: is longer than {longest} characters")
        if "\x00" in values[0]:
            raise InvalidRequest(f"{name}: contains a NUL character; remove it")
        return values[0]

    def integer(self, name: str, *, least: int, most: int) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise InvalidRequest(f"{name}: must be an integer from {least} to {most}")
        number = int(value)
        if not least <= number <= most:
            raise InvalidRequest(f"{name}: is {number}; must be from {least} to {most}")
        return number

    def limit(self, *, default: int, most: int) -> int:
        value = self.integer("limit", least=1, most=most)
        return default if value is None else value

    def boolean(self, name: str) -> bool:
        match self.text(name):
            case None | "false":
                return False
            case "true":
                return True
            case _:
                raise InvalidRequest(f"{name}: must be true or false")

    def one_of(self, name: str, allowed: Collection[C], default: C) -> C:
        value = self.text(name)
        if value is None:
            return default
        return self._allowed(name, value, allowed)

    def some_of(self, name: str, allowed: Collection[C], *, most: int = 100) -> frozenset[C]:
        """The values of an array parameter; empty when absent."""
        self._read.add(name)
        values = self._values.get(name, [])
        if len(values) > most:
            raise InvalidRequest(f"{name}: has {len(values)} values; at most {most} are allowed")
        return frozenset(self._allowed(name, value, allowed) for value in values)

    def texts(self, name: str, *, most: int) -> list[str] | None:
        """The values of an array parameter, each once, in order; None when it is absent."""
        self._read.add(name)
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > most:
            raise InvalidRequest(f"{name}: has {len(values)} values; at most {most} are allowed")
        for value in values:
            if not value or len(value) > 256 or "\x00" in value:
                raise InvalidRequest(
                    f"{name}: holds {value[:100]!r}, which is no id; pass ids as this API returned them"
                )
        return list(dict.fromkeys(values))

    def times(self, name: str, bounds: Collection[str] = ("gt", "gte", "lt", "lte")) -> TimeRange:
        return TimeRange(**{bound: self._moment(f"{name}[{bound}]") for bound in bounds})

    def finish(self) -> None:
        """Raises for a parameter that was not read."""
        unknown = [name for name in self._values if name not in self._read]
        if unknown:
            raise InvalidRequest(f"{unknown[0][:100]}: is not a query parameter of this endpoint; remove it")

    def _moment(self, name: str) -> datetime | None:
        value = self.text(name)
        if value is None:
            return None
        # An unescaped plus sign of `+00:00` arrives as a space.
        try:
            return parse_rfc3339(value.replace(" ", "+") if re.search(r" \d\d:?\d\d$", value) else value)
        except (ValueError, OverflowError):
            raise InvalidRequest(f"{name}: is not an RFC 3339 time; write it like 2026-01-02T03:04:05Z") from None

    @staticmethod
    def _allowed(name: str, value: str, allowed: Collection[C]) -> C:
        for known in allowed:
            if known == value:
                return known
        shown = listed(sorted(allowed)) if len(allowed) <= 8 else "one of the documented values"
        raise InvalidRequest(f"{name}: {value[:100]!r} is not allowed; use {shown}")
