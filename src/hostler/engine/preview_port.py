"""What does the door to previews ask of the engine, which knows sessions and their sandboxes?"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class PreviewTarget:
    """A port that somebody may reach."""

    session_id: str
    port: int
    seconds_left: float
    """Until nobody is let through any more."""


class PreviewRefused(Exception):
    """Nobody is let through."""

    def __init__(self, why: Literal["unknown", "secret", "over"]) -> None:
        """unknown: no preview has that label · secret: the wrong one, or none · over: expired or revoked."""
        super().__init__(why)
        self.why = why


class PreviewTargets(Protocol):
    async def target(self, label: str, secret: str) -> PreviewTarget:
        """Raises PreviewRefused, and Busy when the database is away."""
        ...

    def entrance(self, session_id: str) -> Path | None:
        """The program that runs a command in the session's sandbox (`Sandbox.entrance`). None: there is none now."""
        ...

    def visit(self, session_id: str) -> AbstractContextManager[None]:
        """Inside the block somebody looks at the session's port: its process must not go because it is idle."""
        ...
