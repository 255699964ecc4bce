"""What a session does: transcripts of happenings and events, and a machine that tries every legal order of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hostler.domain import events as ev
from hostler.domain.errors import InvalidRequest
from hostler.domain.events import INTERRUPTED, OUTCOME_UNKNOWN
from hostler.domain.ids import new_id
from hostler.engine import inputs, state, turns
from hostler.engine.state import Moment, OpenCall, SessionState, Step, Totals
from hostler.engine.turns import MAX_RECOVERIES, Plan, RunEnd
from hostler.engine.waiting_turns import Errand, Wait, told_to_wait, waited_too_long

Body = dict[str, Any]
NO_TOTALS = Totals({"input_tokens": 0})
IDLE = ["session.thread_status_idle", "session.usage", "session.status_idle"]
RUNNING = ["session.status_running", "session.thread_status_running"]


class Session:
    """A state and its log. Each method does one thing and gives the types of the events that it made."""

    def __init__(self, self_hosted: bool = False) -> None:
        self.state = SessionState(thread_id="sthr_1", agent_name="a", self_hosted=self_hosted)
        self.log: list[Body] = []
        self.wanted = False
        self.clock = 0
        self.last: Step = Step(self.state)

    def moment(self) -> Moment:
        self.clock += 1
        return Moment(float(self.clock), f"2026-01-01T00:00:00.{self.clock:06d}Z")

    def do(self, step: Step) -> list[str]:
        self.state, self.last = step.state, step
        # What is stored is read again before the next step.
        assert SessionState.model_validate_json(step.state.model_dump_json()) == step.state
        self.log += [event.body for event in step.events]
        self.wanted = self.wanted if step.wanted is None else step.wanted
        return [event.type for event in step.events]

    def send(self, *bodies: Body) -> list[str]:
        return self.do(inputs.submit(self.state, self.moment(), NO_TOTALS, bodies))

    def say(self, text: str) -> list[str]:
        return self.send(message(text))

    def take_up(self) -> Plan:
        step, plan = turns.take_up(self.state, self.moment(), NO_TOTALS)
        self.do(step)
        return plan

    def call(
        self,
        name: str,
        *,
        gated: bool = False,
        custom: bool = False,
        started: bool = False,
        hosted: bool = False,
        asks: bool = False,
    ) -> str:
        """Announce a call; gives the id of its event."""
        id_, at = new_id("sevt"), self.moment()
        kind = ev.agent_custom_tool_use if custom else None
        made = kind(at.text, id_, name, {}) if kind else ev.agent_tool_use(at.text, id_, name, {}, "allow", None)
        call = OpenCall(
            event_id=id_,
            tool_use_id=f"toolu_{name}",
            kind="custom" if custom else "hosted" if hosted else "builtin",
            name=name,
            gated=gated or custom or hosted,
            started=started,
            asks=asks,
        )
        self.do(turns.call_announced(self.state, made, call))
        return id_

    def begin(self, name: str) -> list[str]:
        return self.do(turns.call_started(self.state, f"toolu_{name}"))

    def finish(self, name: str) -> list[str]:
        done = (ev.text_block("done"),)
        return self.do(turns.call_finished(self.state, self.moment(), f"toolu_{name}", done, False))

    def end(self, how: Any, **more: Any) -> list[str]:
        return self.do(turns.run_ended(self.state, self.moment(), NO_TOTALS, RunEnd(how, **more)))

    def asked(self) -> list[str]:
        """Calls that the newest idle names."""
        idle = next(e for e in reversed(self.log) if e["type"] == "session.status_idle")
        return list(idle["stop_reason"].get("event_ids", ()))

    def texts_of(self, event_id: str) -> list[str]:
        """The words of every result of a call."""
        return [
            block["text"]
            for e in self.log
            if e["type"] in ("agent.tool_result", "user.custom_tool_result", "user.tool_result")
            and event_id in (e.get("tool_use_id"), e.get("custom_tool_use_id"))
            for block in e["content"]
        ]


def message(text: str) -> Body:
    return {"type": "user.message", "content": [ev.text_block(text)]}


def allow(event_id: str) -> Body:
    return {"type": "user.tool_confirmation", "tool_use_id": event_id, "result": "allow", "deny_message": None}


def deny(event_id: str, why: str | None = None) -> Body:
    return {"type": "user.tool_confirmation", "tool_use_id": event_id, "result": "deny", "deny_message": why}


def answer(event_id: str, text: str = "42") -> Body:
    return {"type": "user.custom_tool_result", "custom_tool_use_id": event_id, "content": [ev.text_block(text)]}


def worked(event_id: str, text: str = "42") -> Body:
    return {"type": "user.tool_result", "tool_use_id": event_id, "content": [ev.text_block(text)]}


def reply(call: OpenCall, yes: bool = True) -> Body:
    """What somebody outside says next about a waiting call."""
    match call.kind:
        case "custom":
            return answer(call.event_id)
        case "hosted" if not call.asks or call.verdict is not None:
            return worked(call.event_id)
        case _:
            return (allow if yes else deny)(call.event_id)


INTERRUPT: Body = {"type": "user.interrupt"}


def words(prompts: Any) -> list[str]:
    return [block["text"] for prompt in prompts for block in prompt.content]


# --------------------------------------------------------------------------------------------------- transcripts


def test_a_message_runs_and_ends_in_idle() -> None:
    session = Session()
    assert session.say("hi") == ["user.message", *RUNNING]
    assert session.wanted
    plan = session.take_up()
    assert (plan.do, words(plan.turn.prompts if plan.turn else ())) == ("start", ["hi"])
    assert session.end("completed") == IDLE
    assert session.log[-1]["stop_reason"] == {"type": "end_turn"}
    assert not session.wanted
    assert session.take_up().do == "nothing"


def test_messages_of_one_request_are_one_turn() -> None:
    session = Session()
    assert session.send(message("a"), message("b")) == ["user.message", "user.message", *RUNNING]
    plan = session.take_up()
    assert plan.turn is not None
    assert words(plan.turn.prompts) == ["a", "b"]


def test_a_second_message_waits_and_follows_the_idle_at_once() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    assert session.say("b") == []
    assert session.last.queued[0].body["processed_at"] is None
    waiting = session.last.queued[0].id
    assert session.end("completed") == [*IDLE, "user.message", *RUNNING]
    assert session.log[-3]["id"] == waiting
    assert session.log[-3]["processed_at"] is not None
    assert session.take_up().do == "start"


def test_a_gated_call_waits_and_a_partial_answer_names_the_rest() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one, two = session.call("one", gated=True), session.call("two", custom=True)
    assert session.end("deferred") == IDLE
    assert session.asked() == [one, two]
    assert not session.wanted
    assert session.send(answer(two)) == ["user.custom_tool_result", *IDLE]
    assert session.asked() == [one]
    assert session.send(allow(one)) == ["user.tool_confirmation", *RUNNING]
    assert session.wanted
    assert session.take_up().do == "resume"
    session.begin("one")
    assert session.finish("one") == ["agent.tool_result"]
    assert session.finish("two") == []  # its result is the client's event
    assert session.end("completed") == IDLE


def test_answers_that_come_before_the_run_has_ended_let_it_go_straight_on() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one = session.call("one", gated=True)
    assert session.send(allow(one)) == ["user.tool_confirmation"]
    assert session.end("deferred") == []
    assert session.take_up().do == "resume"


def test_a_repeated_answer_is_the_recorded_one_and_another_is_refused() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one = session.call("one", gated=True)
    session.end("deferred")
    session.send(deny(one, "no"))
    recorded = session.log[-3]["id"]
    assert session.send(deny(one, "no")) == []
    assert session.last.replies == (recorded,)
    with pytest.raises(InvalidRequest, match="already has its answer"):
        session.send(allow(one))
    session.take_up()
    session.finish("one")
    assert session.send(deny(one, "no")) == []
    assert session.last.replies == (recorded,)
    with pytest.raises(InvalidRequest, match="names no waiting"):
        session.send(allow("sevt_unknown"))
    with pytest.raises(InvalidRequest, match="already has its answer"):
        session.send(answer(one))


def test_an_answer_of_the_wrong_kind_is_refused_with_the_right_one() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    custom, free = session.call("c", custom=True), session.call("f", started=True)
    with pytest.raises(InvalidRequest, match=r"user\.custom_tool_result"):
        session.send(allow(custom))
    with pytest.raises(InvalidRequest, match="waits for nobody"):
        session.send(allow(free))


def test_an_interrupt_of_a_working_session_is_processed_when_the_run_has_stopped() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    assert session.send(INTERRUPT) == []
    assert session.send(INTERRUPT) == []  # the same one
    session.say("b")
    assert session.end("interrupted") == ["user.interrupt", *IDLE, "user.message", *RUNNING]
    prompts = session.state.turn.prompts if session.state.turn else ()
    assert words(prompts) == ["b"]


@pytest.mark.parametrize("phase", ["fresh", "ready"])
@pytest.mark.parametrize("told", [False, True])
def test_an_interrupt_of_a_turn_that_no_worker_has_is_processed_at_once(phase: str, told: bool) -> None:
    session = Session()
    session.say("a")
    closing = []
    if phase == "ready":
        session.take_up()
        one = session.call("one", gated=True)
        session.end("deferred")
        session.send(allow(one))
        closing = ["agent.tool_result"]
    if told:
        session.do(told_to_wait(session.state, session.moment(), Wait("memory", 1), "t"))
        assert session.state.status == "rescheduling"
    assert session.send(INTERRUPT) == ["user.interrupt", *closing, *IDLE]
    assert session.take_up().do == "nothing"
    assert session.say("b") == ["user.message", *RUNNING]
    prompts = session.state.turn.prompts if session.state.turn else ()
    assert words(prompts) == (["a", "b"] if phase == "fresh" else ["b"])


def test_an_interrupt_of_a_waiting_session_closes_its_calls_in_log_and_transcript() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one, two = session.call("one", gated=True), session.call("two", custom=True)
    session.end("deferred")
    made = session.send(INTERRUPT)
    assert made == ["user.interrupt", "agent.tool_result", "user.custom_tool_result", *IDLE]
    assert session.texts_of(one) == session.texts_of(two) == [INTERRUPTED]
    assert [u.tool_use_id for u in session.state.unclosed] == ["toolu_one", "toolu_two"]
    session.say("b")
    assert [u.tool_use_id for u in session.take_up().unclosed] == ["toolu_one", "toolu_two"]
    session.do(turns.closed_in_transcript(session.state, frozenset({"toolu_one", "toolu_two"})))
    assert session.state.unclosed == ()


def test_a_crash_closes_what_had_begun_as_unknown_and_what_had_not_as_interrupted() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    session.do(turns.request_started(session.state, session.moment(), ev.request_start("t", "sevt_start")))
    begun, held = session.call("begun", started=True), session.call("held")
    before = len(session.log)
    plan = session.take_up()
    assert plan.do == "recover"
    made = [e["type"] for e in session.log[before:]]
    assert made == ["span.model_request_end", "agent.tool_result", "agent.tool_result"]
    assert session.log[before]["is_error"]
    assert session.texts_of(begun) == [OUTCOME_UNKNOWN]
    assert session.texts_of(held) == [INTERRUPTED]
    assert session.finish("begun") == []  # too late
    assert session.end("completed") == IDLE


def test_a_crash_while_a_call_waits_asks_again_and_when_answered_resumes() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one = session.call("one", gated=True)
    before = len(session.log)
    assert session.take_up().do == "nothing"
    assert [e["type"] for e in session.log[before:]] == IDLE
    assert session.asked() == [one]
    session.send(allow(one))
    assert session.take_up().do == "resume"
    assert session.take_up().do == "resume"  # it died again before the call began
    session.begin("one")
    assert session.take_up().do == "recover"  # and once more, after
    assert session.texts_of(one) == [OUTCOME_UNKNOWN]


def test_calls_of_which_none_had_begun_are_all_still_to_be_made_after_a_crash() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    session.call("held")
    one = session.call("one", custom=True)
    assert session.take_up().do == "nothing"
    assert session.asked() == [one]
    session.send(answer(one))
    assert session.take_up().do == "resume"
    assert [call.name for call in session.state.calls] == ["held", "one"]


def test_an_answered_custom_call_survives_a_crash_with_its_answer() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    one = session.call("one", custom=True)
    session.end("deferred")
    session.send(answer(one, "forty-two"))
    assert session.take_up().do == "resume"
    assert session.take_up().do == "resume"
    call = session.state.calls[0]
    assert call.answer is not None
    assert call.answer.content == (ev.text_block("forty-two"),)


def test_a_turn_that_is_lost_too_often_fails() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    for _ in range(MAX_RECOVERIES):
        assert session.end("lost") == ["session.error"]
        assert session.log[-1]["error"]["retry_status"] == {"type": "retrying"}
        assert session.take_up().do == "recover"
    session.end("lost")
    assert session.take_up().do == "nothing"
    assert session.log[-1]["stop_reason"] == {"type": "retries_exhausted"}


def test_a_failure_takes_the_waiting_messages_to_the_next_turn() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    session.say("b")
    made = session.end("failed", error="model_overloaded_error", message="busy")
    assert made == ["session.error", "user.message", *IDLE]
    session.say("c")
    plan = session.take_up()
    assert plan.turn is not None
    assert words(plan.turn.prompts) == ["b", "c"]


def test_a_refusal_tells_its_details() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    session.end("refused", details={"type": "refusal", "category": "cyber", "explanation": None})
    assert session.log[-1]["stop_reason"] == {"type": "refusal"}
    assert session.log[-1]["stop_details"]["category"] == "cyber"


def test_a_busy_upstream_shows_once_and_the_next_answer_shows_that_it_is_over() -> None:
    session = Session()
    session.say("a")
    session.take_up()
    error = ev.error("t", "model_overloaded_error", "busy", "retrying")
    first = session.do(turns.rescheduled(session.state, session.moment(), error))
    assert first == ["session.error", "session.status_rescheduled", "session.thread_status_rescheduled"]
    again = ev.error("t", "model_overloaded_error", "busy", "retrying")
    assert session.do(turns.rescheduled(session.state, session.moment(), again)) == ["session.error"]
    start = ev.request_start("t", "sevt_s")
    made = session.do(turns.request_started(session.state, session.moment(), start))
    assert made == [*RUNNING, "span.model_request_start"]


def test_a_request_that_waits_for_the_model_shows_and_so_does_its_end() -> None:
    session = Session()
    error = ev.error("t", "model_overloaded_error", "busy", "retrying")
    assert session.do(turns.waits_for_model(session.state, session.moment(), error)) == [], "no turn runs"
    assert session.do(turns.goes_on(session.state, session.moment())) == []
    session.say("a")
    session.take_up()
    session.do(turns.request_started(session.state, session.moment(), ev.request_start("t", "sevt_s")))
    beside = session.do(turns.waits_for_model(session.state, session.moment(), error))
    assert beside == ["session.error"], "an answer is under way: it is a sub-agent that waits"
    assert session.state.open_request == "sevt_s"
    assert session.do(turns.goes_on(session.state, session.moment())) == []
    session.do(turns.request_ended(session.state, ev.request_end("t", "sevt_s", {}, False)))
    waits = session.do(turns.waits_for_model(session.state, session.moment(), error))
    assert waits == ["session.error", "session.status_rescheduled", "session.thread_status_rescheduled"]
    assert session.state.running_since is None
    assert session.do(turns.goes_on(session.state, session.moment())) == RUNNING
    session.do(turns.waits_for_model(session.state, session.moment(), error))
    assert session.end("failed") == ["session.error", *IDLE]


def test_an_archived_session_takes_nothing_and_a_running_one_is_not_archived() -> None:
    session = Session()
    session.say("a")
    with pytest.raises(InvalidRequest, match="is running"):
        inputs.archive(session.state, session.moment())
    session.take_up()
    session.end("completed")
    made = session.do(inputs.archive(session.state, session.moment()))
    assert made == ["session.thread_status_terminated", "session.status_terminated"]
    with pytest.raises(InvalidRequest, match="archived"):
        session.say("b")


# ------------------------------------------------------------------------------------------------- every legal order


class Machine(RuleBasedStateMachine):
    """Clients, a worker that may die at any moment, and the run that it drives."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(self_hosted=True)
        self.live = False
        """A run works on the turn."""
        self.sent: list[str] = []
        self.given: list[str] = []
        """Prompts that a run was given, in order."""
        self.names = 0
        self.open_request = False
        self.seen = 0
        self.ids: set[str] = set()
        self.answered: set[str] = set()
        self.closed: Counter[str] = Counter()
        self.calls: set[str] = set()
        self.idle: Body | None = None
        """The newest status, when it is an idle."""
        self.status = "idle"

    # -- clients

    @rule(count=st.integers(1, 2))
    def message(self, count: int) -> None:
        texts = [f"m{len(self.sent) + n}" for n in range(count)]
        self.sent += texts
        self.session.send(*(message(text) for text in texts))

    @rule()
    def interrupt(self) -> None:
        self.session.send(INTERRUPT)

    @precondition(lambda self: state.unanswered(self.session.state))
    @rule(data=st.data(), yes=st.booleans())
    def answer(self, data: st.DataObject, yes: bool) -> None:
        call = data.draw(st.sampled_from(state.unanswered(self.session.state)))
        made = reply(call, yes)
        self.session.send(made)
        if call.event_id not in {c.event_id for c in state.unanswered(self.session.state)}:
            self.answered.add(call.event_id)
        before = len(self.session.log)
        self.session.send(made)  # a client that isn't sure sends it again
        assert len(self.session.log) == before

    # -- the worker

    @precondition(lambda self: not self.live)
    @rule()
    def work(self) -> None:
        """A worker looks at the session: the first one, or the next one after a crash."""
        wanted = self.session.wanted
        plan = self.session.take_up()
        assert wanted or plan.do == "nothing"
        self.open_request = False
        if plan.do == "start":
            assert plan.turn is not None
            self.given += words(plan.turn.prompts)
        ids = frozenset(u.tool_use_id for u in plan.unclosed)
        if plan.do in ("start", "recover"):
            self.session.do(turns.closed_in_transcript(self.session.state, ids))
        self.live = plan.do != "nothing"

    @precondition(lambda self: not self.live)
    @rule(reason=st.sampled_from(["memory", "server_limit"]))
    def wait(self, reason: Any) -> None:
        """There is no place for the session; it says so once."""
        session = self.session
        session.do(told_to_wait(session.state, session.moment(), Wait(reason, 1), "t"))
        assert session.do(told_to_wait(session.state, session.moment(), Wait(reason, 1), "t")) == []

    @precondition(lambda self: not self.live)
    @rule(too_long=st.booleans())
    def errand(self, too_long: bool) -> None:
        """A worker without a place does what needs none."""
        errand = Errand(waited_too_long(600, None) if too_long else None)
        if errand.is_done_by(self.session.state):
            step, plan = errand.take_up(self.session.state, self.session.moment(), NO_TOTALS)
            assert plan.do == "nothing"
            self.session.do(step)
            self.open_request = False

    @precondition(lambda self: self.live)
    @rule()
    def crash(self) -> None:
        self.live = False

    @precondition(lambda self: self.live)
    @rule(busy=st.booleans())
    def request(self, busy: bool) -> None:
        session = self.session
        if self.open_request:
            end = ev.request_end("t", str(session.state.open_request), {}, False)
            session.do(turns.request_ended(session.state, end))
            self.open_request = False
        elif busy:
            error = ev.error("t", "model_overloaded_error", "busy", "retrying")
            session.do(turns.rescheduled(session.state, session.moment(), error))
        else:
            session.do(turns.request_started(session.state, session.moment(), ev.request_start("t", new_id("sevt"))))
            self.open_request = True

    @rule(goes_on=st.booleans())
    def wait_for_model(self, goes_on: bool) -> None:
        """A request waits, of whichever thread, or none does any more. What the gateway tells may come late."""
        session = self.session
        if not self.live:
            return
        if goes_on:
            session.do(turns.goes_on(session.state, session.moment()))
        else:
            error = ev.error("t", "model_overloaded_error", "busy", "retrying")
            session.do(turns.waits_for_model(session.state, session.moment(), error))

    @precondition(lambda self: self.live)
    @rule(kind=st.sampled_from(["free", "held", "gated", "custom", "hosted", "hosted, asks"]))
    def call(self, kind: str) -> None:
        self.names += 1
        self.session.call(
            f"c{self.names}",
            gated=kind == "gated",
            custom=kind == "custom",
            started=kind == "free",
            hosted=kind.startswith("hosted"),
            asks=kind == "hosted, asks",
        )

    @precondition(lambda self: self.live and self.session.state.calls)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        """A call that may run begins or ends."""
        able = [c for c in self.session.state.calls if not c.gated or c.answer is not None or c.denied]
        if able:
            call = data.draw(st.sampled_from(able))
            if call.started or call.kind in ("custom", "hosted") or call.denied:
                self.session.finish(call.name)
            else:
                self.session.begin(call.name)

    @precondition(lambda self: self.live)
    @rule(how=st.sampled_from(["completed", "failed", "refused", "lost"]), harness=st.booleans())
    def end(self, how: str, harness: bool) -> None:
        if how == "completed" and self.session.state.calls:
            how = "deferred" if any(c.gated for c in self.session.state.calls) else "interrupted"
        self.session.end(how, closed_by_harness=harness)
        self.live = self.open_request = False

    # -- what is always true

    @invariant()
    def all_is_well(self) -> None:
        self.the_log_is_lawful()
        self.nothing_is_lost()

    def the_log_is_lawful(self) -> None:
        log = self.session.log
        for at in range(self.seen, len(log)):
            event = log[at]
            assert event["id"] not in self.ids, "an event is there twice"
            self.ids.add(event["id"])
            assert event["processed_at"] is not None
            match event["type"]:
                case "agent.tool_use" | "agent.custom_tool_use":
                    self.calls.add(event["id"])
                case "agent.tool_result" | "user.tool_result":
                    assert event["tool_use_id"] in self.calls
                    self.closed[event["tool_use_id"]] += 1
                case "user.custom_tool_result":
                    assert event["custom_tool_use_id"] in self.calls
                    self.closed[event["custom_tool_use_id"]] += 1
                case "session.status_running":
                    assert self.status in ("idle", "rescheduled")
                    self.status, self.idle = "running", None
                case "session.status_rescheduled":
                    assert self.status == "running"
                    self.status = "rescheduled"
                case "session.status_idle":
                    assert [e["type"] for e in log[at - 2 : at + 1]] == IDLE
                    waiting = self.idle is not None and self.idle["stop_reason"]["type"] == "requires_action"
                    again = log[at - 3]["type"] == "user.interrupt"  # of a session that does nothing: said once more
                    assert self.status != "idle" or waiting or again
                    ids = set(event["stop_reason"].get("event_ids", ()))
                    assert not ids & (self.answered | self.closed.keys())
                    assert bool(ids) == (event["stop_reason"]["type"] == "requires_action")
                    self.status, self.idle = "idle", event
        self.seen = len(log)
        assert all(count == 1 for count in self.closed.values()), "a call has two results"
        assert self.session.state.status == self.status.replace("rescheduled", "rescheduling")

    def nothing_is_lost(self) -> None:
        held = self.session.state
        recorded = [e["content"][0]["text"] for e in self.session.log if e["type"] == "user.message"]
        assert [*recorded, *(q.body["content"][0]["text"] for q in held.queue)] == self.sent
        fresh = held.turn.prompts if held.turn is not None and held.turn.phase == "fresh" else ()
        assert [*self.given, *words((*held.unsent, *fresh))] == recorded, "a prompt is lost, or was given twice"
        still = {c.event_id for c in held.calls}
        assert self.calls == still | {s.event_id for s in held.settled}
        # The client's result is the result of a custom call, so an answered one may still be open.
        assert {i for i in self.calls - still if not self.closed[i]} == set()
        working = held.turn is not None and held.turn.phase in ("fresh", "handed", "ready")
        assert self.session.wanted == working
        assert (held.status == "idle") == (not working)

    def teardown(self) -> None:
        """Whatever happened: somebody answers, the worker works, and the session comes to rest."""
        session = self.session
        for _ in range(4 * (len(self.sent) + self.names + MAX_RECOVERIES) + 8):
            while waiting := state.unanswered(session.state):
                session.send(reply(waiting[0]))
                if waiting[0].event_id not in {c.event_id for c in state.unanswered(session.state)}:
                    self.answered.add(waiting[0].event_id)
                self.the_log_is_lawful()
            if session.state.turn is None:
                break
            if not self.live:
                self.work()
            if self.live:
                for call in session.state.calls:
                    session.begin(call.name)
                    session.finish(call.name)
                session.end("completed")
                self.live = False
            self.the_log_is_lawful()
        self.all_is_well()
        assert session.state.turn is None
        assert session.state.queue == ()
        assert session.state.calls == ()
        assert session.state.interrupt is None
        assert {i for i in self.calls if self.closed[i] != 1} == set()


TestEveryOrder = Machine.TestCase
TestEveryOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
