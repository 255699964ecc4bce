"""How are calls closed, and waits repaired, in the harness's own transcript?

The transcript is the harness's memory of the conversation, a chain of entries linked by `parentUuid`. Two things must
be written into it from outside: the end of a call that a person stopped while no process was running, and the mark of a
waiting call when the process died before it could write that mark itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hostler.domain.ids import derived_uuid

Entry = dict[str, Any]

UNCONFIRMED: Final = "unconfirmed"
"""The subpath of what the harness has said in the turn under way. Not part of the conversation: between two turns the
transcript has it all."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a transcript says about one call."""

    used: Entry | None
    """The last assistant entry that makes the call; None when the transcript never heard of it."""
    has_result: bool
    is_deferred: bool


def look_up(entries: Sequence[Mapping[str, Any]], tool_use_id: str) -> Known:
    used: Entry | None = None
    has_result = is_deferred = False
    for entry in entries:
        attachment = entry.get("attachment")
        if isinstance(attachment, Mapping):
            is_deferred |= attachment.get("type") == "hook_deferred_tool" and attachment.get("toolUseID") == tool_use_id
            continue
        for block in _blocks(entry):
            if block.get("type") == "tool_use" and block.get("id") == tool_use_id:
                used = dict(entry)
                has_result = is_deferred = False  # a model that repeats an id makes a new call of it
            elif block.get("type") == "tool_result" and block.get("tool_use_id") == tool_use_id:
                has_result = True
    return Known(used, has_result, is_deferred)


def is_answered(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the conversation ends with an answer of the model that was its last word: nothing is left to do."""
    last = next((e for e in reversed(entries) if e.get("uuid") and e.get("message") and not e.get("isSidechain")), None)
    message = None if last is None or last.get("type") != "assistant" else last["message"]
    return isinstance(message, Mapping) and message.get("stop_reason") == "end_turn"


def closing_entry(
    entries: Sequence[Mapping[str, Any]], tool_use_id: str, content: Any, timestamp: str, *, is_error: bool = True
) -> Entry | None:
    """The entry that ends the call with this result; None when there is nothing to end."""
    known = look_up(entries, tool_use_id)
    if known.used is None or known.has_result:
        return None
    result = {"type": "tool_result", "tool_use_id": tool_use_id, "content": content, "is_error": is_error}
    return {
        **_linked(entries, known.used, derived_uuid("closing", tool_use_id, str(known.used.get("uuid"))), timestamp),
        "type": "user",
        "message": {"role": "user", "content": [result]},
        "sourceToolAssistantUUID": known.used.get("uuid"),
    }


def deferral_entry(entries: Sequence[Mapping[str, Any]], tool_use_id: str, timestamp: str) -> Entry | None:
    """The mark that makes a resumed run execute the call; None when it is there, or when there is no such call."""
    known = look_up(entries, tool_use_id)
    if known.used is None or known.has_result or known.is_deferred:
        return None
    call = next(b for b in _blocks(known.used) if b.get("type") == "tool_use" and b.get("id") == tool_use_id)
    return {
        **_linked(entries, known.used, derived_uuid("deferral", tool_use_id, str(known.used.get("uuid"))), timestamp),
        "type": "attachment",
        "attachment": {
            "type": "hook_deferred_tool",
            "toolUseID": tool_use_id,
            "toolName": call.get("name"),
            "toolInput": call.get("input"),
            "hookName": "settings",
            "hookEvent": "PreToolUse",
        },
    }


def call_entry(
    entries: Sequence[Mapping[str, Any]], tool_use_id: str, said: Mapping[str, Any], timestamp: str
) -> Entry | None:
    """Where a call that was announced, but never handed to the harness, stands in its transcript. None: no transcript.

    `said`: the entry as the harness writes it, without its place.
    """
    like = next((dict(e) for e in reversed(entries) if e.get("uuid") and not e.get("isSidechain")), None)
    if like is None:
        return None
    return {**_linked(entries, like, derived_uuid("call", tool_use_id), timestamp), **said}


def _blocks(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    message = entry.get("message")
    content = message.get("content") if isinstance(message, Mapping) else None
    return [b for b in content if isinstance(b, Mapping)] if isinstance(content, list) else []


def _linked(entries: Sequence[Mapping[str, Any]], like: Entry, uuid: str, timestamp: str) -> Entry:
    leaf = next((e["uuid"] for e in reversed(entries) if e.get("uuid") and not e.get("isSidechain")), like.get("uuid"))
    same: Entry = {key: like[key] for key in ("userType", "cwd", "sessionId", "version", "gitBranch") if key in like}
    return {"parentUuid": leaf, "isSidechain": False, "uuid": uuid, "timestamp": timestamp, **same}
