"""Which commands install an environment's packages, inside the base image?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hostler.domain.packages import PackageLists
from hostler.sandbox.layer_build import CERTIFICATES

TOOLS: Final = {
    "cargo": ("usr/bin/cargo", ("cargo", "gcc", "libc6-dev")),
    "gem": ("usr/bin/gem", ("ruby", "ruby-dev", "build-essential")),
    "go": ("usr/bin/go", ("golang-go",)),
}
"""Managers that the image may lack: where they are in it, and what apt installs before them when they are not."""

NEWER: Final = {("bookworm", "cargo"): "cargo-web"}
"""Releases whose own package of a manager is too old for its registry, and the one that isn't."""

_APT: Final = (
    *("apt-get", "-q", "-o", "Acquire::Retries=2", "-o", f"Acquire::https::CAInfo={CERTIFICATES}"),
    *("-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Update::Error-Mode=any"),
)


def steps(packages: PackageLists, image: Path, suite: str) -> list[tuple[str, Sequence[str]]]:
    """Name and command of each step; `image` is a root file system of the release `suite`. Every entry is a word."""
    found: list[tuple[str, Sequence[str]]] = []
    apt = list(packages.apt)
    named = {entry.partition("=")[0] for entry in apt}
    for manager, (program, debian) in TOOLS.items():
        if packages.of(manager) and not (image / program).exists():
            apt += [NEWER.get((suite, name), name) for name in debian if name not in named]
    if apt:
        found.append(("apt", [*_APT, "update"]))
        found.append(("apt", [*_APT, "install", "--yes", "--no-install-recommends", "--", *dict.fromkeys(apt)]))
    if packages.pip:
        found.append(("pip", ["python3", "-m", "pip", "install", "--no-input", "--", *packages.pip]))
    if packages.npm:
        quiet = ("--no-audit", "--no-fund", "--no-update-notifier")
        found.append(("npm", ["npm", "install", "--global", *quiet, "--", *packages.npm]))
    if packages.cargo:
        found.append(("cargo", ["cargo", "install", "--root", "/usr/local", "--", *packages.cargo]))
    if packages.gem:  # what follows `--` would be options for compilers
        found.append(("gem", ["gem", "install", "--no-document", *packages.gem]))
    for entry in packages.go:  # each may be of a module of its own, which one command doesn't take
        found.append(("go", ["go", "install", "--", entry if "@" in entry else f"{entry}@latest"]))
    return found
