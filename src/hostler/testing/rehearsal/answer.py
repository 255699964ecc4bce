"""How does a step become a message, and a message the events of a stream?"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hostler.testing.rehearsal.conversation import Conversation, carries_script
from hostler.testing.rehearsal.steps import Gate, Raw, Stamps, Step, Text, Thinking, ToolUse
from hostler.testing.rehearsal.usage import output_tokens, overridden

_HARNESS_NAMES = {
    "bash": "Bash",
    "read": "Read",
    "write": "Write",
    "edit": "Edit",
    "glob": "Glob",
    "grep": "Grep",
    "web_fetch": "WebFetch",
    "web_search": "WebSearch",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE event. `render` gives its bytes when it is sent."""

    after: float
    """Seconds between the moment the event before was due and the moment this one is."""
    render: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Wait:
    """A gate: what follows waits until it is open."""

    gate: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A step, made ready for one request."""

    conversation: Conversation
    step: Step
    index: int
    script_id: str
    message_id: str
    input_usage: Mapping[str, Any]

    def message(self) -> dict[str, Any]:
        """The whole message, as a request without `stream` gets it."""
        content = [block for _, block in self._blocks()]
        return self._envelope(content, self._stop_reason(content), self._usage(content))

    def duration(self) -> float:
        """Seconds that the stream of this answer takes."""
        return sum(event.after for event in self.events() if isinstance(event, Event))

    def gates(self) -> list[str]:
        """Names of the gates that the answer waits at, in order."""
        return [block.name for block in self.step.content if isinstance(block, Gate)]

    def events(self) -> Iterator[Event | Wait]:
        """The stream, from `message_start` to `message_stop`."""
        first = overridden({**self.input_usage, "output_tokens": 1}, self.step.usage)
        first["output_tokens"] = 1
        yield _event("message_start", {"message": self._envelope([], None, first)})
        yield _event("ping", {})
        sent: list[dict[str, Any]] = []
        for spec, block in self._blocks(gates=True):
            if isinstance(spec, Gate):
                yield Wait(spec.name)
                continue
            yield from self._block_events(len(sent), spec, block)
            sent.append(block)
        usage = self._usage(sent)
        delta = {
            "stop_reason": self._stop_reason(sent),
            "stop_sequence": self.step.stop_sequence,
            "stop_details": self._stop_details(),
        }
        told = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        optional = ("output_tokens_details", "server_tool_use")
        cumulative = {name: usage[name] for name in (*told, *optional) if usage.get(name) is not None}
        yield _event("message_delta", {"delta": delta, "usage": cumulative})
        yield _event("message_stop", {})

    # ------------------------------------------------------------------------------------------------------ parts

    def _blocks(self, *, gates: bool = False) -> Iterator[tuple[Any, dict[str, Any]]]:
        calls = 0
        for spec in self.step.content:
            match spec:
                case Text():
                    yield spec, {"type": "text", "text": self._filled(spec.text), "citations": None}
                case Stamps():
                    yield spec, {"type": "text", "text": _stamp() * spec.deltas, "citations": None}
                case Thinking():
                    thought = self._filled(spec.thinking)
                    signature = spec.signature if spec.signature is not None else _signature(thought)
                    yield spec, {"type": "thinking", "thinking": thought, "signature": signature}
                case ToolUse():
                    name, arguments = self._offered(spec.name, self._filled(spec.input))
                    call = spec.id or self.conversation.tool_use_id(self.script_id, self.index, calls)
                    calls += 1
                    block = {"type": "tool_use", "id": call, "name": name, "input": arguments}
                    yield spec, {**block, "caller": {"type": "direct"}}
                case Raw():
                    yield spec, dict(spec.block)
                case Gate():
                    if gates:
                        yield spec, {}

    def _block_events(self, index: int, spec: object, block: dict[str, Any]) -> Iterator[Event]:
        match spec:
            case Text():
                start: dict[str, Any] = {"type": "text", "text": "", "citations": None}
                pieces = [{"type": "text_delta", "text": part} for part in _cut(block["text"], spec.chunk)]
            case Stamps():
                start, pieces = {"type": "text", "text": "", "citations": None}, []
            case Thinking():
                start = {"type": "thinking", "thinking": "", "signature": ""}
                pieces = [{"type": "thinking_delta", "thinking": part} for part in _cut(block["thinking"], spec.chunk)]
            case ToolUse():
                start = {**block, "input": {}}
                written = json.dumps(block["input"], ensure_ascii=False)
                parts = ["", *_cut(written, spec.chunk)] if block["input"] else [""]
                pieces = [{"type": "input_json_delta", "partial_json": part} for part in parts]
            case _:
                start, pieces = block, []
        yield _event("content_block_start", {"index": index, "content_block": start})
        interval = spec.interval if isinstance(spec, Text | Stamps | Thinking | ToolUse) else 0.0
        for piece in pieces:
            yield _event("content_block_delta", {"index": index, "delta": piece}, after=interval)
        if isinstance(spec, Stamps):
            for _ in range(spec.deltas):
                yield Event(interval, lambda: _stamped(index))
        if isinstance(spec, Thinking):
            signed = {"type": "signature_delta", "signature": block["signature"]}
            yield _event("content_block_delta", {"index": index, "delta": signed})
        yield _event("content_block_stop", {"index": index})

    def _envelope(self, content: list[dict[str, Any]], stop: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.conversation.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": self.step.stop_sequence if stop else None,
            "stop_details": self._stop_details() if stop else None,
            "container": None,
            "usage": usage,
        }

    def _stop_reason(self, content: list[dict[str, Any]]) -> str:
        if self.step.stop_reason is not None:
            return self.step.stop_reason
        if self.step.stop_details is not None:
            return "refusal"
        if self.step.stop_sequence is not None:
            return "stop_sequence"
        return "tool_use" if any(block.get("type") == "tool_use" for block in content) else "end_turn"

    def _stop_details(self) -> dict[str, Any] | None:
        if self.step.stop_details is not None:
            return self.step.stop_details.model_dump()
        if self.step.stop_reason == "refusal":
            return {"type": "refusal", "category": None, "explanation": None}
        return None

    def _usage(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        total, thinking = output_tokens(content)
        usage = {**self.input_usage, "output_tokens": total}
        if thinking:
            usage["output_tokens_details"] = {"thinking_tokens": thinking}
        return overridden(usage, self.step.usage)

    def _filled(self, value: Any) -> Any:
        match value:
            case str():
                return self._fill(value)
            case Mapping():
                return {key: self._filled(item) for key, item in value.items()}
            case list() | tuple():
                return [self._filled(item) for item in value]
            case _:
                return value

    def _fill(self, template: str) -> str:
        if "{{" not in template or carries_script(template):  # the templates in a script are for who follows it
            return template
        results = self.conversation.tool_results
        values = {
            "last_tool_result": results[-1][0] if results else "",
            "last_user_text": self.conversation.last_prompt[1],
            "model": self.conversation.model,
            "n": str(self.index + 1),
        }
        # Split first, so that a value which looks like a template stays as it is.
        out = []
        for at, piece in enumerate(template.split("{{")):
            name, closed, rest = piece.partition("}}")
            if at and closed and name.strip() in values:
                out.append(values[name.strip()] + rest)
            else:
                out.append(("{{" if at else "") + piece)
        return "".join(out)

    def _offered(self, name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return offered_name(name, self.conversation.tools), _harness_input(name, arguments, self.conversation.tools)


def offered_name(name: str, tools: tuple[str, ...]) -> str:
    """What the request calls the tool `name`: itself, the harness's built-in, or the one MCP tool that ends in it."""
    if name in tools:
        return name
    builtin = _HARNESS_NAMES.get(name)
    if builtin in tools:
        return str(builtin)
    if f"mcp__custom__{name}" in tools:
        return f"mcp__custom__{name}"
    served = [tool for tool in tools if tool.startswith("mcp__") and tool.endswith(f"__{name}")]
    return served[0] if len(served) == 1 else name


