"""What is a session doing? The values of the pure state machine, and the steps that its transitions are made of.

A transition takes the state and a happening and gives the next state with the events to record: `engine.inputs` for
what clients send, `engine.turns` for what workers report. No clock, no I/O. The caller runs it inside the transaction
that appends the events, so state and log agree.

    idle ──message──► running ──run ends──► idle(end_turn | retries_exhausted | refusal)
                        ▲  │ gated call
                        │  ▼
                        └─ idle(requires_action) ◄──┐ partial answer: idle again with the remainder
                     all answered ──────────────────┘

    running ──budget used up──► idle(budget_reached) ──budget raised or removed──► running
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hostler.domain import events as ev
from hostler.domain.events import Body, Event, StopReason
from hostler.domain.ids import new_id

ANSWERS_KEPT = 512
"""How many settled calls a session remembers, to recognise a repeated answer. An answer older than that is refused."""

QUEUE_LIMIT = 1000
"""Most inputs that may wait in one session."""

END_TURN: StopReason = {"type": "end_turn"}
RETRIES_EXHAUSTED: StopReason = {"type": "retries_exhausted"}
REFUSAL: StopReason = {"type": "refusal"}
BUDGET_REACHED: StopReason = {"type": "budget_reached"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Frozen):
    """What came back for a call: a person's verdict, or a client's result."""

    event_id: str
    allow: bool = True
    message: str | None = None
    content: tuple[dict[str, Any], ...] = ()
    is_error: bool = False
    trace: str = ""
    """Context of the trace that it came with (`traceparent`); empty: of none."""


class OpenCall(_Frozen):
    """A tool call that was announced and has no result yet."""

    event_id: str
    tool_use_id: str
    kind: Literal["builtin", "custom", "hosted", "mcp"]
    """builtin: runs in the session's sandbox · custom: the client runs it · hosted: a built-in tool that a worker of a
    self-hosted environment runs · mcp: a tool of an MCP server."""
    name: str
    """The tool's name as the harness calls it."""
    server: str | None = None
    """With `mcp`: the alias of the server."""
    input_digest: str = ""
    """With `mcp`: what the call was announced with."""
    gated: bool
    """True: waits for somebody outside before it can run (an `ask` policy, or a custom tool)."""
    started: bool = False
    """True: it may have begun to run, so that after a crash its outcome is unknown."""
    asks: bool = False
    """Of a hosted call: a person must allow it before a worker may run it. For the others `gated` says so."""
    announced_at: float | None = None
    """Unix time; with the two that follow for the audit log, which hears of the call when it has ended."""
    started_at: float | None = None
    input_sha256: str = ""
    verdict: Answer | None = None
    """Of a hosted call that asks: what the person said. A worker's result is the answer."""
    answer: Answer | None = None

    @property
    def denied(self) -> bool:
        """A person said no: nobody will run it."""
        return any(said is not None and not said.allow for said in (self.verdict, self.answer))


class Settled(_Frozen):
    """A call that has its end. `answer_event_id` is None when nobody answered it (it was interrupted)."""

    event_id: str
    tool_use_id: str = ""
    answer_event_id: str | None = None
    digest: str | None = None
    verdict_event_id: str | None = None
    verdict_digest: str | None = None


class Prompt(_Frozen):
    event_id: str
    content: tuple[dict[str, Any], ...]
    trace: str = ""
    """Context of the trace that it came with (`traceparent`); empty: of none."""


class Ask(_Frozen):
    """A compaction that somebody asked for: a person, or the agent's schedule."""

    id: str
    """`cmpn_…`, of its row."""
    trigger: Literal["manual", "scheduled"]
    instructions: str | None = None
    trace: str = ""
    """As of a prompt."""


class Short(_Frozen):
    """Which budget had no room for a model request, and how much there has to be before it is worth trying again."""

    budget: str
    """`bdgt_…`"""
    scope: Literal["session", "agent", "workspace"]
    needs: int
    """Billionths of a dollar."""


