"""How is a layer of packages built, kept, shared and thrown away?

A layer is a folder, `<state>/layers/<key>/tree`, beside `manifest.json`; the key says what it is made from: the base
image and the lists of packages. Whatever has such a name is whole. Sandboxes lay the tree over the image, read-only
(`layer_files.lower_directories`).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hostler.domain.clock import SystemClock
from hostler.domain.packages import PackageLists
from hostler.engine import trust
from hostler.engine.layers import LayerFailed
from hostler.engine.sandbox_port import SandboxLimits, SandboxUnavailable
from hostler.sandbox import cgroups, launch, seccomp
from hostler.sandbox.cgroup_detection import detect
from hostler.sandbox.file_locks import TurnMissed, lock, turn
from hostler.sandbox.images import BaseImages, Image
from hostler.sandbox.layer_build import Order
from hostler.sandbox.layer_files import Layer, load_layer
from hostler.sandbox.layer_steps import steps

FORMAT: Final = 1
"""Raised when layers are built in another way than before, so that they are built anew."""

END_SECONDS: Final = 10.0
SPARE_SECONDS: Final = 120.0
"""For what a build does before and after the installers, which copies and removes files only."""
PROBE_SECONDS: Final = 30.0
SAID_LINES: Final = 15
SAID_CHARACTERS: Final = 1500


@dataclass(frozen=True, slots=True)
class LayerTerms:
    """What a build, and all layers together, may take."""

    seconds: float = 900.0
    layer_bytes: int = 4 << 30
    """What installers may write, their own left-overs included."""
    total_bytes: int = 20 << 30
    """When all layers are larger, those that were not used for the longest time go."""
    memory_bytes: int = 2 << 30
    cpus: float = 2.0
    pids: int = 1024
    first_id: int = 400_000
    """First of 65,536 user and group ids of the host that nobody has."""
    authorities: bytes = b""
    """Certificates, PEM, that installers trust besides those that the host trusts."""


class LockedLayer:
    """Implements the engine's `HeldLayer`: locks keep the layer and its image."""

    def __init__(self, path: Path, locks: ExitStack) -> None:
        self.path = path
        self._locks = locks

    def close(self) -> None:
        self._locks.close()


