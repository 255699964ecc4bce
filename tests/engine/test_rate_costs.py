"""What answers say of limits, what requests count, and which settings make sense."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hostler import config
from hostler.compose.rates import check_limits, rate_terms
from hostler.domain.errors import InvalidRequest
from hostler.engine.model_port import Asked, Caller, Target
from hostler.engine.rate_costs import Estimates, costs, used
from hostler.engine.rate_headers import SaidLimit, closed_for, limits_in
from hostler.store.sessions import Usage

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TARGET = Target("up", "claude-x", "claude-x")


def said(**headers: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


def limit(**headers: str) -> dict[bytes, bytes]:
    return said(**{f"anthropic_ratelimit_{name}": value for name, value in headers.items()})


def test_limits_are_read_from_an_answers_head() -> None:
    headers = limit(
        requests_limit="4000",
        requests_remaining="3999",
        requests_reset="2026-01-02T03:04:06Z",
        input_tokens_limit="2000000",
        input_tokens_remaining="1987000",
        output_tokens_limit="400000",
        tokens_limit="2400000",
        tokens_remaining="9999999",
    )
    assert limits_in(headers) == {
        "requests": SaidLimit(4_000.0, 3_999.0),
        "input_tokens": SaidLimit(2_000_000.0, 1_987_000.0),
        "output_tokens": SaidLimit(400_000.0, None),
        "tokens": SaidLimit(2_400_000.0, 2_400_000.0),
    }


@pytest.mark.parametrize("text", ["", "many", "-5", "0", "nan", "inf", "1e300", "5" * 40, "١٢"])
def test_what_is_no_limit_is_none(text: str) -> None:
    assert limits_in(limit(requests_limit=text, requests_remaining="1")) == {}


def test_a_limit_that_is_full_again_only_in_an_hour_is_no_limit_of_a_minute() -> None:
    hourly = limit(requests_limit="1200", requests_remaining="600", requests_reset="2026-01-02T04:04:05Z")
    assert limits_in(hourly)["requests"].per_minute == 1200.0, "by whose clock?"
    assert limits_in(hourly | said(date="Fri, 02 Jan 2026 03:04:05 GMT"))["requests"] == SaidLimit(20.0, 600.0)
    for broken in ("yesterday", "Fri, 99 Jan 2026 03:04:05 GMT"):
        assert limits_in(hourly | said(date=broken))["requests"].per_minute == 1200.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (said(retry_after="12"), 12.0),
        (said(retry_after="0.5"), 0.5),
        (said(retry_after_ms="250", retry_after="12"), 0.25),
        (said(retry_after="Fri, 02 Jan 2026 03:04:35 GMT"), 30.0),
        (said(retry_after="Fri, 02 Jan 2026 03:04:00 GMT"), 0.0),
        (said(retry_after="86400"), 3_600.0),
        (said(retry_after="soon"), 0.0),
        (said(retry_after="-3"), 0.0),
        ({}, 0.0),
    ],
)
def test_how_long_an_upstream_wants_not_to_be_asked(headers: dict[bytes, bytes], seconds: float) -> None:
    assert closed_for(headers, NOW) == seconds


def asked(size: int = 4_000, most: object = 800, session: str = "s", thread: str = "") -> Asked:
    return Asked("mreq_1", Caller(session), "claude-x", {"max_tokens": most}, size, True, thread=thread)


def test_estimates_learn_from_the_answers_of_a_thread_and_of_a_model() -> None:
    estimates = Estimates()
    assert estimates.before(asked(), TARGET) == costs(1_000.0, 100.0)
    assert estimates.before(asked(most="lots"), TARGET) == costs(1_000.0, 512.0)
    # Most of the prompt was read from a cache: that does not count.
    estimates.after(asked(), TARGET, Usage(100, 400, 5_000, 60, 40))
    assert estimates.before(asked(8_000), TARGET) == costs(400.0, 400.0)
    assert estimates.before(asked(most=50), TARGET)["output_tokens"] == 50.0
    estimates.after(asked(), TARGET, Usage(200, 800))
    assert estimates.before(asked(), TARGET)["output_tokens"] == 500.0
    assert estimates.before(asked(session="other"), TARGET) == costs(1_000.0, 500.0)
    assert estimates.before(asked(thread="sub"), TARGET)["input_tokens"] == 1_000.0


def test_what_a_request_came_to() -> None:
    taken = costs(1_000.0, 100.0)
    assert used(taken, 200, Usage(40, 7, 90, 1, 2), complete=True) == costs(43.0, 7.0)
    assert used(taken, 200, Usage(40, 1), complete=False) == costs(40.0, 100.0)
    assert used(taken, 200, Usage(40, 300), complete=False) == costs(40.0, 300.0)
    assert used(taken, 200, Usage(), complete=False) == taken
    assert used(taken, 0, Usage(), complete=False) == taken
    assert used(taken, 529, Usage(), complete=True) == costs(0.0, 0.0)


def test_settings_become_limits(tmp_path: Path) -> None:
    file = tmp_path / "hostler.toml"
    file.write_text(
        '[rates.limits.model]\nrequests_per_minute = 5\n[rates.limits."model/a/b"]\noutput_tokens_per_minute = 7'
    )
    settings = config.load({"HOME": str(tmp_path)}, file)
    assert rate_terms(settings).limits == {"model": {"requests": 5}, "model/a/b": {"output_tokens": 7}}
    check_limits(settings, {"model"})
    with pytest.raises(InvalidRequest, match=r'rates\.limits\."model".*use one of claude'):
        check_limits(settings, {"claude"})
    file.write_text("[rates.limits.model]\nrequests_per_second = 5")
    with pytest.raises(InvalidRequest, match=r"rates\.limits\.model\.requests_per_second"):
        config.load({"HOME": str(tmp_path)}, file)
