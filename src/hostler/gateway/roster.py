"""Who is asked for a model, and who next when that fails: which upstream, which model, after how long?

`Roster` implements `Upstreams`: the upstreams in their order, and what their answers have told of them. A `Course` is
its `Persistence` for one request. The one who can be asked soonest is asked; among those who can be asked now, who was
asked least for this request, then the preferred model, then the order of the upstreams. Among upstreams of the same
order the weights decide, for a session always in the same way: an upstream keeps the prompts that it has seen, and
asking another one is dearer.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from hostler.domain.ids import chance as any_chance
from hostler.engine.model_port import Asked, Choice, Ended, Next, Target, Trouble, UpstreamHealth
from hostler.gateway.backoff import Backoff, judge
from hostler.gateway.breaker import Breaker, BreakerTerms

_LOOK_AGAIN: Final = 1.0
"""Seconds, at most, between two looks at how somebody else's trial went."""
_NO_ANSWER: Final = "no answer"
_MOST_KNOWN: Final = 1_024
"""Models with trouble that are remembered. Names of models come from sandboxes too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One upstream."""

    name: str
    order: int = 0
    """Lower is asked first."""
    weight: int = 1
    """Among those of the same order."""
    models: Mapping[str, str] | None = None
    """Our name of a model to its name there. None: any model, under its own name."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request goes on. Times in seconds."""

    retries: int = 20
    """Further attempts, all upstreams and models together."""
    costly_retries: int = 3
    """Of those, after attempts that the upstream may charge for although they came to nothing."""
    total_seconds: float = 600.0
    """From the request's coming to the last moment at which the harness may see the first of an answer. An attempt that
    has less than a tenth of it left is not begun: it would be paid for and thrown away."""
    first_event_seconds: float = 180.0
    """Of an attempt, until the first event of a streamed answer. Long prompts take a minute or two."""
    tries_before_fallback: int = 2
    """How often each upstream is asked for a model before a fallback model is asked."""
    wait_before_fallback_seconds: float = 5.0
    """A model that can't be asked for longer than this gives way to its fallback at once."""
    backoff: Backoff = field(default_factory=Backoff)
    breaker: BreakerTerms = field(default_factory=BreakerTerms)


@dataclass(slots=True)
class Standing:
    """What is known of one model at one upstream."""

    breaker: Breaker
    rest_until: float = 0.0
    rest_since: float = 0.0
    rest_why: str = ""


