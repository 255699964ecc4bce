"""Pauses, what failures mean, and the breaker: pure, under a clock that a test turns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.engine.model_port import Ended, Target
from hostler.gateway.backoff import Backoff, Verdict, is_final, judge
from hostler.gateway.breaker import Breaker, BreakerTerms

ENDED = Ended(Target("one", "m", "m"), 1, 200, "", None, False, 0.0)
seconds = st.floats(0, 1e4)
part = st.floats(0, 1, exclude_max=True)


@dataclass
class Clock:
    """Each look at it costs a nanosecond: code that reads it twice for one decision is found out."""

    now: float = 100.0
    looks: int = field(default=0)

    def __call__(self) -> float:
        self.looks += 1
        self.now += 1e-9
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


# ---------------------------------------------------------------------------------------------------------- pauses


@given(st.integers(1, 5000), part, seconds, seconds)
def test_a_pause_is_a_random_part_of_a_limit_that_doubles(
    tries: int, chance: float, base: float, longest: float
) -> None:
    backoff = Backoff(base, longest)
    pause = backoff.pause(tries, None, lambda: chance)
    limit = min(longest, base * 2.0 ** min(tries - 1, 32))
    assert pause == pytest.approx(chance * limit)
    assert backoff.pause(tries, None, lambda: 0.0) == 0


@given(st.integers(1, 100), part, seconds, seconds)
def test_what_the_upstream_asks_for_is_the_least_pause_up_to_a_bound(
    tries: int, chance: float, asked: float, bound: float
) -> None:
    pause = Backoff(0.5, 60.0, bound).pause(tries, asked, lambda: chance)
    if asked > bound:
        assert pause is None
    else:
        assert pause is not None
        assert asked <= pause <= asked + 0.5


def test_pauses_of_many_are_spread() -> None:
    backoff = Backoff(8.0)
    found = {round(pause) for n in range(800) if (pause := backoff.pause(1, None, lambda n=n: n / 800)) is not None}
    assert found == set(range(9))


# ------------------------------------------------------------------------------------------------- what failures mean


@pytest.mark.parametrize("status", [0, 200, 408, 409, 429, 500, 502, 503, 504, 520, 529])
def test_what_may_pass_is_asked_again(status: int) -> None:
    verdict = judge(replace(ENDED, status=status, failure="f"))
    assert verdict.again == "again"
    assert verdict.ill == (status in (0, 200) or status >= 500)


@pytest.mark.parametrize("status", [301, 400, 404, 405, 413, 415, 422, 431, 501, 505])
def test_what_is_the_requests_fault_is_not(status: int) -> None:
    assert judge(replace(ENDED, status=status, failure="f")) == Verdict("never", well=True)
    assert judge(replace(ENDED, status=status, failure="f"), fallback=True).again == "elsewhere"


@pytest.mark.parametrize("status", [401, 402, 403])
def test_credentials_of_one_upstream_are_another_ones_business(status: int) -> None:
    assert judge(replace(ENDED, status=status, failure="f")) == Verdict("elsewhere")
    assert is_final(status)


def test_the_upstream_is_believed_about_asking_again() -> None:
    assert judge(replace(ENDED, status=529, failure="f", should_retry=False)).again == "elsewhere"
    assert judge(replace(ENDED, status=400, failure="f", should_retry=True)).again == "again"
    assert judge(ENDED) == Verdict("fine", well=True)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_the_harness_keeps_what_it_can_deal_with_itself(status: int) -> None:
    assert not is_final(status)


# --------------------------------------------------------------------------------------------------------- breaker


TERMS = BreakerTerms(failures=3, rate=0.5, least=6, window_seconds=60, open_seconds=5, longest_open_seconds=30)


def asks(breaker: Breaker, clock: Clock) -> object | None:
    now = clock()
    who = object()
    free = breaker.free_at(now)
    taken = breaker.take(who, now)
    assert taken == (free == now), "who is free is taken, for the same moment"
    return who if taken else None


def test_it_opens_after_failures_in_a_row_and_one_request_tries_it() -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    for _ in range(3):
        assert breaker.state == "closed"
        breaker.failed(asks(breaker, clock), "status 529")
    assert (breaker.state, breaker.why, breaker.failures) == ("open", "status 529", 3)
    assert asks(breaker, clock) is None
    clock.pass_by(5)
    trial = asks(breaker, clock)
    assert trial is not None
    assert breaker.state == "half_open"
    assert asks(breaker, clock) is None, "one trial"
    assert breaker.free_at(clock()) is None
    breaker.failed(object(), "late")
    breaker.succeeded(object())
    assert breaker.state == "half_open", "only the trial's word counts"
    breaker.succeeded(trial)
    assert breaker.state == "closed"
    assert asks(breaker, clock) is not None


def test_each_failed_trial_doubles_the_time_up_to_a_limit() -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    for _ in range(3):
        breaker.failed(asks(breaker, clock), "f")
    since = breaker.since
    for expected in (5, 10, 20, 30, 30):
        assert breaker.open_until - clock() == pytest.approx(expected, abs=1e-3)
        clock.pass_by(expected)
        breaker.failed(asks(breaker, clock), "f")
    assert breaker.since == since


def test_a_trial_that_says_nothing_gives_its_place_back() -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    for _ in range(3):
        breaker.failed(asks(breaker, clock), "f")
    clock.pass_by(5)
    gone = asks(breaker, clock)
    breaker.give_up(object())
    assert asks(breaker, clock) is None
    breaker.give_up(gone)
    lost = asks(breaker, clock)
    assert lost is not None
    assert asks(breaker, clock) is None
    clock.pass_by(TERMS.trial_seconds)
    assert asks(breaker, clock) is not None, "for a process that forgot to say so, too"


def test_a_rate_opens_it_without_a_row() -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    for n in range(5):
        who = asks(breaker, clock)
        (breaker.failed(who, "f") if n % 2 else breaker.succeeded(who))
    assert breaker.state == "closed"
    breaker.failed(asks(breaker, clock), "f")
    assert breaker.state == "open"


def test_what_is_older_than_the_window_counts_no_more() -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    for n in range(5):
        who = asks(breaker, clock)
        (breaker.failed(who, "f") if n % 2 else breaker.succeeded(who))
    clock.pass_by(61)
    breaker.failed(asks(breaker, clock), "f")
    assert breaker.state == "closed"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "well", "gone", "probe"]), st.floats(0, 20)), max_size=60))
def test_whatever_happens_it_is_asked_again_in_the_end_and_never_by_two_while_it_is_open(
    story: list[tuple[str, float]],
) -> None:
    clock = Clock()
    breaker = Breaker(TERMS, clock)
    asking: list[object] = []
    for what, later in story:
        clock.pass_by(later)
        if what == "ask":
            was = breaker.state
            who = asks(breaker, clock)
            if who is not None:
                assert was != "open"
                if was == "half_open":
                    assert asks(breaker, clock) is None
                asking.append(who)
        elif what == "probe":
            breaker.try_soon()
        elif asking:
            who = asking.pop(0)
            if what == "fail":
                breaker.failed(who, "f")
            elif what == "well":
                breaker.succeeded(who)
            else:
                breaker.give_up(who)
    assert breaker.open_until <= clock() + TERMS.longest_open_seconds
    clock.pass_by(TERMS.longest_open_seconds + TERMS.trial_seconds)
    trial = asks(breaker, clock)
    assert trial is not None
    breaker.succeeded(trial)
    assert breaker.state == "closed"
