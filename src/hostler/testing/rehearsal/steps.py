"""What can a rehearsal script say, and how is one read, checked and written?

A script is a list of steps; a step is one answer of the model. The same values come from JSON (a file, or a fenced
block in a user message) and from the builders in `build`. Reading is strict: an unknown key, a wrong
type or a contradiction raises `ScriptError`, whose message names the place (`steps[1].content[0].text: …`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FENCE = "rehearse"
DEFAULT_CHUNK = 24
"""Characters of one delta when a block does not say otherwise."""


class ScriptError(ValueError):
    """The script can't be followed. The message says what is wrong and where."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Paced(_Value):
    chunk: int = Field(default=DEFAULT_CHUNK, ge=1)
    """Characters of one delta."""
    rate: float | None = Field(default=None, gt=0)
    """Deltas a second, on an absolute schedule: a late delta does not delay the next."""
    delay_ms: float | None = Field(default=None, ge=0)
    """Pause before every delta, in milliseconds; the other way to say `rate`."""

    @model_validator(mode="after")
    def _one_pace(self) -> _Paced:
        if self.rate is not None and self.delay_ms is not None:
            raise ValueError("give `rate` or `delay_ms`, not both")
        return self

    @property
    def interval(self) -> float:
        """Seconds between two deltas."""
        if self.rate is not None:
            return 1 / self.rate
        return (self.delay_ms or 0) / 1000


class Text(_Paced):
    """Text of the answer. Templates: see `Step`."""

    type: Literal["text"] = "text"
    text: str


class Stamps(_Paced):
    """`deltas` text deltas, each `"<time.monotonic_ns() when it was sent> "`: for measuring what lies behind the model.

    CLOCK_MONOTONIC is one clock for all processes of a host, so a reader on the same machine may subtract.
    """

    type: Literal["stamps"] = "stamps"
    deltas: int = Field(ge=1, le=1_000_000)


class Thinking(_Paced):
    """A thinking block. Without `signature` a stable one is made from the text."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str | None = None


class ToolUse(_Paced):
    """A tool call. `name` is the wire's (`bash`, `read`, …), a custom tool's, or exactly what the request offers.

    Without `id` a stable one is derived; see `identity.tool_use_id`.
    """

    type: Literal["tool_use"] = "tool_use"
    name: str = Field(min_length=1, max_length=200)
    input: dict[str, Any] = {}
    id: str | None = Field(default=None, min_length=1, max_length=200)


class Raw(_Value):
    """Any other content block (`redacted_thinking`, `server_tool_use`, …), sent whole, as it is."""

    type: Literal["raw"] = "raw"
    block: dict[str, Any]


class Gate(_Value):
    """No content: the answer waits here until `RehearsalModel.open_gate(name)`. Stops time without a sleep."""

    type: Literal["gate"] = "gate"
    name: str = Field(min_length=1)


Block: TypeAlias = Annotated[Text | Stamps | Thinking | ToolUse | Raw | Gate, Field(discriminator="type")]
_BLOCK_TYPES = ("text", "stamps", "thinking", "tool_use", "raw", "gate")


class CacheCreation(_Value):
    ephemeral_5m_input_tokens: int = Field(default=0, ge=0)
    ephemeral_1h_input_tokens: int = Field(default=0, ge=0)


class ServerToolUse(_Value):
    web_search_requests: int = Field(default=0, ge=0)
    web_fetch_requests: int = Field(default=0, ge=0)


class UsageOverride(_Value):
    """What to report instead of the estimate. Fields that are absent stay estimated. Tokens."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cache_read_input_tokens: int | None = Field(default=None, ge=0)
    cache_creation_input_tokens: int | None = Field(default=None, ge=0)
    cache_creation: CacheCreation | None = None
    server_tool_use: ServerToolUse | None = None


class StopDetails(_Value):
    type: Literal["refusal"] = "refusal"
    category: str | None = None
    explanation: str | None = None


class TooLong(_Value):
    tokens: int = Field(default=1_000_001, ge=1)
    maximum: int = Field(default=1_000_000, ge=1)


StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "model_context_window_exceeded"
]
_FAILURES = ("error", "prompt_too_long", "cut", "garbage", "hang", "sse_error", "reset")


