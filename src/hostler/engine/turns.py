"""What follows from what a worker and its run report? The life of a turn, from taking it up to its end.

Pure, like `engine.state`, whose values and building blocks it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from hostler.domain import events as ev
from hostler.domain.events import Body, Event
from hostler.engine.state import (
    BUDGET_REACHED,
    END_TURN,
    REFUSAL,
    RETRIES_EXHAUSTED,
    Moment,
    OpenCall,
    SessionState,
    Short,
    Step,
    Totals,
    Turn,
    Unclosed,
    active_seconds,
    close_calls,
    close_request,
    go_idle,
    go_running,
    is_paused,
    processed,
    prompt_of,
    requires_action,
    result_event,
    settle,
    start_queued,
    unanswered,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker has to do next."""

    do: Literal["nothing", "start", "resume", "recover", "continue"]
    """continue: its run was stopped by the budget, which allows more now."""
    turn: Turn | None = None
    unclosed: tuple[Unclosed, ...] = ()
    """Calls to close in the transcript first."""
    lost: tuple[OpenCall, ...] = ()
    """With `recover`: the calls whose outcome nobody knows."""


MAX_RECOVERIES = 3
"""A turn that lost its process this often ends with an error: the fourth try would hardly be different."""


def take_up(state: SessionState, at: Moment, totals: Totals) -> tuple[Step, Plan]:
    """A worker asks what to do. Marks the turn as begun, so that the next worker knows it may be half done."""
    if state.interrupt is not None:
        step = run_ended(state, at, totals, RunEnd("interrupted"))
        following, plan = take_up(step.state, at, totals)
        joined = Step(following.state, (*step.events, *following.events), following.wanted)
        return joined, plan
    turn = state.turn
    if turn is None or turn.phase == "blocked" or is_paused(state):
        return Step(state, wanted=False), Plan("nothing")
    if turn.phase == "handed":
        return _recover(state, at, totals, turn)
    if totals.capped:
        state, idle = go_idle(state, at, totals, BUDGET_REACHED)
        return Step(state, tuple(idle), wanted=False), Plan("nothing")
    begun = turn.model_copy(update={"phase": "handed", "waits": False})
    do: Literal["start", "resume", "continue"] = _HOW.get(turn.phase, "start")
    return Step(state.model_copy(update={"turn": begun}), wanted=True), Plan(do, begun, state.unclosed)


_HOW: Final[dict[str, Literal["resume", "continue"]]] = {"ready": "resume", "paused": "continue"}


def _recover(state: SessionState, at: Moment, totals: Totals, turn: Turn) -> tuple[Step, Plan]:
    if turn.recoveries >= MAX_RECOVERIES:
        end = RunEnd("failed", "unknown_error", f"The process of this turn was lost {turn.recoveries + 1} times.")
        step = lost_for_good(state, at, totals, end)
        following, plan = take_up(step.state, at, totals)
        return Step(following.state, (*step.events, *following.events), following.wanted), plan
    lost = state.calls
    state, spans = close_request(state, at)
    if lost and not any(call.started for call in lost):  # nothing had begun, so nothing is in doubt
        if unanswered(state):
            begun = turn.model_copy(update={"phase": "blocked"})
            state, idle = go_idle(state.model_copy(update={"turn": begun}), at, totals, requires_action(state))
            return Step(state, (*spans, *idle), wanted=False), Plan("nothing")
        begun = turn.model_copy(update={"recoveries": turn.recoveries + 1, "waits": False})
        step = Step(state.model_copy(update={"turn": begun}), tuple(spans), wanted=True)
        return step, Plan("resume", begun, state.unclosed)
    state, closing = close_calls(state, at, lost=True)
    again = turn.model_copy(update={"recoveries": turn.recoveries + 1, "waits": False})
    state = state.model_copy(update={"turn": again})
    return Step(state, (*spans, *closing), wanted=True), Plan("recover", again, state.unclosed, lost)


def lost_for_good(state: SessionState, at: Moment, totals: Totals, end: RunEnd) -> Step:
    """The turn ends after its process was lost: of the calls that had begun nobody knows what became of them."""
    state, closing = close_calls(state, at, lost=True)
    step = run_ended(state, at, totals, end)
    return Step(step.state, (*closing, *step.events), step.wanted)


