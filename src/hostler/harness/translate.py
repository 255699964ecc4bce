"""What do the harness's messages mean? Agent SDK messages in, run events out.

A response arrives twice: as raw stream events (for previews and usage) and as whole blocks (`AssistantMessage`, the
authority on content). After a broken stream the harness repeats the request without streaming; then only whole blocks
come. Responses that the gateway made up to hand over a held call are not model requests and show no span.

The process runs beside the agent's own commands, so a message may hold anything. Only what has the right type becomes
an event: what is in the log must be readable to every client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    MirrorErrorMessage,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from hostler.domain.events import TRANSCRIPT_FAULT, Body, error_type, text_block
from hostler.engine import runs
from hostler.engine.runs import RunEvent
from hostler.harness.tools import to_wire_input, to_wire_name

HELD_RESPONSE_PREFIX = "msg_hostler_held_"
"""Message ids of responses that the gateway makes from calls it held back."""

_HOOK_PREFIX = "PreToolUse:"
_MOST_TOKENS = 1 << 53
"""Larger numbers are no counts, and many readers of JSON could not tell them apart."""

_FULL = ("blocking_limit", "rapid_refill_breaker")
"""Why a run ends whose context is full, and can't be compacted or is full again at once."""

_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


@dataclass(slots=True)
class _Request:
    message_id: str
    usage: dict[str, int]
    stop_reason: str | None = None
    stop_details: Body | None = None
    held: bool = False
    whole: bool = False
    """It came in one piece, as the harness asks for it when streams have failed: nothing of it can be missing."""


class Translator:
    """Turns the messages of one run into run events. Feed it every message, in order."""

    def __init__(self) -> None:
        self._request: _Request | None = None
        self._finished: set[str] = set()
        self._refusal: Body | None = None

    def feed(self, message: object) -> list[RunEvent]:
        match message:
            case StreamEvent(parent_tool_use_id=None, event=event):
                return self._stream(event)
            case AssistantMessage(parent_tool_use_id=None):
                return self._assistant(message)
            case UserMessage(parent_tool_use_id=None, content=list() as content):
                return self._user(content)
            case MirrorErrorMessage(error=error):
                text = f"{TRANSCRIPT_FAULT}, so the turn was stopped: {error}"
                return [*self._end_request(True), runs.Ended("failed", "unknown_error", text, alive=False)]
            case SystemMessage():
                return self._system(message)
            case ResultMessage():
                return self._result(message)
            case _:
                return []

    # -- the stream of one response

    def _stream(self, event: Mapping[str, Any]) -> list[RunEvent]:
        match event.get("type"):
            case "message_start":
                message = event["message"]
                return self._start_request(str(message.get("id", "")), message.get("usage") or {})
            case "content_block_start":
                kind = event["content_block"].get("type")
                if kind == "text":
                    return [runs.TextStarted()]
                return [runs.ThinkingStarted()] if kind in ("thinking", "redacted_thinking") else []
            case "content_block_delta":
                delta = event["delta"]
                match delta:
                    case {"type": "text_delta", "text": str() as text}:
                        return [runs.TextDelta(text)]
                return []
            case "message_delta":
                if self._request is not None:
                    _count(self._request.usage, event.get("usage") or {})
                    self._request.stop_reason = event["delta"].get("stop_reason")
                    details = event["delta"].get("stop_details")
                    self._request.stop_details = details if isinstance(details, dict) else None
                return []
            case "message_stop":
                # An interrupted response gets its end from the harness, without a reason to stop.
                return self._end_request(self._request is not None and self._request.stop_reason is None)
            case _:
                return []

    def _start_request(self, message_id: str, usage: Mapping[str, Any]) -> list[RunEvent]:
        out = self._end_request(True)
        held = message_id.startswith(HELD_RESPONSE_PREFIX)
        self._request = _Request(message_id, dict(_NO_TOKENS), held=held)
        _count(self._request.usage, usage)
        return out if held else [*out, runs.RequestStarted()]

    def _end_request(self, is_error: bool) -> list[RunEvent]:
        request, self._request = self._request, None
        if request is None:
            return []
        self._finished.add(request.message_id)
        if request.stop_reason == "refusal":
            self._refusal = _refusal(request.stop_details)
        if request.held:
            return []
        failed = is_error and not request.whole
        return [runs.RequestEnded(request.usage, failed, request.stop_reason, request.stop_details)]

    # -- whole blocks

    def _assistant(self, message: AssistantMessage) -> list[RunEvent]:
        if message.error is not None or message.model == "<synthetic>":
            return []
        out: list[RunEvent] = []
        message_id = str(message.message_id or "")
        if message_id not in self._finished and (self._request is None or self._request.message_id != message_id):
            out += self._start_request(message_id, message.usage or {})
            if self._request is not None:
                self._request.stop_reason = message.stop_reason
                self._request.whole = True
        for block in message.content:
            match block:
                case TextBlock(text=str() as text):
                    out.append(runs.TextBlock(text))
                case ThinkingBlock():
                    out.append(runs.ThinkingBlock())
                case ToolUseBlock(id=str() as id_, name=str() as name, input=dict() as given):
                    out.append(tool_call(id_, name, given))
                case _:
                    pass
        return out

    def _user(self, content: Sequence[object]) -> list[RunEvent]:
        out: list[RunEvent] = []
        for block in content:
            if isinstance(block, ToolResultBlock) and isinstance(block.tool_use_id, str):
                result = runs.ToolResult(block.tool_use_id, wire_content(block.content), bool(block.is_error))
                out += [*self._end_request(False), result]
        return out

    def _system(self, message: SystemMessage) -> list[RunEvent]:
        match message.subtype:
            case "init":
                return _mcp_failures(message.data.get("mcp_servers"))
            case "compact_boundary":
                return [compacted(message.data.get("uuid"), message.data.get("compact_metadata"))]
            case "status" if message.data.get("compact_result") == "failed":
                return [runs.CompactionFailed(str(message.data.get("compact_error") or "no reason given")[:2000])]
            case "api_retry":
                data = message.data
                status = data.get("error_status")
                attempt, most = data.get("attempt"), data.get("max_retries")
                text = f"The model did not answer ({_status(status)}); trying again ({attempt} of {most})."
                return [*self._end_request(True), runs.Retrying(error_type(status), text)]
            case _:
                return []

    def _result(self, message: ResultMessage) -> list[RunEvent]:
        out = self._end_request(True)
        refusal, self._refusal = self._refusal, None
        terminal = message.terminal_reason or ""
        if message.deferred_tool_use is not None or terminal == "tool_deferred":
            return [*out, runs.Ended("deferred", alive=False)]
        if terminal.startswith("aborted"):
            return [*out, runs.Ended("interrupted")]
        if message.stop_reason == "refusal" or refusal is not None:
            return [*out, runs.Ended("refused", details=refusal or _refusal(None))]
        if message.subtype == "success" and not message.is_error:
            return [*out, runs.Ended("completed")]
        if message.subtype == "error_max_turns":
            text = f"The turn used all its {message.num_turns} model requests."
            return [*out, runs.Ended("failed", "tool_use_limit_reached_error", text, alive=False)]
        text = "; ".join(map(str, message.errors or [])) or str(message.result or message.subtype)
        full = terminal in _FULL or text.lower().startswith("prompt is too long")
        kind = "compaction_limit_reached_error" if full else error_type(message.api_error_status)
        return [*out, runs.Ended("failed", kind, text[:2000], alive=False)]


