"""What does this host's container engine give, and if nothing, what would change that?"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostler.engine.sandbox_port import IsolationLabel, SandboxUnavailable, Technology
from hostler.sandbox import oci_seccomp
from hostler.sandbox.oci_engine import About, Engine
from hostler.sandbox.oci_images import EngineImages

Kind = Literal["docker", "podman"]

_START = {
    "docker": "systemctl start docker",
    "podman": "systemctl start podman.socket",
}
_SETTINGS = {"docker": "sandbox.docker.socket", "podman": "sandbox.podman.socket"}


@dataclass(frozen=True, slots=True)
class Host:
    """What was found on this host, once."""

    about: About
    engine: Engine
    images: EngineImages
    state: str
    """Of the state directory, unlike that of the same path on another machine or in another container."""
    seccomp: str
    """The profile, in the form that this engine takes."""
    label: IsolationLabel


async def ask(engine: Engine, kind: Kind, runtime: str) -> About:
    """Who answers there. Raises SandboxUnavailable when it is not what was configured, or does not do.

    runtime  name of one of its runtimes; empty: its default
    """
    if not engine.socket.is_socket():
        raise SandboxUnavailable(
            f"there is no {kind.title()} engine at {engine.socket}; start it ({_START[kind]}), or set {_SETTINGS[kind]}"
        )
    about = await engine.about()
    if about.kind != kind:
        raise SandboxUnavailable(
            f"{engine.socket} is {about.name}, not {kind}; set {_SETTINGS[about.kind]} to it instead"
        )
    if about.rootless and (os.geteuid() == 0 or about.kind == "docker"):
        raise SandboxUnavailable(
            f"{about.name} at {engine.socket} runs without root, and its containers' users can't own the "
            "folders of sessions; use the engine of the system, or bubblewrap"
        )
    if runtime and runtime not in about.runtimes:
        raise SandboxUnavailable(
            f"{about.name} knows no runtime {runtime!r}, only {', '.join(sorted(about.runtimes))}; add it to "
            "the engine's configuration (docs/how-to/isolate-with-docker-or-podman.md)"
        )
    return about


def look(engine: Engine, about: About, technology: Technology, runtime: str, state_dir: Path) -> Host:
    """Blocks. Writes what belongs to all sandboxes into the state directory.

    technology  what the runtime makes of it
    """
    profile = state_dir / "seccomp.json"
    _replace(profile, oci_seccomp.text())
    seccomp = str(profile) if about.kind == "podman" else oci_seccomp.text()
    identity = state_dir / "identity"
    if not identity.exists():
        _replace(identity, secrets.token_hex(16))
    label = _label(about, technology, runtime)
    return Host(about, engine, EngineImages(engine), identity.read_text().strip(), seccomp, label)


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def _label(about: About, technology: Technology, runtime: str) -> IsolationLabel:
    root = os.geteuid() == 0
    missing = []
    if not root:
        missing.append(
            "All sandboxes are the worker's own user on the host: only the engine's namespaces keep them apart. "
            "Run the worker as root."
        )
    if not about.seccomp:
        missing.append("The engine filters no system calls: its build or its kernel has no seccomp.")
    unlimited = about.rootless and about.cgroup_version == "1"
    if unlimited:
        missing.append("An engine without root enforces no limits under version 1 of control groups.")
    return IsolationLabel(
        technology=technology,
        host_user="per_sandbox" if root else "shared",
        limits_by="none" if unlimited else "engine",
        kernel="user_space" if technology == "gvisor" else "host",
        runtime=f"{about.name}, runtime {runtime}" if runtime else about.name,
        missing=tuple(missing),
    )
