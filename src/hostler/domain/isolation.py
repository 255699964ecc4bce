"""How are an environment's sessions kept apart from their host, how much may each use, and how is it kept?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hostler.domain.values import Value


class Limits(Value):
    """Our extension: what one session may use. What is absent follows the server's defaults."""

    memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] | None = None
    """Memory of the sandbox, in MiB."""
    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """Share of processor time, in whole processors."""
    pids: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Processes and threads together."""
    max_turns: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Model requests that one user message may cause."""
    turn_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Running time of one run, in seconds: a wait for a person ends it, the next run counts anew."""


class Hosting(Value):
    """Our extension: how a session is kept."""

    idle_timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long an idle session keeps its processes, in seconds; 0 ends them at once."""
