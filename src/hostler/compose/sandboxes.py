"""Where and as whom do sessions run, as the settings have it?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hostler.compose.terms import preset_terms
from hostler.config import Settings
from hostler.domain.rooms import room_section
from hostler.egress.cloning import CloneLimits, GitCloner
from hostler.engine.homes import Homes
from hostler.engine.memory_resource import memory_section
from hostler.engine.mounted_skills import skills_section
from hostler.engine.profile import Profile, TurnLimits, profile
from hostler.engine.sandbox_port import SandboxLimits
from hostler.engine.volume_port import Volumes
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.sandbox.gvisor import GvisorProvider
from hostler.sandbox.images import BaseImages
from hostler.sandbox.ladder import Ladder
from hostler.sandbox.layer_files import lower_directories
from hostler.sandbox.microvm import MicrovmProvider
from hostler.sandbox.oci import OciProvider
from hostler.sandbox.oci_images import Root
from hostler.sandbox.volumes import VolumeTrial, open_volumes
from hostler.store.sessions import SessionRow


def sandbox_provider(settings: Settings, trial: VolumeTrial | None = None, place: Path | None = None) -> Ladder:
    """Every technology that this server is configured for, whether the host gives it or not. Touches nothing.

    `place` is the folder for what the adapters keep; None: the server's own, which it has to itself.
    """
    box, place = settings.sandbox, place or settings.state_dir
    uids = range(box.first_uid, box.first_uid + box.uids)
    return Ladder(
        {
            "bubblewrap": BubblewrapProvider(place / "sandbox", uid_range=uids),
            "docker": engine_provider(settings, place, "docker", "docker"),
            "podman": engine_provider(settings, place, "podman", "podman"),
            "gvisor": engine_provider(settings, place, "gvisor", box.gvisor.engine, box.gvisor.runtime)
            if box.gvisor.engine
            else GvisorProvider(
                place / "gvisor",
                lowers=lambda layer: root_folders(settings, layer),
                runsc=box.gvisor.runsc,
                platform=None if box.gvisor.platform == "auto" else box.gvisor.platform,
                uid_range=uids,
            ),
            "microvm": MicrovmProvider(
                settings.state_dir / "microvm",
                lowers=lambda layer: root_folders(settings, layer),
                qemu=box.microvm.qemu,
                kernel=Path(box.microvm.kernel),
                acceleration=box.microvm.acceleration,
                firecracker=box.microvm.firecracker,
                uid_range=uids,
            ),
        },
        default=box.technology or None,
        also=(trial or volume_trial(settings)).amend,
    )


def engine_provider(
    settings: Settings,
    place: Path,
    technology: Literal["docker", "podman", "gvisor"],
    kind: Literal["docker", "podman"],
    runtime: str = "",
) -> OciProvider:
    """Sandboxes of a container engine. Touches nothing."""
    box = settings.sandbox

    def image() -> Root | None:
        found = BaseImages(settings.state_dir).current_image()
        return None if found is None else Root(found.digest, found.rootfs)

    return OciProvider(
        place / technology,
        technology=technology,
        kind=kind,
        engine_socket=Path(box.docker.socket) if kind == "docker" else podman_socket(settings),
        image=image,
        runtime=runtime,
        uid_range=range(box.first_uid, box.first_uid + box.uids),
        roads_dir=(sockets_folder(settings) if place == settings.state_dir else place) / "roads",
    )


def podman_socket(settings: Settings) -> Path:
    """Where `podman system service` and its systemd unit listen, unless it is set."""
    if settings.sandbox.podman.socket:
        return Path(settings.sandbox.podman.socket)
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path("/run" if os.geteuid() == 0 else own) / "podman" / "podman.sock"


def root_folders(settings: Settings, layer: Path | None) -> tuple[Path, ...]:
    """What a sandbox's root file system is laid together from, the upper folder first.

    Nothing: there is no image, and the programs are the host's. Raises SandboxUnavailable for a layer that is gone.
    """
    if layer is not None:
        return lower_directories(layer)
    image = BaseImages(settings.state_dir).current()
    return () if image is None else (image,)


def volume_trial(settings: Settings) -> VolumeTrial:
    """Whether this host gives volumes. Touches nothing before it is asked."""
    return VolumeTrial(settings.state_dir, wanted=settings.sandbox.volumes)


def sockets_folder(settings: Settings) -> Path:
    """Sockets need short paths, so they are not in the state folder when that lies too deep."""
    sockets = settings.state_dir / "run"
    if len(str(sockets)) > 60:
        name = f"hostler-{hashlib.sha256(str(settings.state_dir).encode()).hexdigest()[:10]}"
        sockets = Path("/run" if os.access("/run", os.W_OK) else "/tmp") / name
    return sockets


def homes(settings: Settings, volumes: Volumes) -> Homes:
    return Homes(settings.state_dir / "sessions", sockets_folder(settings), volumes)


def volumes(settings: Settings, trial: VolumeTrial) -> tuple[Volumes, list[str]]:
    """The best that this host gives, for `homes`, and what was left mounted by an earlier life. Blocks."""
    rate = settings.sandbox.disk_write_mb_per_second << 20
    state = settings.state_dir
    return open_volumes(state / "volumes", state / "sessions", trial, bytes_per_second=rate or None)


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
        room = room_section(environment["config"].get("hosting") or {}, row.metadata, row.id)
        told = (memory_section(row.resources), skills_section(environment), room)
        return profile(
            row.agent,
            environment,
            idle_timeout_seconds=turns.idle_timeout_seconds,
            sandbox_limits=limits,
            turn_limits=TurnLimits(turns.max_turns, turns.turn_seconds),
            presets=presets,
            attached=row.resources_json + json.dumps(environment.get("skills") or []),
            told="\n\n".join(text for text in told if text),
        )

    return read
