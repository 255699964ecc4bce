"""What did a model request use, read from the answer as it passes by?

Numbers come from the upstream only. The counts in `message_delta` are totals so far, not increments, so each later
number replaces the earlier one. A stream that breaks off keeps what had been counted by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from hostler.store.sessions import Usage

_MOST: Final = 1 << 30
"""No answer has more of anything. What can't be stored would never be recorded."""


class UsageTap:
    """Collects usage and stop reason of one answer."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._speed: object = None
        self.stop_reason: str | None = None
        self.doubtful = False
        """Whether something was said that can't be a count: it may have used more than what is known."""

    @property
    def usage(self) -> Usage:
        counts = self._counts
        hour = counts.get("cache_1h", 0)
        # Without the breakdown, every written token is one of the five-minute cache: that is the API's default.
        five = counts["cache_5m"] if "cache_5m" in counts else max(counts.get("cache_write", 0) - hour, 0)
        return Usage(
            input_tokens=counts.get("input", 0),
            output_tokens=counts.get("output", 0),
            cache_read_input_tokens=counts.get("cache_read", 0),
            cache_creation_5m_input_tokens=five,
            cache_creation_1h_input_tokens=hour,
            web_search_requests=counts.get("web_search", 0),
            # Prices are of the standard speed. Others cost several times as much.
            unpriced_requests=int(self._speed not in (None, "standard")),
        )

    @property
    def counted(self) -> bool:
        """Whether anything was said of the output."""
        return "output" in self._counts

    def observe_event(self, name: bytes, data: bytes) -> None:
        """Takes in one event; only `message_start` and `message_delta` carry usage. Garbage counts as nothing."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        if name == b"message_start":
            self.observe_message(value.get("message"))
        else:
            self._take(value.get("usage"))
            self._stop(value.get("delta"))

    def observe_message(self, message: object) -> None:
        """Takes in a whole message (the body of an answer that isn't a stream)."""
        if isinstance(message, dict):
            self._take(message.get("usage"))
            self._stop(message)

    def _stop(self, holder: object) -> None:
        if isinstance(holder, dict) and isinstance(holder.get("stop_reason"), str):
            self.stop_reason = holder["stop_reason"]

    def _take(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        self._speed = usage.get("speed") or self._speed
        before = self._counts.get("cache_write", 0)
        self._set("input", usage, "input_tokens")
        self._set("output", usage, "output_tokens")
        self._set("cache_read", usage, "cache_read_input_tokens")
        self._set("cache_write", usage, "cache_creation_input_tokens")
        self._set("cache_5m", usage.get("cache_creation"), "ephemeral_5m_input_tokens")
        self._set("cache_1h", usage.get("cache_creation"), "ephemeral_1h_input_tokens")
        if self._counts.get("cache_write", 0) > before and not usage.get("cache_creation"):
            self._counts.pop("cache_5m", None)  # What was said of the parts was said of less.
        self._set("web_search", usage.get("server_tool_use"), "web_search_requests")

    def _set(self, key: str, holder: object, field: str) -> None:
        value = holder.get(field) if isinstance(holder, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
            self._counts[key] = value
        elif value is not None:
            self.doubtful = True