class LayerFolder:
    """The layers of one state directory. Several processes may use it at a time. Implements the engine's port."""

    def __init__(self, state_dir: Path, images: BaseImages, terms: LayerTerms, cgroup_name: str = "hostler") -> None:
        """Touches nothing."""
        self.home = Path(os.path.abspath(state_dir)) / "layers"
        self._images = images
        self._terms = terms
        self._cgroup_name = cgroup_name

    # ------------------------------------------------------------------------------------------------------- the port

    async def hold(self, packages: PackageLists) -> LockedLayer | None:
        looking = asyncio.get_running_loop().run_in_executor(None, self._hold, packages)
        try:
            return await asyncio.shield(looking)
        except asyncio.CancelledError:  # a thread can't be stopped: let go of what it comes back with
            held = await looking
            if held is not None:
                held.close()
            raise

    def registry_hosts(self) -> Sequence[str]:
        """Hosts of the apt sources of the current image."""
        image = self._images.current_image()
        files = () if image is None else (image.rootfs / "etc/apt/sources.list.d").glob("*.sources")
        text = "\n".join(file.read_text() for file in files)
        return tuple(dict.fromkeys(re.findall(r"https?://([A-Za-z0-9.-]+)", text)))

    async def build(self, packages: PackageLists, egress_socket: Path) -> None:
        """See the port. One build at a time uses the ids of a state directory."""
        image = self._image()
        key = layer_key(image, packages)
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with self._turn():
            if load_layer(self.home / key) is not None:
                return
            await asyncio.to_thread(self.sweep)
            with self._images.hold(image):
                todo = steps(packages, image.rootfs, image.suite)
                await self._make(image, self._terms, todo, egress_socket, key, packages)
            await asyncio.to_thread(self._make_room, key)

    async def probe(self) -> None:
        """Tries all of it, with a command that does nothing. Raises LayerFailed, with what to do, where it can't be."""
        image = self._image()
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        terms = replace(self._terms, layer_bytes=16 << 20, seconds=PROBE_SECONDS)
        with ExitStack() as locks:
            if not lock(locks, self.home / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                return  # somebody installs packages at this moment: it works
            locks.enter_context(self._images.hold(image))
            no_socket = locks.enter_context(tempfile.NamedTemporaryFile(prefix="hostler-"))
            await self._make(image, terms, [("trial", ["true"])], Path(no_socket.name))

    # ----------------------------------------------------------------------------------------------- looking, removing

    def list(self) -> list[Layer]:
        """The one that was used last first."""
        if not self.home.is_dir():
            return []
        found = [layer for entry in self.home.iterdir() if (layer := load_layer(entry)) is not None]
        return sorted(found, key=lambda layer: -_last_use(layer))

    def remove(self, key: str) -> bool:
        """False: it is in use, or there is none."""
        layer = load_layer(self.home / key)
        return layer is not None and self._remove(layer)

    def sweep(self) -> Sequence[str]:
        """Removes what builds left that were cut off with their worker; says what, one sentence each."""
        said = []
        for place in self.home.glob(".new-*") if self.home.is_dir() else ():
            with ExitStack() as locks:
                if not lock(locks, place / "building", fcntl.LOCK_EX | fcntl.LOCK_NB):
                    continue
                with suppress(OSError, ValueError):
                    _end([Path(group) for group in json.loads((place / "groups.json").read_text())])
                shutil.rmtree(place, ignore_errors=True)
                said.append(f"build {place.name.removeprefix('.new-')} of packages: removed, it had been cut off")
        return said

    # ---------------------------------------------------------------------------------------------------------- inside

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with turn(self.home / ".lock", self._terms.seconds + SPARE_SECONDS):
                yield
        except TurnMissed as missed:
            raise LayerFailed(f"The environment's packages can't be installed now: {missed}.") from missed

    def _image(self) -> Image:
        if os.geteuid() != 0:
            raise LayerFailed(
                "An environment's packages need a worker that runs as root. Run the server as root, or take the "
                "packages out of the environment."
            )
        image = self._images.current_image()
        if image is None:
            raise LayerFailed(
                "This host has no base image to install the environment's packages on. Build it, once, on the host: "
                "hostler image build"
            )
        return image

    def _hold(self, packages: PackageLists) -> LockedLayer | None:
        image = self._image()
        place = self.home / layer_key(image, packages)
        with ExitStack() as locks:
            locks.enter_context(self._images.hold(image))
            with suppress(FileNotFoundError):
                lock(locks, place / "in-use", fcntl.LOCK_SH, create=False)
                os.utime(place / "in-use")
                layer = load_layer(place)
                if layer is not None:
                    return LockedLayer(layer.tree, locks.pop_all())
        return None

    async def _make(
        self,
        image: Image,
        terms: LayerTerms,
        todo: Sequence[tuple[str, Sequence[str]]],
        egress_socket: Path,
        key: str = "trial",
        packages: PackageLists | None = None,
    ) -> None:
        """Keeps what it has made as the layer of `packages`; without them, nothing."""
        place = self.home / f".new-{key[:12]}-{secrets.token_hex(4)}"
        unlocked = self.home / f".unlocked-{place.name[-8:]}"
        unlocked.mkdir(mode=0o700)
        limits = detect(self._cgroup_name)
        memory = SandboxLimits(terms.memory_bytes, terms.pids, terms.cpus)
        group = limits.plan(f"{self._cgroup_name}-layer-{place.name[-8:]}", memory)
        with ExitStack() as locks:
            try:
                lock(locks, unlocked / "building", fcntl.LOCK_EX)
                unlocked.rename(place)  # only now, or `sweep` could take it for one that was cut off
                (place / "groups.json").write_text(json.dumps([str(directory) for directory in group.directories]))
                cgroups.make(group)
                order = self._order(image, terms, todo, place, egress_socket, group)
                order.save(place / "order.json")
                try:
                    async with asyncio.timeout(terms.seconds):
                        result = await _run(place / "order.json")
                except TimeoutError:
                    step = _last_step(place / "said")
                    raise LayerFailed(
                        f"Installing the environment's {step}packages took longer than {terms.seconds:g} seconds "
                        "(packages.seconds)."
                    ) from None
                if "failed" in result:
                    raise LayerFailed(self._why(result, bool(limits.stats(group).oom_kills)))
                if packages is not None:
                    await asyncio.to_thread(_finish, place, key, image, packages, result)
                    (place / "layer").rename(self.home / key)
            except (OSError, SandboxUnavailable) as error:
                raise LayerFailed(f"The environment's packages can't be installed on this host: {error}") from error
            finally:
                await asyncio.to_thread(_end, group.directories)
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    def _order(
        self,
        image: Image,
        terms: LayerTerms,
        todo: Sequence[tuple[str, Sequence[str]]],
        place: Path,
        egress_socket: Path,
        group: cgroups.Group,
    ) -> Order:
        tools = launch.find_tools(root=True)
        trusted = trust.with_own(terms.authorities)
        if not trusted:
            raise SandboxUnavailable("this host trusts no certificates: apt-get install ca-certificates")
        (place / "ca.crt").write_bytes(trusted)
        (place / "ca.crt").chmod(0o644)  # for installers, who are nobody here
        return Order(
            parent=os.getpid(),
            place=str(place),
            image=str(image.rootfs),
            volume_bytes=terms.layer_bytes,
            first_id=terms.first_id,
            egress_socket=str(egress_socket),
            certificates=str(place / "ca.crt"),
            filter=str(seccomp.program(self.home / "seccomp")),
            stage=launch.stage_point(),
            bwrap=tools.bwrap,
            entrances=[str(entrance) for entrance in group.entrances],
            steps=todo,
        )

    def _why(self, result: dict[str, Any], out_of_memory: bool) -> str:
        if not result["failed"]:
            return f"The environment's packages can't be installed on this host: {result['said']}"
        what = f"Installing the environment's {result['failed']} packages failed"
        if result["full"] or _NO_SPACE.search(result["said"]):  # some clean up before they say so
            most = self._terms.layer_bytes >> 20
            return f"{what}: they take more room than {most} MiB (packages.layer_mb)."
        if out_of_memory:
            most = self._terms.memory_bytes >> 20
            return f"{what}: it took more memory than {most} MiB (packages.memory_mb)."
        return f"{what} ({result['status']}). The installer said last:\n{_readable(result['said'])}"

    def _make_room(self, keep: str) -> None:
        kept = self.list()
        total = sum(layer.bytes for layer in kept)
        for layer in reversed(kept):
            if total <= self._terms.total_bytes:
                return
            if layer.key != keep and self._remove(layer):
                total -= layer.bytes

    def _remove(self, layer: Layer) -> bool:
        place = self.home / layer.key
        with ExitStack() as locks:
            try:
                if not lock(locks, place / "in-use", fcntl.LOCK_EX | fcntl.LOCK_NB, create=False):
                    return False
                doomed = self.home / f".new-doomed-{secrets.token_hex(4)}"  # what is left of it, `sweep` removes
                place.rename(doomed)
            except FileNotFoundError:
                return False
        shutil.rmtree(doomed, ignore_errors=True)
        return True


def layer_key(image: Image, packages: PackageLists) -> str:
    """32 hexadecimal digits."""
    made_from = [FORMAT, image.digest, packages.digest]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _last_use(layer: Layer) -> float:
    with suppress(OSError):
        return (layer.tree.parent / "in-use").stat().st_mtime
    return 0.0


async def _run(order: Path) -> dict[str, Any]:
    """Runs the process that builds, and what it said last. When cancelled, the process and all it started are gone."""
    # Files and not pipes: what somebody down there might keep open must not keep us waiting.
    said, errors = order.with_name("said"), order.with_name("errors")
    with open(said, "wb") as out, open(errors, "wb") as err:  # noqa: ASYNC230 - nothing is written here
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "hostler.sandbox.layer_build",
            str(order),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={"PATH": launch.USUAL_PLACES},
            start_new_session=True,
        )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.read_text().splitlines()
    if process.returncode != 0 or not lines:
        raise SandboxUnavailable(f"the process that builds ended ({process.returncode}): {errors.read_text()[-400:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _last_step(said: Path) -> str:
    """Which packages were being installed, and a space; nothing before the first were."""
    with suppress(OSError, ValueError, IndexError, KeyError):
        return f"{json.loads(said.read_text().splitlines()[-1])['step']} "
    return ""


def _finish(place: Path, key: str, image: Image, packages: PackageLists, result: dict[str, Any]) -> None:
    layer = place / "layer"
    layer.mkdir(mode=0o711)
    (place / "tree").rename(layer / "tree")
    (layer / "in-use").touch(mode=0o600)
    manifest = {
        "key": key,
        "image": image.digest,
        "packages": packages.model_dump(mode="json"),
        "bytes": result["bytes"],
        "entries": result["entries"],
        "built_at": SystemClock().now().timestamp(),
    }
    (layer / "manifest.json").write_text(json.dumps(manifest))
    # What has its name must be whole after a power cut too.
    subprocess.run(["sync", "-f", str(layer)], check=False, stdin=subprocess.DEVNULL)


def _end(groups: Iterable[Path]) -> None:
    """Until no process of the groups is left and they are gone."""
    groups = list(groups)
    deadline = time.monotonic() + END_SECONDS
    while True:
        cgroups.kill(groups)
        if cgroups.remove(groups):
            return
        if time.monotonic() > deadline:
            raise LayerFailed("processes of an installer don't end; look for them in the log of the kernel")
        time.sleep(0.01)


_NO_SPACE = re.compile("no space left on device|ENOSPC|enough free space in", re.IGNORECASE)
_UNREADABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\S\n]*\r|[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def _readable(said: str) -> str:
    lines = [line.rstrip() for line in _UNREADABLE.sub("", said).splitlines() if line.strip()]
    return "\n".join(lines[-SAID_LINES:])[-SAID_CHARACTERS:]
