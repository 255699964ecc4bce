"""How does the engine get the image that its containers are made from? From this host's folders, never from a registry.

A base image is one tar archive of the root file system that `hostler image build` made. A layer of packages is an image
over it: what the layer takes away is removed, what it brings is unpacked. Both are named by the digest of what they are
made from, and made once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.layer_files import lower_directories
from hostler.sandbox.layer_tree import OPAQUE
from hostler.sandbox.oci_engine import Engine, EngineError

REPOSITORY: Final = "localhost/hostler-sandbox"
"""The part before the slash says that no registry has it."""

FORMAT: Final = 1
"""Raised when images are made in another way than before, so that they are made anew."""

LEFT_OUT: Final = "./home/agent"
"""Each sandbox has a file system of its own there. Where a folder is already, runtimes give that one's mode to it."""

REMOVALS: Final = "/.hostler-removals"
PIECE: Final = 1 << 18
REMOVE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system on this host, named by what is in it."""

    digest: str
    """Letters and digits, at most 100."""
    tree: Path


class EngineImages:
    """The images of one engine that are ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, asyncio.Lock] = {}

    async def base(self, root: Root) -> str:
        """Name of the image of a root file system, imported if the engine doesn't have it.

        Raises SandboxUnavailable.
        """
        tag = f"base-{FORMAT}-{root.digest}"
        name = f"{REPOSITORY}:{tag}"
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not await self._engine.has_image(name):
                try:
                    await self._engine.import_image(REPOSITORY, tag, _archive(root.tree))
                except EngineError as error:
                    raise SandboxUnavailable(f"the engine did not take the base image: {error}") from error
        return name

    async def layered(self, layer: Path) -> str:
        """Name of the image of a layer of packages over its base. Raises SandboxUnavailable."""
        tree, root = await asyncio.to_thread(lower_directories, layer)
        base = await self.base(Root(root.parent.name, root))
        tag = f"layer-{FORMAT}-{layer.parent.name}"
        name = f"{REPOSITORY}:{tag}"
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not await self._engine.has_image(name):
                try:
                    await self._built(base, tree, tag)
                except EngineError as error:
                    raise SandboxUnavailable(f"the engine did not take a layer of packages: {error}") from error
        return name

    async def _built(self, base: str, tree: Path, tag: str) -> None:
        """Tries twice: Podman tidies up after a container that has ended while others already ask for its files, which
        it then can't find."""
        try:
            await self._build(base, tree, tag)
        except EngineError as error:
            if error.status < 500:
                raise
            await self._build(base, tree, tag)

    async def _build(self, base: str, tree: Path, tag: str) -> None:
        removed = await asyncio.to_thread(removals, tree)
        host = {"NetworkMode": "none", "LogConfig": {"Type": "none"}, "CapDrop": ["ALL"], "CapAdd": ["DAC_OVERRIDE"]}
        script = f"cd / && xargs -0 -r rm -rf -- < {REMOVALS} && rm -f {REMOVALS}"
        made = {"Image": base, "Entrypoint": ["/bin/sh", "-c", script], "Cmd": [], "User": "0:0", "HostConfig": host}
        container = await self._engine.create(f"hostler-{tag}-{os.urandom(4).hex()}", made)
        try:
            if removed:
                with tempfile.TemporaryDirectory(prefix="hostler-layer-") as place:
                    listed = Path(place) / REMOVALS.lstrip("/")
                    listed.write_bytes(b"".join(b"./" + name + b"\0" for name in removed))
                    await self._engine.put_archive(container, _archive(Path(place)))
                await self._engine.start(container)
                await self._ended(container)
            await self._engine.put_archive(container, _archive(tree, leave_out_devices=True))
            await self._engine.commit(container, REPOSITORY, tag)
        finally:
            await self._engine.remove(container)

    async def _ended(self, container: str) -> None:
        async with asyncio.timeout(REMOVE_SECONDS):
            while True:
                found = await self._engine.inspect(container)
                state = (found or {}).get("State", {})
                if state.get("Status") in ("exited", "stopped", "dead"):
                    break
                await asyncio.sleep(0.05)
        if state.get("ExitCode") != 0:
            raise SandboxUnavailable("what a layer of packages takes away could not be removed from its image")


def removals(tree: Path) -> list[bytes]:
    """What of the image below must go before the layer is unpacked: paths relative to the root."""
    found: list[bytes] = []
    top = os.fsencode(tree)
    for folder, folders, files in os.walk(top):
        inside = os.path.relpath(folder, top)
        with suppress(OSError):
            if os.getxattr(folder, OPAQUE, follow_symlinks=False) == b"y" and inside != b".":
                found.append(inside)
        for name in (*files, *folders):
            info = os.lstat(os.path.join(folder, name))
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                found.append(os.path.normpath(os.path.join(inside, name)))
    return found


async def _archive(tree: Path, *, leave_out_devices: bool = False) -> AsyncIterator[bytes]:
    """The tree as a tar archive, piece by piece."""
    find, tar = shutil.which("find"), shutil.which("tar")
    if find is None or tar is None:
        raise SandboxUnavailable("an image needs find and tar: apt-get install findutils tar")
    kinds: Sequence[str] = ("!", "-type", "c", "!", "-type", "b") if leave_out_devices else ()
    looking = (find, ".", "-path", LEFT_OUT, "-prune", "-o", *kinds, "-print0")
    reading, writing = os.pipe()
    try:
        names = await asyncio.create_subprocess_exec(
            *looking, cwd=tree, stdin=asyncio.subprocess.DEVNULL, stdout=writing
        )
        os.close(writing)
        writing = -1
        packing = await asyncio.create_subprocess_exec(
            *(tar, "--create", "--format=gnu", "--numeric-owner", "--no-recursion", "--null", "--verbatim-files-from"),
            *("--files-from=-", "--warning=no-file-ignored"),
            cwd=tree,
            stdin=reading,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        for end in (reading, writing):
            if end >= 0:
                os.close(end)
    assert packing.stdout is not None
    assert packing.stderr is not None
    try:
        while piece := await packing.stdout.read(PIECE):
            yield piece
        said = await packing.stderr.read()
        if await packing.wait() != 0 or await names.wait() != 0:
            raise SandboxUnavailable(f"{tree} can't be packed: {said.decode(errors='replace').strip()[-400:]}")
    finally:
        for process in (names, packing):
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
