"""What is a session doing, and what follows from what happens to it?

The pure state machine: every function takes the state and a happening and returns the next state with the events to
record. No clock, no I/O. The caller runs it inside the transaction that appends the events, so state and log agree.

    idle ──message──► running ──run ends──► idle(end_turn | retries_exhausted | refusal)
                        ▲  │ gated call
                        │  ▼
                        └─ idle(requires_action) ◄──┐ partial answer: idle again with the remainder
                     all answered ──────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hostler.domain import events as ev
from hostler.domain.errors import InvalidRequest
from hostler.domain.events import Body, Event, StopReason
from hostler.domain.ids import new_id

ANSWERS_KEPT = 512
"""How many settled calls a session remembers, to recognise a repeated answer. An answer older than that is refused."""

QUEUE_LIMIT = 1000
"""Most inputs that may wait in one session."""

END_TURN: StopReason = {"type": "end_turn"}
RETRIES_EXHAUSTED: StopReason = {"type": "retries_exhausted"}
REFUSAL: StopReason = {"type": "refusal"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Frozen):
    """What came back for a call: a person's verdict, or a client's result."""

    event_id: str
    allow: bool = True
    message: str | None = None
    content: tuple[dict[str, Any], ...] = ()
    is_error: bool = False


class OpenCall(_Frozen):
    """A tool call that was announced and has no result yet."""

    event_id: str
    tool_use_id: str
    kind: Literal["builtin", "custom"]
    name: str
    gated: bool
    """True: waits for somebody outside before it can run (an `ask` policy, or a custom tool)."""
    started: bool = False
    """True: it may have begun to run, so that after a crash its outcome is unknown."""
    answer: Answer | None = None


class Settled(_Frozen):
    """A call that has its end. `answer_event_id` is None when nobody answered it (it was interrupted)."""

    event_id: str
    tool_use_id: str = ""
    answer_event_id: str | None = None
    digest: str | None = None


class Prompt(_Frozen):
    event_id: str
    content: tuple[dict[str, Any], ...]


class Turn(_Frozen):
    """From input to idle. `phase` says what a worker that finds it must do."""

    id: str
    prompts: tuple[Prompt, ...]
    phase: Literal["fresh", "handed", "blocked", "ready"] = "fresh"
    """fresh: not begun · handed: a worker runs it · blocked: waits for answers · ready: answered, go on."""
    requests: int = 0
    """Model requests so far."""
    recoveries: int = 0
    """How often it was taken up again after its worker or process died."""


class Queued(_Frozen):
    """Input that waits for its moment: the wire event, still without `processed_at`."""

    body: dict[str, Any]


class Unclosed(_Frozen):
    """A call that is closed here and still open in the harness's transcript, with the text it is to get there."""

    tool_use_id: str
    text: str


class SessionState(_Frozen):
    """All that the engine must know of a session, besides its log. Stored as JSON beside the log."""

    version: Literal[1] = 1
    thread_id: str
    agent_name: str
    status: Literal["idle", "running", "rescheduling", "terminated"] = "idle"
    stop_reason: dict[str, Any] | None = None
    turn: Turn | None = None
    calls: tuple[OpenCall, ...] = ()
    settled: tuple[Settled, ...] = ()
    queue: tuple[Queued, ...] = ()
    unsent: tuple[Prompt, ...] = ()
    """Prompts in the log that no run was given (stopped before it began); the next turn takes them along."""
    interrupt: Queued | None = None
    unclosed: tuple[Unclosed, ...] = ()
    open_request: str | None = None
    """Id of the `span.model_request_start` that has no end yet."""
    active_seconds: float = 0.0
    running_since: float | None = None
    """Unix time at which the status last became running."""
    first_running_at: float | None = None
    """Unix time of the first transition to running; None when it never ran."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a happening is recorded: database time, as a number and as the wire writes it."""

    unix: float
    text: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What the session used so far, as the wire shows it, without the running time."""

    usage: Body


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: the next state, what to record, whether a worker is needed, and what to answer the sender."""

    state: SessionState
    events: tuple[Event, ...] = ()
    wanted: bool | None = None
    """True: a worker must act · False: nothing to do until something happens · None: as before."""
    replies: tuple[Event | str, ...] = ()
    """For each submitted event, in order: the event, or the id of the recorded one that this one repeats."""
    queued: tuple[Event, ...] = ()
    """Input that was accepted and waits; shown to stream readers without a sequence number."""


