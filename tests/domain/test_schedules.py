"""When something is due: words and a part of cron, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hostler.domain.schedules import parse_schedule


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        ("monthly", "2026-11-21T12:00:00", "2026-12-01T00:00:00"),
        ("monthly", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("weekly", "2026-11-21T12:00:00", "2026-11-22T00:00:00"),
        ("daily", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("hourly", "2026-11-21T12:00:00", "2026-11-21T13:00:00"),
        ("30 3 1,15 * *", "2026-11-01T03:30:00", "2026-11-15T03:30:00"),
        ("0 9 * * 1-5", "2026-11-20T09:00:00", "2026-11-23T09:00:00"),
        ("0 9 * * 7", "2026-11-20T09:00:00", "2026-11-22T09:00:00"),
        ("0 */6 * * *", "2026-11-21T12:00:01", "2026-11-21T18:00:00"),
        ("0 0 29 2 *", "2026-03-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 13 * 5", "2026-11-10T00:00:00", "2026-11-13T00:00:00"),
        ("0 0 13 * 5", "2026-11-13T00:00:00", "2026-11-20T00:00:00"),
    ],
)
def test_next_moment_is_the_first_one_later(schedule: str, after: str, due: str) -> None:
    assert parse_schedule(schedule).after(unix(after)) == unix(due)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("yearly", "is no schedule"),
        ("0 0 1 *", "is no schedule"),
        ("*/5 * * * *", "once an hour is the most"),
        ("60 * * * *", "from 0 to 59"),
        ("0 24 * * *", "from 0 to 23"),
        ("0 5-3 * * *", "from 0 to 23"),
        ("0 0 x * *", "has the day 'x'"),
        ("0 0 31 2,4 *", "at most 30 days"),
        ("0 0 1 * */0", "from 0 to 7"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_to_write(schedule: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_schedule(schedule)
    assert said in str(raised.value)


def test_of_several_moments_that_have_passed_the_last_one_counts() -> None:
    monthly = parse_schedule("monthly")
    first = unix("2026-08-01T00:00:00")
    assert monthly.last(unix("2026-11-21T12:00:00"), after=first) == unix("2026-11-01T00:00:00")
    assert monthly.last(first, after=first) == first
