"""What does a bubblewrap sandbox see of the system when its environment has packages?

Not the host's programs, but the base image with the layer over it: an overlay without an upper folder, mounted by the
launcher in its own mount namespace, so that it is gone when the sandbox is. That takes root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import SandboxSpec, SandboxUnavailable
from hostler.sandbox.layer_files import lower_directories

FOLDERS: Final = ("usr", "var", "etc", "opt", "srv")
"""Of the root file system; the others are the sandbox's own."""

CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
SOCAT: Final = "/usr/bin/socat"
"""In the image."""
OURS: Final = "/opt/hostler"
"""Folder of the image that mounts of ours are made in. They need places there, and the image can't be written to."""


def sources(spec: SandboxSpec, *, root: bool) -> dict[str, Path]:
    """What the launcher makes reachable for the overlay, by name; nothing without a layer.

    Raises SandboxUnavailable when the worker is not root, or when the image is gone.
    """
    if spec.layer is None:
        return {}
    if not root:
        raise SandboxUnavailable("an environment's packages need a worker that runs as root")
    layer, image = lower_directories(spec.layer)
    return {"layer": layer, "image": image}


def table_line(over: str) -> str:
    """The line of the launcher's mount table that makes `<over>/root`, once all else is mounted on `over`."""
    return f"overlay {over}/root overlay lowerdir={over}/layer:{over}/image,ro,nosuid,nodev 0 0\n"


def words(spec: SandboxSpec, visible: Mapping[str, str]) -> list[str]:
    """Arguments of bwrap for the system's part of the root."""
    assert spec.layer is not None, "there is a layer"
    _, image = lower_directories(spec.layer)
    root = str(Path(visible["layer"]).parent / "root")
    found: list[str] = []
    for entry in sorted(image.iterdir()):
        if entry.is_symlink():  # merged /usr, and the link that leads Node to global modules
            found += ["--symlink", os.readlink(entry), f"/{entry.name}"]
        elif entry.name in FOLDERS:
            found += ["--ro-bind", f"{root}/{entry.name}", f"/{entry.name}"]
    if os.path.exists(CERTIFICATES):  # whom the host trusts, its sandboxes trust
        found += ["--ro-bind", CERTIFICATES, CERTIFICATES]
    return [*found, "--perms", "0755", "--size", "65536", "--tmpfs", OURS]


def last_words(spec: SandboxSpec) -> list[str]:
    """The same, for when everything is mounted."""
    return [] if spec.layer is None else ["--remount-ro", OURS]
