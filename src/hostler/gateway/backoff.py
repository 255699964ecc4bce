"""What does a failed attempt mean for the next one, and how long is it until then?

Pure. Waiting times have full jitter (a random part of a limit that doubles): of a thousand requests that failed
together, no two seconds get all of them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hostler.engine.model_port import Ended

Again = Literal["fine", "again", "elsewhere", "never"]
"""fine: it is an answer. again: this upstream may do better later. elsewhere: this one won't, another one may. never:
the request itself is at fault, and every upstream would say so."""

_PASSING = frozenset({408, 409, 429})
_UPSTREAMS_OWN = frozenset({401, 402, 403})
"""Our credentials there, or our bill: neither is the request's fault, and neither gets better by asking again."""
_DETERMINED = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one attempt."""

    again: Again
    ill: bool = False
    """Whether it speaks against the upstream's health. That it is busy with us (429) does not."""
    well: bool = False
    """Whether it speaks for it: it has answered, if only to say that the request is wrong."""


def judge(ended: Ended, *, fallback: bool = False) -> Verdict:
    """What follows from how an attempt ended.

    fallback  whether another model than the first was asked: that it can't take the request says nothing of the first.
    """
    if not ended.failure:
        return Verdict("fine", well=True)
    status = ended.status
    if status in (0, 200):  # no answer, or one that broke off or made no sense
        return Verdict("again", ill=True)
    if status in _UPSTREAMS_OWN:
        return Verdict("elsewhere")
    found: Again = "again" if status in _PASSING or (status >= 500 and status not in _DETERMINED) else "never"
    if ended.should_retry is not None:
        if found == "again" and not ended.should_retry:
            found = "elsewhere"
        elif found == "never" and ended.should_retry:
            found = "again"
    if found == "never" and fallback:
        found = "elsewhere"
    ill = status >= 500 and status not in _DETERMINED
    return Verdict(found, ill=ill, well=not ill)


def is_final(status: int) -> bool:
    """Whether the harness would ask again by itself after an answer with this status, although we have given up. What
    remains are answers that it knows what to do with: a prompt that is too long, a beta that is not known."""
    return status in _PASSING or status in _UPSTREAMS_OWN or status >= 500


@dataclass(frozen=True, slots=True)
class Backoff:
    """Times in seconds."""

    base_seconds: float = 0.5
    """Limit of the first pause."""
    longest_seconds: float = 60.0
    """Limit of every pause, unless the upstream asks for a longer one."""
    most_retry_after_seconds: float = 300.0
    """An upstream that asks for more than this is not asked again for the same request."""

    def pause(self, tries: int, retry_after: float | None, chance: Callable[[], float]) -> float | None:
        """Before the same is asked again, after `tries` (from 1) failures. None: not again.

        `chance`: a number from 0 to 1 (exclusive), another one each time. What the upstream asks for is the least, and
        what comes on top of it spreads those that it asked for the same.
        """
        if retry_after is None:
            return chance() * min(self.longest_seconds, self.base_seconds * 2.0 ** min(tries - 1, 32))
        if retry_after > self.most_retry_after_seconds:
            return None
        return retry_after + chance() * min(self.base_seconds, self.longest_seconds)


__all__ = ["Again", "Backoff", "Verdict", "is_final", "judge"]
