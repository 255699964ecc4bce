"""What does this host give to bubblewrap, and if nothing, what would change that?"""

from __future__ import annotations

import re
import resource
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from hostler.engine.sandbox_port import IsolationLabel, SandboxLimits, SandboxUnavailable
from hostler.sandbox import launch, seccomp, watching
from hostler.sandbox.cgroup_detection import detect
from hostler.sandbox.cgroups import Cgroups

OLDEST_BWRAP = (0, 8)
"""First version with --disable-userns."""

VERSION_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Host:
    """What was found on this host, once."""

    tools: launch.Tools
    limits: Cgroups
    filter: Path
    etc: Path
    label: IsolationLabel


def look(state_dir: Path, cgroup_name: str, *, root: bool) -> Host:
    """Blocks. Raises SandboxUnavailable."""
    tools = launch.find_tools(root=root)
    version = _checked_version(tools.bwrap)
    limits = detect(cgroup_name)
    etc = state_dir / "etc"
    launch.prepare_etc(etc)
    missing = list(limits.missing)
    if not root:
        missing.append(
            "All sandboxes are the worker's own user on the host: only namespaces keep them apart. "
            "Run the worker as root."
        )
        missing.append("Packages of environments can't be installed. Run the worker as root.")
    label = IsolationLabel(
        technology="bubblewrap",
        runtime=f"bubblewrap {version}",
        host_user="per_sandbox" if root else "shared",
        limits_by=limits.kind,
        missing=tuple(missing),
        no_rooms=watching.hindrance() if root else "the worker is not root, and can't lay folders together; make it so",
    )
    return Host(tools, limits, seccomp.program(state_dir / "seccomp"), etc, label)


def within_host(limits: SandboxLimits) -> SandboxLimits:
    """The hard limit of descriptors that the worker itself has can't be exceeded without a privilege."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or limits.open_files <= hard:
        return limits
    return replace(limits, open_files=hard)


def _checked_version(bwrap: str) -> str:
    """As it says it itself."""
    try:
        said = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"{bwrap} doesn't run: {error}; reinstall it: apt-get install bubblewrap") from error
    match = re.search(r"(\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_BWRAP:
        wanted = ".".join(map(str, OLDEST_BWRAP))
        raise SandboxUnavailable(
            f"bubblewrap {wanted} or newer is needed; {bwrap} is {said.strip() or 'of unknown version'}"
        )
    return said.split()[-1]


def hint() -> str:
    """The usual reasons why a host refuses user namespaces, and what to do."""
    for file, bad, advice in (
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor keeps bwrap from user namespaces: give /usr/bin/bwrap a profile with `userns,`, or run "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user namespaces are off: sysctl -w user.max_user_namespaces=10000",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "user namespaces are off: sysctl -w kernel.unprivileged_userns_clone=1",
        ),
    ):
        try:
            if Path(file).read_text().strip() == bad:
                return f". {advice}"
        except OSError:
            continue
    return ". In a container, the runtime must allow user namespaces and mounts (seccomp and masked paths)"
