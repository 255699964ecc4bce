"""What does the engine ask of the egress policy without a session? What a list of rules would say to a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hostler.engine.egress_port import EgressRules


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was recorded."""

    method: str
    host: str
    port: int
    path: str = ""
    """Empty: a tunnel, whose inside nobody read."""
    mcp: bool = False
    """It went to one of the session's own MCP servers."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the rules say."""

    allowed: bool | None
    """None: it depends on what was said inside a tunnel, which was not recorded."""
    reason: str
    hint: str = ""


class Judge(Protocol):
    def __call__(self, asked: Asked) -> Judged:
        """Pure. Addresses are not judged: a name that is allowed may still lead to a place that is not."""
        ...


class PolicyTrial(Protocol):
    def of(self, rules: EgressRules) -> Judge:
        """Raises ValueError, naming the entry, for rules that are malformed."""
        ...
