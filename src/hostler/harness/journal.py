"""What has the harness said that its transcript may not have yet?

`claude` writes its transcript behind its back: an entry reaches our store up to 0.2 s after the message itself.
A process that dies in between has said something, and perhaps run a tool, of which the transcript knows nothing; the
model would be asked again and would do it again. So every message is kept here, durably, before anybody acts on it, and
what the transcript lacks after a loss is put into it. What one turn leaves behind, the next one replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    StreamEvent,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from hostler.domain.events import Body, text_block
from hostler.engine import runs
from hostler.engine.runs import RunEvent
from hostler.engine.transcript import UNCONFIRMED
from hostler.harness.tools import to_harness_input, to_harness_name
from hostler.harness.translate import HELD_RESPONSE_PREFIX, tool_call, wire_content

PROJECT_KEY = "-workspace"
"""Where `claude` files the transcripts of the working directory `/workspace`."""
SUBPATH = UNCONFIRMED
HELD_RESPONSE_MODEL = "held"
SYNTHETIC = "<synthetic>"
"""The model that `claude` names when it puts words into the model's mouth."""

Entry = dict[str, Any]


class Journal:
    """Of one conversation. `transcripts` is the session's store; every entry is durable when its method returns."""

    def __init__(self, transcript_id: str, transcripts: Any) -> None:
        self._transcripts = transcripts
        self._main = {"project_key": PROJECT_KEY, "session_id": transcript_id}
        self._key = {**self._main, "subpath": SUBPATH}
        self._old = True
        """True: what the store has is of an earlier turn, and the transcript has it too."""
        self._prompts: list[Entry] = []
        """Prompts to which nothing was said yet: after a loss they are sent again."""
        self.newest: str | None = None
        """The uuid of the newest entry that was spoken of: the transcript has it soon."""
        self._begun: list[Entry] = []
        """Texts of an incomplete answer: nobody was told of them, and after a loss the model is asked again."""

    def begin(self, uuid: str, content: Sequence[Body]) -> None:
        """A prompt is handed over. It is written down with the first thing that is said to it."""
        message = {"role": "user", "content": [dict(block) for block in content]}
        self._prompts.append({"type": "user", "uuid": uuid, "message": message})

    async def keep(self, message: object) -> None:
        """Note what becomes part of the main transcript. Call it before anybody hears of `message`."""
        match message:
            case StreamEvent(parent_tool_use_id=None, event={"type": "message_start"}):
                self._begun = []
            case StreamEvent(
                parent_tool_use_id=None, event={"type": "message_delta", "delta": {"stop_reason": str() as reason}}
            ) if self._begun:
                self._begun[-1]["message"]["stop_reason"] = reason  # it is told after the last block
            case StreamEvent(parent_tool_use_id=None, event={"type": "message_stop"}) if self._begun:
                await self._keep([])
            case AssistantMessage(parent_tool_use_id=None, uuid=str() as uuid, model=model) if model != SYNTHETIC:
                self.newest = uuid
                said = {
                    "id": message.message_id,
                    "type": "message",
                    "role": "assistant",
                    "model": model,
                    "content": _blocks(message.content),
                    "stop_reason": message.stop_reason,
                    "stop_sequence": None,
                    "usage": message.usage or {},
                }
                entry = {"type": "assistant", "uuid": uuid, "message": said}
                if any(isinstance(block, ToolUseBlock) for block in message.content):
                    await self._keep([entry])  # the call is announced at once, and may begin before the answer ends
                else:
                    self._begun.append(entry)
            case UserMessage(parent_tool_use_id=None, uuid=str() as uuid, content=list() as content):
                self.newest = uuid
                if any(isinstance(block, ToolResultBlock) for block in content):
                    said = {"role": "user", "content": _blocks(content)}
                    await self._keep([{"type": "user", "uuid": uuid, "message": said}])
            case _:
                pass

    def settle(self) -> None:
        """The transcript has everything."""
        self._prompts, self._begun, self._old = [], [], True

    async def restore(self, version: str, at: str) -> list[Entry]:
        """Put into the transcript what it lacks, and empty the journal; gives the whole transcript.

        A prompt to which nothing was said yet is not put in: it can be sent again.
        """
        kept: list[Entry] = await self._transcripts.load(self._key) or []
        entries: list[Entry] = await self._transcripts.load(self._main) or []
        there = {entry.get("uuid") for entry in entries}
        lacking = [entry for entry in kept if entry["uuid"] not in there]
        if not any(entry["type"] == "assistant" for entry in lacking) and not any(map(_results, lacking)):
            lacking = []
        linked = _linked(entries, lacking, str(self._main["session_id"]), version, at)
        if linked:
            await self._transcripts.append(self._main, linked)
        if kept:
            await self._transcripts.delete(self._key)
        self.settle()
        return [*entries, *linked]

    async def _keep(self, entries: Sequence[Entry]) -> None:
        said = [*self._prompts, *self._begun, *entries]
        await self._transcripts.append_new(self._key, said, replacing=self._old)
        self._prompts, self._begun, self._old = [], [], False


