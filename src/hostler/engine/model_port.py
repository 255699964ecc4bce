"""What is asked around one model request: which model, may it be paid, is there room, who answers, and how did it end?

The gateway asks; who answers is behind the protocols of this module, one question each. `docs/explanation/gateway.md`
says in which order.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hostler.store.sessions import Usage

Purpose = Literal["turn", "compaction", "auxiliary"]
"""auxiliary: what the harness asks besides, such as a title for the conversation."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose requests come over a model road."""

    session_id: str
    workspace_id: str = ""
    environment_id: str = ""
    agent_id: str = ""
    agent_version: int = 0
    model: str = ""
    """The agent's own."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The session's metadata."""
    agent: Mapping[str, Any] = field(default_factory=dict)
    """The session's snapshot of its agent, as it is stored."""
    epoch: int = 0
    """Of the lease under which it is served."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a message, as the harness made it. All its attempts have its id."""

    id: str
    """`mreq_…`"""
    caller: Caller
    model: str
    """As the harness names it."""
    fields: Mapping[str, Any]
    """The body's."""
    size: int
    """Bytes of the body."""
    stream: bool
    thread: str = ""
    """The sub-agent that asks, as the harness names it. Empty: the main thread. Words of the harness, nothing else."""
    agent_type: str = ""
    """Of the sub-agent: the harness's own word for it. `custom` for those that somebody defined."""
    purpose: Purpose = "turn"
    results: tuple[tuple[str, int], ...] = ()
    """Of tools, that it brings to the model: the tool, as the harness names it, and the bytes of each."""
    trace: str = ""
    """`traceparent`, as the harness says it, which may be anything."""


# ------------------------------------------------------------------------------------------------------- which model


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models may answer, the first one first; and why."""

    models: tuple[str, ...]
    rule: str = ""
    """Id of the rule that chose. Empty: none did, it is the model that was asked for."""
    why: str = ""
    """For a person."""


class Router(Protocol):
    """Chooses the model of each request."""

    async def choose(self, asked: Asked) -> Choice: ...


class Fitter(Protocol):
    """Knows what a model takes of a request that was made for another one."""

    def changes(self, model: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of the body that this model is sent otherwise."""
        ...


# ---------------------------------------------------------------------------------------------------- may it be paid


@dataclass(frozen=True, slots=True)
class Shortage:
    """Which budget has no room, and how much there would have to be."""

    budget_id: str
    scope: str
    """session: its own, which the wire knows · agent · workspace."""
    period: str
    """total · month."""
    limit_nanos: int
    needs_nanos: int
    """The least with which the request could be made. It is not there even when all that is reserved is given back."""


class BudgetReached(Exception):
    """The request has no room in a budget, even when all that is reserved is given back. The message names it."""

    def __init__(self, message: str, short: Shortage) -> None:
        super().__init__(message)
        self.short = short


class NotBounded(Exception):
    """A budget counts, and nobody can say what the request may cost at most. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What is set aside for one request until it is settled, with its record."""

    id: str = ""
    """Empty: nothing had to be."""
    nanos: int = 0
    """The worst case, in billionths of a dollar."""
    max_tokens: int | None = None
    """No more output than this may be asked for. None: as much as was asked."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the body that are not sent as they came, so that the worst case holds."""
    output_tokens: int = 0
    """How much output is paid for."""
    searches: int = 0
    """How many web searches are."""


Count = Callable[[str], Awaitable[int | None]]
"""Asks how many tokens the prompt has for a model. None: nobody says."""


class Purse(Protocol):
    """Sets money aside before it is spent."""

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: Event) -> Grant:
        """The worst case of the dearest of the models, atomically in every budget that counts for the caller.

        count  for when the bound that the size gives does not fit.
        gone   set when nobody wants the answer any more: then there is nothing to wait for.

        Waits while there is no room only because of what is reserved for others. Raises BudgetReached, NotBounded;
        Throttled when others have not become ready in time.
        """
        ...

    async def release(self, grant: Grant) -> None:
        """Nothing was asked of any upstream. What was asked is settled where the attempt is recorded."""
        ...


# -------------------------------------------------------------------------------------------------------- is there room


class Throttled(Exception):
    """There is no room before the deadline. The message names the limit; `retry_after` in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: a model at an upstream."""

    upstream: str
    model: str
    spelled: str
    """The model as this upstream names it."""


OnWait = Callable[[str, float], None]
"""Is told why somebody waits, and for about how many seconds more. Returns at once."""