class Step(_Value):
    """One answer of the model.

    Templates in texts and in the strings of tool inputs: `{{last_tool_result}}`, `{{last_user_text}}`, `{{model}}`,
    `{{n}}` (number of the step, from 1).

    At most one failure: `error`, `prompt_too_long`, `cut`, `garbage`, `hang`, `sse_error`, `reset`. It happens `times`
    times for this step of this conversation, then the step gives its content. Without `times`: once if there is
    content, always if there is none. With `for_models`: only in requests for these models; the others get the content.
    """

    content: tuple[Block, ...] = ()
    usage: UsageOverride | None = None
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    delay_ms: float = Field(default=0, ge=0)
    """Milliseconds before the first byte of the answer (of an error too)."""

    error: int | None = Field(default=None, ge=400, le=599)
    """HTTP status to fail with."""
    type: str | None = None
    """Error type in the envelope; default by status."""
    message: str | None = None
    """Error message in the envelope."""
    retry_after: float | None = Field(default=None, ge=0)
    """Seconds, for the `retry-after` header of `error`."""
    headers: dict[str, str] = {}
    """More headers of the answer."""
    prompt_too_long: TooLong | None = None
    cut: int | None = Field(default=None, ge=0)
    """Close the connection after this many SSE events (0: right after the headers)."""
    garbage: int | None = Field(default=None, ge=0)
    """After this many SSE events send bytes that are no SSE, then close."""
    hang: int | None = Field(default=None, ge=0)
    """After this many SSE events send nothing more, and keep the connection."""
    sse_error: int | None = Field(default=None, ge=0)
    """After this many SSE events send an `error` event (`type`, `message`; default overloaded_error) and end."""
    reset: Literal[True] | None = None
    """Reset the connection before a byte of the answer."""
    times: int | Literal["always"] | None = None
    for_models: tuple[str, ...] | None = None
    """Models that the failure is for. None: all."""

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, value: object) -> object:
        if isinstance(value, str):
            return {"content": (Text(text=value),)}
        if isinstance(value, list):
            return {"content": value}
        if isinstance(value, Mapping):
            if value.get("type") in _BLOCK_TYPES:
                return {"content": [value]}
            if value.get("prompt_too_long") is True:
                return {**value, "prompt_too_long": TooLong()}
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _blocks(cls, value: object) -> object:
        if isinstance(value, str):
            return (Text(text=value),)
        if isinstance(value, list | tuple):
            return tuple({"type": "text", "text": item} if isinstance(item, str) else item for item in value)
        return value

    @field_validator("for_models", mode="before")
    @classmethod
    def _models(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Step:
        failures = [name for name in _FAILURES if getattr(self, name) is not None]
        if len(failures) > 1:
            raise ValueError(f"a step has at most one failure, this one has {' and '.join(failures)}")
        if not failures:
            if not self.content and self.stop_reason is None:
                raise ValueError("an empty step: give `content`, a `stop_reason` or a failure")
            for name in ("times", "type", "message", "retry_after", "for_models"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` belongs to a failure ({', '.join(_FAILURES)}), and there is none")
        if isinstance(self.times, int) and self.times < 0:
            raise ValueError('`times` is 0 or more, or "always"')
        return self

    def to_value(self) -> dict[str, Any]:
        """JSON that reads back as this step."""
        value = self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        if self.content:  # `exclude_defaults` dropped the tags of the blocks
            bare = (block.model_dump(mode="json", exclude_defaults=True, exclude_none=True) for block in self.content)
            value["content"] = [{"type": block.type, **rest} for block, rest in zip(self.content, bare, strict=True)]
        return value

    @property
    def failure(self) -> str | None:
        """Name of the failure, or None."""
        return next((name for name in _FAILURES if getattr(self, name) is not None), None)

    @property
    def failure_limit(self) -> int | None:
        """How often the failure happens; None: always."""
        if self.failure is None:
            return 0
        if self.times is None:
            return 1 if self.content else None
        return None if self.times == "always" else self.times


class Rule(_Value):
    """`steps` for turns whose user text contains `when` (a regular expression; without `regex`, plain text)."""

    when: str
    regex: bool = False
    steps: tuple[Step, ...] = Field(min_length=1)

    @field_validator("steps", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _compiles(self) -> Rule:
        if self.regex:
            try:
                re.compile(self.when)
            except re.error as error:
                raise ValueError(f"`when` is not a regular expression: {error}") from None
        return self

    def matches(self, text: str) -> bool:
        if self.regex:
            return re.search(self.when, text) is not None
        return self.when in text


class Script(_Value):
    """Steps, counted from the start of the conversation; or rules, whose steps are counted from the turn they match.

    With both, the rules come first and `steps` is for conversations that no rule matches.
    `start` is the index of the step that comes first: a compacted conversation carries its script on with it.
    """

    steps: tuple[Step, ...] = ()
    rules: tuple[Rule, ...] = ()
    start: int = Field(default=0, ge=0)

    @field_validator("steps", "rules", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _something(self) -> Script:
        if not self.steps and not self.rules:
            raise ValueError("an empty script: give at least one step")
        return self

    @classmethod
    def from_json(cls, source: str) -> Script:
        """A list of steps, a list of rules, or an object with `steps`, `rules`, `start`. Raises ScriptError."""
        try:
            value = json.loads(source)
        except json.JSONDecodeError as error:
            raise ScriptError(
                f"not JSON: {error.msg} at line {error.lineno}, column {error.colno} of the script"
            ) from None
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: object) -> Script:
        """The same from decoded JSON. Raises ScriptError."""
        if isinstance(value, list):
            is_rules = bool(value) and all(isinstance(item, Mapping) and "when" in item for item in value)
            value = {"rules" if is_rules else "steps": value}
        if not isinstance(value, Mapping):
            raise ScriptError(f"a script is a list of steps or an object with `steps`, not {type(value).__name__}")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ScriptError(explain(error)) from None

    @classmethod
    def from_file(cls, path: Path) -> Script:
        """Reads a JSON file. Raises ScriptError, with the path, and OSError."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ScriptError as error:
            raise ScriptError(f"{path}: {error}") from None


def fingerprint(steps: Iterable[Step]) -> str:
    """Names a list of steps by content, however it was written. 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for item in steps:
        digest.update(item.model_dump_json(exclude_defaults=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def explain(error: ValidationError) -> str:
    """What is wrong and where, for a person; at most three problems."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        place = ""
        where = problem["loc"]
        for at, part in enumerate(where):
            if isinstance(part, int):
                place += f"[{part}]"
            elif where[max(at - 2, 0)] != "content":  # pydantic puts the tag of the block there
                place += f".{part}" if place else part
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            message = f"a block's `type` is one of {', '.join(_BLOCK_TYPES)}"
        problems.append(f"{place}: {message}" if place else message)
    return "; ".join(problems)