# ------------------------------------------------------------------------------------------------- building blocks


def usage_body(state: SessionState, totals: Totals, at: Moment) -> Body:
    return {**totals.usage, "active_seconds": round(active_seconds(state, at.unix), 3)}


def active_seconds(state: SessionState, now: float) -> float:
    running = now - state.running_since if state.running_since is not None else 0.0
    return state.active_seconds + max(0.0, running)


def _go_running(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
    following = state.model_copy(
        update={
            "status": "running",
            "stop_reason": None,
            "running_since": at.unix,
            "first_running_at": state.first_running_at if state.first_running_at is not None else at.unix,
        }
    )
    return following, [
        ev.status_running(at.text),
        ev.thread_status(at.text, "running", state.thread_id, state.agent_name),
    ]


def _go_idle(
    state: SessionState, at: Moment, totals: Totals, stop_reason: StopReason, details: Body | None = None
) -> tuple[SessionState, list[Event]]:
    following = state.model_copy(
        update={
            "status": "idle",
            "stop_reason": stop_reason,
            "active_seconds": active_seconds(state, at.unix),
            "running_since": None,
        }
    )
    return following, [
        ev.thread_idle(at.text, state.thread_id, state.agent_name, stop_reason, details),
        ev.usage(at.text, usage_body(following, totals, at)),
        ev.status_idle(at.text, stop_reason, details),
    ]


def _processed(body: Mapping[str, Any], at: Moment) -> Event:
    return Event({**body, "processed_at": at.text})


def _prompt(message: Mapping[str, Any]) -> Prompt:
    return Prompt(event_id=str(message["id"]), content=tuple(message["content"]))


def _start_turn(
    state: SessionState, at: Moment, messages: Sequence[Mapping[str, Any]]
) -> tuple[SessionState, list[Event]]:
    prompts = tuple(_prompt(m) for m in messages)
    turn = Turn(id=new_id("turn"), prompts=(*state.unsent, *prompts))
    following, events = _go_running(state.model_copy(update={"turn": turn, "unsent": ()}), at)
    return following, [*(_processed(m, at) for m in messages), *events]


def _start_queued(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
    """Take the oldest waiting message as the next turn. The state must be idle, without a turn."""
    if not state.queue:
        return state, []
    first, *rest = state.queue
    return _start_turn(state.model_copy(update={"queue": tuple(rest)}), at, [first.body])


def unanswered(state: SessionState) -> tuple[OpenCall, ...]:
    return tuple(call for call in state.calls if call.gated and call.answer is None)


def _requires_action(state: SessionState) -> StopReason:
    return {"type": "requires_action", "event_ids": [call.event_id for call in unanswered(state)]}


def _settle(state: SessionState, call: OpenCall) -> SessionState:
    answer = call.answer
    settled = Settled(
        event_id=call.event_id,
        tool_use_id=call.tool_use_id,
        answer_event_id=answer.event_id if answer else None,
        digest=_digest(answer) if answer else None,
    )
    return state.model_copy(
        update={
            "calls": tuple(c for c in state.calls if c.event_id != call.event_id),
            "settled": (*state.settled, settled)[-ANSWERS_KEPT:],
        }
    )


def _digest(answer: Answer) -> str:
    return ev.to_text(answer.model_dump(exclude={"event_id"}))


def _close_calls(
    state: SessionState, at: Moment, *, lost: bool = False, in_transcript: bool = False
) -> tuple[SessionState, list[Event]]:
    """End every open call with an error result, in the log and (unless it is there already) in the transcript.

    `lost`: the process went away, so that nobody knows what became of the calls that had begun.
    """
    events: list[Event] = []
    unclosed = list(state.unclosed)
    for call in state.calls:
        text = ev.OUTCOME_UNKNOWN if lost and call.started else ev.INTERRUPTED
        if not in_transcript:
            unclosed.append(Unclosed(tool_use_id=call.tool_use_id, text=text))
        if call.kind == "builtin":
            events.append(ev.agent_tool_result(at.text, call.event_id, [ev.text_block(text)], True))
        elif call.answer is None:
            events.append(ev.custom_tool_result(at.text, call.event_id, [ev.text_block(text)], True))
        state = _settle(state, call.model_copy(update={"answer": None}))
    return state.model_copy(update={"unclosed": tuple(unclosed)}), events


def _close_request(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
    if state.open_request is None:
        return state, []
    zero = {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    event = ev.request_end(at.text, state.open_request, zero, True)
    return state.model_copy(update={"open_request": None}), [event]


# ------------------------------------------------------------------------------------------------- from the outside


def submit(state: SessionState, at: Moment, totals: Totals, bodies: Sequence[Mapping[str, Any]]) -> Step:
    """Input from a client, all or nothing. `bodies` are validated wire events without `id` and `processed_at`.

    Raises InvalidRequest when any of them can't be accepted in this state.
    """
    if state.status == "terminated":
        raise InvalidRequest("This session is archived; it accepts no more events. Create a new session.")
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
                step = _message(step, at, run)
                index += len(run)
            case "user.interrupt":
                step = _interrupt(step, at, totals, body)
                index += 1
            case "user.tool_confirmation" | "user.custom_tool_result":
                step = _answer(step, at, body)
                index += 1
            case "user.tool_result":
                raise InvalidRequest(
                    f"events[{index}]: user.tool_result is for self_hosted environments; "
                    "in a cloud environment the built-in tools run in the session's own sandbox."
                )
            case other:
                raise InvalidRequest(f"events[{index}]: {other} is not supported by this server yet.")
    return _after_answers(state, step, at, totals)


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


def _message(step: Step, at: Moment, messages: Sequence[Body]) -> Step:
    state = step.state
    if state.turn is None:
        state, events = _start_turn(state, at, messages)
        return _with(step, state, events, events[: len(messages)], wanted=True)
    if len(state.queue) + len(messages) > QUEUE_LIMIT:
        raise InvalidRequest(f"{QUEUE_LIMIT} messages already wait in this session; wait for it to become idle.")
    state = state.model_copy(update={"queue": (*state.queue, *(Queued(body=m) for m in messages))})
    waiting = [Event(m) for m in messages]
    return _with(step, state, (), waiting, queued=waiting)


def _interrupt(step: Step, at: Moment, totals: Totals, body: Body) -> Step:
    state = step.state
    thread = body.get("session_thread_id")
    if thread is not None and thread != state.thread_id:
        raise InvalidRequest(f"session_thread_id {thread} is not a thread of this session.")
    if state.turn is not None and state.turn.phase in ("fresh", "handed", "ready"):
        if state.interrupt is not None:
            return _with(step, state, (), [Event(state.interrupt.body)])
        state = state.model_copy(update={"interrupt": Queued(body=body)})
        return _with(step, state, (), [Event(body)], wanted=True)
    event = _processed(body, at)
    state, closing = _close_calls(state, at)
    state, idle = _go_idle(state.model_copy(update={"turn": None}), at, totals, END_TURN)
    state, following = _start_queued(state, at)
    return _with(step, state, [event, *closing, *idle, *following], [event], wanted=True if following else step.wanted)


def _answer(step: Step, at: Moment, body: Body) -> Step:
    state = step.state
    custom = body["type"] == "user.custom_tool_result"
    key = "custom_tool_use_id" if custom else "tool_use_id"
    target = str(body[key])
    event = _processed({k: v for k, v in body.items() if v is not None or k == "processed_at"}, at)
    answer = Answer(
        event_id=event.id,
        allow=custom or body["result"] == "allow",
        message=body.get("deny_message"),
        content=tuple(body.get("content") or ()),
        is_error=bool(body.get("is_error")),
    )
    call = next((c for c in state.calls if c.event_id == target), None)
    earlier = call.answer if call else None
    past = next((s for s in state.settled if s.event_id == target), None)
    if (earlier and _digest(earlier) == _digest(answer)) or (past and past.digest == _digest(answer)):
        known = earlier.event_id if earlier else past.answer_event_id if past else None
        return _with(step, state, (), [str(known)])
    if earlier or past:
        raise InvalidRequest(f"{key} {target} already has its answer.")
    if call is None:
        raise InvalidRequest(f"{key} {target} names no waiting tool call of this session.")
    if not call.gated or (call.kind == "custom") != custom:
        wanted = "user.custom_tool_result" if call.kind == "custom" else "user.tool_confirmation"
        hint = f"answer it with {wanted}" if call.gated else "it waits for nobody"
        raise InvalidRequest(f"{key} {target} can't be answered with {body['type']}: {hint}.")
    answered = call.model_copy(update={"answer": answer})
    calls = tuple(answered if c.event_id == target else c for c in state.calls)
    return _with(step, state.model_copy(update={"calls": calls}), [event], [event])


def _after_answers(before: SessionState, step: Step, at: Moment, totals: Totals) -> Step:
    """A blocked turn with new answers: go on when all are there, else say again what is missing."""
    state = step.state
    turn = state.turn
    if turn is None or turn.phase != "blocked" or unanswered(state) == unanswered(before):
        return step
    if unanswered(state):
        state, events = _go_idle(state, at, totals, _requires_action(state))
        return _with(step, state, events, ())
    state, events = _go_running(state.model_copy(update={"turn": turn.model_copy(update={"phase": "ready"})}), at)
    return _with(step, state, events, (), wanted=True)


def archive(state: SessionState, at: Moment) -> Step:
    """No more turns. Raises InvalidRequest while one runs."""
    if state.status == "terminated":
        return Step(state)
    refuse_while_running(state, "archived")
    state, closing = _close_calls(state, at)
    state = state.model_copy(
        update={"status": "terminated", "turn": None, "queue": (), "interrupt": None, "stop_reason": None}
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


# ------------------------------------------------------------------------------------------------- from the worker


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker has to do next."""

    do: Literal["nothing", "start", "resume", "recover"]
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
    if turn is None or turn.phase == "blocked":
        return Step(state, wanted=False), Plan("nothing")
    if turn.phase == "handed":
        return _recover(state, at, totals, turn)
    begun = turn.model_copy(update={"phase": "handed"})
    do: Literal["start", "resume"] = "start" if turn.phase == "fresh" else "resume"
    return Step(state.model_copy(update={"turn": begun}), wanted=True), Plan(do, begun, state.unclosed)


def _recover(state: SessionState, at: Moment, totals: Totals, turn: Turn) -> tuple[Step, Plan]:
    if turn.recoveries >= MAX_RECOVERIES:
        end = RunEnd("failed", "unknown_error", f"The process of this turn was lost {turn.recoveries + 1} times.")
        step = run_ended(state, at, totals, end)
        following, plan = take_up(step.state, at, totals)
        return Step(following.state, (*step.events, *following.events), following.wanted), plan
    lost = state.calls
    state, spans = _close_request(state, at)
    if lost and not any(call.started for call in lost):  # nothing had begun, so nothing is in doubt
        if unanswered(state):
            begun = turn.model_copy(update={"phase": "blocked"})
            state, idle = _go_idle(state.model_copy(update={"turn": begun}), at, totals, _requires_action(state))
            return Step(state, (*spans, *idle), wanted=False), Plan("nothing")
        begun = turn.model_copy(update={"recoveries": turn.recoveries + 1})
        step = Step(state.model_copy(update={"turn": begun}), tuple(spans), wanted=True)
        return step, Plan("resume", begun, state.unclosed)
    state, closing = _close_calls(state, at, lost=True)
    again = turn.model_copy(update={"recoveries": turn.recoveries + 1})
    state = state.model_copy(update={"turn": again})
    return Step(state, (*spans, *closing), wanted=True), Plan("recover", again, state.unclosed, lost)


def resume_failed(state: SessionState, at: Moment, totals: Totals, end: RunEnd) -> Step:
    """The transcript does not have the call that was waited for. Close what is open; the turn goes on without it."""
    state, closing = _close_calls(state, at, lost=True)
    step = run_ended(state, at, totals, end)
    return Step(step.state, (*closing, *step.events), wanted=True)


def closed_in_transcript(state: SessionState, tool_use_ids: frozenset[str]) -> Step:
    """The worker wrote these results into the transcript."""
    rest = tuple(u for u in state.unclosed if u.tool_use_id not in tool_use_ids)
    return Step(state.model_copy(update={"unclosed": rest}))


def request_started(state: SessionState, at: Moment, event: Event) -> Step:
    turn = state.turn.model_copy(update={"requests": state.turn.requests + 1}) if state.turn else None
    state = state.model_copy(update={"open_request": event.id, "turn": turn})
    if state.status != "rescheduling":
        return Step(state, (event,))
    state, running = _go_running(state, at)
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
    state = _settle(state, call)
    if call.kind == "custom":
        if call.answer is not None:
            return Step(state)
        # The harness refused it before it asked anybody, for an input that the tool's schema forbids.
        return Step(state, (ev.custom_tool_result(at.text, call.event_id, content, True),))
    return Step(state, (ev.agent_tool_result(at.text, call.event_id, content, is_error),))


def rescheduled(state: SessionState, at: Moment, error: Event) -> Step:
    """The upstream failed in a way that passes; the harness tries again by itself."""
    state, spans = _close_request(state, at)
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


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run of the harness ended."""

    how: Literal["completed", "deferred", "interrupted", "failed", "refused", "lost"]
    """lost: the process went away in the middle; the turn is not over."""
    error: ev.ErrorType = "unknown_error"
    message: str = ""
    details: Body | None = None
    """With `refused`: the wire's stop details."""
    closed_by_harness: bool = False
    """True: the harness is alive and has ended the open calls in its transcript by itself."""


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
        events.append(_processed(state.interrupt.body, at))
        state = state.model_copy(update={"interrupt": None})
        end = RunEnd("interrupted", closed_by_harness=end.closed_by_harness)
    state, spans = _close_request(state, at)
    events += spans
    if end.how == "deferred":
        return _deferred(state, at, totals, turn, events)
    if end.how == "failed":
        events.append(ev.error(at.text, end.error, end.message, "exhausted"))
    state, closing = _close_calls(state, at, in_transcript=end.closed_by_harness)
    events += closing
    stop = {"failed": RETRIES_EXHAUSTED, "refused": REFUSAL}.get(end.how, END_TURN)
    unsent = turn.prompts if turn.phase == "fresh" else ()
    if end.how == "failed" and state.queue:
        events += [_processed(queued.body, at) for queued in state.queue]
        unsent = (*unsent, *(_prompt(queued.body) for queued in state.queue))
        state = state.model_copy(update={"queue": ()})
    state = state.model_copy(update={"turn": None, "unsent": unsent})
    state, idle = _go_idle(state, at, totals, stop, end.details if end.how == "refused" else None)
    state, following = _start_queued(state, at)
    return Step(state, (*events, *idle, *following), wanted=bool(following))


def _deferred(state: SessionState, at: Moment, totals: Totals, turn: Turn, events: list[Event]) -> Step:
    if not unanswered(state):
        ready = turn.model_copy(update={"phase": "ready"})
        return Step(state.model_copy(update={"turn": ready}), tuple(events), wanted=True)
    blocked = turn.model_copy(update={"phase": "blocked"})
    state, idle = _go_idle(state.model_copy(update={"turn": blocked}), at, totals, _requires_action(state))
    return Step(state, (*events, *idle), wanted=False)