class Turn(_Frozen):
    """From input to idle. `phase` says what a worker that finds it must do."""

    id: str
    prompts: tuple[Prompt, ...]
    phase: Literal["fresh", "handed", "blocked", "ready", "paused"] = "fresh"
    """fresh: not begun · handed: a worker runs it · blocked: waits for answers · ready: answered, go on ·
    paused: its run was stopped in the middle because the budget was used up."""
    requests: int = 0
    """Model requests so far."""
    recoveries: int = 0
    """How often it was taken up again after its worker or process died."""
    pauses: int = 0
    """How often its run was stopped by the budget."""
    short: Short | None = None
    """With `paused` or `handed`: what its next request lacked when its run was stopped."""
    ask: Ask | None = None
    """Set: there are no prompts; the context is compacted, and that is all."""
    waits: bool = False
    """The session has said that the turn waits for a place."""


class Queued(_Frozen):
    """Input that waits for its moment: the wire event, still without `processed_at`."""

    body: dict[str, Any]
    trace: str = ""
    """As of a prompt."""


class Unclosed(_Frozen):
    """A call that is closed here and still open in the harness's transcript, with what it is to get there."""

    tool_use_id: str
    text: str
    """Of an error, when there is no `content`."""
    content: tuple[dict[str, Any], ...] | None = None
    """What a client or a worker has sent for it. The files in it are still references."""
    is_error: bool = True


class SessionState(_Frozen):
    """All that the engine must know of a session, besides its log. Stored as JSON beside the log."""

    version: Literal[1] = 1
    thread_id: str
    agent_name: str
    self_hosted: bool = False
    """True: the built-in tools run on machines of the user's own."""
    stays: bool = False
    """True: a worker is wanted between turns, too, for the process is to stay."""
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
    ask: Ask | None = None
    """A compaction that waits for the turn to end."""
    boundary: str | None = None
    """Where the transcript was compacted last, as the log has told it: the uuid of that entry."""
    open_request: str | None = None
    """Id of the `span.model_request_start` that has no end yet."""
    active_seconds: float = 0.0
    running_since: float | None = None
    """Unix time at which the status last became running."""
    first_running_at: float | None = None
    """Unix time of the first transition to running; None when it never ran."""

    @property
    def stands_by(self) -> bool:
        """Nothing is to be done, and a process is to be there all the same."""
        return self.stays and self.status == "idle" and self.turn is None


@dataclass(frozen=True, slots=True)
class Moment:
    """When a happening is recorded: database time, as a number and as the wire writes it."""

    unix: float
    text: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What the session used so far, as the wire shows it, without the running time."""

    usage: Body
    budget: Body | None = None
    capped: bool = False
    """True: the budget is used up, so no more model requests."""
    lacks: Callable[[Short], bool] = lambda short: False
    """Whether a budget still has no room for this, as things are in the transaction."""


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


def go_running(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
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


def go_idle(
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
        ev.usage(at.text, usage_body(following, totals, at), totals.budget),
        ev.status_idle(at.text, stop_reason, details),
    ]


def processed(body: Mapping[str, Any], at: Moment) -> Event:
    return Event({**body, "processed_at": at.text})


def prompt_of(message: Mapping[str, Any], trace: str) -> Prompt:
    return Prompt(event_id=str(message["id"]), content=tuple(message["content"]), trace=trace)


def start_turn(
    state: SessionState, at: Moment, messages: Sequence[Mapping[str, Any]], trace: str = ""
) -> tuple[SessionState, list[Event]]:
    """`trace`: the context that they came with (`traceparent`)."""
    prompts = tuple(prompt_of(m, trace) for m in messages)
    turn = Turn(id=new_id("turn"), prompts=(*state.unsent, *prompts))
    following, events = go_running(state.model_copy(update={"turn": turn, "unsent": ()}), at)
    return following, [*(processed(m, at) for m in messages), *events]


def start_queued(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
    """Take the oldest waiting message as the next turn, or else the compaction that waits. The state must be idle,
    without a turn."""
    if not state.queue:
        return (state, []) if state.ask is None else start_compaction(state, at, state.ask)
    first, *rest = state.queue
    return start_turn(state.model_copy(update={"queue": tuple(rest)}), at, [first.body], first.trace)


def start_compaction(state: SessionState, at: Moment, ask: Ask) -> tuple[SessionState, list[Event]]:
    """A turn that only compacts. The state must have no turn."""
    turn = Turn(id=new_id("turn"), prompts=(), ask=ask)
    return go_running(state.model_copy(update={"turn": turn, "ask": None}), at)


def unanswered(state: SessionState) -> tuple[OpenCall, ...]:
    """The calls that wait for somebody outside."""
    return tuple(call for call in state.calls if call.gated and call.answer is None and not call.denied)


def for_workers(state: SessionState) -> frozenset[str]:
    """The calls that a worker of a self-hosted environment could run now, by event id."""
    return frozenset(
        call.event_id
        for call in unanswered(state)
        if call.kind == "hosted" and (call.verdict is not None or not call.asks)
    )


def requires_action(state: SessionState) -> StopReason:
    return {"type": "requires_action", "event_ids": [call.event_id for call in unanswered(state)]}


def waits_for_people(state: SessionState) -> tuple[OpenCall, ...]:
    """The calls that keep the session idle until a person, or a client, has answered them. Workers' calls do not."""
    stopped = state.stop_reason is not None and state.stop_reason["type"] == "requires_action"
    if not stopped or state.status != "idle":
        return ()
    of_workers = for_workers(state)
    return tuple(call for call in unanswered(state) if call.event_id not in of_workers)


