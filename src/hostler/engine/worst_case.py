"""What can a request cost at most, before anybody knows what it will cost? Pure.

A token of text is at least one byte, so the body bounds what its text has; encrypted blocks are longer than what is in
them. What the upstream adds (the prompt that explains tools, the frame around messages) and what bytes do not bound
(pictures) is added as a constant. A document, or anything at an address, is bounded by nothing that can be seen here:
then only a count helps. Output is bounded by `max_tokens`, web searches by `max_uses`.

What has a price that the table does not know is refused where a budget counts: other speeds and regions, tools that
call other models, fallbacks of the upstream's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal

from hostler.domain.prices import Price
from hostler.engine.model_port import NotBounded

Write = Literal["plain", "5m", "1h"]

FRAME_TOKENS: Final = 2_000
"""What an upstream adds to any prompt."""
TOOL_TOKENS: Final = 1_500
"""What a tool that the model knows by its type adds to the prompt: the computer tool, the largest, has 735."""
PICTURE_TOKENS: Final = 5_000
"""Of one picture: a larger one is made smaller; the models that see best take 4,784."""
RESULT_TOKENS: Final = 20_000
"""What one web search may add to the prompt. The model reads the prompt again after each."""
SEARCHES: Final = 5
"""How many web searches a request may make that does not say."""
MOST_SEARCHES: Final = 50
"""More are not made by one request where a budget counts."""
LEAST_OUTPUT: Final = 1_024
"""Less output than this is not worth a request that asked for more."""
LEAST_THINKING: Final = 1_024
"""The smallest `budget_tokens` that the API takes."""
_COUNT_MARGIN: Final = 256
"""Tokens by which a count may be off, besides a fiftieth: the API calls it an estimate."""

_FIELDS: Final = frozenset(
    {
        "betas",
        "cache_control",
        "context_management",
        "diagnostics",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
"""Fields of a request that have no price of their own."""
_STANDARD: Final[Mapping[str, frozenset[Any]]] = {
    "speed": frozenset({None, "standard"}),
    "inference_geo": frozenset({None, "global"}),
}
"""Fields with values that cost what the table says."""
_CLIENT_TOOLS: Final = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_")
"""Beginnings of the types of tools that the client runs, or that cost nothing but tokens of the prompt."""
_SEARCH: Final = "web_search_"
_EDITS: Final = ("clear_",)
"""Beginnings of the types of edits that make the prompt smaller, and don't ask a model for that."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request may use at most."""

    prompt: int | None
    """Tokens that its size allows. None: its size says nothing."""
    output: int
    searches: int = 0
    write: Write = "plain"
    thinking: int | None = None
    """`budget_tokens`, when thinking has a fixed amount."""
    search_nanos: int = 0
    """What one of the searches costs, besides its tokens."""

    @property
    def least_output(self) -> int:
        """Output below which the request is not worth making."""
        least = LEAST_OUTPUT if self.thinking is None else 2 * LEAST_THINKING
        return min(self.output, least)

    def counted(self, tokens: int) -> Ask:
        """The same, where somebody counted the prompt."""
        exact = tokens + tokens // 50 + _COUNT_MARGIN
        return replace(self, prompt=exact if self.prompt is None else min(exact, self.prompt))

    def least(self) -> Ask:
        """The smallest that makes sense."""
        return replace(self, output=self.least_output, searches=min(self.searches, 1))


def read(fields: Mapping[str, Any], size: int, search_nanos: int | None) -> Ask:
    """What the body `fields` of `size` bytes may use. Raises NotBounded.

    search_nanos  of one web search, in billionths of a dollar; None: it has no price.
    """
    for name, value in fields.items():
        if name in _STANDARD:
            if not isinstance(value, str | None) or value not in _STANDARD[name]:
                raise NotBounded(f"{name}: {str(value)[:64]!r} has another price than the table; leave it out")
        elif name not in _FIELDS and value is not None:
            raise NotBounded(f"{name[:64]}: what it costs can't be limited; leave it out")
    output = fields.get("max_tokens")
    if not isinstance(output, int) or isinstance(output, bool) or output < 0:
        raise NotBounded("max_tokens: must say how much output there may be at most")
    _check_edits(fields.get("context_management"))
    thinking = fields.get("thinking")
    amount = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    prompt, bounded, searches = size + FRAME_TOKENS, True, 0
    for tool in _list(fields.get("tools")):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or kind == "custom":
            continue
        prompt += TOOL_TOKENS
        if kind.startswith(_SEARCH):
            uses = tool.get("max_uses")
            searches += uses if isinstance(uses, int) and not isinstance(uses, bool) and uses > 0 else SEARCHES
        elif not kind.startswith(_CLIENT_TOOLS):
            raise NotBounded(f"tools: what a tool of the type {kind[:64]} costs can't be limited; leave it out")
    write: Write = "plain"
    for node in _nodes(fields):
        control = node.get("cache_control")
        if isinstance(control, dict):
            write = "1h" if write == "1h" or control.get("ttl") == "1h" else "5m"
        match node.get("type"), node.get("source"):
            case "image", {"type": "base64"}:
                prompt += PICTURE_TOKENS
            case "document", {"type": "text" | "content"}:
                pass
            case "image" | "document" | "container_upload", _:
                bounded = False
    fixed = amount if isinstance(amount, int) and not isinstance(amount, bool) else None
    if searches and search_nanos is None:
        raise NotBounded("tools: web searches have no list price here; leave them out, or give them one")
    return Ask(prompt if bounded else None, output, min(searches, MOST_SEARCHES), write, fixed, search_nanos or 0)


