"""What does a session say? The events of the wire, one constructor each, and how they are written down.

An event is a JSON object with `id`, `type` and `processed_at`. It is serialised once, when it is recorded; from then on
the text is passed on unchanged to every reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hostler.domain.ids import new_id

Body = dict[str, Any]
"""One wire event, complete."""

StopReason = dict[str, Any]

INTERRUPTED = "Tool execution was interrupted before completion. Please retry."
"""What a tool call gets as its result when a person stops the turn (wording of the contract)."""

TRANSCRIPT_FAULT = "The transcript could not be stored"
"""How the message of a `session.error` begins when the mirror of a transcript failed."""

NOT_RECORDED = "This tool call did not run, because the server could not write it down. Make it again."
"""What a tool call gets that was allowed, while the database was away."""

NOT_JUDGED = "This tool call did not run, because of a fault of the server. Its log says more."
"""What a tool call gets when the question whether it may run fails."""

OUTCOME_UNKNOWN = (
    "This tool call was cut off before its result was recorded, so its outcome is unknown. "
    "Check whether it took effect before relying on it or running it again."
)
"""What a tool call gets as its result when the process that ran it is gone."""

RetryStatus = Literal["retrying", "exhausted", "terminal"]

ErrorType = Literal[
    "unknown_error",
    "model_overloaded_error",
    "model_rate_limited_error",
    "model_request_failed_error",
    "billing_error",
    "mcp_connection_failed_error",
    "mcp_authentication_failed_error",
    "tool_use_limit_reached_error",
    "compaction_limit_reached_error",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One event on its way into the log. `processed_at` is None only for queued input."""

    body: Body

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def type(self) -> str:
        return str(self.body["type"])

    def text(self) -> str:
        return to_text(self.body)


def to_text(body: Mapping[str, Any]) -> str:
    """Compact JSON on one line. Lone surrogates and NUL stay escaped, so that every database takes the text."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return text


def _event(type_: str, at: str | None, *, id_: str | None = None, **fields: Any) -> Event:
    return Event({"id": id_ or new_id("sevt"), "type": type_, "processed_at": at, **fields})


def text_block(text: str) -> Body:
    return {"type": "text", "text": text}


def status_running(at: str) -> Event:
    return _event("session.status_running", at)


def status_rescheduled(at: str) -> Event:
    return _event("session.status_rescheduled", at)


def status_terminated(at: str) -> Event:
    return _event("session.status_terminated", at)


def status_idle(at: str, stop_reason: StopReason, stop_details: Body | None = None) -> Event:
    return _event("session.status_idle", at, stop_reason=stop_reason, stop_details=stop_details)


def thread_status(
    at: str, kind: Literal["running", "rescheduled", "terminated"], thread_id: str, agent_name: str
) -> Event:
    return _event(f"session.thread_status_{kind}", at, session_thread_id=thread_id, agent_name=agent_name)


def thread_idle(
    at: str, thread_id: str, agent_name: str, stop_reason: StopReason, stop_details: Body | None = None
) -> Event:
    return _event(
        "session.thread_status_idle",
        at,
        session_thread_id=thread_id,
        agent_name=agent_name,
        stop_reason=stop_reason,
        stop_details=stop_details,
    )


def usage(at: str, totals: Body, budget: Body | None) -> Event:
    return _event("session.usage", at, usage=totals, budget=budget)


def deleted(at: str) -> Event:
    return _event("session.deleted", at)


def session_updated(at: str, changed: Body) -> Event:
    return _event("session.updated", at, **changed)


def agent_message(at: str, id_: str, texts: Sequence[str]) -> Event:
    return _event("agent.message", at, id_=id_, content=[text_block(text) for text in texts])


def agent_thinking(at: str, id_: str) -> Event:
    return _event("agent.thinking", at, id_=id_)


def agent_tool_use(
    at: str, id_: str, name: str, input_: Mapping[str, Any], permission: str, evaluation: Body | None
) -> Event:
    """A call of a built-in tool. `evaluation` None: the agent has no such tool, so no policy applied."""
    said = {} if evaluation is None else {"evaluation": evaluation}
    return _event("agent.tool_use", at, id_=id_, name=name, input=dict(input_), evaluated_permission=permission, **said)


def agent_mcp_tool_use(
    at: str, id_: str, server: str, name: str, input_: Mapping[str, Any], permission: str, evaluation: Body | None
) -> Event:
    """A call of a tool of the MCP server `server`."""
    said = {} if evaluation is None else {"evaluation": evaluation}
    return _event(
        "agent.mcp_tool_use",
        at,
        id_=id_,
        mcp_server_name=server,
        name=name,
        input=dict(input_),
        evaluated_permission=permission,
        **said,
    )


def agent_custom_tool_use(at: str, id_: str, name: str, input_: Mapping[str, Any]) -> Event:
    return _event("agent.custom_tool_use", at, id_=id_, name=name, input=dict(input_))


def agent_tool_result(at: str, call_event_id: str, content: Sequence[Body], is_error: bool) -> Event:
    return _event("agent.tool_result", at, tool_use_id=call_event_id, content=list(content), is_error=is_error)


def agent_mcp_tool_result(at: str, call_event_id: str, content: Sequence[Body], is_error: bool) -> Event:
    return _event("agent.mcp_tool_result", at, mcp_tool_use_id=call_event_id, content=list(content), is_error=is_error)


def custom_tool_result(at: str, call_event_id: str, content: Sequence[Body], is_error: bool) -> Event:
    """A custom tool's result that nobody sent: how an interrupt closes a call that a client would have answered."""
    return _event(
        "user.custom_tool_result", at, custom_tool_use_id=call_event_id, content=list(content), is_error=is_error
    )


