"""How does a response of several tool calls become one that shows a single call?

`Splitter` works on the events of a stream, `split_message` on a whole message; both keep every block but the tool calls
after the first, which they hand over. `render_held` makes the response that shows a held call later.
"""

from __future__ import annotations

import json
from typing import Any

from hostler.gateway.body import dump
from hostler.gateway.sequence import Call
from hostler.gateway.sse import event_data, render_event

_BLOCK_EVENTS = (b"content_block_start", b"content_block_delta", b"content_block_stop")


class Splitter:
    """Takes a stream's events one by one and returns what the harness may see of each (maybe nothing)."""

    def __init__(self) -> None:
        self._shown = 0
        self._index: dict[int, int] = {}
        self._open: dict[int, tuple[dict[str, Any], list[str]]] = {}
        self._calls: list[Call] = []
        self._dropped = False

    @property
    def calls(self) -> list[Call]:
        """All tool calls of the response in the model's order, the shown one first; complete when the stream is."""
        return self._calls

    def feed(self, name: bytes, event: bytes) -> bytes:
        """Raises ValueError when a block's event can't be understood (a stream like that can't be cut safely)."""
        if name not in _BLOCK_EVENTS:
            return event
        if name != b"content_block_start" and not self._dropped and not self._open:
            return event  # Up to the first tool call, nothing of a block but its start matters.
        value = json.loads(event_data(event))
        index = value["index"] if isinstance(value, dict) else None
        if not isinstance(index, int):
            raise ValueError("a content block without an index")
        if name == b"content_block_start":
            return self._start(index, value, event)
        collecting = self._open.get(index)
        if collecting is not None:
            if name == b"content_block_delta":
                collecting[1].append(_partial_json(value))
            else:
                del self._open[index]
                self._calls.append(_call(collecting[0], "".join(collecting[1])))
        if index not in self._index:
            return b""
        return self._renumbered(name, index, value, event)

    def _start(self, index: int, value: dict[str, Any], event: bytes) -> bytes:
        block = value.get("content_block")
        if isinstance(block, dict) and block.get("type") == "tool_use":
            first = not self._calls and not self._open
            self._open[index] = (block, [])
            if not first:
                self._dropped = True
                return b""
        self._index[index] = self._shown
        self._shown += 1
        return self._renumbered(b"content_block_start", index, value, event)

    def _renumbered(self, name: bytes, index: int, value: dict[str, Any], event: bytes) -> bytes:
        shown = self._index[index]
        return event if shown == index else render_event(name, dump({**value, "index": shown}))


def split_message(message: dict[str, Any]) -> tuple[dict[str, Any], list[Call]]:
    """The message with its first tool call only, and all its calls in order."""
    kept: list[Any] = []
    calls: list[Call] = []
    for block in message.get("content") or []:
        if isinstance(block, dict) and block.get("type") == "tool_use":
            calls.append(_call(block, ""))
            if len(calls) > 1:
                continue
        kept.append(block)
    return ({**message, "content": kept} if len(calls) > 1 else message), calls


def render_held(call: Call, model: str, number: int, *, stream: bool) -> bytes:
    """A response that consists of one held call: the body of a stream, or a whole message. It used no tokens."""
    usage = {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 0,
    }
    message = {
        "id": f"msg_hostler_held_{number}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [call.block()],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": usage,
    }
    if not stream:
        return dump(message)
    partial = json.dumps(dict(call.input), ensure_ascii=False, separators=(",", ":"))
    opening = {**message, "content": [], "stop_reason": None}
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": opening},
        {"type": "content_block_start", "index": 0, "content_block": {**call.block(), "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": partial}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 0}},
        {"type": "message_stop"},
    ]
    return b"".join(render_event(event["type"].encode(), dump(event)) for event in events)


def _partial_json(value: dict[str, Any]) -> str:
    delta = value.get("delta")
    part = delta.get("partial_json") if isinstance(delta, dict) else None
    return part if isinstance(part, str) else ""


def _call(block: dict[str, Any], streamed: str) -> Call:
    given = block.get("input")
    value: Any = given if isinstance(given, dict) else {}
    if streamed:
        try:
            value = json.loads(streamed)
        except (ValueError, RecursionError):
            value = {}  # Cut off by a token limit: executed as an empty call, it tells the model what went wrong.
    extra = {key: item for key, item in block.items() if key not in ("type", "id", "name", "input")}
    return Call(str(block.get("id")), str(block.get("name")), value if isinstance(value, dict) else {}, extra)
