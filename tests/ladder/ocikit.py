"""Container sandboxes for the tests: which engine, which runtime, which image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from engines import Engine
from image import base_image

from hostler.sandbox.oci import OciProvider
from hostler.sandbox.oci_images import Root

RUNGS = ("docker", "podman", "runsc")
"""`runsc` is gVisor as Docker's runtime."""


@functools.cache
def root() -> Root:
    image = base_image()
    return Root(image.digest, image.rootfs)


def maker(engine: Engine, runtime: str = "") -> Callable[[Path], OciProvider]:
    """What makes a provider over a state directory."""

    def make(state: Path) -> OciProvider:
        return OciProvider(
            state,
            technology="gvisor" if runtime else engine.kind,
            kind=engine.kind,
            engine_socket=engine.socket,
            image=root,
            runtime=runtime,
        )

    return make
