"""What is in the folder of a layer, and what is it laid over?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hostler.domain.packages import PackageLists
from hostler.engine.sandbox_port import SandboxUnavailable


@dataclass(frozen=True, slots=True)
class Layer:
    """One that is kept."""

    key: str
    tree: Path
    image: str
    """Digest of the base image that it is for."""
    packages: PackageLists
    bytes: int
    entries: int
    built_at: float
    """Seconds since 1970."""


def lower_directories(layer: Path) -> tuple[Path, Path]:
    """The folders that an overlay of `SandboxSpec.layer` has, the upper one first: the layer and its base image.

    Raises SandboxUnavailable when one of them is gone.
    """
    found = load_layer(layer.parent)
    if found is None:
        raise SandboxUnavailable(f"{layer} is no layer of packages")
    root = layer.parents[2] / "images" / found.image / "rootfs"
    if not root.is_dir():
        raise SandboxUnavailable(
            f"the base image {found.image[:12]} of a layer of packages is gone: hostler image build"
        )
    return layer, root


def load_layer(place: Path) -> Layer | None:
    """The layer that is kept in the folder `place`. None: there is none, or it is not whole."""
    try:
        data = json.loads((place / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    if data["key"] != place.name:
        return None
    packages = PackageLists.model_validate(data.pop("packages"))
    return Layer(tree=place / "tree", packages=packages, **data)
