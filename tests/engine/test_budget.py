"""What does a request cost, and what does the budget do to the life of a turn?"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hostler.domain.errors import InvalidRequest
from hostler.domain.price_files import read_prices
from hostler.domain.prices import Prices
from hostler.engine import inputs, turns
from hostler.engine.budget import check_change, check_priced, list_cost, priced, used_up
from hostler.engine.models import CATALOGUE, Models
from hostler.engine.state import Moment, OpenCall, SessionState, Short, Step, Totals
from hostler.engine.turns import RunEnd
from hostler.store.sessions import Usage

LIMIT = {"type": "limit", "max_list_cost": {"amount": "10", "currency": "USD"}}
CAPPED = Totals({}, LIMIT, capped=True)
ROOM = Totals({}, LIMIT)
AT = Moment(1.0, "2026-01-01T00:00:00.000001Z")
IDLE = ["session.thread_status_idle", "session.usage", "session.status_idle"]
RUNNING = ["session.status_running", "session.thread_status_running"]


def limit(cents: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def said(step: Step) -> list[str]:
    return [event.type for event in step.events]


def begun() -> SessionState:
    text = {"type": "user.message", "content": [{"type": "text", "text": "x"}]}
    fresh = inputs.submit(SessionState(thread_id="sthr_1", agent_name="a"), AT, ROOM, [text]).state
    return turns.take_up(fresh, AT, ROOM)[0].state


def test_every_kind_of_token_and_a_search_has_its_price() -> None:
    used = Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000, 1000)
    dollars = Decimal("4") + 20 + Decimal("0.20") + 5 + 8 + 10
    assert priced(Prices(), "claude-opus-5-5", used).list_cost_nanos == dollars * 1_000_000_000
    assert priced(Prices(), "claude-opus-4-5-20251101", Usage(input_tokens=3)).list_cost_nanos == 15_000
    assert priced(Prices(), "claude-opus-5-5[1m]", Usage(input_tokens=3)).list_cost_nanos == 12_000


def test_long_prompts_have_their_own_price() -> None:
    def cost(**used: int) -> int:
        return priced(Prices(), "claude-haiku-5-5", Usage(**used)).list_cost_nanos

    assert cost(input_tokens=100_000) == 10_000_000
    assert cost(input_tokens=100_001) == 50_000_500
    assert cost(input_tokens=1, cache_read_input_tokens=100_000) == 500 + 5_000_000


def test_every_model_of_the_catalogue_has_a_price() -> None:
    assert {model.id for model in CATALOGUE if Prices().of(model.id) is None} == set()
    assert all(row.price.input < row.price.output for rows in Prices().table.models.values() for row in rows)


def test_cost_is_not_told_when_a_model_has_no_price() -> None:
    used = priced(Prices(), "other-model", Usage(input_tokens=5))
    assert used.unpriced_requests == 1
    assert list_cost(used) is None
    assert used_up(LIMIT, used)
    assert not used_up(None, used)
    assert priced(Prices(), "other-model", Usage()) == Usage()


def test_the_cap_is_reached_exactly_when_the_shown_cost_reaches_it() -> None:
    just_below, at = Usage(list_cost_nanos=99_999_999), Usage(list_cost_nanos=100_000_000)
    assert (used_up(LIMIT, just_below), list_cost(just_below)) == (False, {"amount": "9", "currency": "USD"})
    assert (used_up(LIMIT, at), list_cost(at)) == (True, {"amount": "10", "currency": "USD"})


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (None, limit(50), "budget_create_only"),
        (limit(50), limit(10), "budget_not_raised"),
        (limit(50), limit(9), "budget_not_raised"),
    ],
)
def test_a_budget_that_can_not_be_is_refused(before: Any, after: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_change(before, after, Usage(list_cost_nanos=100_000_000))
    assert refused.value.code == code


def test_a_budget_may_be_lowered_to_what_is_not_used_yet_or_removed() -> None:
    check_change(limit(50), limit(11), Usage(list_cost_nanos=100_000_000))
    check_change(limit(50), None, Usage(list_cost_nanos=100_000_000))


def test_models_without_a_price_take_no_budget() -> None:
    check_priced(Prices(), Models(), "claude-opus-5-5")
    check_priced(Prices(), Models(), "sonnet")
    with pytest.raises(InvalidRequest, match="no list price") as refused:
        check_priced(Prices(), Models(), "other-model")
    assert refused.value.code == "model_not_budgetable"


def test_price_file_takes_the_place_of_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        '["other-model"]\ninput = 1\noutput = 2.5\ncache_read = 0.1\ncache_write_5m = 1.25\ncache_write_1h = 2\n'
    )
    prices = read_prices(file)
    assert priced(prices, "other-model", Usage(output_tokens=2)).list_cost_nanos == 5000
    assert prices.of("claude-opus-5-5") == Prices().of("claude-opus-5-5")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("not toml", "prices.toml"),
        ('["m"]\ninput = 1\n', "m.output"),
        ('["m"]\ninput = -1\noutput = 1\ncache_read = 1\ncache_write_5m = 1\ncache_write_1h = 1\n', "m.input"),
        ('["m"]\ninput = nan\noutput = 1\ncache_read = 1\ncache_write_5m = 1\ncache_write_1h = 1\n', "m.input"),
        ("m = 3\n", "m: "),
    ],
)
def test_price_file_that_is_wrong_says_where(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=place):
        read_prices(file)


# ------------------------------------------------------------------------------------------------ the life of a turn


def test_a_run_stopped_by_the_budget_goes_on_when_it_is_raised() -> None:
    paused = turns.run_ended(begun(), AT, CAPPED, RunEnd("capped", closed_by_harness=True))
    assert said(paused) == IDLE
    assert paused.events[-1].body["stop_reason"] == {"type": "budget_reached"}
    assert paused.events[1].body["budget"] == LIMIT
    assert paused.wanted is False
    nothing = turns.take_up(paused.state, AT, CAPPED)
    assert (said(nothing[0]), nothing[1].do) == ([], "nothing")
    assert said(turns.budget_changed(paused.state, AT, CAPPED)) == []
    raised = turns.budget_changed(paused.state, AT, ROOM)
    assert (said(raised), raised.wanted) == (RUNNING, True)
    assert turns.take_up(raised.state, AT, ROOM)[1].do == "continue"


def test_a_run_that_had_to_be_killed_is_recovered_when_the_budget_is_raised() -> None:
    paused = turns.run_ended(begun(), AT, CAPPED, RunEnd("capped"))
    assert said(paused) == IDLE
    raised = turns.budget_changed(paused.state, AT, ROOM)
    assert turns.take_up(raised.state, AT, ROOM)[1].do == "recover"


def test_a_budget_raised_while_the_run_stops_needs_no_idle() -> None:
    stopped = turns.run_ended(begun(), AT, ROOM, RunEnd("capped", closed_by_harness=True))
    assert (said(stopped), stopped.wanted, stopped.state.status) == ([], True, "running")
    assert turns.take_up(stopped.state, AT, ROOM)[1].do == "continue"


def test_an_interrupt_that_came_first_ends_the_turn() -> None:
    asked = inputs.submit(begun(), AT, CAPPED, [{"type": "user.interrupt"}]).state
    ended = turns.run_ended(asked, AT, CAPPED, RunEnd("capped", closed_by_harness=True))
    assert ended.events[-1].body["stop_reason"] == {"type": "end_turn"}
    assert ended.state.turn is None


def test_at_the_cap_an_interrupt_is_taken_without_effect_and_a_message_is_refused() -> None:
    paused = turns.run_ended(begun(), AT, CAPPED, RunEnd("capped", closed_by_harness=True)).state
    step = inputs.submit(paused, AT, CAPPED, [{"type": "user.interrupt"}])
    assert (said(step), step.state, len(step.replies)) == ([], paused, 1)
    with pytest.raises(InvalidRequest, match="budget"):
        inputs.submit(paused, AT, CAPPED, [{"type": "user.message", "content": []}])


def test_an_answer_at_the_cap_is_kept_until_the_budget_is_raised() -> None:
    call = OpenCall(event_id="sevt_c", tool_use_id="toolu_c", kind="builtin", name="bash", gated=True)
    running = begun().model_copy(update={"calls": (call,)})
    blocked = turns.run_ended(running, AT, CAPPED, RunEnd("deferred"))
    assert blocked.events[-1].body["stop_reason"]["type"] == "requires_action"
    allow = {"type": "user.tool_confirmation", "tool_use_id": "sevt_c", "result": "allow"}
    answered = inputs.submit(blocked.state, AT, CAPPED, [allow])
    assert said(answered) == ["user.tool_confirmation", *RUNNING]
    step, plan = turns.take_up(answered.state, AT, CAPPED)
    assert (said(step), plan.do) == (IDLE, "nothing")
    assert step.events[-1].body["stop_reason"] == {"type": "budget_reached"}
    raised = turns.budget_changed(step.state, AT, ROOM)
    assert turns.take_up(raised.state, AT, ROOM)[1].do == "resume"


def test_a_message_that_waited_does_not_begin_at_the_cap() -> None:
    queued = inputs.submit(begun(), AT, ROOM, [{"type": "user.message", "content": []}]).state
    ended = turns.run_ended(queued, AT, CAPPED, RunEnd("completed"))
    assert said(ended) == [*IDLE, "user.message", *RUNNING]
    step, plan = turns.take_up(ended.state, AT, CAPPED)
    assert (said(step), plan.do) == (IDLE, "nothing")
    assert turns.take_up(turns.budget_changed(step.state, AT, ROOM).state, AT, ROOM)[1].do == "start"


def test_a_run_stopped_for_what_its_next_request_may_cost_waits_until_there_is_so_much() -> None:
    short = Short(budget="bdgt_1", scope="workspace", needs=5)
    lacking = Totals({}, None, lacks=lambda asked: asked == short)
    end = RunEnd("capped", closed_by_harness=True, short=short)
    paused = turns.run_ended(begun(), AT, lacking, end)
    assert said(paused) == IDLE
    with pytest.raises(InvalidRequest, match="budget"):
        inputs.submit(paused.state, AT, lacking, [{"type": "user.message", "content": []}])
    assert said(turns.budget_changed(paused.state, AT, lacking)) == []
    raised = turns.budget_changed(paused.state, AT, ROOM)
    assert (said(raised), raised.wanted) == (RUNNING, True)
    assert raised.state.turn is not None
    assert raised.state.turn.short is None
    # Raised while the run was being stopped.
    assert (said(turns.run_ended(begun(), AT, ROOM, end)), turns.run_ended(begun(), AT, ROOM, end).wanted) == ([], True)
