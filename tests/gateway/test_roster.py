"""Who is asked, and who next: courses of one request at a time, under a clock that a test turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.engine.model_port import Asked, Caller, Choice, Ended, Next
from hostler.gateway import Backoff, BreakerTerms, Entry, Patience, Roster
from hostler.gateway.roster import Course

BACKOFF = Backoff(base_seconds=1.0, longest_seconds=8.0, most_retry_after_seconds=60.0)
BREAKER = BreakerTerms(failures=3, open_seconds=5.0, longest_open_seconds=40.0)
PATIENCE = Patience(retries=10, total_seconds=100.0, backoff=BACKOFF, breaker=BREAKER)
ASKED = Asked("mreq_1", Caller("sesn_1"), "opus", {}, 10, True)


@dataclass
class Desk:
    """A roster, its clock, and what is asked of it."""

    entries: tuple[Entry, ...] = (Entry("one"),)
    patience: Patience = PATIENCE
    now: float = 1000.0
    chance: float = 0.5
    look_seconds: float = 1e-9
    """So long each look at the clock takes."""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = Roster(self.entries, self._clock, self.patience, chance=lambda: self.chance)

    def _clock(self) -> float:
        self.now += self.look_seconds
        return self.now

    def course(self, *models: str, session: str = "sesn_1", stream: bool = True) -> Course:
        asked = replace(ASKED, caller=Caller(session), stream=stream)
        return self.roster.persist(asked, Choice(models or ("opus",)))

    def play(self, course: Course, answers: Mapping[str, list[int]] | list[int], seconds: float = 0.1) -> list[str]:
        """Who is asked, with the pauses between (`+1.5`), until it is over. 200: an answer; 0: none.

        answers  status after status; or those of each `model@upstream`, the last one for ever.
        """
        story: list[str] = []
        lists = {key: list(value) for key, value in answers.items()} if isinstance(answers, Mapping) else {}
        all_of_them = [] if isinstance(answers, Mapping) else list(answers)
        step, number = course.first(), 0
        while step is not None:
            if step.after > 0:
                story.append(f"+{step.after:.1f}")
                self.now += step.after
                step = course.waited()
                continue
            number += 1
            name = f"{step.target.spelled}@{step.target.upstream}"
            story.append(name)
            self.now += seconds
            left = all_of_them or lists[name]
            status = left.pop(0) if len(left) > 1 or all_of_them is left else left[0]
            step = course.after(ended(step, number, status))
        course.over()
        return story


def ended(step: Next, number: int, status: int, **more: object) -> Ended:
    failure = "" if status == 200 else f"status {status}"
    made = Ended(step.target, number, status, failure, None, False, 0.0)
    return replace(made, **more)  # type: ignore[arg-type]


def first(course: Course) -> Next:
    step = course.first()
    assert step is not None
    return step


def test_the_same_one_is_asked_again_after_pauses_that_double() -> None:
    desk = Desk(patience=replace(PATIENCE, breaker=replace(BREAKER, failures=99)))
    story = desk.play(desk.course(), [529, 500, 503, 502, 0, 200])
    one = "opus@one"
    assert story == [one, "+0.5", one, "+1.0", one, "+2.0", one, "+4.0", one, "+4.0", one]


def test_whatever_time_it_takes_to_find_out_who_is_next_a_pause_is_asked_for() -> None:
    desk = Desk()
    course = desk.course()
    asked = first(course)
    desk.look_seconds = 10.0
    step = course.after(ended(asked, 1, 529))
    assert step is not None
    assert step.after == 0.5


def test_another_upstream_is_asked_at_once_and_the_first_one_again_after_its_pause() -> None:
    desk = Desk((Entry("one"), Entry("two", order=1)))
    story = desk.play(desk.course(), [529, 529, 529, 200])
    assert story == ["opus@one", "opus@two", "+0.4", "opus@one", "opus@two"]


def test_who_was_not_asked_yet_comes_before_who_failed_already_however_slow_the_failures_are() -> None:
    desk = Desk((Entry("one"), Entry("two", order=1), Entry("three", order=2)))
    story = desk.play(desk.course(), [529, 0, 200], seconds=5.0)
    assert story == ["opus@one", "opus@two", "opus@three"]


def test_a_fallback_model_comes_after_a_second_try_and_at_once_when_nothing_else_can_be_asked() -> None:
    desk = Desk()
    assert desk.play(desk.course("opus", "haiku"), {"opus@one": [529], "haiku@one": [200]}) == [
        "opus@one",
        "+0.5",
        "opus@one",
        "haiku@one",
    ]
    course = desk.course("opus", "haiku")
    step = first(course)
    again = course.after(ended(step, 1, 429, retry_after=30.0))
    assert again is not None
    assert (again.target.model, again.after) == ("haiku", 0)
    assert again.why == "after opus at one: status 429"


def test_two_upstreams_come_before_the_fallback_model_at_either() -> None:
    desk = Desk((Entry("one"), Entry("two", order=1, models={"opus": "o-2", "haiku": "h-2"})))
    answers = {"opus@one": [500], "o-2@two": [500], "haiku@one": [500], "h-2@two": [200]}
    story = [name for name in desk.play(desk.course("opus", "haiku"), answers) if name[0] != "+"]
    assert story == ["opus@one", "o-2@two", "opus@one", "o-2@two", "haiku@one", "h-2@two"]


def test_a_fallback_that_cannot_take_the_request_says_nothing_of_it() -> None:
    desk = Desk()
    answers = {"opus@one": [529, 529, 200], "haiku@one": [400]}
    story = [name for name in desk.play(desk.course("opus", "haiku"), answers) if name[0] != "+"]
    assert story == ["opus@one", "opus@one", "haiku@one", "opus@one"]


@pytest.mark.parametrize("status", [400, 404, 413, 200])
def test_an_answer_is_an_answer(status: int) -> None:
    desk = Desk((Entry("one"), Entry("two")))
    assert len(desk.play(desk.course(), [status])) == 1


@pytest.mark.parametrize("status", [401, 402, 403])
def test_refused_credentials_are_tried_at_the_next_upstream_only_and_come_last_for_others(status: int) -> None:
    desk = Desk((Entry("one"), Entry("two", order=1)))
    assert desk.play(desk.course(), [status, status]) == ["opus@one", "opus@two"]
    desk = Desk((Entry("one"), Entry("two", order=1)))
    desk.play(desk.course(), [status, 200])
    assert desk.play(desk.course(), [200]) == ["opus@two"]
    [one, two] = desk.roster.health()
    assert [(t.model, t.state, t.why) for t in one.troubles] == [("opus", "resting", f"status {status}")]
    assert two.troubles == ()
    desk.now += 6
    assert desk.play(desk.course(), [200]) == ["opus@one"]


def test_retry_after_is_the_least_pause_and_too_long_a_one_is_the_end() -> None:
    desk = Desk()
    course = desk.course()
    step = first(course)
    again = course.after(ended(step, 1, 429, retry_after=20.0))
    assert again is not None
    assert again.after == pytest.approx(20.5)
    desk.now += again.after
    step = course.waited()
    assert step is not None
    assert course.after(ended(step, 2, 429, retry_after=61.0)) is None


def test_an_upstream_that_knows_the_model_by_another_name_is_asked_by_it_and_one_without_is_not() -> None:
    desk = Desk((Entry("one", models={"haiku": "h"}), Entry("two", order=1, models={"opus": "anthropic.opus-v1"})))
    step = first(desk.course())
    assert (step.target.upstream, step.target.model, step.target.spelled) == ("two", "opus", "anthropic.opus-v1")
    assert step.why == ""
    assert desk.course("sonnet").first() is None


# ------------------------------------------------------------------------------------------------------ the breaker


def test_a_breaker_is_shared_by_sessions_and_one_of_them_tries_when_its_time_is_over() -> None:
    desk = Desk((Entry("one"), Entry("two", order=1)))
    for n in range(3):
        course = desk.course(session=f"s{n}")
        step = first(course)
        course.after(ended(step, 1, 529))
        course.over()
    assert first(desk.course()).target.upstream == "two"
    assert first(desk.course()).why == "what is preferred can't be asked now"
    assert first(desk.course("haiku")).target.upstream == "one", "another model of it is another matter"
    [one, two] = desk.roster.health()
    [trouble] = one.troubles
    assert (trouble.state, trouble.failures, trouble.why, two.troubles) == ("open", 3, "status 529", ())
    assert trouble.next_trial_seconds == pytest.approx(5.0, abs=0.1)
    desk.roster.is_back("one")
    assert desk.roster.ill == (), "that it can be reached says nothing of how busy it is"
    assert desk.roster.health()[0].troubles[0].state == "open"
    desk.now += 5
    trial, other = desk.course(), desk.course()
    step = first(trial)
    assert (step.target.upstream, first(other).target.upstream) == ("one", "two")
    trial.began()
    assert first(desk.course()).target.upstream == "one", "closed as soon as its answer begins"
    assert desk.roster.health()[0].troubles == ()


def test_with_one_upstream_requests_wait_for_the_breaker_and_then_for_the_trial() -> None:
    desk = Desk()
    for _ in range(3):
        course = desk.course()
        course.after(ended(first(course), 1, 503))
        course.over()
    course, second = desk.course(), desk.course()
    step = first(course)
    assert step.after == pytest.approx(5.0, abs=0.1)
    desk.now += step.after
    trial = course.waited()
    assert trial is not None
    assert trial.after == 0
    waits = first(second)
    assert 0 < waits.after <= 1.0, "somebody tries it"
    course.over()  # hung up
    desk.now += waits.after
    taken = second.waited()
    assert taken is not None
    assert taken.after == 0


def test_a_probe_that_goes_well_brings_the_trial_forward() -> None:
    desk = Desk()
    for _ in range(3):
        course = desk.course()
        course.after(ended(first(course), 1, 0))
        course.over()
    assert first(desk.course()).after > 4
    desk.roster.is_back("another")
    assert first(desk.course()).after > 4
    desk.roster.is_back("one")
    assert first(desk.course()).after == 0


def test_a_request_that_is_too_busy_with_one_does_not_make_it_ill() -> None:
    desk = Desk()
    for _ in range(9):
        course = desk.course()
        course.after(ended(first(course), 1, 429))
        course.over()
    assert desk.roster.ill == ()
    assert first(desk.course()).after == 0


def test_what_is_remembered_is_bounded() -> None:
    desk = Desk()
    for n in range(1500):
        course = desk.course(f"made-up-{n}")
        course.after(ended(first(course), 1, 500))
        course.over()
    assert len(desk.roster._known) <= 1024


# ----------------------------------------------------------------------------------------------- weights and limits


def test_sessions_are_spread_by_weight_and_each_stays_where_it_is() -> None:
    desk = Desk((Entry("small"), Entry("large", weight=3), Entry("spare", order=1, weight=50)))
    found = Counter(first(desk.course(session=f"sesn_{n}")).target.upstream for n in range(2000))
    assert set(found) == {"small", "large"}
    assert found["large"] == pytest.approx(1500, abs=120)
    for n in range(20):
        names = {first(desk.course(session=f"sesn_{n}")).target.upstream for _ in range(5)}
        assert len(names) == 1


def test_entries_are_checked() -> None:
    with pytest.raises(ValueError, match="same name"):
        Desk((Entry("one"), Entry("one")))
    with pytest.raises(ValueError, match="weight"):
        Desk((Entry("one", weight=0),))


def test_answers_that_are_paid_for_and_come_to_nothing_are_few() -> None:
    desk = Desk(patience=replace(PATIENCE, costly_retries=2, breaker=replace(BREAKER, failures=99)))
    course = desk.course()
    step: Next | None = first(course)
    asked = 0
    while step is not None:
        if step.after:
            desk.now += step.after
            step = course.waited()
            continue
        asked += 1
        step = course.after(ended(step, asked, 0, costly=True))
    assert asked == 3


def test_an_attempt_has_only_the_time_that_is_left_and_enough_of_it() -> None:
    desk = Desk(patience=replace(PATIENCE, first_event_seconds=40.0, retries=99, breaker=replace(BREAKER, failures=99)))
    course = desk.course()
    step: Next | None = first(course)
    assert step is not None
    assert step.within == 40.0
    assert first(desk.course(stream=False)).within == pytest.approx(100.0)
    begun, limits = desk.now, []
    while step is not None:
        if step.after:
            desk.now += step.after
            step = course.waited()
            continue
        limits.append((desk.now - begun, step.within))
        desk.now += step.within or 0
        step = course.after(ended(step, 1, 0))
    for at, within in limits:
        assert within is not None
        assert within >= 10
        assert at + within <= 100.001


statuses = st.sampled_from([0, 200, 400, 401, 408, 429, 500, 503, 529])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.lists(st.tuples(statuses, st.floats(0, 30), st.one_of(st.none(), st.floats(0, 90))), max_size=80),
    st.floats(0, 1, exclude_max=True),
)
def test_every_course_ends_in_time_and_asks_nobody_before_its_time(
    shape: list[tuple[int, int]],
    models: int,
    answers: list[tuple[int, float, float | None]],
    chance: float,
) -> None:
    entries = tuple(Entry(f"u{n}", order, weight) for n, (order, weight) in enumerate(shape))
    desk = Desk(entries, chance=chance)
    left = list(answers)
    while left:
        course = desk.course(*[f"m{n}" for n in range(models)])
        begun, asked, looks = desk.now, 0, 0
        not_before: dict[tuple[str, str], float] = {}
        step = course.first()
        while step is not None:
            looks += 1
            assert looks < 1000, "it ends"
            if step.after > 0:
                desk.now += step.after
                step = course.waited()
                continue
            asked += 1
            assert step.within is not None
            assert desk.now - begun <= PATIENCE.total_seconds * 0.9 + 0.001
            key = step.target.upstream, step.target.model
            assert desk.now >= not_before.get(key, 0.0)
            status, took, retry_after = left.pop(0) if left else (200, 0.0, None)
            desk.now += min(took, step.within)
            not_before[key] = desk.now + (retry_after or 0.0 if status >= 408 else 0.0)
            step = course.after(ended(step, asked, status, retry_after=retry_after))
        course.over()
        assert asked <= PATIENCE.retries + 1
