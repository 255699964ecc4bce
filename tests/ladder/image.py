"""Where does a test find the base image? Built once on a machine, in the user's cache, and shared by every test run.

The first build takes half a minute; as its recipe stays the same, later ones find it there. `image_of_tests` is the
same image with other apt sources: those of the tests' own registry (`registry.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from goods import APT_SOURCES

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.images import BaseImages, Image

BUILD_SECONDS = 240.0
"""A mirror that doesn't answer must not keep a test run for longer, twice."""


def image_home() -> Path:
    """The state directory, in the sense of `BaseImages`, that tests share."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path(os.environ.get("HOME", "/root"), ".cache"))
    return Path(cache, "hostler-tests")


def base_image() -> Image:
    """The image of this host's recipe. Processes that ask at the same time wait for one build. Raises
    SandboxUnavailable, with what to do, on a host that can't build one."""
    images = BaseImages(image_home(), build_seconds=BUILD_SECONDS)
    try:
        return images.build()
    except SandboxUnavailable:  # a mirror's bad moment
        return images.build()


def image_of_tests() -> Path:
    """A state directory whose current image has the tests' own apt sources and is the base image in all else.

    Its files are links to those of the base image.
    """
    base = base_image()
    made_from = json.dumps([1, base.digest, APT_SOURCES])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:32]
    home = image_home() / "own-sources" / digest
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    with open(home.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for a second
        if home.exists():
            return home
        for old in home.parent.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
        new = home.with_name(".new")
        place = new / "images" / digest
        place.parent.mkdir(parents=True, mode=0o711)
        subprocess.run(["cp", "-al", str(base.rootfs.parent), str(place)], check=True, timeout=120)
        apt = place / "rootfs/etc/apt"
        (apt / "sources.list").unlink(missing_ok=True)
        for sources in (apt / "sources.list.d").iterdir():
            sources.unlink()
        (apt / "sources.list.d/tests.sources").write_text(APT_SOURCES)
        (place / "in-use").unlink()  # locks of the one are no locks of the other
        (place / "in-use").touch()
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").unlink()
        (place / "manifest.json").write_text(json.dumps({**manifest, "digest": digest}))
        (new / "images/current").symlink_to(digest)
        new.rename(home)
        return home