def resume_failed(state: SessionState, at: Moment, totals: Totals, end: RunEnd) -> Step:
    """The transcript does not have the call that was waited for. Close what is open; the turn goes on without it."""
    return replace(lost_for_good(state, at, totals, end), wanted=True)


def closed_in_transcript(state: SessionState, tool_use_ids: frozenset[str]) -> Step:
    """The worker wrote these results into the transcript."""
    rest = tuple(u for u in state.unclosed if u.tool_use_id not in tool_use_ids)
    return Step(state.model_copy(update={"unclosed": rest}))


def request_started(state: SessionState, at: Moment, event: Event) -> Step:
    turn = state.turn.model_copy(update={"requests": state.turn.requests + 1}) if state.turn else None
    state = state.model_copy(update={"open_request": event.id, "turn": turn})
    if state.status != "rescheduling":
        return Step(state, (event,))
    state, running = go_running(state, at)
    return Step(state, (*running, event))


def request_ended(state: SessionState, event: Event) -> Step:
    return Step(state.model_copy(update={"open_request": None}), (event,))


def call_announced(state: SessionState, event: Event, call: OpenCall) -> Step:
    """A tool call becomes visible. Known calls are not announced twice (a resumed run repeats them)."""
    known = {c.tool_use_id for c in state.calls}
    if call.tool_use_id in known:
        return Step(state)
    return Step(state.model_copy(update={"calls": (*state.calls, call)}), (event,))


def call_started(state: SessionState, tool_use_id: str) -> Step:
    calls = tuple(c.model_copy(update={"started": True}) if c.tool_use_id == tool_use_id else c for c in state.calls)
    return Step(state.model_copy(update={"calls": calls}))


def call_finished(state: SessionState, at: Moment, tool_use_id: str, content: Sequence[Body], is_error: bool) -> Step:
    """The harness reports the result of a call. Results of calls that are closed already are dropped."""
    call = next((c for c in state.calls if c.tool_use_id == tool_use_id), None)
    if call is None:
        return Step(state)
    state = settle(state, call)
    if call.kind in ("builtin", "mcp"):
        return Step(state, (result_event(at, call, content, is_error),))
    if call.answer is not None:
        return Step(state)
    # A person refused it; or the harness did, before it asked anybody, for an input that the tool's schema forbids.
    return Step(state, (result_event(at, call, content, True),))


def compacted(state: SessionState, at: Moment, boundary: str) -> Step:
    """The context was compacted, which the transcript says at the entry `boundary`. Told once."""
    if state.boundary == boundary:
        return Step(state)
    return Step(state.model_copy(update={"boundary": boundary}), (ev.context_compacted(at.text),))


def rescheduled(state: SessionState, at: Moment, error: Event) -> Step:
    """The upstream failed in a way that passes; the harness tries again by itself."""
    state, spans = close_request(state, at)
    if state.status == "rescheduling":
        return Step(state, (*spans, error))
    state = state.model_copy(
        update={"status": "rescheduling", "active_seconds": active_seconds(state, at.unix), "running_since": None}
    )
    waiting = [
        ev.status_rescheduled(at.text),
        ev.thread_status(at.text, "rescheduled", state.thread_id, state.agent_name),
    ]
    return Step(state, (*spans, error, *waiting))


def waits_for_model(state: SessionState, at: Moment, error: Event) -> Step:
    """A model request waits before it is asked again. While another one of the turn is being answered, that is all."""
    if state.turn is None or state.status not in ("running", "rescheduling"):
        return Step(state)
    if state.open_request is not None:
        return Step(state, (error,))
    return rescheduled(state, at, error)


def goes_on(state: SessionState, at: Moment) -> Step:
    """No model request waits any more."""
    if state.turn is None or state.status != "rescheduling":
        return Step(state)
    state, running = go_running(state, at)
    return Step(state, tuple(running))


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run of the harness ended."""

    how: Literal["completed", "deferred", "interrupted", "failed", "refused", "lost", "capped"]
    """lost: the process went away in the middle; the turn is not over. capped: stopped by the budget; not over either.
    """
    error: ev.ErrorType = "unknown_error"
    message: str = ""
    details: Body | None = None
    """With `refused`: the wire's stop details."""
    limit: ev.Limit | None = None
    """With `failed`: the limit that ended it."""
    short: Short | None = None
    """With `capped`: which budget, and what it lacks."""
    closed_by_harness: bool = False
    """True: the harness is alive and has ended the open calls in its transcript by itself."""
    untold: bool = False
    """True: the model was never shown what the turn is about. The next message takes it along."""


