"""What does this host give to gVisor, and if nothing, what would change that?"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hostler.engine.sandbox_port import IsolationLabel, SandboxUnavailable
from hostler.sandbox import launch
from hostler.sandbox.cgroup_detection import detect
from hostler.sandbox.cgroups import Cgroups
from hostler.sandbox.gvisor_bundle import Tools

Platform = Literal["systrap", "ptrace", "kvm"]

AUTOMATIC: Final[tuple[Platform, ...]] = ("systrap", "ptrace")
"""Tried in this order. `kvm` opens on hosts where it then hangs, so it is tried only where it is asked for."""

SECONDS = 20.0

INSTALL: Final = (
    "install it: apt-get install runsc (Debian 13 or newer), or as https://gvisor.dev/docs/user_guide/install says"
)

_PACKAGES = {
    "env": "coreutils",
    "unshare": "util-linux",
    "bash": "bash",
    "mount": "mount",
    "socat": "socat",
}


@dataclass(frozen=True, slots=True)
class Host:
    """What was found on this host, once."""

    tools: Tools
    limits: Cgroups
    etc: Path
    etc_from_host: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    """Options of every start, but for the platform."""

    def label(self, platform: Platform) -> IsolationLabel:
        return IsolationLabel(
            technology="gvisor",
            host_user="per_sandbox",
            limits_by=self.limits.kind,
            kernel="user_space",
            runtime=f"runsc {self.version} ({platform})",
            missing=self.limits.missing,
        )


def look(state_dir: Path, cgroup_name: str, runsc: str) -> Host:
    """Blocks. `runsc`: name or path of the program. Raises SandboxUnavailable."""
    if os.geteuid() != 0:
        raise SandboxUnavailable("gVisor sandboxes have host users of their own: run the worker as root")
    tools = _find(runsc)
    version = _said([tools.runsc, "--version"]).split("\n", 1)[0].removeprefix("runsc version ").strip()
    known = _said([tools.runsc, "flags"])
    if "-host-uds" not in known.replace("-fsgofer-host-uds", "") or "-overlay2" not in known:
        raise SandboxUnavailable(f"{tools.runsc} is {version}, and a version of 2023 or newer is needed; {INSTALL}")
    # What is inside is read-only or the session's own, so there is nothing to lay a writable overlay over. The groups
    # are ours. A host's socket can be connected to where one is mounted, and none can be made.
    flags = ["--network=none", "--host-uds=open", "--overlay2=none", "--ignore-cgroups"]
    etc = state_dir / "etc"
    launch.prepare_etc(etc)
    from_host = tuple(name for name in launch.ETC_FROM_HOST if Path("/etc", name).exists())
    return Host(tools, detect(cgroup_name), etc, from_host, version, tuple(flags))


def _find(runsc: str) -> Tools:
    path = os.pathsep.join(filter(None, [os.environ.get("PATH"), launch.USUAL_PLACES]))
    where = shutil.which(runsc, path=path)
    if where is None:
        raise SandboxUnavailable(f"there is no {runsc} on this host; {INSTALL}")
    found = {name: shutil.which(name, path=path) for name in _PACKAGES}
    missing = sorted({_PACKAGES[name] for name, place in found.items() if place is None})
    if missing:
        raise SandboxUnavailable(f"missing on this host: install with: apt-get install {' '.join(missing)}")
    paths = {name: os.path.abspath(place) for name, place in found.items() if place is not None and name != "socat"}
    tools = Tools(runsc=os.path.abspath(where), **paths)
    for place in (tools.env, tools.unshare, tools.bash):
        if len(place.split()) != 1:
            raise SandboxUnavailable(f"the path of {place!r} has a space in it; install it below /usr/bin")
    return tools


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"{command[0]} doesn't run: {error}; {INSTALL}") from error
    return done.stdout + done.stderr