class Roster:
    """Implements `Upstreams`. For one event loop.

    clock   seconds that only grow.
    chance  from 0 to 1 (exclusive), another one each time: for pauses.
    seed    which sessions prefer which upstream, among those of the same order.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        clock: Callable[[], float],
        patience: Patience | None = None,
        *,
        chance: Callable[[], float] = any_chance,
        seed: str = "",
    ) -> None:
        if len({entry.name for entry in entries}) < len(entries):
            raise ValueError("two upstreams have the same name")
        if any(entry.weight < 1 for entry in entries):
            raise ValueError("the weight of an upstream is at least 1")
        self.entries = tuple(sorted(entries, key=lambda entry: entry.order))
        self.clock = clock
        self.patience = patience or Patience()
        self.chance = chance
        self._seed = seed
        self._known: OrderedDict[tuple[str, str], Standing] = OrderedDict()

    def persist(self, asked: Asked, choice: Choice) -> Course:
        places = {entry.name: place for place, entry in enumerate(self._preferred(asked.caller.session_id))}
        targets = []
        for rank, model in enumerate(choice.models):
            for entry in self.entries:
                spelled = model if entry.models is None else entry.models.get(model)
                if spelled is not None:
                    targets.append(Candidate(Target(entry.name, model, spelled), rank, places[entry.name]))
        return Course(self, targets, stream=asked.stream)

    def health(self) -> tuple[UpstreamHealth, ...]:
        now = self.clock()
        troubles: dict[str, list[Trouble]] = {}
        for (upstream, model), standing in self._known.items():
            trouble = _trouble(model, standing, now)
            if trouble is not None:
                troubles.setdefault(upstream, []).append(trouble)
        return tuple(
            UpstreamHealth(entry.name, entry.order, entry.weight, tuple(troubles.get(entry.name, ())))
            for entry in self.entries
        )

    # ------------------------------------------------------------------------------------------------------- probes

    @property
    def ill(self) -> tuple[str, ...]:
        """Upstreams that are not asked for some model because they gave no answer. Whether one that answers 529 is
        less busy by now can't be seen from outside."""
        found = {name for (name, _), standing in self._known.items() if _is_away(standing.breaker)}
        return tuple(entry.name for entry in self.entries if entry.name in found)

    def is_back(self, upstream: str) -> None:
        """A probe of this upstream went well: the next requests may try it."""
        for (name, _), standing in self._known.items():
            if name == upstream and _is_away(standing.breaker):
                standing.breaker.try_soon()

    # -------------------------------------------------------------------------------------------------- for courses

    def standing(self, target: Target) -> Standing | None:
        """None: nothing bad is known."""
        return self._known.get((target.upstream, target.model))

    def troubled(self, target: Target) -> Standing:
        """The same, to write down what is bad."""
        key = target.upstream, target.model
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.popitem(last=False)
            known = self._known[key] = Standing(Breaker(self.patience.breaker, self.clock))
        self._known.move_to_end(key)
        return known

    def _preferred(self, session_id: str) -> list[Entry]:
        """By order, then by weight: the part of the sessions that prefer an entry is its part of the weights."""

        def score(entry: Entry) -> float:
            digest = hashlib.sha256(f"{self._seed}\0{session_id}\0{entry.name}".encode()).digest()
            drawn = (int.from_bytes(digest[:7], "big") + 1) / ((1 << 56) + 2)
            return -math.log(drawn) / entry.weight

        return sorted(self.entries, key=lambda entry: (entry.order, score(entry)))


@dataclass(slots=True)
class Candidate:
    """Who could be asked for one request, and how that went so far."""

    target: Target
    rank: int
    """Of the model among those that may answer."""
    place: int
    """Of the upstream among all."""
    tries: int = 0
    not_before: float = 0.0
    out: bool = False
    """Not asked again for this request."""


