"""Where and as whom do sessions run, as the settings have it?"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.egress.cloning import CloneLimits, GitCloner
from hostler.engine.homes import Homes
from hostler.engine.memory_resource import memory_section
from hostler.engine.mounted_skills import skills_section
from hostler.engine.placement import Placement, PresetTerms, Programs, Survey
from hostler.engine.profile import Profile, TurnLimits, profile
from hostler.engine.sandbox_port import SandboxLimits
from hostler.engine.volume_port import Volumes
from hostler.harness.claude import ClaudeHarness
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.sandbox.ladder import Ladder
from hostler.sandbox.volumes import VolumeTrial, open_volumes
from hostler.store.sessions import SessionRow


def sandbox_provider(settings: Settings, trial: VolumeTrial | None = None) -> Ladder:
    """Every technology that this server is configured for, whether the host gives it or not. Touches nothing."""
    box = settings.sandbox
    uids = range(box.first_uid, box.first_uid + box.uids)
    return Ladder(
        {"bubblewrap": BubblewrapProvider(settings.state_dir / "sandbox", uid_range=uids)},
        default=box.technology or None,
        also=(trial or volume_trial(settings)).amend,
    )


def preset_terms(settings: Settings) -> PresetTerms:
    presets = settings.presets
    return PresetTerms(
        default=presets.default,
        minimum=presets.production_minimum,
        approvals=presets.production_approvals,
        limits=presets.production_limits,
        attacks=presets.production_attacks,
        preferred=settings.sandbox.technology or None,
    )


async def survey(settings: Settings) -> Survey:
    """What this host gives for sessions now, by trying. Raises InvalidRequest for a wrong `claude.directories`."""
    provider = sandbox_provider(settings)
    try:
        programs = await claude_programs(settings, ClaudeHarness())
        return await Placement(provider, programs, preset_terms(settings)).survey()
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


def volume_trial(settings: Settings) -> VolumeTrial:
    """Whether this host gives volumes. Touches nothing before it is asked."""
    return VolumeTrial(settings.state_dir)


def homes(settings: Settings, volumes: Volumes) -> Homes:
    """Sockets need short paths, so they are not in the state folder when that lies too deep."""
    sockets = settings.state_dir / "run"
    if len(str(sockets)) > 60:
        name = f"hostler-{hashlib.sha256(str(settings.state_dir).encode()).hexdigest()[:10]}"
        sockets = Path("/run" if os.access("/run", os.W_OK) else "/tmp") / name
    return Homes(settings.state_dir / "sessions", sockets, volumes)


def volumes(settings: Settings, trial: VolumeTrial) -> tuple[Volumes, list[str]]:
    """The best that this host gives, for `homes`, and what was left mounted by an earlier life. Blocks."""
    return open_volumes(settings.state_dir / "volumes", settings.state_dir / "sessions", trial)


def repository_cloner(settings: Settings) -> GitCloner:
    """Its users are those right behind the sandboxes' own."""
    first, limits = settings.sandbox.first_uid + settings.sandbox.uids, CloneLimits()
    return GitCloner(
        uids=range(first, first + limits.at_once),
        private_allowed=frozenset(settings.egress.private_allowed),
        limits=CloneLimits(settings.files.clone_seconds, settings.files.clone_mb << 20, limits.at_once),
    )


def profile_reader(settings: Settings) -> Callable[[SessionRow], Profile]:
    box, turns, presets = settings.sandbox, settings.turns, preset_terms(settings)
    limits = SandboxLimits(memory_bytes=box.memory_mb << 20, cpus=box.cpus, pids=box.pids, disk_bytes=box.disk_mb << 20)

    def read(row: SessionRow) -> Profile:
        environment = row.environment
        return profile(
            row.agent,
            environment,
            idle_timeout_seconds=turns.idle_timeout_seconds,
            sandbox_limits=limits,
            turn_limits=TurnLimits(turns.max_turns, turns.turn_seconds),
            presets=presets,
            attached=row.resources_json + json.dumps(environment.get("skills") or []),
            told="\n\n".join(text for text in (memory_section(row.resources), skills_section(environment)) if text),
        )

    return read
