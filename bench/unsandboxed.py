"""A server whose sessions run in no sandbox at all: to measure what the sandbox costs, and for nothing else.

It implements the sandbox port with a launcher that runs `claude` as it is, with the environment of the specification
and the paths that a sandbox would have replaced by the host's. Started like `bench/serve.py`.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

import serve
from hostler.compose import server
from hostler.config import Settings
from hostler.engine.sandbox_port import (
    IsolationLabel,
    LeftOver,
    SandboxSpec,
    SandboxStats,
    SandboxUnavailable,
    Technology,
)

LABEL = IsolationLabel("bubblewrap", "shared", "none", runtime="nothing", missing=("There is no isolation at all.",))


@dataclass(frozen=True)
class Place:
    """Implements `Sandbox`, as far as a server without hibernation asks for it."""

    sandbox_id: str
    launcher: Path
    label: IsolationLabel = LABEL

    @property
    def entrance(self) -> Path:
        raise SandboxUnavailable("there is nothing to enter")

    async def suspend(self) -> None:
        raise SandboxUnavailable("there is nothing to suspend")

    resume = suspend

    async def snapshot(self, target: Path) -> None:
        raise SandboxUnavailable("there is nothing to snapshot")

    async def stats(self) -> SandboxStats:
        return SandboxStats(None, None, None, None, None)

    async def destroy(self) -> None:
        self.launcher.unlink(missing_ok=True)


class Unsandboxed:
    """Implements `SandboxProvider`, and what the composition root asks of a ladder."""

    def __init__(self, state: Path) -> None:
        self._state = state / "unsandboxed"

    async def probe(self) -> IsolationLabel:
        return LABEL

    async def label_of(self, technology: Technology | None) -> IsolationLabel:
        return LABEL

    async def rungs(self) -> dict[Technology, IsolationLabel | str]:
        return {"bubblewrap": LABEL}

    async def create(self, spec: SandboxSpec) -> Place:
        self._state.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(12)
        launcher = self._state / name
        paths = {
            "/run/hostler/model.sock": str(spec.model_socket),
            "/home/agent/.claude": str(spec.harness_state),
            "/home/agent": str(spec.harness_state),
            "/workspace": str(spec.workspace),
        }
        environment = dict(spec.environment)
        for inside, outside in paths.items():
            environment = {key: value.replace(inside, outside) for key, value in environment.items()}
        words = " ".join(shlex.quote(f"{key}={value}") for key, value in environment.items())
        launcher.write_text(
            f"#!/bin/sh\ncd {shlex.quote(str(spec.workspace))}\n"
            f'exec env -i {words} {shlex.quote(str(spec.program))} "$@"\n'
        )
        launcher.chmod(0o700)
        return Place(name, launcher)

    async def left_over(self) -> Sequence[LeftOver]:
        return []

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> Place:
        raise SandboxUnavailable("there is nothing to adopt")

    async def sweep(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        return None


def unsandboxed(settings: Settings, trial: object = None) -> Unsandboxed:
    return Unsandboxed(settings.state_dir)


if __name__ == "__main__":
    server.sandbox_provider = unsandboxed  # type: ignore[assignment]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve.serve())
