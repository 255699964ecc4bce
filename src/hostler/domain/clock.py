"""What time is it? The one place that reads the wall clock, behind a Protocol that tests can turn by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The time of day, in UTC, with microseconds."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the one place


def rfc3339(moment: datetime) -> str:
    """`2026-01-02T03:04:05.678901Z`: always UTC, always microseconds, so that text order is time order."""
    # A third of what `strftime` costs; the zone is always written as +00:00.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The moment that `text` names. Raises ValueError when it names none, or has no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write it like 2026-01-02T03:04:05Z")
    return moment.astimezone(UTC)


def rfc3339_of(unix: float) -> str:
    """The same for seconds since 1970."""
    return rfc3339(datetime.fromtimestamp(unix, UTC))


unix_ns: Final = time.time_ns
"""Nanoseconds since 1970, for what is measured and shown to people, never for what is decided."""