def nanos(price: Price, ask: Ask) -> int:
    """What it costs at most, in billionths of a dollar, rounded up. `ask.prompt` must be known."""
    fixed, each = _parts(price, ask)
    return math.ceil(1000 * (fixed + each * ask.output)) + ask.search_nanos * ask.searches


def lowered(price: Price, ask: Ask, room: int) -> Ask | None:
    """The most of it that costs no more than `room`; None when what makes sense costs more.

    Searches go before output does.
    """
    for searches in range(ask.searches, min(ask.searches, 1) - 1, -1):
        tried = replace(ask, searches=searches)
        fixed, each = _parts(price, tried)
        left = Decimal(room - ask.search_nanos * searches) - 1000 * fixed
        if left < 0:
            continue
        output = int(left // (1000 * each)) if each else ask.output
        if output >= ask.least_output:
            return replace(tried, output=min(output, ask.output))
    return None


def changes(fields: Mapping[str, Any], asked: Ask, paid: Ask) -> dict[str, Any]:
    """The fields of the body, besides `max_tokens`, that must be others for the request to keep to what is paid for."""
    changed: dict[str, Any] = {}
    thinking = fields.get("thinking")
    short = asked.thinking is not None and (paid.output < asked.output or asked.thinking >= paid.output)
    if asked.thinking is not None and short and isinstance(thinking, dict):
        # Must be less than `max_tokens`; half of it is left for the answer. The API refuses more, but not where a beta
        # lets the model think between its calls: there the larger of the two holds.
        most = max(LEAST_THINKING, paid.output // 2)
        if asked.thinking > most:
            changed["thinking"] = {**thinking, "budget_tokens": most}
    left, tools, other = paid.searches, [], False
    for tool in _list(fields.get("tools")):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind.startswith(_SEARCH):
            tools.append(tool)
            continue
        uses = tool.get("max_uses")
        known = isinstance(uses, int) and not isinstance(uses, bool) and uses > 0
        most = min(uses if known else SEARCHES, max(left, 0))
        left -= most
        other = other or uses != most
        if most:
            tools.append({**tool, "max_uses": most})
    if other:
        changed["tools"] = tools
    return changed


def _parts(price: Price, ask: Ask) -> tuple[Decimal, Decimal]:
    """Dollars for a million: of everything but the output, times its tokens; of a token of output."""
    assert ask.prompt is not None, "a prompt that nobody can bound has no price"
    tokens = ask.prompt * (ask.searches + 1) + RESULT_TOKENS * ask.searches * (ask.searches + 1) // 2
    tiers = [price]
    if price.long is not None and price.long_above is not None and tokens > price.long_above:
        tiers.append(price.long)
    read = max(_dearest(tier, ask.write) for tier in tiers)
    return read * tokens, max(tier.output for tier in tiers)


def _dearest(price: Price, write: Write) -> Decimal:
    kinds = [price.input, price.cache_read]
    if write != "plain":
        kinds.append(price.cache_write_5m)
    if write == "1h":
        kinds.append(price.cache_write_1h)
    return max(kinds)


def _check_edits(management: object) -> None:
    edits = management.get("edits") if isinstance(management, dict) else None
    for edit in _list(edits):
        kind = edit.get("type") if isinstance(edit, dict) else None
        if not isinstance(kind, str) or not kind.startswith(_EDITS):
            raise NotBounded(f"context_management: what {str(kind)[:64]!r} costs can't be limited; leave it out")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _nodes(value: object) -> Iterator[dict[str, Any]]:
    """Every object in it."""
    left: list[object] = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield found
            left.extend(each for each in found.values() if isinstance(each, dict | list))
        elif isinstance(found, list):
            left.extend(each for each in found if isinstance(each, dict | list))


__all__ = ["Ask", "NotBounded", "changes", "lowered", "nanos", "read"]
