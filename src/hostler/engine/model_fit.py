"""What does a model take of a request that was made for another one, and what has to be sent otherwise?

A request is written for the model that it names. When another one answers it, what that one refuses would turn a good
request into a 400. So fields are changed, never added meaning to: `max_tokens` down to the model's limit, the kind of
thinking, the effort, and words of the harness in the middle of the conversation. What can't be changed, a conversation
longer than the model's window, speaks against the model: then the router leaves it alone.

The table says what Claude Code of the pinned release sends each model itself: that is what they take. Thinking of
earlier turns stays as it is: the API drops what a model can't read, and refuses changed conversations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.engine.models import Model, Models

BYTES_OF_A_TOKEN: Final = 3
"""A cautious guess: English text has about four, JSON about three."""
LEAST_THINKING: Final = 1_024
"""Tokens. The API refuses a smaller budget."""
MOST_THINKING: Final = 31_999
"""What Claude Code asks of models that are told how long to think."""
UNKNOWN_MAX_TOKENS: Final = 64_000
"""What all models since 4.5 take, for those whose limit the catalogue doesn't know."""

_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Takes:
    """What a model takes in a request."""

    thinking: Literal["adaptive", "enabled"] = "adaptive"
    efforts: frozenset[str] = frozenset(_EFFORTS)
    system_words: bool = True
    """Messages with the role `system` between the others."""


_UNTIL_4_7 = Takes(system_words=False)
_UNTIL_4_6 = Takes(efforts=frozenset(("low", "medium", "high", "max")), system_words=False)
_UNTIL_4_5 = Takes("enabled", frozenset(), system_words=False)

_OLDER: Final[Mapping[str, Takes]] = {
    "claude-opus-4-7": _UNTIL_4_7,
    "claude-opus-4-6": _UNTIL_4_6,
    "claude-sonnet-4-6": _UNTIL_4_6,
    "claude-opus-4-5-20251101": Takes("enabled", frozenset(("low", "medium", "high")), system_words=False),
    "claude-haiku-4-5-20251001": _UNTIL_4_5,
    "claude-sonnet-4-5-20250929": _UNTIL_4_5,
}
_ALL: Final = Takes()


class ModelFit:
    """Answers for the models of a catalogue. Implements `Fitter`. Pure."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def misfit(self, model: str, size: int) -> str:
        """Why `model` can't answer a request of `size` bytes, for a person. Empty: nothing is known against it."""
        known = self._models.find(model)
        if known is None:
            return f"{model} is not in this server's catalogue"
        tokens = size // BYTES_OF_A_TOKEN
        if known.max_input_tokens is not None and tokens > known.max_input_tokens:
            return f"the request has about {tokens:,} tokens, and {model} takes {known.max_input_tokens:,}"
        return ""

    def changes(self, model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a body that `model` is sent otherwise. A model outside the catalogue gets all as it came."""
        known = self._models.find(model)
        if known is None:
            return {}
        takes = _OLDER.get(known.id, _ALL)
        changed: dict[str, Any] = {}
        most = _most_tokens(known, fields)
        if most is not None:
            changed["max_tokens"] = most
        thinking = _thinking(takes, fields, most)
        if thinking is not None:
            changed["thinking"] = thinking
            if thinking["type"] == "disabled":
                changed |= _without_thinking_edits(fields)
        output = fields.get("output_config")
        if isinstance(output, dict) and isinstance(output.get("effort"), str):
            effort = _effort(takes, output["effort"])
            if effort != output["effort"]:
                rest = {name: value for name, value in output.items() if name != "effort"}
                changed["output_config"] = rest if effort is None else {**rest, "effort": effort}
        if not takes.system_words:
            messages = _plain_roles(fields.get("messages"))
            if messages is not None:
                changed["messages"] = messages
        return changed


def _most_tokens(model: Model, fields: Mapping[str, Any]) -> int | None:
    """None: what was asked for is fine."""
    limit = model.max_tokens or UNKNOWN_MAX_TOKENS
    asked = fields.get("max_tokens")
    return limit if isinstance(asked, int) and asked > limit else None


def _thinking(takes: Takes, fields: Mapping[str, Any], most: int | None) -> dict[str, Any] | None:
    """None: as it came."""
    thinking = fields.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") not in ("adaptive", "enabled"):
        return None
    if takes.thinking == "adaptive":
        if thinking["type"] == "adaptive":
            return None
        return {**{name: value for name, value in thinking.items() if name != "budget_tokens"}, "type": "adaptive"}
    asked = most if most is not None else fields.get("max_tokens")
    room = (asked if isinstance(asked, int) else UNKNOWN_MAX_TOKENS) - 1
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget <= room:
            return None
    if room < LEAST_THINKING:
        return {"type": "disabled"}
    return {**thinking, "type": "enabled", "budget_tokens": min(room, MOST_THINKING)}


def _without_thinking_edits(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An edit that clears thinking is refused where there is none."""
    management = fields.get("context_management")
    if not isinstance(management, dict) or not isinstance(management.get("edits"), list):
        return {}
    edits = management["edits"]
    kept = [edit for edit in edits if not _clears_thinking(edit)]
    return {} if len(kept) == len(edits) else {"context_management": {**management, "edits": kept}}


def _clears_thinking(edit: Any) -> bool:
    return isinstance(edit, dict) and str(edit.get("type")).startswith("clear_thinking")


def _effort(takes: Takes, asked: str) -> str | None:
    """The highest that the model takes and that is not more than `asked`. None: it takes none."""
    if asked in takes.efforts or asked not in _EFFORTS:
        return asked if takes.efforts else None
    below = [effort for effort in _EFFORTS[: _EFFORTS.index(asked)] if effort in takes.efforts]
    return below[-1] if below else None


def _plain_roles(messages: Any) -> list[Any] | None:
    """What the harness says in the middle, said the way it says it to older models: as a reminder of the user's.

    None: there is nothing of that kind.
    """
    if not isinstance(messages, list) or not any(_is_system(message) for message in messages):
        return None
    return [_reminder(message) if _is_system(message) else message for message in messages]


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def _reminder(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list):
        return {**message, "role": "user"}
    return {**message, "role": "user", "content": [_wrapped(block) for block in blocks]}


def _wrapped(block: Any) -> Any:
    if not isinstance(block, dict) or not isinstance(block.get("text"), str):
        return block
    return {**block, "text": f"<system-reminder>\n{block['text']}\n</system-reminder>"}
