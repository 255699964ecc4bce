"""Where does a test find the base image? Built once on a machine, in the user's cache, and shared by every test run.

The first build takes half a minute; as its recipe stays the same, later ones find it there.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostler.sandbox.images import BaseImages, Image


def image_home() -> Path:
    """The state directory, in the sense of `BaseImages`, that tests share."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path(os.environ.get("HOME", "/root"), ".cache"))
    return Path(cache, "hostler-tests")


def base_image() -> Image:
    """The image of this host's recipe. Processes that ask at the same time wait for one build. Raises
    SandboxUnavailable, with what to do, on a host that can't build one."""
    return BaseImages(image_home()).build()