def is_paused(state: SessionState) -> bool:
    """True: idle in the middle of a turn, until the budget is raised or removed."""
    return state.status == "idle" and state.turn is not None and state.stop_reason == BUDGET_REACHED


def settle(state: SessionState, call: OpenCall) -> SessionState:
    answer, verdict = call.answer, call.verdict
    settled = Settled(
        event_id=call.event_id,
        tool_use_id=call.tool_use_id,
        answer_event_id=answer.event_id if answer else None,
        digest=digest(answer) if answer else None,
        verdict_event_id=verdict.event_id if verdict else None,
        verdict_digest=digest(verdict) if verdict else None,
    )
    return state.model_copy(
        update={
            "calls": tuple(c for c in state.calls if c.event_id != call.event_id),
            "settled": (*state.settled, settled)[-ANSWERS_KEPT:],
        }
    )


def digest(answer: Answer) -> str:
    return ev.to_text(answer.model_dump(exclude={"event_id", "trace"}))


def close_calls(
    state: SessionState, at: Moment, *, lost: bool = False, in_transcript: bool = False
) -> tuple[SessionState, list[Event]]:
    """End every open call with an error result, in the log and (unless it is there already) in the transcript.

    `lost`: the process went away, so that nobody knows what became of the calls that had begun. Those that run
    elsewhere and were answered already keep their answer.
    """
    events: list[Event] = []
    unclosed = list(state.unclosed)
    for call in state.calls:
        known = call.answer if lost and call.kind in ("custom", "hosted") else None
        if known is not None:
            kept = Unclosed(tool_use_id=call.tool_use_id, text="", content=known.content, is_error=known.is_error)
            unclosed.append(kept)
            state = settle(state, call)
            continue
        text = ev.OUTCOME_UNKNOWN if lost and call.started else ev.INTERRUPTED
        if not in_transcript:
            unclosed.append(Unclosed(tool_use_id=call.tool_use_id, text=text))
        if call.kind in ("builtin", "mcp") or call.answer is None:
            events.append(result_event(at, call, [ev.text_block(text)], True))
        state = settle(state, call.model_copy(update={"answer": None, "verdict": None}))
    return state.model_copy(update={"unclosed": tuple(unclosed)}), events


def result_event(at: Moment, call: OpenCall, content: Sequence[Body], is_error: bool) -> Event:
    """The result of a call that nobody outside sent: of the sandbox, or of an end without one.

    Clients and workers take a call for answered when they see the kind of result that they would have sent
    themselves. A worker that finds an interrupted `bash` closed by anything else runs it again.
    """
    match call.kind:
        case "builtin":
            return ev.agent_tool_result(at.text, call.event_id, content, is_error)
        case "custom":
            return ev.custom_tool_result(at.text, call.event_id, content, is_error)
        case "mcp":
            return ev.agent_mcp_tool_result(at.text, call.event_id, content, is_error)
        case "hosted":
            return ev.user_tool_result(at.text, call.event_id, content, is_error)


def close_request(state: SessionState, at: Moment) -> tuple[SessionState, list[Event]]:
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
