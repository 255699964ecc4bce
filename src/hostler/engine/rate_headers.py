"""What does an answer's head say about the rate limits of whoever gave it?

`anthropic-ratelimit-{requests,input-tokens,output-tokens,tokens}-{limit,remaining,reset}`, and `retry-after` of a 429.
A limit is one of a minute, unless its reset, which is the moment at which it is full again, is farther away than that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from hostler.domain.rates import KINDS, MOST, Kind

LONGEST_CLOSED: Final = 3_600.0
"""An upstream that says a longer time is asked again after this one."""
_A_MINUTE: Final = 75.0
"""Seconds. Both moments are rounded."""
_NAMES: Final[tuple[tuple[Kind, bytes, bytes, bytes], ...]] = tuple(
    (kind, name + b"limit", name + b"remaining", name + b"reset")
    for kind in KINDS
    for name in (f"anthropic-ratelimit-{kind.replace('_', '-')}-".encode(),)
)


@dataclass(frozen=True, slots=True)
class SaidLimit:
    """One limit, as an upstream says it."""

    per_minute: float
    remaining: float | None


def limits_in(headers: Mapping[bytes, bytes]) -> dict[Kind, SaidLimit]:
    """Those that make sense, by kind. Names in lower case."""
    found: dict[Kind, SaidLimit] = {}
    for kind, name, remaining, reset in _NAMES:
        text = headers.get(name)
        limit = None if text is None else _number(text)
        if limit is None or not 1 <= limit <= MOST:
            continue
        left = _number(headers.get(remaining, b""))
        full_in = _seconds_between(headers.get(b"date", b""), headers.get(reset, b""))
        per_minute = limit if full_in <= _A_MINUTE else limit * 60.0 / full_in
        found[kind] = SaidLimit(per_minute, None if left is None else min(left, limit))
    return found


def _seconds_between(date: bytes, reset: bytes) -> float:
    """By the upstream's clock, which may differ from ours. 0: it does not say."""
    try:
        now = parsedate_to_datetime(date.decode("ascii"))
        full = datetime.fromisoformat(reset.decode("ascii"))
        return (full - now).total_seconds() if now.tzinfo and full.tzinfo else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0


def closed_for(headers: Mapping[bytes, bytes], now: datetime) -> float:
    """Seconds for which an upstream that has refused wants not to be asked. 0: it does not say."""
    milliseconds = _number(headers.get(b"retry-after-ms", b""))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_CLOSED)
    text = headers.get(b"retry-after", b"")
    seconds = _number(text)
    if seconds is None and text:
        try:
            moment = parsedate_to_datetime(text.decode("ascii"))
            seconds = (moment - now).total_seconds() if moment.tzinfo else None
        except (ValueError, TypeError, OverflowError):
            seconds = None
    return min(max(seconds or 0.0, 0.0), LONGEST_CLOSED)


def _number(text: bytes) -> float | None:
    """A count or a time, never less than nothing."""
    try:
        value = float(text) if len(text) <= 32 else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
