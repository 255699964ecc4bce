"""What does `claude` say that its conversation has used? Its own count, beside the gateway's.

It counts from the beginning of a conversation, over all its processes: at a peaceful end it writes its count into the
transcript (`cost-state`), and the next process goes on from the newest one that it finds. So what one process has used
is its count less the one that it began with. All of this comes from inside the sandbox: a second opinion, no bill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hostler.engine.runs import ReportedUse

_MARK = '"cost-state"'
_MOST = 1 << 53
"""Larger numbers are no counts."""


def reported(usage: object) -> dict[str, ReportedUse] | None:
    """`modelUsage` as the process writes it, by model. None when it is no such thing."""
    if not isinstance(usage, Mapping):
        return None
    found: dict[str, ReportedUse] = {}
    for model, used in usage.items():
        if not isinstance(model, str) or not isinstance(used, Mapping) or len(found) >= 100:
            return None
        counts = [used.get(name, 0) for name in _KINDS]
        if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < _MOST for count in counts):
            return None
        asked, answered, read, written, searches = counts
        found[model[:128]] = ReportedUse(asked, answered, read, written, searches, _cost(used))
    return found


_KINDS = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens", "webSearchRequests")


def _cost(used: Mapping[str, Any]) -> float | None:
    """In USD; None where the process has no price either."""
    cost = used.get("costUSD")
    if not isinstance(cost, int | float) or used.get("costBasis") == "unknown" or not 0 <= cost < _MOST:
        return None
    return float(cost)


def begun_with(texts: Sequence[str]) -> dict[str, ReportedUse]:
    """What a process counts on from that begins with these entries of a transcript, each as JSON text."""
    for text in reversed(texts):
        if _MARK not in text:
            continue
        entry: Any = json.loads(text)
        if entry.get("type") == "cost-state":
            return reported(entry.get("modelUsage")) or {}
    return {}


def less(now: Mapping[str, ReportedUse], before: Mapping[str, ReportedUse]) -> dict[str, ReportedUse]:
    """What came since, by model."""
    return {model: used.less(before[model]) if model in before else used for model, used in now.items()}
