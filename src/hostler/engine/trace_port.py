"""What is whoever draws traces told, and by whom?

The HTTP layer tells of requests, a runner of turns with what happens in them, the egress road of decisions; the gateway
tells of model requests through `engine.model_port.Watcher`. Nothing that the other side does may fail or wait: it is
called in the middle of things. Where traces are off, the answers of this module cost a call and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hostler.domain.events import Body
from hostler.engine.about import About
from hostler.engine.egress_port import EgressDecision
from hostler.engine.runs import RunEvent, ToolCall


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """What is known of an HTTP request when its answer is complete, or broke off."""

    status: int
    """0: there was no answer."""
    route: str
    """The path with the names of its parts, such as `/v1/sessions/{session_id}`. Empty: nothing is served there."""
    session_id: str
    known: bool
    """Whether whoever asked has shown a key."""


class RequestTrace(Protocol):
    """One HTTP request."""

    def ended(self, end: RequestEnd) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnBegun:
    """A worker has taken up a turn, or goes on with it: one *run* of the turn."""

    turn_id: str
    session_id: str
    workspace_id: str
    environment_id: str
    agent_id: str
    agent_version: int
    agent_name: str
    model: str
    how: str
    """`start`, `resume`, `recover` or `continue`."""
    parent: str
    """Trace context (`traceparent`) of the request that the turn comes from. Empty: of none that is traced."""
    links: Sequence[str] = ()
    """Of other requests whose input it serves: further messages, answers to calls."""
    waited: float = 0.0
    """Seconds since a worker was wanted."""
    prompts: Sequence[Body] = ()
    """What it is given. Shown to nobody unless content is traced."""


class TurnTrace(Protocol):
    """One run of a turn, while it goes on. Idempotent from `ended` on."""

    @property
    def wants_content(self) -> bool:
        """Whether what is said is traced, too: then `redact` is to be set before anything is told."""
        ...

    redact: Callable[[str], str]
    """Takes secrets of the session out of a text."""

    def process_started(self, seconds: float) -> None:
        """A process was made for it, and that took so long."""
        ...

    def told(self, event: RunEvent) -> None: ...

    def permitted(self, call: ToolCall) -> None:
        """The call begins to run."""
        ...

    def ending(self, how: str, error: str) -> None:
        """How it will have ended; `error` is the type of the session's error, or empty."""
        ...

    def ended(self) -> None: ...


class Tracing(Protocol):
    """Who draws traces."""

    def request(self, about: About, method: str, traceparent: str) -> RequestTrace:
        """An HTTP request begins. Gives `about` its trace. `traceparent`: what the client says: it may be anything."""
        ...

    def turn(self, about: About, begun: TurnBegun) -> TurnTrace:
        """A run of a turn begins. Gives `about`, which the runner's session has, its trace until it has ended."""
        ...

    def decided(self, decision: EgressDecision, seconds: float) -> None:
        """A decision of the egress road is recorded, which took so long."""
        ...


class _NoRequest:
    def ended(self, end: RequestEnd) -> None:
        pass


class _NoTurn:
    wants_content = False

    def __init__(self) -> None:
        self.redact: Callable[[str], str] = str

    def process_started(self, seconds: float) -> None:
        pass

    def told(self, event: RunEvent) -> None:
        pass

    def permitted(self, call: ToolCall) -> None:
        pass

    def ending(self, how: str, error: str) -> None:
        pass

    def ended(self) -> None:
        pass


class Untraced:
    """Implements `Tracing` where traces are off."""

    def request(self, about: About, method: str, traceparent: str) -> RequestTrace:
        return _NO_REQUEST

    def turn(self, about: About, begun: TurnBegun) -> TurnTrace:
        return NO_TURN

    def decided(self, decision: EgressDecision, seconds: float) -> None:
        pass


_NO_REQUEST = _NoRequest()
NO_TURN: TurnTrace = _NoTurn()
UNTRACED: Tracing = Untraced()