def run_ended(state: SessionState, at: Moment, totals: Totals, end: RunEnd) -> Step:
    """The harness has stopped running this turn. Ends in idle, or goes straight on when everything is answered."""
    turn = state.turn
    if turn is None:
        return Step(state, wanted=False)
    if end.how == "lost":
        return Step(state, (ev.error(at.text, end.error, end.message, "retrying"),), wanted=True)
    if state.status == "rescheduling":
        state = state.model_copy(update={"status": "running", "running_since": at.unix})
    events: list[Event] = []
    if state.interrupt is not None:
        events.append(processed(state.interrupt.body, at))
        state = state.model_copy(update={"interrupt": None})
        end = RunEnd("interrupted", closed_by_harness=end.closed_by_harness, untold=end.untold)
    state, spans = close_request(state, at)
    events += spans
    if end.how == "deferred":
        return _deferred(state, at, totals, turn, events)
    if end.how == "failed":
        events.append(ev.error(at.text, end.error, end.message, "exhausted", end.limit))
    state, closing = close_calls(state, at, in_transcript=end.closed_by_harness)
    events += closing
    if end.how == "capped":
        return _paused(state, at, totals, turn, events, end)
    stop = {"failed": RETRIES_EXHAUSTED, "refused": REFUSAL}.get(end.how, END_TURN)
    unsent = turn.prompts if turn.phase == "fresh" or end.untold else ()
    if end.how == "failed" and state.queue:
        events += [processed(queued.body, at) for queued in state.queue]
        unsent = (*unsent, *(prompt_of(queued.body, queued.trace) for queued in state.queue))
        state = state.model_copy(update={"queue": ()})
    state = state.model_copy(update={"turn": None, "unsent": unsent})
    state, idle = go_idle(state, at, totals, stop, end.details if end.how == "refused" else None)
    state, following = start_queued(state, at)
    return Step(state, (*events, *idle, *following), wanted=bool(following))


def _paused(state: SessionState, at: Moment, totals: Totals, turn: Turn, events: list[Event], end: RunEnd) -> Step:
    """The run stopped before a model request that the budget has no room for. A run that did not stop by itself leaves
    the turn as a lost process does: whoever goes on must look first how far it came."""
    phase = "paused" if end.closed_by_harness else "handed"
    update = {"phase": phase, "pauses": turn.pauses + 1, "short": end.short}
    state = state.model_copy(update={"turn": turn.model_copy(update=update)})
    if not _waits(totals, end.short):  # raised while the run was being stopped
        return Step(state, tuple(events), wanted=True)
    state, idle = go_idle(state, at, totals, BUDGET_REACHED)
    return Step(state, (*events, *idle), wanted=False)


def budget_changed(state: SessionState, at: Moment, totals: Totals) -> Step:
    """The budget was raised or removed: a turn that waits for that goes on. `totals`: with the new budget."""
    if not is_paused(state) or state.turn is None or _waits(totals, state.turn.short):
        return Step(state)
    state = state.model_copy(update={"turn": state.turn.model_copy(update={"short": None})})
    state, events = go_running(state, at)
    return Step(state, tuple(events), wanted=True)


def _waits(totals: Totals, short: Short | None) -> bool:
    """Whether a budget has no room, its own or another that its last request lacked something of."""
    return totals.capped or (short is not None and totals.lacks(short))


def _deferred(state: SessionState, at: Moment, totals: Totals, turn: Turn, events: list[Event]) -> Step:
    if not unanswered(state):
        ready = turn.model_copy(update={"phase": "ready"})
        return Step(state.model_copy(update={"turn": ready}), tuple(events), wanted=True)
    blocked = turn.model_copy(update={"phase": "blocked"})
    state, idle = go_idle(state.model_copy(update={"turn": blocked}), at, totals, requires_action(state))
    return Step(state, (*events, *idle), wanted=False)
