"""`hostler image` and `hostler environment build`: what sandboxes are made from, on this host's disk.

This works while a server runs, and while none does. A running server uses a new image for the next process it starts.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.keys import in_database
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.compose.packages import base_images, layer_folder, package_layers
from hostler.compose.state_folder import only_one
from hostler.compose.terminable import run
from hostler.domain.clock import rfc3339_of
from hostler.domain.environments import CloudConfig
from hostler.domain.errors import InvalidRequest
from hostler.domain.packages import PACKAGE_MANAGERS, PackageLists
from hostler.engine.environments import body_of
from hostler.engine.layers import LayerFailed
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.store import catalog
from hostler.store.environment_keys import workspace_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hostler.config import Settings
    from hostler.sandbox.images import Image
    from hostler.sandbox.layer_files import Layer

SHOWN = 12
"""Digits of a digest that people are shown."""


def build(settings: Settings, *, again: bool, as_json: bool) -> None:
    """JSON: the image, as in the list."""
    images = base_images(settings)
    said = terminal.nowhere() if as_json else terminal.err()
    try:
        image = images.build(lambda line: said.print(terminal.plain_line(line), style="dim"), again=again)
    except SandboxUnavailable as error:
        raise Problem(str(error), next_command="hostler doctor") from error
    if as_json:
        print(json.dumps(_image(image, current=True)))
        return
    megabytes = image.bytes >> 20
    terminal.out().print(
        f"{image.digest[:SHOWN]}: {image.suite}, {len(image.packages)} packages, {megabytes} MiB, in {image.rootfs}"
    )


def list_all(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"images": [{"digest", "current", "suite", "built_at", "packages", "bytes", "rootfs"}, …],
    "layers": [{"key", "image", "packages", "built_at", "bytes", "entries"}, …]}`."""
    images = base_images(settings)
    current = images.current_image()
    found, layers = images.list(), layer_folder(settings).list()
    if as_json:
        shown = [_image(image, current=image == current) for image in found]
        print(json.dumps({"images": shown, "layers": [_layer(layer) for layer in layers]}))
        return
    if not found:
        terminal.out().print(f"No images yet. Try: {spelled('hostler image build')}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("image", "layer", "MiB", "built", "what"):
        table.add_column(title, no_wrap=title != "what")
    for image in found:
        size, built = str(image.bytes >> 20), rfc3339_of(image.built_at)[:16]
        what = f"{image.suite}, {len(image.packages)} packages{', current' if image == current else ''}"
        table.add_row(image.digest[:SHOWN], "", size, built, what)
        for layer in layers:
            if layer.image == image.digest:
                size, built = f"{layer.bytes / (1 << 20):.1f}", rfc3339_of(layer.built_at)[:16]
                table.add_row("", layer.key[:SHOWN], size, built, _named(layer.packages))
    terminal.out().print(table)


def remove(settings: Settings, digest: str, *, as_json: bool) -> None:
    """JSON: `{"removed": "<digest>", "layers": ["<key>", …]}`."""
    images, folder = base_images(settings), layer_folder(settings)
    found = [image for image in images.list() if digest and image.digest.startswith(digest)]
    if len(found) != 1:
        much = "no image has" if not found else "several images have"
        raise Problem(f"{much} a digest that begins with {digest!r}", next_command="hostler image list", code=WRONG)
    try:
        with only_one(settings):  # sandboxes of a running server may use it, with packages or without
            images.remove(found[0].digest)
    except (SandboxUnavailable, InvalidRequest) as error:
        raise Problem(str(error), next_command="hostler image list") from error
    layers = [layer.key for layer in folder.list() if layer.image == found[0].digest and folder.remove(layer.key)]
    if as_json:
        print(json.dumps({"removed": found[0].digest, "layers": layers}))
        return
    terminal.out().print(f"Image {found[0].digest[:SHOWN]} and {len(layers)} layers on it are removed.")


def build_environment(settings: Settings, environment: str, *, as_json: bool) -> None:
    """JSON: `{"environment_id", "layer": {as in the list of images}}`; the layer is null without packages."""

    def unit(_: float, conn: Connection) -> PackageLists:
        config = body_of(catalog.get_environment(conn, workspace_of(conn, environment), environment)).config
        return config.packages if isinstance(config, CloudConfig) else PackageLists()

    packages = in_database(settings, unit, missing="hostler environment build --help")
    layer: Layer | None = None
    if not packages.empty:
        try:
            key = run(_install(settings, packages))
        except LayerFailed as error:
            raise Problem(terminal.plain(str(error)), next_command="hostler image list") from error
        layer = next((layer for layer in layer_folder(settings).list() if layer.key == key), None)
    if as_json:
        print(json.dumps({"environment_id": environment, "layer": layer and _layer(layer)}))
    elif layer is None:
        terminal.out().print(f"{environment} has no packages: there is nothing to install.")
    else:
        size = f"{layer.bytes / (1 << 20):.1f} MiB"
        terminal.out().print(f"{environment}: layer {layer.key[:SHOWN]}, {size}: {_named(layer.packages)}")


async def _install(settings: Settings, packages: PackageLists) -> str:
    """The layer's key."""
    with tempfile.TemporaryDirectory(prefix="hostler-") as sockets:
        async with package_layers(settings, Path(sockets)) as layers:
            held = await layers.acquire(packages)
            held.close()
            return held.path.parent.name


def _named(packages: PackageLists) -> str:
    text = "; ".join(f"{name}: {', '.join(packages.of(name))}" for name in PACKAGE_MANAGERS if packages.of(name))
    return terminal.plain_line(text, 100)


def _image(image: Image, *, current: bool) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "current": current,
        "suite": image.suite,
        "built_at": rfc3339_of(image.built_at),
        "packages": image.packages,
        "bytes": image.bytes,
        "rootfs": str(image.rootfs),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "key": layer.key,
        "image": layer.image,
        "packages": layer.packages.model_dump(mode="json"),
        "built_at": rfc3339_of(layer.built_at),
        "bytes": layer.bytes,
        "entries": layer.entries,
    }
