"""What is the code about that runs now: which request or session, whose, in which trace?

Whoever begins something (the HTTP layer a request, a worker the service of a session) puts an `About` where all that
follows finds it, in the same task and in those that it starts. Log lines take their ids from it, and what is stored for
another process takes its trace context from it.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass


@dataclass(slots=True)
class About:
    """Filled in as it becomes known. Empty: not known, or none."""

    request_id: str = ""
    workspace_id: str = ""
    session_id: str = ""
    trace_id: str = ""
    """32 hexadecimal digits."""
    span_id: str = ""
    """16 of them: the span that goes on now."""
    sampled: bool = False
    """Whether anybody gets to see the trace."""

    @property
    def traceparent(self) -> str:
        """The trace context, as W3C writes it, for whoever goes on with it elsewhere. Empty: there is none."""
        if not self.trace_id:
            return ""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


_ABOUT: ContextVar[About] = ContextVar("hostler_about")


def about() -> About:
    """Of the code that runs now: what is said in it is known to all that belongs to it."""
    return _ABOUT.get(None) or About()


def begin(new: About) -> Token[About]:
    """From here on, in this task and those that it starts, it is about `new`."""
    return _ABOUT.set(new)


def end(token: Token[About]) -> None:
    """It is about what it was about before `begin`."""
    _ABOUT.reset(token)
