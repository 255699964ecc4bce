"""How are an environment's sessions kept apart from their host, how much may each use, and how is it kept?

All of it is our extension of the wire: `isolation`, `limits`, `hosting` and `preset` inside an environment's `config`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hostler.domain.values import Value, problem

KEPT_AUTOMATIC: Final = 10
"""Checkpoints of one session that were taken by themselves, unless the environment says something else."""

Technology = Literal["bubblewrap", "docker", "podman", "gvisor", "microvm"]
"""What separates a sandbox from its host."""
TECHNOLOGIES: Final[tuple[Technology, ...]] = get_args(Technology)

Preset = Literal["development", "production"]
"""`development` is open and says so; `production` is locked, and refuses to run where a promise can't be kept."""


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9}){2}(?:-[0-9A-Za-z.]{1,32})?", text):
        raise problem("is not a version; give one such as 2.1.300")
    return text


class Isolation(Value):
    """What the sandboxes are made of. What is absent is the strongest that the host gives."""

    technology: Technology | None = None


class Limits(Value):
    """What one session may use. What is absent follows the server's defaults."""

    memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] | None = None
    """Memory of the sandbox, in MiB."""
    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """Share of processor time, in whole processors."""
    pids: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Processes and threads together."""
    disk_mb: Annotated[int, Field(ge=64, le=67_108_864)] | None = None
    """What is kept of the session (workspace, outputs, state of the harness) together, in MiB."""
    open_files: Annotated[int, Field(ge=256, le=1_048_576)] | None = None
    """Descriptors of one process."""
    max_turns: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Model requests that one user message may cause."""
    turn_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Running time of one run, in seconds: a wait for a person ends it, the next run counts anew."""


SandboxLimit = Literal["memory_mb", "cpus", "pids", "disk_mb", "open_files"]
SANDBOX_LIMITS: Final[tuple[SandboxLimit, ...]] = get_args(SandboxLimit)
"""The limits that the sandbox has to enforce; the others are the worker's own."""


class AutomaticCheckpoints(Value):
    """When a session's point is kept by itself, so that it can go back there. Looked at when a turn has ended."""

    every_turns: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """After so many turns since the last checkpoint."""
    every_minutes: Annotated[int, Field(ge=1, le=525_600)] | None = None
    """After the first turn that ends so long after the last checkpoint."""
    keep: Annotated[int, Field(ge=1, le=100)] = KEPT_AUTOMATIC
    """How many of these are kept; the oldest goes first."""

    @model_validator(mode="after")
    def _due_at_all(self) -> AutomaticCheckpoints:
        if self.every_turns is None and self.every_minutes is None:
            raise problem("says not when; give every_turns, every_minutes or both, or leave checkpoints out")
        return self


Pattern = Literal["ephemeral", "hybrid", "long_running"]
"""ephemeral: one task, then nothing stays but events, outputs and the bill. hybrid: the process ends when the session
has been idle; files and conversation come back with the next message. long_running: the process stays."""


def _pattern(value: object) -> object:
    if value == "shared":
        raise problem("shared is not available in this version; send ephemeral, hybrid or long_running")
    return value


class Hosting(Value):
    """How a session is kept."""

    pattern: Annotated[Pattern | None, BeforeValidator(_pattern)] = None
    """How long a session's process lives. What is absent is hybrid."""
    idle_timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long an idle session keeps its processes, in seconds; 0 ends them at once. Only with the pattern hybrid."""
    cli_version: Annotated[str, AfterValidator(_version)] | None = None
    """Version of the `claude` program, exactly. What is absent is the one that the server brings along."""
    max_live_sessions: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many sessions of the environment may have a process at the same time, over all servers. What is absent is as
    many as the servers take."""
    checkpoints: AutomaticCheckpoints | None = None
    """When checkpoints are taken by themselves; absent: never."""
    spares: Annotated[int, Field(ge=0, le=50)] | None = None
    """How many started sandboxes each server keeps ready for new sessions. What is absent is none."""

    def contradiction(self) -> str | None:
        """What can't hold together, for a person; None: all of it can."""
        if self.pattern not in (None, "hybrid") and self.idle_timeout_seconds is not None:
            ends = "ends at once" if self.pattern == "ephemeral" else "stays"
            return (
                f"with the pattern {self.pattern} the process {ends} after a turn, so idle_timeout_seconds means "
                "nothing; send null for it"
            )
        if self.pattern == "ephemeral" and self.checkpoints is not None:
            return (
                "with the pattern ephemeral nothing stays of a session to go back to, so checkpoints mean nothing; "
                "send null for it"
            )
        return None
