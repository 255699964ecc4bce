"""May this model of this upstream be asked now, going by how it did lately?

closed: yes. open: no, until its time is over. half-open: one request tries it, and the others wait for how that ends.
It opens after so many failures in a row, or when so large a part of the latest requests failed; each time that a trial
fails it stays open for twice as long. Without a clock of its own: whoever owns it injects one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]
_MOST_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True)
class BreakerTerms:
    """When it opens and for how long. Times in seconds."""

    failures: int = 5
    """In a row. Fewer would open it for a hiccup that a retry gets over; many more only cost everybody time."""
    rate: float = 0.5
    """Part of the requests of the window, when there were `least` of them."""
    least: int = 20
    """With fewer a rate says little."""
    window_seconds: float = 60.0
    open_seconds: float = 5.0
    """The first time. Short: most outages of a model's API are."""
    longest_open_seconds: float = 120.0
    trial_seconds: float = 180.0
    """A trial that has said nothing for so long keeps nobody else from the next one."""


class Breaker:
    """Of one model at one upstream. `who` is any object that names a request: the same one from `take` to its end."""

    def __init__(self, terms: BreakerTerms, clock: Callable[[], float]) -> None:
        self._terms = terms
        self._clock = clock
        self._results: deque[tuple[float, bool]] = deque(maxlen=_MOST_REMEMBERED)
        self._row = 0
        self._opened = 0
        self._open_until: float | None = None
        self._trial: object | None = None
        self._trial_until = 0.0
        self.since = 0.0
        """When it was opened last, from closed."""
        self.why = ""
        """The failure that opened it."""

    @property
    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    @property
    def is_open(self) -> bool:
        """Open or half-open, unless that is so long ago that it says nothing any more."""
        until = self._open_until
        return until is not None and (self._trial is not None or self._clock() < until + self._terms.window_seconds)

    @property
    def open_until(self) -> float:
        """When the next trial may begin; past once it may. Before it was ever opened: 0."""
        return self._open_until or 0.0

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._row

    def free_at(self, now: float) -> float | None:
        """From when on somebody may ask, `now` at the earliest; None: that depends on how the trial under way ends."""
        if self._open_until is None:
            return now
        if now < self._open_until:
            return self._open_until
        return None if self._trial_runs(now) else now

    def take(self, who: object, now: float) -> bool:
        """Asks now. False: it may not. True whenever `free_at` says `now` for the same moment."""
        if self._open_until is None:
            return True
        if now < self._open_until or self._trial_runs(now):
            return False
        self._trial, self._trial_until = who, now + self._terms.trial_seconds
        return True

    def succeeded(self, who: object) -> None:
        """The upstream answers. Once open, only the trial's word counts: the others asked before it opened."""
        if self._open_until is None:
            self._row = 0
            self._results.append((self._clock(), True))
        elif self._trial is who:
            self._trial = self._open_until = None
            self._row = self._opened = 0
            self._results.clear()

    def failed(self, who: object, why: str) -> None:
        """The upstream does not answer as it should. `why`: for a person, without addresses."""
        now = self._clock()
        if self._open_until is not None:
            if self._trial is who:
                self._row += 1
                self._open(now, why)
            return
        self._row += 1
        self._results.append((now, False))
        self._forget()
        failed = sum(not well for _, well in self._results)
        many = len(self._results) >= self._terms.least and failed >= self._terms.rate * len(self._results)
        if self._row >= self._terms.failures or many:
            self.since = now
            self._open(now, why)

    def give_up(self, who: object) -> None:
        """The request ended without a word about the upstream; a trial's place is free again. Idempotent."""
        if self._trial is who:
            self._trial = None

    def try_soon(self) -> None:
        """A probe says that the upstream is back: the next request may try it."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, self._clock())

    def _open(self, now: float, why: str) -> None:
        terms = self._terms
        doubled = terms.open_seconds * 2.0 ** min(self._opened, 32)
        self._opened += 1
        self._trial = None
        self._open_until = now + min(terms.longest_open_seconds, doubled)
        self.why = why

    def _trial_runs(self, now: float) -> bool:
        return self._trial is not None and now < self._trial_until

    def _forget(self) -> None:
        oldest = self._clock() - self._terms.window_seconds
        while self._results and self._results[0][0] < oldest:
            self._results.popleft()


__all__ = ["Breaker", "BreakerTerms", "State"]