class Course:
    """Implements `Persistence`."""

    def __init__(self, roster: Roster, candidates: Sequence[Candidate], *, stream: bool) -> None:
        self._roster = roster
        self._candidates = candidates
        self._stream = stream
        self._started = roster.clock()
        self._tries = 0
        self._costly = 0
        self._now: Candidate | None = None
        self._began = False
        self._last = ""
        """How the last attempt failed."""

    def first(self) -> Next | None:
        return self._next(self._roster.clock())

    def waited(self) -> Next | None:
        return self._next(self._roster.clock())

    def began(self) -> None:
        standing = self._standing()
        self._began = True
        if standing is not None:
            standing.breaker.succeeded(self)
            standing.rest_until = 0.0

    def after(self, ended: Ended) -> Next | None:
        candidate = self._now
        assert candidate is not None, "somebody was asked"
        verdict = judge(ended, fallback=candidate.rank > 0)
        self._last = f"{ended.target.model} at {ended.target.upstream}: {in_words(ended)}"
        self._learn(ended, ill=verdict.ill, well=verdict.well)
        self._costly += ended.costly
        if ended.begun or verdict.again in ("fine", "never") or self._costly > self._roster.patience.costly_retries:
            return None
        roster = self._roster
        pause = None
        if verdict.again == "again":
            pause = roster.patience.backoff.pause(candidate.tries, ended.retry_after, roster.chance)
        candidate.out = pause is None
        now = roster.clock()
        candidate.not_before = now + (pause or 0.0)
        return self._next(now)

    def over(self) -> None:
        standing, self._now = self._standing(), None
        if standing is not None:
            standing.breaker.give_up(self)

    # ----------------------------------------------------------------------------------------------------- internal

    def _standing(self) -> Standing | None:
        return None if self._now is None else self._roster.standing(self._now.target)

    def _learn(self, ended: Ended, *, ill: bool, well: bool) -> None:
        roster = self._roster
        known = roster.standing(ended.target)
        if ill:
            roster.troubled(ended.target).breaker.failed(self, in_words(ended))
        elif known is not None and well and not self._began:
            known.breaker.succeeded(self)
        if known is not None:
            known.breaker.give_up(self)
        if ended.status in (401, 402, 403, 429):
            now, terms = roster.clock(), roster.patience
            seconds = terms.breaker.open_seconds if ended.retry_after is None else ended.retry_after
            resting = roster.troubled(ended.target)
            if resting.rest_until <= now:
                resting.rest_since = now
            resting.rest_until = now + min(seconds, terms.backoff.most_retry_after_seconds)
            resting.rest_why = in_words(ended)
        elif well and known is not None:
            known.rest_until = 0.0

    def _next(self, now: float) -> Next | None:
        roster, terms = self._roster, self._roster.patience
        if self._tries > terms.retries:
            return None
        times = [(self._from(candidate, now), candidate) for candidate in self._candidates if not candidate.out]
        allowed = self._allowed(times, now)
        found = min(
            (
                (at, self._rests(candidate, now), candidate.tries, candidate.rank, candidate.place, candidate)
                for at, candidate in times
                if candidate.rank <= allowed
            ),
            key=lambda one: one[:5],
            default=None,
        )
        if found is None:
            return None
        at, candidate = found[0], found[5]
        left = self._started + terms.total_seconds - at
        if left < terms.total_seconds / 10:
            return None
        if at > now:
            return Next(candidate.target, after=at - now, why=self._why(candidate))
        standing = roster.standing(candidate.target)
        taken = standing is None or standing.breaker.take(self, now)
        assert taken, "it is free now"
        candidate.tries += 1
        self._tries += 1
        self._now = candidate
        self._began = False
        within = min(terms.first_event_seconds, left) if self._stream else left
        return Next(candidate.target, within=within, why=self._why(candidate))

    def _from(self, candidate: Candidate, now: float) -> float:
        """When it can be asked."""
        standing = self._roster.standing(candidate.target)
        at = max(now, candidate.not_before)
        if standing is None:
            return at
        free = standing.breaker.free_at(now)
        # Spread over a while: when a trial goes well, not everybody who waited for it is to come at once.
        return max(at, now + _LOOK_AGAIN * (0.5 + 0.5 * self._roster.chance()) if free is None else free)

    def _rests(self, candidate: Candidate, now: float) -> bool:
        standing = self._roster.standing(candidate.target)
        return standing is not None and standing.rest_until > now

    def _allowed(self, times: Sequence[tuple[float, Candidate]], now: float) -> int:
        """The rank of the last model that may be asked by now."""
        terms = self._roster.patience
        last = max((candidate.rank for _, candidate in times), default=0)
        for rank in range(last):
            of_it = [(at, candidate) for at, candidate in times if candidate.rank == rank]
            if any(
                candidate.tries < terms.tries_before_fallback and at - now <= terms.wait_before_fallback_seconds
                for at, candidate in of_it
            ):
                return rank
        return last

    def _why(self, candidate: Candidate) -> str:
        if self._last:
            return f"after {self._last}"
        if candidate.rank == 0 and candidate.place == min(one.place for one in self._candidates if one.rank == 0):
            return ""
        return "what is preferred can't be asked now"


def in_words(ended: Ended) -> str:
    """How an attempt failed, in few words and without addresses."""
    if ended.status == 0:
        return _NO_ANSWER
    return "an answer that broke off" if ended.status == 200 else f"status {ended.status}"


def _is_away(breaker: Breaker) -> bool:
    return breaker.state == "open" and breaker.why == _NO_ANSWER


def _trouble(model: str, standing: Standing, now: float) -> Trouble | None:
    breaker = standing.breaker
    if breaker.is_open:
        left = breaker.open_until - now
        state: Literal["open", "half_open"] = "open" if breaker.state == "open" else "half_open"
        return Trouble(model, state, breaker.why, breaker.failures, now - breaker.since, left if left > 0 else None)
    if standing.rest_until > now:
        left = standing.rest_until - now
        return Trouble(model, "resting", standing.rest_why, breaker.failures, now - standing.rest_since, left)
    return None


__all__ = ["Course", "Entry", "Patience", "Roster", "in_words"]
