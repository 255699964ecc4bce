"""Do packages come from the public registries? The one test that needs them; it is skipped without, and says so."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from image import base_image, image_home

from hostler.domain.packages import PackageLists
from hostler.egress.policy import PACKAGE_HOSTS
from hostler.egress.proxy import EgressProxy
from hostler.engine.layers import LayerDecisions, PackageLayers
from hostler.sandbox.image_recipe import host_recipe
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layers import LayerFolder, LayerTerms

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]

ANSWER_SECONDS = 8
CHECK_SECONDS = 30.0
BUILD_SECONDS = 180.0


def _client(manager: str, place: Path) -> list[str]:
    """The ordinary client of this host, for something small."""
    if manager == "npm":
        return [
            "npm",
            "view",
            "is-number@7.0.0",
            "version",
            "--fetch-retries=0",
            f"--fetch-timeout={ANSWER_SECONDS}000",
        ]
    if manager == "pip":
        once = ("--timeout", str(ANSWER_SECONDS), "--retries", "0", "--index-url", "https://pypi.org/simple")
        return [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *once, "-d", str(place), "iniconfig==2.0.0"]
    once = ("-o", f"Acquire::http::Timeout={ANSWER_SECONDS}", "-o", "Acquire::Retries=0")
    index = f"http://deb.debian.org/debian/dists/{host_recipe().suite}/InRelease"
    return ["/usr/lib/apt/apt-helper", *once, "download-file", index, str(place / "InRelease")]


def _skip_unless_it_answers(manager: str, place: Path) -> None:
    place.mkdir()
    if "debian" not in host_recipe().sources and manager == "apt":
        pytest.skip("the image of this host has no packages of Debian's mirror")
    elsewhere = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")
    environ = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        done = subprocess.run(
            _client(manager, place),
            env={**environ, "PIP_CONFIG_FILE": os.devnull},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
        problem = "" if done.returncode == 0 else (done.stderr or done.stdout)[-300:]
    except subprocess.TimeoutExpired:
        problem = f"no answer in {CHECK_SECONDS:g} seconds"
    if problem:
        pytest.skip(f"the public registry of {manager} does not answer this host: {problem}")


def _addresses() -> frozenset[str]:
    """On a machine with a mirror of its own the registries' names lead to addresses that are not public."""
    found: set[str] = set()
    for host in ("registry.npmjs.org", "pypi.org", "files.pythonhosted.org", "deb.debian.org"):
        try:
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, 443)}
        except OSError:
            continue
    return frozenset(found)


@pytest.mark.parametrize(
    ("manager", "entry", "file"),
    [
        ("npm", "is-number@7.0.0", "usr/local/lib/node_modules/is-number/package.json"),
        ("pip", "iniconfig==2.0.0", "usr/local/lib/python3*/dist-packages/iniconfig/__init__.py"),
        ("apt", "hello", "usr/bin/hello"),
    ],
)
async def test_packages_come_from_the_public_registry(tmp_path: Path, manager: str, entry: str, file: str) -> None:
    _skip_unless_it_answers(manager, tmp_path / "check")
    base_image()
    state = tmp_path / "state"
    state.mkdir()
    (state / "images").symlink_to(image_home() / "images")
    sockets = Path(tempfile.mkdtemp(prefix="hl-", dir="/tmp"))
    folder = LayerFolder(state, BaseImages(state), LayerTerms(seconds=BUILD_SECONDS), f"t{secrets.token_hex(4)}")
    decisions = LayerDecisions()
    proxy = EgressProxy(decisions, private_allowed=_addresses())
    layers = PackageLayers(folder, proxy, decisions, PACKAGE_HOSTS, sockets)
    try:
        held = await layers.acquire(PackageLists.model_validate({manager: (entry,)}))
        assert list(held.path.glob(file))
        held.close()
    finally:
        await layers.close()
        await proxy.close()
        shutil.rmtree(sockets, ignore_errors=True)