class Throttle(Protocol):
    """Keeps to rate limits. Each `wait` is followed by `answered` or `left`."""

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        """Returns when there is room, which is then taken, or when it was `left`. Raises Throttled.

        told  once, when it takes longer than a moment.
        """
        ...

    def answered(
        self,
        asked: Asked,
        target: Target,
        status: int,
        headers: Mapping[bytes, bytes],
        usage: Usage,
        *,
        complete: bool,
    ) -> None:
        """What an attempt used after all, and what the upstream says of its limits (names in lower case).

        complete  False: the answer broke off, and may have cost more than what is known.
        """
        ...

    def left(self, asked: Asked) -> None:
        """Nobody is going to be asked: ends a `wait`, and gives back what was taken and not answered. Idempotent."""
        ...


# ----------------------------------------------------------------------------------------------------------- attempts


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt ended."""

    target: Target
    number: int
    """From 1, over all targets of the request."""
    status: int
    """0: no answer."""
    failure: str
    """For a person. Empty: it is an answer that the harness is to have."""
    retry_after: float | None
    """Seconds, as the upstream says."""
    begun: bool
    """Whether the harness has seen anything of it: then nothing can be tried again."""
    since: float
    """Seconds since the request came."""
    seconds: float = 0.0
    """How long this attempt took."""
    should_retry: bool | None = None
    """What the upstream says of that. None: nothing."""
    costly: bool = False
    """Whether the upstream may charge for it although it came to nothing: it had begun to answer, or worked on it for
    as long as it was given."""
    first_byte: float | None = None
    """Seconds from its begin to the first byte of the answer; None: there was none."""
    stop_reason: str | None = None
    """Of a whole answer."""
    upstream_request_id: str = ""
    gone: bool = False
    """The harness hung up before its end."""


@dataclass(frozen=True, slots=True)
class Next:
    """What is tried now, or after a pause."""

    target: Target
    after: float = 0.0
    """Seconds from now. More than 0: nobody is asked yet, and after that time `waited` says who is."""
    within: float | None = None
    """Seconds until the harness must have seen something of the answer. None: as the upstream's limits say."""
    why: str = ""
    """Why it is not the first model at the first upstream, for a person. Empty: it is."""


class Persistence(Protocol):
    """Says who is asked next, for one request. Each `Next` without a pause is asked at once."""

    def first(self) -> Next | None:
        """None: nobody can be asked, now or within the time that a request has."""
        ...

    def waited(self) -> Next | None:
        """The pause of the last `Next` is over. Things may have changed meanwhile. None: as for `after`."""
        ...

    def began(self) -> None:
        """The harness sees the answer now: whatever comes, nothing is tried again."""
        ...

    def after(self, ended: Ended) -> Next | None:
        """An attempt has ended. None: the harness gets the answer that it is, or the failure."""
        ...

    def over(self) -> None:
        """The request has ended, however it did. What was held for it is free. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Trouble:
    """A model that an upstream does not answer for as it should."""

    model: str
    state: Literal["open", "half_open", "resting"]
    """open: it is not asked · half_open: one request tries it · resting: others are asked first, since it wants to be
    left alone or refuses our credentials."""
    why: str
    """For a person. Holds no addresses."""
    failures: int
    """In a row."""
    since_seconds: float
    """For how long."""
    next_trial_seconds: float | None
    """Until it is tried again, or is asked like the others. None: now."""


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """How an upstream does, as this process sees it."""

    name: str
    order: int
    weight: int
    troubles: tuple[Trouble, ...] = ()


class Upstreams(Protocol):
    """Who there is, and how they do."""

    def persist(self, asked: Asked, choice: Choice) -> Persistence: ...

    def health(self) -> tuple[UpstreamHealth, ...]:
        """In the order in which they are asked."""
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """A model request that waits to be asked again. Nothing of its answer has been seen."""

    request_id: str
    status: int
    """Of the answer that came instead. 0: there was none."""
    message: str
    """For the user of the session."""
    seconds: float


class Watcher(Protocol):
    """Is told of every request, for whoever measures. Nothing that it does may fail or wait."""

    def asked(self, asked: Asked, choice: Choice, grant: Grant) -> None: ...

    def waits(self, asked: Asked, why: str, seconds: float) -> None:
        """Before the next attempt, or for room."""
        ...

    def ended(self, asked: Asked, ended: Ended, usage: Usage) -> None:
        """An attempt has ended, also one that the harness did not wait for."""
        ...
