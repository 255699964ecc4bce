"""What can sessions be promised on this host? The rungs, the presets, the versions of `claude`, the attack corpus."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hostler.compose.sandboxes import sandbox_provider
from hostler.compose.terms import preset_terms
from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.engine.placement import Placement, Programs, Survey, Verified
from hostler.engine.sandbox_port import IsolationLabel, Rungs, Technology
from hostler.harness.claude import ClaudeHarness


class KeptResults:
    """What `hostler doctor --attack` has kept. Implements `Verified`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        from hostler.compose.attacks import attack_results  # the whole corpus: only production asks

        return attack_results(self._settings).critical_failures(technology, label)


async def open_placement(
    settings: Settings, rungs: Rungs, harness: ClaudeHarness, verified: Verified | None = None
) -> Placement:
    """`verified` None: what `hostler doctor --attack` has kept. InvalidRequest: wrong `claude.directories`."""
    programs = await claude_programs(settings, harness)
    return Placement(rungs, programs, preset_terms(settings), verified or KeptResults(settings))


async def survey(settings: Settings) -> Survey:
    """What this host gives for sessions now, by trying. Raises InvalidRequest for a wrong `claude.directories`."""
    provider = sandbox_provider(settings)
    try:
        return await (await open_placement(settings, provider, ClaudeHarness())).survey()
    finally:
        provider.close()


async def claude_programs(settings: Settings, harness: ClaudeHarness) -> Programs:
    """The versions of `claude` that environments may name. Each is run once, to hear which version it is.

    Raises InvalidRequest, naming the folder, for one that holds no program that answers, or a version for the second
    time.
    """
    paths = {harness.version: harness.program}
    for name in settings.claude.directories:
        program = Path(name).expanduser() / "claude"
        version = await asyncio.to_thread(_version_of, program)
        if version is None:
            raise InvalidRequest(
                f"claude.directories: {program} does not say which version it is; put the program of one version there"
            )
        if version in paths:
            raise InvalidRequest(
                f"claude.directories: {program} is claude {version}, which is there already "
                f"({paths[version]}); remove one of the two"
            )
        paths[version] = program
    return Programs(harness.version, paths)


def _version_of(program: Path) -> str | None:
    # Outside every sandbox, so with nothing of ours in its environment; it is the operator's program.
    environment = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "DISABLE_AUTOUPDATER": "1"}
    try:
        done = subprocess.run(
            [program, "--version"], env=environment, capture_output=True, timeout=30, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(rb"(\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?)\b", done.stdout.strip())
    return found.group(1).decode() if found and done.returncode == 0 else None
