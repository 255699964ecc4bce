"""Are packages installed once, in a place that reaches registries only, and is nothing left when that fails?

Real installers, a real sandbox around them, and registries of the test's own (`registry.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from goods import NPM
from image import BUILD_SECONDS, base_image, image_home
from layerkit import LIMIT, OTHER, TINY, Bench, opened, processes

from hostler.domain.packages import PackageLists
from hostler.engine.layers import LayerFailed
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.image_recipe import AGENT_UID, Recipe, host_recipe
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layer_build import Order
from hostler.sandbox.layer_files import lower_directories
from hostler.sandbox.layers import LayerFolder, LayerTerms

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


class NoStage(LayerFolder):
    """On a host that lacks the folder over which builds mount."""

    def _order(self, *parts: Any) -> Order:
        return dataclasses.replace(super()._order(*parts), stage="/stage-that-is-not-there")


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


async def test_who_wants_the_same_layer_waits_for_one_build(bench: Bench) -> None:
    layers = bench.layers()
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(layers.acquire(TINY)) for _ in range(3)]
    held = [task.result() for task in waiting]
    assert len({one.path for one in held}) == 1
    assert {decision.host for decision in bench.decisions.seen} == {NPM}
    asked = len(bench.decisions.seen)
    again = await layers.acquire(PackageLists(npm=(*TINY.npm, *TINY.npm)[:1]))
    assert again.path == held[0].path
    assert len(bench.decisions.seen) == asked  # nobody was asked again

    tree = held[0].path
    assert (tree / "usr/local/lib/node_modules/is-number/package.json").is_file()
    assert lower_directories(tree) == (tree, BaseImages(bench.state).current())
    for path in (tree, *tree.rglob("*")):
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == (0, 0), path
        assert stat.S_ISLNK(info.st_mode) or not info.st_mode & 0o6002, path
    assert not (tree / "root").exists()
    for one in (*held, again):
        one.close()
    bench.assert_nothing_left()


async def test_only_registries_are_reached_and_a_denial_is_named(bench: Bench) -> None:
    layers = bench.layers(hosts=("pypi.org",))
    with pytest.raises(LayerFailed) as caught:
        await layers.acquire(TINY)
    assert "Installing the environment's npm packages failed" in str(caught.value)
    assert "denied: registry.npmjs.org (host_not_allowed)" in str(caught.value)
    bench.assert_nothing_left()


async def test_what_does_not_exist_fails_with_the_installers_own_words_and_can_be_tried_again(bench: Bench) -> None:
    layers = bench.layers()
    for packages, words in (
        (PackageLists(npm=("is-number@0.0.0-not-there",)), "No matching version found for is-number@0.0.0-not-there"),
        (PackageLists(pip=("iniconfig==99.99",)), "No matching distribution found for iniconfig==99.99"),
        (PackageLists(apt=("no-such-package-here",)), "Unable to locate package no-such-package-here"),
    ):
        with pytest.raises(LayerFailed) as caught:
            await layers.acquire(packages)
        said = str(caught.value)
        assert words in said
        assert len(said) < 2500
        assert "\x1b" not in said
    (await layers.acquire(TINY)).close()
    bench.assert_nothing_left()


async def test_a_build_that_takes_too_long_is_ended(bench: Bench) -> None:
    with pytest.raises(LayerFailed, match=r"took longer than 0\.3 seconds \(packages\.seconds\)"):
        await bench.layers(seconds=0.3).acquire(TINY)
    bench.assert_nothing_left()


async def test_packages_have_no_more_room_than_the_limit(bench: Bench) -> None:
    with pytest.raises(LayerFailed, match=r"more room than 8 MiB \(packages\.layer_mb\)"):
        await bench.layers(layer_bytes=8 << 20).acquire(PackageLists(npm=("roomy@1.0.0",)))
    with pytest.raises(LayerFailed, match=r"more room than 10 MiB \(packages\.layer_mb\)"):
        # What is kept of it is small; the lists that apt reads first are not, and they count too.
        await bench.layers(layer_bytes=10 << 20).acquire(PackageLists(apt=("hello",)))
    bench.assert_nothing_left()


async def test_installers_have_no_more_memory_than_the_limit(bench: Bench) -> None:
    with pytest.raises(LayerFailed, match=r"more memory than 24 MiB \(packages\.memory_mb\)"):
        await bench.layers(memory_bytes=24 << 20).acquire(TINY)
    bench.assert_nothing_left()


async def test_nothing_is_left_of_a_build_whose_caller_stops_the_server(bench: Bench) -> None:
    layers = bench.layers()
    waiting = asyncio.get_running_loop().create_task(layers.acquire(TINY))
    await bench.decisions.until_first(waiting)  # npm runs
    await layers.close()
    with pytest.raises(LayerFailed, match="the server was stopped"):
        await waiting
    bench.assert_nothing_left()


async def test_a_caller_that_is_cancelled_lets_the_build_go_on(bench: Bench) -> None:
    layers = bench.layers()
    waiting = asyncio.get_running_loop().create_task(layers.acquire(TINY))
    await bench.decisions.until_first(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (await layers.acquire(TINY)).close()
    assert len(bench.folder().list()) == 1
    bench.assert_nothing_left()


async def test_a_worker_that_is_killed_in_the_middle_leaves_nothing_running_and_the_next_one_sweeps(
    bench: Bench, tmp_path: Path
) -> None:
    script = tmp_path / "crash.py"
    script.write_text(
        f"""
import asyncio, os, signal
from pathlib import Path
from hostler.domain.packages import PackageLists
from hostler.egress.proxy import EgressProxy
from hostler.engine.layers import LayerDecisions, PackageLayers
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layers import LayerFolder, LayerTerms