def tool_call(tool_use_id: str, name: str, given: Mapping[str, Any]) -> runs.ToolCall:
    """A call as the model made it, in the wire's words."""
    wire, custom, server = to_wire_name(name)
    own = custom or server is not None
    return runs.ToolCall(tool_use_id, wire, given if own else to_wire_input(wire, given), custom, server)


def compacted(uuid: object, metadata: object) -> runs.Compacted:
    """What a boundary of compaction says. The stream and the transcript spell its numbers differently."""
    given = metadata if isinstance(metadata, Mapping) else {}

    def tokens(*names: str) -> int | None:
        found = next((given[name] for name in names if name in given), None)
        usable = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < _MOST_TOKENS
        return found if usable else None

    return runs.Compacted(str(uuid or "")[:64], tokens("pre_tokens", "preTokens"), tokens("post_tokens", "postTokens"))


def _mcp_failures(servers: object) -> list[RunEvent]:
    """The servers that the harness could not begin with. What the egress road knows of it, it says before."""
    out: list[RunEvent] = []
    for server in servers if isinstance(servers, list) else ():
        match server:
            case {"name": str() as name, "status": "failed" | "needs-auth"}:
                out.append(runs.McpFailed(name, "connection", "The MCP server did not start, or does not speak MCP."))
    return out


def _status(status: object) -> str:
    return f"HTTP {status}" if status else "no connection"


def _count(into: dict[str, int], usage: Mapping[str, Any]) -> None:
    for key in into:
        value = usage.get(key)
        if isinstance(value, int) and 0 < value < _MOST_TOKENS:
            into[key] = value


def _refusal(details: Mapping[str, Any] | None) -> Body:
    given = details or {}
    words = {key: value if isinstance(value := given.get(key), str) else None for key in ("category", "explanation")}
    return {"type": "refusal", **words}


def wire_content(content: object) -> tuple[Body, ...]:
    """A tool result's content as the wire's blocks. What the wire has no block for is written out as JSON text."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (text_block(_without_hook_prefix(content)),) if content else ()
    blocks: list[Body] = []
    for block in content if isinstance(content, list) else [content]:
        match block:
            case {"type": "text", "text": str() as text}:
                blocks.append(text_block(text))
            case {
                "type": "image" | "document" as kind,
                "source": {"type": "base64" | "text" as of, "media_type": str() as media, "data": str() as data},
            }:
                blocks.append({"type": kind, "source": {"type": of, "media_type": media, "data": data}})
            case {"type": "image" | "document" as kind, "source": {"type": "url", "url": str() as url}}:
                blocks.append({"type": kind, "source": {"type": "url", "url": url}})
            case _:
                blocks.append(text_block(json.dumps(block, ensure_ascii=False, default=str)))
    return tuple(blocks)


def _without_hook_prefix(text: str) -> str:
    """A refusal of ours comes back as `PreToolUse:Bash hook error: …`; the sender's own words are what counts."""
    if text.startswith(_HOOK_PREFIX) and " hook error: " in text[:200]:
        return text.split(" hook error: ", 1)[1]
    return text
