"""What does a request count against rate limits, before it is asked and after it was answered?

Before, nobody knows. Tokens of the prompt are estimated by its bytes: a quarter of them, or what the last request of
the same thread came to for each byte, which knows how much of a conversation is read from a cache. Tokens of the answer
are estimated as what answers of this thread, or else of this model, had on average. Both are put right afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from hostler.domain.rates import Kind
from hostler.engine.model_port import Asked, Target
from hostler.store.sessions import Usage

Costs = Mapping[Kind, float]

BYTES_PER_TOKEN: Final = 4
FIRST_SHARE: Final = 8
"""The first answer is taken for this part of the most that it may have."""
_WEIGHT: Final = 0.25
"""Of the newest answer in an average."""
_MOST_KNOWN: Final = 10_000
"""Threads and models that are remembered; those unused for the longest are forgotten."""
_DEFAULT_MAX_TOKENS: Final = 4_096

_Thread = tuple[str, str]


class Estimates:
    """What is known of the threads and models that asked last. Of one server."""

    def __init__(self) -> None:
        self._input_per_byte: OrderedDict[_Thread, float] = OrderedDict()
        self._output: OrderedDict[_Thread, float] = OrderedDict()

    def before(self, asked: Asked, target: Target) -> Costs:
        """Of each kind, before it is asked."""
        thread = (asked.caller.session_id, asked.thread)
        given = asked.size * self._input_per_byte.get(thread, 1 / BYTES_PER_TOKEN)
        wanted = asked.fields.get("max_tokens")
        most = wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0 else None
        known = self._output.get(thread) or self._output.get(_of_model(target))
        made = known if known is not None else (most or _DEFAULT_MAX_TOKENS) / FIRST_SHARE
        return costs(given, made if most is None else min(made, float(most)))

    def after(self, asked: Asked, target: Target, usage: Usage) -> None:
        """A whole answer used that much."""
        thread = (asked.caller.session_id, asked.thread)
        if asked.size:
            _remember(self._input_per_byte, thread, counted_input(usage) / asked.size)
        for key in (thread, _of_model(target)):
            before = self._output.get(key)
            new = float(usage.output_tokens)
            _remember(self._output, key, new if before is None else before + _WEIGHT * (new - before))


def costs(given: float, made: float) -> dict[Kind, float]:
    """Of one request with so many tokens in its prompt and in its answer."""
    return {"requests": 1.0, "input_tokens": given, "output_tokens": made, "tokens": given + made}


def counted_input(usage: Usage) -> int:
    """What providers count: what was written to a cache, not what was read from it."""
    return usage.input_tokens + usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens


def used(taken: Costs, status: int, usage: Usage, *, complete: bool) -> Costs:
    """What a request came to that was taken for `taken`.

    One that was refused counts as a request, without tokens. Of one whose answer broke off, or never came, nobody
    knows: it counts as what it was taken for, or as what it said before, whichever is more.
    """
    if status == 200:
        known = costs(float(counted_input(usage)), float(usage.output_tokens))
        if complete:
            return known
        said_input = usage != Usage()
        given = known["input_tokens"] if said_input else taken["input_tokens"]
        return costs(given, max(known["output_tokens"], taken["output_tokens"]))
    return taken if status == 0 else costs(0.0, 0.0)


def _of_model(target: Target) -> _Thread:
    return ("", f"{target.upstream}/{target.model}")


def _remember(known: OrderedDict[_Thread, float], key: _Thread, value: float) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _MOST_KNOWN:
        known.popitem(last=False)