def recall(entry: Mapping[str, Any]) -> tuple[str, list[RunEvent]]:
    """What an entry of the transcript said: the id of the model's message it is part of, and the run events it made."""
    message = entry.get("message")
    if entry.get("isSidechain") or not isinstance(message, Mapping) or message.get("model") == SYNTHETIC:
        return "", []
    content = message.get("content")
    out: list[RunEvent] = []
    for block in content if isinstance(content, list) else []:
        match block:
            case {"type": "text", "text": str() as text} if entry.get("type") == "assistant":
                out.append(runs.TextBlock(text))
            case {"type": "thinking" | "redacted_thinking"}:
                out.append(runs.ThinkingBlock())
            case {"type": "tool_use", "id": str() as id_, "name": str() as name, "input": Mapping() as given}:
                out.append(tool_call(id_, name, given))
            case {"type": "tool_result", "tool_use_id": str() as id_}:
                result = runs.ToolResult(id_, wire_content(block.get("content")), bool(block.get("is_error")))
                out.append(result)
            case _:
                pass
    return str(message.get("id") or ""), out


def call_entry(call: runs.ToolCall) -> Entry:
    """The entry of an answer that is this call alone: how the gateway hands over a call that it held."""
    own = call.custom or call.server is not None
    given = dict(call.input) if own else to_harness_input(call.name, call.input)
    name = to_harness_name(call.name, call.custom, call.server)
    return {
        "type": "assistant",
        "message": {
            "id": f"{HELD_RESPONSE_PREFIX}{call.tool_use_id}",
            "type": "message",
            "role": "assistant",
            "model": HELD_RESPONSE_MODEL,
            "content": [{"type": "tool_use", "id": call.tool_use_id, "name": name, "input": given}],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        },
    }


def _results(entry: Entry) -> bool:
    content = entry["message"]["content"]
    return any(isinstance(block, dict) and block.get("type") == "tool_result" for block in content)


def _linked(
    entries: Sequence[Entry], lacking: Sequence[Entry], transcript_id: str, version: str, at: str
) -> list[Entry]:
    leaf = next((e["uuid"] for e in reversed(entries) if e.get("uuid") and not e.get("isSidechain")), None)
    out: list[Entry] = []
    for entry in lacking:
        place = {
            "parentUuid": leaf,
            "isSidechain": False,
            "userType": "external",
            "cwd": "/workspace",
            "sessionId": transcript_id,
            "version": version,
            "timestamp": at,
        }
        out.append({**place, **entry})
        leaf = entry["uuid"]
    return out


def _blocks(blocks: Sequence[object]) -> list[Body]:
    return [known for block in blocks if (known := _block(block)) is not None]


def _block(block: object) -> Body | None:
    match block:
        case TextBlock(text=text):
            return text_block(text)
        case ThinkingBlock(thinking=thinking, signature=signature):
            return {"type": "thinking", "thinking": thinking, "signature": signature}
        case ToolUseBlock(id=id_, name=name, input=given):
            return {"type": "tool_use", "id": id_, "name": name, "input": given}
        case ToolResultBlock(tool_use_id=id_, content=content, is_error=is_error):
            result: Body = {
                "type": "tool_result",
                "tool_use_id": id_,
                "content": content if content is not None else "",
            }
            return {**result, "is_error": True} if is_error else result
        case _:
            return None  # of the API's own tools, which ran where no crash of ours reaches
