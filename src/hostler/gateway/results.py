"""Which tools' results does a request bring to the model for the first time?

Those that stand behind the newest answer of the model in the conversation: the request is made because of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

_MOST: Final = 1000
"""Results that are looked at in one request."""


def results_of(messages: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    """For each result its tool, as the harness names it, and its size in bytes. What is no such message is skipped."""
    newest = next((place for place in range(len(messages) - 1, -1, -1) if _role(messages[place]) == "assistant"), None)
    if newest is None:
        return ()
    names = {
        block["id"]: block["name"]
        for block in _blocks(messages[newest])
        if block.get("type") == "tool_use" and isinstance(block.get("id"), str) and isinstance(block.get("name"), str)
    }
    found = [
        (names[block["tool_use_id"]], _size(block.get("content")))
        for message in messages[newest + 1 :]
        for block in _blocks(message)
        if block.get("type") == "tool_result"
        and isinstance(block.get("tool_use_id"), str)
        and block["tool_use_id"] in names
    ]
    return tuple(found[:_MOST])


def _role(message: Any) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _blocks(message: Any) -> list[dict[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _size(content: object) -> int:
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass"))
    if content is None:
        return 0
    return len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
