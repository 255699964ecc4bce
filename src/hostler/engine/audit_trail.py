"""What does a step of the state machine add to the audit log? Ends of tool calls, approvals, budgets, archiving. Pure.

`Records` asks for every step that it records, and writes the answer in the transaction of the step: whatever the step
is, and whoever made it, nothing of this can happen without its entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hostler.domain.events import INTERRUPTED, OUTCOME_UNKNOWN, Event
from hostler.domain.principals import Actor
from hostler.engine.state import BUDGET_REACHED, Moment, OpenCall, SessionState, Step
from hostler.store.audit import Act
from hostler.store.sessions import KEEP, SessionRow, SessionUpdate

_ANNOUNCES: Final = frozenset({"agent.tool_use", "agent.custom_tool_use", "agent.mcp_tool_use"})
_ENDS: Final = {
    "agent.tool_result": "tool_use_id",
    "agent.mcp_tool_result": "mcp_tool_use_id",
    "user.custom_tool_result": "custom_tool_use_id",
    "user.tool_result": "tool_use_id",
}
_LONGEST_NAME: Final = 128


def stamped(before: SessionState, step: Step, at: Moment) -> Step:
    """The step, with its open calls knowing when they were announced, with which input, and when they may have begun.
    The end of a call is recorded long after that."""
    if step.state.calls == before.calls:
        return step
    inputs = {event.id: event.body.get("input") for event in step.events if event.type in _ANNOUNCES}
    calls = tuple(_stamped(call, inputs.get(call.event_id), at) for call in step.state.calls)
    return replace(step, state=step.state.model_copy(update={"calls": calls}))


def _stamped(call: OpenCall, input_: Any, at: Moment) -> OpenCall:
    update: dict[str, Any] = {}
    if call.announced_at is None:
        update |= {"announced_at": at.unix, "input_sha256": input_sha256(input_)}
    if call.started and call.started_at is None:
        update |= {"started_at": at.unix}
    return call.model_copy(update=update) if update else call


def input_sha256(input_: Any) -> str:
    """SHA-256 of the input of a call as the log has it: JSON with sorted names, without spaces, in UTF-8."""
    text = json.dumps(input_, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def acts(
    before: SessionState,
    step: Step,
    at: Moment,
    session: SessionRow,
    actor: Actor,
    update: SessionUpdate | None,
) -> list[Act]:
    """What is to be written with this step. `session`: before it. `actor`: who asked for it; the session's own doings
    are the session's."""
    found: list[Act] = []
    open_now = {call.event_id for call in step.state.calls}
    ended = [call for call in before.calls if call.event_id not in open_now]
    ends = {str(event.body[_ENDS[event.type]]): event for event in step.events if event.type in _ENDS}
    found += [_call(call, _outcome(call, ends.get(call.event_id)), at, session.id) for call in ended]
    for event in step.events:
        if event.type in _ANNOUNCES and event.id not in open_now:  # begun and ended in one step
            found.append(_unknown_call(event, ends.get(event.id), session.id))
        elif event.type == "user.tool_confirmation":
            found.append(_approval(event, session.id, actor))
    if update is not None and update.budget is not KEEP:
        details = {"before_cents": _cents(session.budget), "after_cents": _cents(update.budget)}
        found.append(Act("budget", "budget.changed", actor, session.id, session.id, details))
    if step.state.stop_reason == BUDGET_REACHED and before.stop_reason != BUDGET_REACHED:
        budget = session.budget if update is None or update.budget is KEEP else update.budget
        details = {"budget_cents": _cents(budget), "used_nanos": session.usage.list_cost_nanos, **_ours(step.state)}
        found.append(Act("budget", "budget.reached", Actor("session", session.id), session.id, session.id, details))
    if step.state.status == "terminated" != before.status:
        found.append(Act("administration", "session.archive", actor, session.id, session.id))
    return found


def abandoned(state: SessionState, at: Moment, session_id: str) -> list[Act]:
    """The calls that never get an end, because their session is deleted."""
    return [_call(call, "deleted", at, session_id) for call in state.calls]


def _call(call: OpenCall, outcome: str, at: Moment, session_id: str) -> Act:
    announced = at.unix if call.announced_at is None else call.announced_at
    waited = (at.unix if call.started_at is None else call.started_at) - announced
    details = {
        "tool": call.name[:_LONGEST_NAME],
        "server": call.server,
        "runs": call.kind,
        "outcome": outcome,
        "duration_ms": round(max(0.0, at.unix - announced) * 1e3, 3),
        "waited_ms": round(max(0.0, waited) * 1e3, 3),
    }
    digests = {"input_digest": call.input_sha256} if call.input_sha256 else {}
    return Act("tool", "tool.call", Actor("session", session_id), call.event_id, session_id, details, digests=digests)


def _unknown_call(event: Event, end: Event | None, session_id: str) -> Act:
    details = {
        "tool": str(event.body["name"])[:_LONGEST_NAME],
        "server": event.body.get("mcp_server_name"),
        "runs": "unknown",
        "outcome": "unknown" if end is None else _said(end),
        "duration_ms": 0.0,
        "waited_ms": 0.0,
    }
    digests = {"input_digest": input_sha256(event.body.get("input"))}
    return Act("tool", "tool.call", Actor("session", session_id), event.id, session_id, details, digests=digests)


def _outcome(call: OpenCall, end: Event | None) -> str:
    """succeeded · failed · denied: a person said no · interrupted · unknown: it may or may not have taken effect."""
    if call.denied:
        return "denied"
    if end is not None:
        return _said(end)
    if call.answer is not None:
        return "failed" if call.answer.is_error else "succeeded"
    return "unknown"


def _said(end: Event) -> str:
    content: Sequence[Mapping[str, Any]] = end.body.get("content") or ()
    text = content[0].get("text") if content else None
    if text == INTERRUPTED:
        return "interrupted"
    if text == OUTCOME_UNKNOWN:
        return "unknown"
    return "failed" if end.body.get("is_error") else "succeeded"


def _approval(event: Event, session_id: str, actor: Actor) -> Act:
    message = event.body.get("deny_message")
    digests = {"message_digest": str(message)} if message else {}
    act = f"approval.{event.body['result']}"
    return Act("approval", act, actor, str(event.body["tool_use_id"]), session_id, digests=digests)


def _ours(state: SessionState) -> dict[str, Any]:
    """Which budget it was, unless it was the session's own."""
    short = None if state.turn is None else state.turn.short
    return {} if short is None or short.scope == "session" else {"budget_id": short.budget, "scope": short.scope}


def _cents(budget: Mapping[str, Any] | None) -> int | None:
    return None if budget is None else int(budget["max_list_cost"]["amount"])
