"""When is something due again? Words such as `monthly`, and a small part of cron, always in UTC.

A schedule is five fields, `minute hour day month weekday`, each `*`, a number, a range `1-5`, a list `1,15` or a step
`*/6`. The minute is one number, so nothing is due more often than once an hour. As in cron, a day is right when the day
of the month or the weekday is, where both are given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

WORDS: Final = {
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 0",
    "monthly": "0 0 1 * *",
}
_FIELDS: Final = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_PART = re.compile(r"(\*|\d{1,2}(?:-\d{1,2})?)(?:/(\d{1,2}))?")
_HORIZON_DAYS: Final = 366 * 8 + 2
"""The 29th of February comes at least once in eight years."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Moments, in UTC."""

    minute: int
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Day and weekday are both restricted: one of them is enough."""

    def after(self, moment: float) -> float:
        """The first due moment later than `moment`. Seconds since 1970, both."""
        start = datetime.fromtimestamp(moment, UTC)
        day = start.replace(hour=0, minute=0, second=0, microsecond=0)
        for _ in range(_HORIZON_DAYS):
            if self._is_right(day):
                for hour in sorted(self.hours):
                    due = day.replace(hour=hour, minute=self.minute)
                    if due > start:
                        return due.timestamp()
            day += timedelta(days=1)
        raise AssertionError("a schedule without a moment was refused when it was parsed")

    def last(self, moment: float, *, after: float) -> float:
        """The latest due moment that is not later than `moment`; `after` is due itself, and not later either."""
        found = after
        day = datetime.fromtimestamp(moment, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        while day.timestamp() + 86_400 > after:
            if self._is_right(day):
                for hour in sorted(self.hours, reverse=True):
                    due = day.replace(hour=hour, minute=self.minute).timestamp()
                    if after <= due <= moment:
                        return due
            day -= timedelta(days=1)
        return found

    def _is_right(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.either_day else by_date and by_weekday


def parse_schedule(text: str) -> Schedule:
    """Raises ValueError with a message that says what to write."""
    given = WORDS.get(text, text).split()
    if len(given) != len(_FIELDS):
        raise ValueError(
            "is no schedule; write hourly, daily, weekly, monthly, or five fields `minute hour day month weekday` in "
            "UTC, such as `30 3 1 * *`"
        )
    if not re.fullmatch(r"\d{1,2}", given[0]):
        raise ValueError(f"has the minute {given[0]!r}; give one number from 0 to 59: once an hour is the most")
    minutes, hours, days, months, weekdays = (
        _values(part, name, least, most) for part, (name, least, most) in zip(given, _FIELDS, strict=True)
    )
    either = given[2] != "*" and given[4] != "*"
    found = Schedule(next(iter(minutes)), hours, days, months, frozenset(day % 7 for day in weekdays), either)
    longest = max(29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in months)
    if not either and min(days) > longest:
        raise ValueError(f"names a day that none of its months has; the months have at most {longest} days")
    return found


def _values(text: str, name: str, least: int, most: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"has the {name} {part!r}; write *, a number, a range 1-5, a list 1,15, or a step */2")
        span, step = match[1], int(match[2] or 1)
        first, _, last = span.partition("-")
        low, high = (least, most) if span == "*" else (int(first), int(last or (most if match[2] else first)))
        if not least <= low <= high <= most or step < 1:
            raise ValueError(f"has the {name} {part!r}; use numbers from {least} to {most}")
        found.update(range(low, high + 1, step))
    return frozenset(found)
