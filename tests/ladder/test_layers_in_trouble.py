"""Is somebody who installs packages told in time of a registry that fails, or of another process that is stuck?"""

from __future__ import annotations

import fcntl
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from goods import NPM
from layerkit import TINY, Bench, opened, processes
from registry import Conduct, open_registry

from hostler.domain.packages import PackageLists
from hostler.engine.layers import LayerFailed, PackageLayers
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.file_locks import lock
from hostler.sandbox.image_recipe import Recipe, host_recipe
from hostler.sandbox.images import BaseImages

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


@pytest.mark.parametrize("conduct", ["says nothing", "refuses", "breaks off"])
async def test_a_registry_that_fails_keeps_nobody_for_longer_than_the_limit(tmp_path: Path, conduct: Conduct) -> None:
    async with opened(tmp_path, conduct) as bench:  # npm would try again, and wait for minutes
        limit = "npm packages took longer than 6 seconds"
        with pytest.raises(LayerFailed, match=limit):
            await bench.layers(seconds=6).acquire(TINY)
        assert {decision.host for decision in bench.decisions.seen} == {NPM}
        assert bench.registry.reached.is_set() == (conduct != "refuses")
        assert bool(bench.registry.asked) == (conduct == "breaks off")
        bench.assert_nothing_left()
        bench.registry.conduct = "answers"
        if conduct != "refuses":
            (await bench.layers().acquire(TINY)).close()


async def test_a_download_that_breaks_off_fails_with_the_installers_own_words(tmp_path: Path) -> None:
    async with opened(tmp_path, "breaks off") as bench:
        words = r"(?s)apt packages failed .*(reset|closed|size|fetch)"
        with pytest.raises(LayerFailed, match=words):
            await bench.layers().acquire(PackageLists(apt=("hello",)))
        bench.assert_nothing_left()


async def test_a_process_that_is_stuck_with_the_lock_keeps_nobody_for_ever(bench: Bench) -> None:
    folder = bench.state / "layers"
    folder.mkdir(mode=0o700)
    with ExitStack() as locks:
        assert lock(locks, folder / ".lock", fcntl.LOCK_EX)
        (folder / ".lock").write_text(json.dumps({"id": "x", "pid": 4711, "seconds": 0.3}))
        with pytest.raises(LayerFailed, match=r"process 4711 has had .*/layers/\.lock locked for longer than"):
            await bench.layers().acquire(TINY)
    (await bench.layers().acquire(TINY)).close()
    bench.assert_nothing_left()


async def test_a_folder_that_can_hold_no_socket_is_said_to_be_the_reason(bench: Bench, tmp_path: Path) -> None:
    layers = PackageLayers(bench.folder(), bench.proxy, bench.decisions, (NPM,), tmp_path / ("long" * 30))
    with pytest.raises(LayerFailed, match=r"can.t be installed on this host: AF_UNIX path too long"):
        await layers.acquire(TINY)
    assert bench.folder().list() == []
    assert not list((tmp_path / ("long" * 30)).iterdir())


@pytest.mark.parametrize("conduct", ["says nothing"])
def test_an_image_whose_mirror_says_nothing_is_given_up(tmp_path: Path, conduct: Conduct) -> None:
    with open_registry(tmp_path / "registry", conduct) as registry:
        sources = f"Types: deb\nURIs: http://{registry.address}/\nSuites: {host_recipe().suite}\nComponents: main\n"
        images = BaseImages(tmp_path, lambda: Recipe(host_recipe().suite, sources), build_seconds=4)
        with pytest.raises(SandboxUnavailable, match="the image was not built in 4 seconds"):
            images.build()
        assert registry.reached.is_set()
    assert [entry.name for entry in images.home.iterdir()] == [".lock"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert not [line for line in processes() if str(tmp_path) in line]