def user_tool_result(at: str, call_event_id: str, content: Sequence[Body], is_error: bool) -> Event:
    """The result of a built-in tool in a self-hosted environment that no worker sent: after an interrupt, a refusal."""
    return _event("user.tool_result", at, tool_use_id=call_event_id, content=list(content), is_error=is_error)


def context_compacted(at: str) -> Event:
    return _event("agent.thread_context_compacted", at)


def request_start(at: str, id_: str) -> Event:
    return _event("span.model_request_start", at, id_=id_)


def request_end(at: str, start_id: str, tokens: Body, is_error: bool) -> Event:
    return _event("span.model_request_end", at, model_request_start_id=start_id, model_usage=tokens, is_error=is_error)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that a session ran into, for programs: our extension of an error."""

    code: str
    """Which one: `memory_limit_reached`, `pids_limit_reached`, `disk_limit_reached`, `disk_files_limit_reached`,
    `turn_seconds_reached`, `max_turns_reached`."""
    field: str
    """What raises it, in an environment."""
    value: float | None
    """What it is now, in the unit of the field; None: not known here."""


def error_type(status: object) -> ErrorType:
    """The wire's error type for the HTTP status of a failed model request; None or 0 when there was no answer."""
    match status:
        case 429:
            return "model_rate_limited_error"
        case 529 | 503:
            return "model_overloaded_error"
        case 402:
            return "billing_error"
        case _:
            return "model_request_failed_error"


def error(at: str, type_: ErrorType, message: str, retry: RetryStatus, limit: Limit | None = None) -> Event:
    body: Body = {"type": type_, "message": message, "retry_status": {"type": retry}}
    if limit is not None:
        body |= {"code": limit.code, "limit": {"field": limit.field, "value": limit.value}}
    return _event("session.error", at, error=body)


RepositoryError = Literal[
    "repository_authentication_error",
    "repository_forbidden_error",
    "repository_not_found_error",
    "repository_checkout_error",
    "repository_clone_error",
]


def repository_error(at: str, type_: RepositoryError, message: str, url: str) -> Event:
    """A repository could not be mounted; the session goes on without it."""
    body = {"type": type_, "message": message, "retry_status": {"type": "retrying"}, "repository_url": url}
    return _event("session.error", at, error=body)


def credential_host_error(at: str, vault_id: str, credential_id: str, message: str) -> Event:
    """A variable is for hosts that the environment doesn't let the session reach; the session goes on."""
    error = {
        "type": "credential_host_unreachable_error",
        "vault_id": vault_id,
        "credential_id": credential_id,
        "message": message,
        "retry_status": {"type": "retrying"},
    }
    return _event("session.error", at, error=error)


def mcp_error(at: str, type_: ErrorType, server: str, message: str) -> Event:
    """An MCP server can't be used; the session goes on without it, and tries again when it next starts a process."""
    error = {"type": type_, "mcp_server_name": server, "message": message, "retry_status": {"type": "retrying"}}
    return _event("session.error", at, error=error)


def notice(at: str, kind: str, message: str, details: Mapping[str, Any]) -> Event:
    """Something that the user should know; the session goes on.

    The wire's list of event types is closed for strict clients, and so is that of errors: only `unknown_error` is open.
    What programs need is in `error.hostler`, our extension: `type`, which is `kind`, and `details`.
    """
    extension = {"type": kind, **details}
    body = {
        "type": "unknown_error",
        "message": message,
        "retry_status": {"type": "retrying"},
        "hostler": extension,
    }
    return _event("session.error", at, error=body)


def preview_start(type_: Literal["agent.message", "agent.thinking"], id_: str) -> str:
    """Frame data of `event_start`: an event with this id is being written. Never recorded."""
    return to_text({"type": "event_start", "event": {"type": type_, "id": id_}})


def preview_delta(id_: str, index: int, text: str) -> str:
    """Frame data of `event_delta`: the next piece of text of the event `id_`. Never recorded."""
    delta = {"type": "content_delta", "index": index, "content": {"type": "text", "text": text}}
    return to_text({"type": "event_delta", "event_id": id_, "delta": delta})
