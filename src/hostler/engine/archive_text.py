"""What can a person read in an archived entry? The words of a transcript's line, and a piece of them around a find."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_AROUND: Final = 120
"""Characters of an excerpt on either side."""
_LONGEST: Final = 200_000
"""Characters of one entry that are shown and searched."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry."""

    subpath: str
    """Empty for the main transcript."""
    ordinal: int
    kind: str
    """What the harness calls it: `user`, `assistant`, `attachment`, `system`, …"""
    role: str | None
    at: str | None
    text: str


def line_of(text: str) -> Line:
    """A line of a chunk. What came from a sandbox may have any shape, and is shown as far as it is text."""
    subpath, ordinal, entry = json.loads(text)
    given: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    message = given.get("message")
    body: Mapping[str, Any] = message if isinstance(message, dict) else {}
    role, at = body.get("role"), given.get("timestamp")
    words = _words(body.get("content")) if body else _words(given.get("content")) or _attached(given)
    return Line(
        subpath,
        ordinal,
        str(given.get("type", ""))[:64],
        role[:64] if isinstance(role, str) else None,
        at[:64] if isinstance(at, str) else None,
        words[:_LONGEST],
    )


def may_match(text: str, words: str) -> bool:
    """Quickly: whether a line of JSON can hold the words. Only words that JSON writes as they are can rule it out."""
    if any(character in '"\\/' or ord(character) < 32 or ord(character) > 126 for character in words):
        return True
    return words.casefold() in text.casefold()


def excerpt(line: Line, words: str) -> str:
    """The text around the first find."""
    at = line.text.casefold().find(words.casefold())
    # Folding can change lengths, so the place is near, not exact, in some languages.
    at = max(0, min(at, len(line.text)))
    first, last = max(0, at - _AROUND), at + len(words) + _AROUND
    return ("…" if first else "") + line.text[first:last] + ("…" if last < len(line.text) else "")


def _words(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(text for block in content if (text := _block(block)))


def _block(block: object) -> str:
    match block:
        case {"type": "text", "text": str() as text}:
            return text
        case {"type": "thinking", "thinking": str() as text}:
            return text
        case {"type": "tool_use", "name": str() as name, "input": given}:
            return f"{name} {json.dumps(given, ensure_ascii=False)}"
        case {"type": "tool_result", "content": content}:
            return _words(content)
        case str():
            return block
        case {"type": str() as kind}:
            return f"[{kind}]"
        case _:
            return ""


def _attached(entry: Mapping[str, Any]) -> str:
    attachment = entry.get("attachment")
    return _words(attachment.get("content")) if isinstance(attachment, dict) else ""