class Killer(LayerDecisions):
    async def record(self, decision):
        os.kill(os.getpid(), signal.SIGKILL)

class Nowhere:
    async def resolve(self, host, port):
        raise OSError(f"{{host}} has no address")

async def main():
    state = Path({str(bench.state)!r})
    killer = Killer()
    folder = LayerFolder(state, BaseImages(state), LayerTerms())
    roads, sockets = EgressProxy(killer, resolver=Nowhere()), Path({str(bench.sockets)!r})
    layers = PackageLayers(folder, roads, killer, ("registry.npmjs.org",), sockets)
    await layers.acquire(PackageLists(npm=("is-number@7.0.0",)))

asyncio.run(main())
"""
    )
    worker = await asyncio.create_subprocess_exec(sys.executable, str(script))
    assert await asyncio.wait_for(worker.wait(), LIMIT) == -signal.SIGKILL
    async with asyncio.timeout(20):
        while any(str(bench.state) in line for line in processes()):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
    assert str(bench.state) not in Path("/proc/mounts").read_text()
    assert bench.folder().list() == []
    said = await asyncio.to_thread(bench.folder().sweep)
    assert len(said) == 1
    assert "cut off" in said[0]
    shutil.rmtree(bench.sockets)  # as a server does when it starts
    bench.sockets.mkdir()
    bench.assert_nothing_left()
    (await bench.layers().acquire(TINY)).close()


async def test_two_processes_that_want_the_same_layer_build_it_once(bench: Bench) -> None:
    one, two = bench.layers(), bench.layers()  # two workers: they share nothing but the folder
    async with asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(one.acquire(TINY)), tasks.create_task(two.acquire(TINY))
    assert first.result().path == second.result().path
    builds = {decision.session_id for decision in bench.decisions.seen}
    assert len(builds) == 1
    first.result().close()
    second.result().close()
    bench.assert_nothing_left()


async def test_layers_are_removed_when_there_is_no_room_but_never_one_in_use(bench: Bench) -> None:
    layers = bench.layers(total_bytes=1)
    held = await layers.acquire(TINY)
    (await layers.acquire(OTHER)).close()
    assert {layer.packages.npm for layer in bench.folder().list()} == {TINY.npm, OTHER.npm}
    held.close()
    third = await layers.acquire(PackageLists(npm=("is-even@1.0.0",)))
    assert [layer.packages.npm for layer in bench.folder().list()] == [("is-even@1.0.0",)]
    assert not bench.folder().remove(third.path.parent.name)
    third.close()
    assert bench.folder().remove(third.path.parent.name)
    assert bench.folder().list() == []


async def test_a_host_without_an_image_says_how_to_get_one(bench: Bench, tmp_path: Path) -> None:
    bench.state = tmp_path / "empty"
    with pytest.raises(LayerFailed, match="hostler image build"):
        await bench.layers().acquire(TINY)


async def test_a_host_is_tried_without_a_registry(bench: Bench) -> None:
    await bench.folder().probe()
    assert bench.folder().list() == []
    with pytest.raises(LayerFailed, match=r"can.t be installed on this host: .*stage-that-is-not-there"):
        await NoStage(bench.state, BaseImages(bench.state), LayerTerms(), bench.cgroups).probe()
    assert not list(bench.sockets.iterdir() if bench.sockets.exists() else ())
    names = [entry.name for entry in (bench.state / "layers").iterdir()]
    assert sorted(names) == [".lock", "seccomp"]


def test_an_image_that_can_not_be_built_leaves_nothing(tmp_path: Path) -> None:
    own = host_recipe()
    recipe = Recipe("no-such-release", own.sources.replace(f" {own.suite}", " no-such-release"))
    images = BaseImages(tmp_path, lambda: recipe, BUILD_SECONDS)
    with pytest.raises(SandboxUnavailable, match=r"no-such-release.*does not have a Release file"):
        images.build()
    assert [entry.name for entry in images.home.iterdir()] == [".lock"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_an_image_is_built_once_and_not_removed_while_it_is_used(tmp_path: Path) -> None:
    recipe = dataclasses.replace(host_recipe(), packages=("netbase",))
    images, said = BaseImages(tmp_path, lambda: recipe, BUILD_SECONDS), list[str]()
    image = images.build(said.append)
    assert said
    assert images.current() == image.rootfs
    assert "netbase:all" in image.packages
    assert images.build(said.append) == image
    assert len(said) == len(set(said))  # the second time there was nothing to say
    with images.hold(image), pytest.raises(SandboxUnavailable, match="is in use"):
        images.remove(image.digest[:8])
    assert images.remove(image.digest[:8])
    assert (images.current(), images.list()) == (None, [])
    assert sorted(entry.name for entry in images.home.iterdir()) == [".lock"]


def test_the_image_has_no_rights_for_anybody_and_nothing_of_the_host() -> None:
    root = base_image().rootfs
    for path in root.rglob("*"):
        info = path.lstat()
        assert stat.S_ISLNK(info.st_mode) or not info.st_mode & 0o6000, path
        assert not stat.S_ISBLK(info.st_mode), path
        assert not stat.S_ISCHR(info.st_mode), path
        if stat.S_ISREG(info.st_mode):
            assert "security.capability" not in os.listxattr(path), path
    assert (root / "etc/resolv.conf").read_text() == ""
    assert (root / "etc/hostname").read_text() == "sandbox\n"
    assert not list((root / "dev").iterdir())
    assert (root / "workspace").stat().st_uid == AGENT_UID
    assert f"agent:x:{AGENT_UID}:" in (root / "etc/passwd").read_text()
    assert base_image() == BaseImages(image_home()).current_image()
