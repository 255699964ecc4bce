"""Layers for tests: real installers, a real sandbox around them, and registries of the test's own."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from image import image_of_tests
from registry import Conduct, Registry, open_registry

from hostler.domain.packages import PackageLists
from hostler.egress.policy import PACKAGE_HOSTS
from hostler.egress.proxy import EgressProxy
from hostler.engine.egress_port import EgressDecision
from hostler.engine.layers import LayerDecisions, PackageLayers
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layers import LayerFolder, LayerTerms

TINY = PackageLists(npm=("is-number@7.0.0",))
OTHER = PackageLists(npm=("is-odd@3.0.1",))
LIMIT = 120.0
"""Seconds for a build that is not about time."""


class Decisions(LayerDecisions):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[EgressDecision] = []
        self.first = asyncio.Event()

    async def record(self, decision: EgressDecision) -> None:
        self.seen.append(decision)
        self.first.set()
        await super().record(decision)

    async def until_first(self, building: asyncio.Task[Any]) -> None:
        """An installer of this build has asked for something."""
        asked = asyncio.get_running_loop().create_task(self.first.wait())
        done, _ = await asyncio.wait({asked, building}, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if building in done:
            building.result()
        assert asked in done, "no installer has asked for anything"


class Bench:
    """Layers in a state directory of their own, on the shared image of the tests."""

    def __init__(self, place: Path, registry: Registry) -> None:
        self.registry = registry
        self.state = place / "state"
        self.state.mkdir()
        (self.state / "images").symlink_to(image_of_tests() / "images")
        # Not below pytest's directory: the name of a socket is at most 107 bytes long.
        self.sockets = Path(tempfile.mkdtemp(prefix="hl-", dir="/tmp"))
        self.cgroups = f"t{secrets.token_hex(4)}"
        self.decisions = Decisions()
        private = frozenset({registry.address})
        self.proxy = EgressProxy(self.decisions, resolver=registry, private_allowed=private)

    def folder(self, **terms: Any) -> LayerFolder:
        return LayerFolder(self.state, BaseImages(self.state), self.terms(**terms), self.cgroups)

    def terms(self, **terms: Any) -> LayerTerms:
        return LayerTerms(**{"seconds": LIMIT, "authorities": self.registry.authority.read_bytes(), **terms})

    def layers(self, hosts: tuple[str, ...] = PACKAGE_HOSTS, **terms: Any) -> PackageLayers:
        return PackageLayers(self.folder(**terms), self.proxy, self.decisions, hosts, self.sockets)

    def assert_nothing_left(self) -> None:
        names = [entry.name for entry in (self.state / "layers").iterdir()]
        assert not [name for name in names if name.startswith((".new-", ".unlocked-"))]
        assert str(self.state) not in Path("/proc/mounts").read_text()
        deadline = time.monotonic() + 10
        while str(self.state) in _loops():  # the kernel lets go of a device some time after its last user
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not list(self.sockets.iterdir())
        assert not [pid for pid in processes() if str(self.state) in pid]
        found = subprocess.run(
            ["find", "/sys/fs/cgroup", "-ignore_readdir_race", "-name", f"{self.cgroups}-layer-*"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""


def _loops() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def processes() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


@asynccontextmanager
async def opened(place: Path, conduct: Conduct = "answers") -> AsyncIterator[Bench]:
    with open_registry(place / "registry", conduct) as registry:
        made = Bench(place, registry)
        try:
            yield made
        finally:
            await made.proxy.close()
            shutil.rmtree(made.sockets, ignore_errors=True)