def _harness_input(name: str, arguments: dict[str, Any], tools: tuple[str, ...]) -> dict[str, Any]:
    # The harness's built-ins take two inputs in another form than the wire's tools of the same name.
    if name in tools or _HARNESS_NAMES.get(name) not in tools:
        return arguments
    arguments = dict(arguments)
    lines = arguments.get("view_range")
    if name == "read" and isinstance(lines, list) and len(lines) == 2 and all(isinstance(n, int) for n in lines):
        del arguments["view_range"]
        arguments["offset"] = lines[0]
        if lines[1] > 0:
            arguments["limit"] = max(lines[1] - lines[0] + 1, 1)
    if name == "bash" and "timeout_ms" in arguments:
        arguments["timeout"] = arguments.pop("timeout_ms")
    return arguments


def sse(event: str, data: Mapping[str, Any]) -> bytes:
    """The bytes of one SSE event, whose data repeats its type as the API's do."""
    return b"event: " + event.encode() + b"\ndata: " + encoded({"type": event, **data}) + b"\n\n"


def encoded(value: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate, which UTF-8 can't carry, makes it pure ASCII with escapes."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _event(event: str, data: Mapping[str, Any], *, after: float = 0.0) -> Event:
    return Event(after, lambda: sse(event, data))


def _stamp() -> str:
    return f"{time.monotonic_ns()} "


def _stamped(index: int) -> bytes:
    return sse("content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": _stamp()}})


def _cut(value: str, size: int) -> list[str]:
    return [value[at : at + size] for at in range(0, len(value), size)]


def _signature(thought: str) -> str:
    digest = hashlib.sha512(b"rehearsal thinking\0" + thought.encode("utf-8", "surrogatepass")).digest()
    return base64.b64encode(digest).decode()
