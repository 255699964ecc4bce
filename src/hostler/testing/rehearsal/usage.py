"""What would this request have cost in tokens?

Estimates with the shape of the real thing: four bytes are a token; a request with `cache_control` writes its prefix to
a cache, and the next request with the same prefix reads it. Only the shape is promised, not the numbers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from hostler.testing.rehearsal.conversation import Conversation
from hostler.testing.rehearsal.steps import UsageOverride

BYTES_PER_TOKEN = 4
_REMEMBERED = 10_000
_BEHIND_LAST_BREAKPOINT = 3
"""Tokens that are never cached: what follows the last cache breakpoint."""


def tokens(size: int) -> int:
    """Tokens of `size` bytes; at least 1."""
    return max(1, -(-size // BYTES_PER_TOKEN))


class PromptCache:
    """Remembers how long the prefix of each conversation was. Bounded: the least used is forgotten."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[str, int] = OrderedDict()

    def usage_of(self, conversation: Conversation, raw: bytes) -> dict[str, Any]:
        """The input side of `usage` for a request, in tokens. Writes what the next request will read."""
        total = tokens(len(raw))
        if b'"cache_control"' not in raw:
            return _input_usage(total, 0, 0, False)
        cacheable = max(total - _BEHIND_LAST_BREAKPOINT, 0)
        known = self._lengths.pop(conversation.prefix_id, 0)
        read = min(known, cacheable)
        self._lengths[conversation.prefix_id] = cacheable
        while len(self._lengths) > _REMEMBERED:
            self._lengths.popitem(last=False)
        return _input_usage(total - cacheable, read, cacheable - read, b'"1h"' in raw)


def _input_usage(fresh: int, read: int, written: int, for_an_hour: bool) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if for_an_hour else written,
            "ephemeral_1h_input_tokens": written if for_an_hour else 0,
        },
        "output_tokens": 1,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def output_tokens(content: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Tokens of an answer's blocks, and how many of them are thinking."""
    total = thinking = 0
    for block in content:
        size = tokens(len(json.dumps(block, ensure_ascii=False).encode("utf-8", "surrogatepass")))
        total += size
        thinking += size if block.get("type") == "thinking" else 0
    return max(total, 1), thinking


def overridden(usage: dict[str, Any], override: UsageOverride | None) -> dict[str, Any]:
    """`usage` with what a step says instead."""
    if override is None:
        return usage
    said = override.model_dump(exclude_none=True)
    if "cache_creation_input_tokens" in said and "cache_creation" not in said:
        said["cache_creation"] = {
            "ephemeral_5m_input_tokens": said["cache_creation_input_tokens"],
            "ephemeral_1h_input_tokens": 0,
        }
    return {**usage, **said}
