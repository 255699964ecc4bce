"""What follows from what a client sends? Messages, interrupts, answers, and the end of a session.

Pure, like `engine.state`, whose values and building blocks it uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hostler.domain import events as ev
from hostler.domain.errors import Conflict, InvalidRequest
from hostler.domain.events import Body, Event
from hostler.domain.ids import new_id
from hostler.engine.state import (
    END_TURN,
    QUEUE_LIMIT,
    Answer,
    Ask,
    Moment,
    OpenCall,
    Queued,
    SessionState,
    Short,
    Step,
    Totals,
    close_calls,
    digest,
    go_idle,
    go_running,
    is_paused,
    processed,
    requires_action,
    start_compaction,
    start_queued,
    start_turn,
    unanswered,
)
from hostler.engine.turns import RunEnd, run_ended
from hostler.store.budgets import NANOS_OF_A_CENT


def submit(
    state: SessionState, at: Moment, totals: Totals, bodies: Sequence[Mapping[str, Any]], trace: str = ""
) -> Step:
    """Input from a client, all or nothing. `bodies` are validated wire events without `id` and `processed_at`.

    `trace` is the context that they came with (`traceparent`): what follows from them goes on with it.

    Raises InvalidRequest when any of them can't be accepted in this state.
    """
    if state.status == "terminated":
        raise InvalidRequest("This session is archived; it accepts no more events. Create a new session.")
    if totals.capped or is_paused(state):
        _refuse_at_cap(bodies, None if state.turn is None else state.turn.short)
    stamped = [{"id": new_id("sevt"), **body, "processed_at": None} for body in bodies]
    step = Step(state)
    index = 0
    while index < len(stamped):
        body = stamped[index]
        match body["type"]:
            case "user.message":
                run = [body]
                while index + len(run) < len(stamped) and stamped[index + len(run)]["type"] == "user.message":
                    run.append(stamped[index + len(run)])
                step = _message(step, at, run, trace)
                index += len(run)
            case "user.interrupt":
                step = _interrupt(step, at, totals, body)
                index += 1
            case "user.tool_result" if not state.self_hosted:
                raise InvalidRequest(
                    f"events[{index}]: user.tool_result is for self_hosted environments; "
                    "in a cloud environment the built-in tools run in the session's own sandbox."
                )
            case "user.tool_confirmation" | "user.custom_tool_result" | "user.tool_result":
                step = _answer(step, at, body, trace)
                index += 1
            case other:
                raise InvalidRequest(f"events[{index}]: {other} is not supported by this server yet.")
    return _after_answers(state, step, at, totals)


def compact(state: SessionState, at: Moment, totals: Totals, ask: Ask) -> Step:
    """The context is to be compacted: at once, or when the turn under way has ended.

    Raises InvalidRequest when the session takes nothing more, Conflict when a compaction waits or runs already.
    """
    if state.status == "terminated":
        raise InvalidRequest("This session is archived and can't be compacted.")
    if totals.capped or is_paused(state):
        raise InvalidRequest(
            "The budget of this session is used up, and a compaction costs a model request. Raise or remove the budget "
            "by updating the session, then ask again."
        )
    waiting = state.ask or (state.turn.ask if state.turn is not None else None)
    if waiting is not None:
        raise Conflict(f"The compaction {waiting.id} of this session waits or runs already; wait for its end.")
    if state.turn is not None:
        return Step(state.model_copy(update={"ask": ask}))
    state, events = start_compaction(state, at, ask)
    return Step(state, tuple(events), wanted=True)


_AT_CAP = frozenset({"user.tool_confirmation", "user.tool_result", "user.custom_tool_result", "user.interrupt"})


def _refuse_at_cap(bodies: Sequence[Mapping[str, Any]], short: Short | None) -> None:
    """`short`: what the turn that waits lacks. None: the session's own budget is spent."""
    if short is None:
        why, how = "the budget of this session is used up", "Raise or remove the budget by updating the session"
    else:
        cents = -(-short.needs // NANOS_OF_A_CENT)
        why = f"the next model request needs {cents} cents, which the budget of this {short.scope} has not left"
        how = "Raise or remove it"
    for index, body in enumerate(bodies):
        if body["type"] not in _AT_CAP:
            raise InvalidRequest(
                f"events[{index}]: {why}, so the session takes only answers to tool calls and user.interrupt. "
                f"{how}, then send it again."
            )


def _with(
    step: Step, state: SessionState, events: Sequence[Event], replies: Sequence[Event | str], **more: Any
) -> Step:
    return Step(
        state,
        (*step.events, *events),
        more.get("wanted", step.wanted),
        (*step.replies, *replies),
        (*step.queued, *more.get("queued", ())),
    )


def _message(step: Step, at: Moment, messages: Sequence[Body], trace: str) -> Step:
    state = step.state
    if state.turn is None:
        state, events = start_turn(state, at, messages, trace)
        return _with(step, state, events, events[: len(messages)], wanted=True)
    if len(state.queue) + len(messages) > QUEUE_LIMIT:
        raise InvalidRequest(f"{QUEUE_LIMIT} messages already wait in this session; wait for it to become idle.")
    state = state.model_copy(update={"queue": (*state.queue, *(Queued(body=m, trace=trace) for m in messages))})
    waiting = [Event(m) for m in messages]
    return _with(step, state, (), waiting, queued=waiting)


def _interrupt(step: Step, at: Moment, totals: Totals, body: Body) -> Step:
    state = step.state
    thread = body.get("session_thread_id")
    if thread is not None and thread != state.thread_id:
        raise InvalidRequest(f"session_thread_id {thread} is not a thread of this session.")
    if state.turn is not None and state.turn.phase in ("fresh", "ready") and state.turn.ask is None:
        # No worker has taken it up, and while it waits for a place none will: it ends here and now.
        ended = run_ended(state.model_copy(update={"interrupt": Queued(body=body)}), at, totals, RunEnd("interrupted"))
        return _with(step, ended.state, ended.events, ended.events[:1], wanted=ended.wanted)
    if state.turn is not None and state.turn.phase in ("fresh", "handed", "ready"):
        if state.interrupt is not None:
            return _with(step, state, (), [Event(state.interrupt.body)])
        state = state.model_copy(update={"interrupt": Queued(body=body)})
        return _with(step, state, (), [Event(body)], wanted=True)
    event = processed(body, at)
    if is_paused(state):  # nothing runs, and the turn is to go on when the budget allows it: accepted, without effect
        return _with(step, state, (), [event])
    state, closing = close_calls(state, at)
    state, idle = go_idle(state.model_copy(update={"turn": None}), at, totals, END_TURN)
    state, following = start_queued(state, at)
    return _with(step, state, [event, *closing, *idle, *following], [event], wanted=True if following else step.wanted)


_WAITS_FOR = {
    "builtin": "user.tool_confirmation",
    "mcp": "user.tool_confirmation",
    "custom": "user.custom_tool_result",
    "hosted": "user.tool_result",
}


def _answer(step: Step, at: Moment, body: Body, trace: str) -> Step:
    """A verdict or a result. Taken once; the same again is the same event, anything else for that call is refused."""
    state = step.state
    kind = str(body["type"])
    key = "custom_tool_use_id" if kind == "user.custom_tool_result" else "tool_use_id"
    target = str(body[key])
    event = processed({k: v for k, v in body.items() if v is not None or k == "processed_at"}, at)
    answer = Answer(
        event_id=event.id,
        allow=kind != "user.tool_confirmation" or body["result"] == "allow",
        message=body.get("deny_message"),
        content=tuple(body.get("content") or ()),
        is_error=bool(body.get("is_error")),
        trace=trace,
    )
    call = next((c for c in state.calls if c.event_id == target), None)
    past = next((s for s in state.settled if s.event_id == target), None)
    as_verdict = kind == "user.tool_confirmation" and (
        (call is not None and call.kind == "hosted") or (past is not None and past.verdict_digest is not None)
    )
    earlier = (call.verdict if as_verdict else call.answer) if call else None
    known_id, known_digest = (earlier.event_id, digest(earlier)) if earlier else (None, None)
    if past is not None:
        known_id, known_digest = (
            (past.verdict_event_id, past.verdict_digest) if as_verdict else (past.answer_event_id, past.digest)
        )
    if known_digest is not None and known_digest == digest(answer):
        return _with(step, state, (), [str(known_id)])
    if earlier or past or (call is not None and call.denied):
        raise InvalidRequest(f"{key} {target} already has its answer.")
    if call is None:
        raise InvalidRequest(f"{key} {target} names no waiting tool call of this session.")
    if as_verdict and call.asks:
        return _with(step, _changed(state, call.model_copy(update={"verdict": answer})), [event], [event])
    wanted = _WAITS_FOR[call.kind]
    if not call.gated or wanted != kind:
        hint = f"answer it with {wanted}" if call.gated else "it waits for nobody"
        raise InvalidRequest(f"{key} {target} can't be answered with {kind}: {hint}.")
    if call.asks and call.verdict is None:
        raise InvalidRequest(
            f"{key} {target} must be allowed first: send user.tool_confirmation, and run the tool only after that."
        )
    return _with(step, _changed(state, call.model_copy(update={"answer": answer})), [event], [event])


def _changed(state: SessionState, call: OpenCall) -> SessionState:
    calls = tuple(call if c.event_id == call.event_id else c for c in state.calls)
    return state.model_copy(update={"calls": calls})


def _after_answers(before: SessionState, step: Step, at: Moment, totals: Totals) -> Step:
    """A blocked turn with new answers: go on when all are there, else say again what is missing."""
    state = step.state
    turn = state.turn
    if turn is None or turn.phase != "blocked" or unanswered(state) == unanswered(before):
        return step
    if unanswered(state):
        state, events = go_idle(state, at, totals, requires_action(state))
        return _with(step, state, events, ())
    state, events = go_running(state.model_copy(update={"turn": turn.model_copy(update={"phase": "ready"})}), at)
    return _with(step, state, events, (), wanted=True)


def archive(state: SessionState, at: Moment) -> Step:
    """No more turns. Raises InvalidRequest while one runs."""
    if state.status == "terminated":
        return Step(state)
    refuse_while_running(state, "archived")
    state, closing = close_calls(state, at)
    state = state.model_copy(
        update={"status": "terminated", "turn": None, "queue": (), "ask": None, "interrupt": None, "stop_reason": None}
    )
    events = (
        *closing,
        ev.thread_status(at.text, "terminated", state.thread_id, state.agent_name),
        ev.status_terminated(at.text),
    )
    return Step(state, events, wanted=False)


def refuse_while_running(state: SessionState, what: str) -> None:
    if state.status in ("running", "rescheduling"):
        raise InvalidRequest(
            f"This session is {state.status} and can't be {what} now. "
            "Send user.interrupt, wait for session.status_idle, then try again."
        )
