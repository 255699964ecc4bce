"""How is a session's sandbox made by a container engine: Docker or Podman, also with gVisor as the engine's runtime?

One container for each sandbox, warm from `create` on: its process 1 only forwards the egress port, and every program
comes in by `oci_attach`. `docs/how-to/isolate-with-docker-or-podman.md` says how to set an engine up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hostler.engine.sandbox_port import (
    IsolationLabel,
    LeftOver,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    SandboxUnavailable,
    Technology,
)
from hostler.sandbox import (
    cgroups,
    handing_over,
    leftovers,
    oci_container,
    oci_host,
    oci_launchers,
    oci_stats,
    specs,
    trying,
    users,
)
from hostler.sandbox.bubblewrap_host import within_host
from hostler.sandbox.cgroups import Group
from hostler.sandbox.estate import Estate, Holding
from hostler.sandbox.holding_still import HoldingStill
from hostler.sandbox.oci_container import LABEL_SANDBOX, LABEL_SESSION, LABEL_STATE, Ground, name_of
from hostler.sandbox.oci_engine import About, Engine, EngineError
from hostler.sandbox.oci_host import Host, Kind
from hostler.sandbox.oci_images import Root
from hostler.sandbox.trials import stale_trials, trial_folder

log = logging.getLogger("hostler.sandbox")


class OciSandbox:
    """One sandbox, from `OciProvider.create` or `adopt`."""

    def __init__(self, provider: OciProvider, host: Host, holding: Holding, workspace: Path) -> None:
        self._provider = provider
        self._host = host
        self._holding = holding
        self._home = provider._estate.home(holding.sandbox_id)
        self._groups = Group()
        self._still = HoldingStill(workspace, self._pause, self._unpause)

    @property
    def sandbox_id(self) -> str:
        return self._holding.sandbox_id

    @property
    def label(self) -> IsolationLabel:
        return self._host.label

    @property
    def launcher(self) -> Path:
        """See the port. SIGTERM to its process is passed on, and followed by SIGKILL; whatever ends `claude` ends
        every other process inside."""
        return self._home / "launcher"

    @property
    def entrance(self) -> Path:
        """See the port. Works from `create` on, with or without the launcher's program."""
        return self._home / "entrance"

    @property
    def host_uid(self) -> int | None:
        """Uid on the host; None: the worker's own."""
        return self._holding.file_uid

    @property
    def container(self) -> str:
        """Name of the container."""
        return name_of(self.sandbox_id)

    async def suspend(self) -> None:
        await self._still.suspend()

    async def resume(self) -> None:
        await self._still.resume()

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed, EngineError."""
        await self._still.snapshot(target)

    async def _pause(self) -> None:
        if not await self._is_paused():
            await self._host.engine.pause(self.container)

    async def _unpause(self) -> None:
        if await self._is_paused():
            await self._host.engine.unpause(self.container)

    async def _is_paused(self) -> bool:
        found = await self._host.engine.inspect(self.container)
        if found is None or not found["State"].get("Running"):
            # A container that has ended runs as little as a suspended one.
            return True if found is None else bool(found["State"].get("Paused"))
        return bool(found["State"].get("Paused"))

    async def stats(self) -> SandboxStats:
        await self._find_groups()
        return self._inside(await oci_stats.stats(self._host.engine, self.container, self._groups))

    def _inside(self, found: SandboxStats) -> SandboxStats:
        """With gVisor the group counts threads of its own, which say nothing of the processes inside."""
        return replace(found, pids=None, pids_refused=None) if self.label.kernel == "user_space" else found

    async def _find_groups(self) -> None:
        if not self._groups.directories:
            found = await self._host.engine.inspect(self.container)
            if found is not None:
                self._groups = await asyncio.to_thread(oci_stats.groups_of, found)

    async def glance(self) -> SandboxStats:
        await self._find_groups()
        return self._inside(await asyncio.to_thread(oci_stats.of_groups, self._groups))

    async def yield_processors(self, yes: bool) -> None:
        await self._find_groups()
        await asyncio.to_thread(lambda: cgroups.weigh(self._groups, low=yes))

    async def destroy(self) -> None:
        """Idempotent, safe to call concurrently. Raises SandboxUnavailable when the engine doesn't answer, and
        EngineError when it doesn't let go: the record stays, and the next sweep tries again."""
        await self._provider._end(self._holding)


class OciProvider:
    """Makes containers. One process at a time may use a state directory, which is private to the worker."""

    def __init__(
        self,
        state_dir: Path,
        *,
        technology: Literal["docker", "podman", "gvisor"],
        kind: Kind,
        engine_socket: Path,
        image: Callable[[], Root | None],
        runtime: str = "",
        uid_range: range = users.DEFAULT_RANGE,
        uid_lock_file: Path = users.LOCK_FILE,
        roads_dir: Path | None = None,
    ) -> None:
        """Touches nothing.

        technology  what the runtime makes of it: `gvisor` when `runtime` is gVisor's, else the same as `kind`
        image       asked for each sandbox: the root file system that new ones are made from; None: none was built
        runtime     name of one of the engine's runtimes; empty: its default
        uid_range   host uids for sandboxes of a worker that is root
        roads_dir   folder on the file system of the sessions' sockets; None: the state directory is on it
        """
        # The engine's users go through the folders to what is mounted in their containers.
        self._estate = Estate(state_dir, uid_range=uid_range, uid_lock_file=uid_lock_file, passage=True)
        self._roads = roads_dir
        self.technology: Technology = technology
        self._kind: Kind = kind
        self._engine = Engine(Path(engine_socket))
        self._image = image
        self._runtime = runtime
        self._uid_range = uid_range
        self._uid_lock_file = uid_lock_file
        self._opening = asyncio.Lock()
        self._host: Host | None = None

    # ------------------------------------------------------------------------------------------------------- the port

    async def probe(self) -> IsolationLabel:
        """See the port. Imports the base image when the engine doesn't have it yet."""
        # Where the worker keeps its state the engine can see it; a service with a /tmp of its own can't see ours.
        near = self._estate.state_dir if self._estate.state_dir.is_dir() else None
        kind = f"{self._kind}-{self.technology}"
        for stale in stale_trials(kind, near):
            stale.ended = await self._trial_is_ended(stale.place)
        with trial_folder(kind, near=near) as place:
            place.chmod(0o711)
            trial = self._trial(place)
            try:
                return await trial._try_true(place)
            finally:
                trial.close()

    def _trial(self, place: Path) -> OciProvider:
        return OciProvider(
            place / "state",
            technology="gvisor" if self.technology == "gvisor" else self._kind,
            kind=self._kind,
            engine_socket=self._engine.socket,
            image=self._image,
            runtime=self._runtime,
            uid_range=self._uid_range,
            uid_lock_file=self._uid_lock_file,
        )

    async def _trial_is_ended(self, place: Path) -> bool:
        """Whether nothing runs any more of a trial whose process was killed: the engine goes on without it."""
        trial = self._trial(place)
        try:
            await trial.sweep()
        except (SandboxUnavailable, EngineError, OSError):
            log.exception("trial_not_ended", extra={"folder": str(place)})
            return False
        finally:
            trial.close()
        return True

    async def create(self, spec: SandboxSpec) -> OciSandbox:
        """See the port. The directories are made when they don't exist."""
        host = await self._open()
        making = asyncio.create_task(self._create(host, spec))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(SandboxUnavailable, EngineError, ValueError, OSError):
                await (await making).destroy()
            raise

    async def left_over(self) -> Sequence[LeftOver]:
        host = await self._open()
        found: dict[str, LeftOver] = {}
        for holding in await asyncio.to_thread(lambda: list(self._estate.left())):
            found[holding.sandbox_id] = LeftOver(holding.sandbox_id, holding.session_id, self.technology, alive=False)
        for container in await host.engine.labelled(LABEL_STATE, host.state):
            labels = container["Labels"]
            sandbox_id = labels[LABEL_SANDBOX]
            if not self._estate.is_live(sandbox_id):
                # Without its record it can't be adopted: nobody knows its user.
                alive = container["State"] in ("running", "paused") and sandbox_id in found
                found[sandbox_id] = LeftOver(sandbox_id, labels[LABEL_SESSION], self.technology, alive)
        return [found[name] for name in sorted(found)]

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> OciSandbox:
        """See the port. A program that the earlier worker had started in it is ended."""
        host = await self._open()
        specs.check(spec)
        left = {one.sandbox_id: one for one in await self.left_over()}.get(sandbox_id)
        holding = Holding.load(self._estate.home(sandbox_id)) if left is not None else None
        if left is None or holding is None or not left.alive:
            raise SandboxUnavailable(f"there is no live container of sandbox {sandbox_id}; create another one")
        if not self._estate.adopt(holding):
            raise SandboxUnavailable(f"the user of sandbox {sandbox_id} is taken by another one; create another one")
        try:
            await self._take_over(host, holding, spec)
        except BaseException:
            self._estate.forget(holding)
            raise
        return OciSandbox(self, host, holding, spec.workspace)

    async def sweep(self) -> Sequence[str]:
        host = await self._open()
        said = []
        for left in await self.left_over():
            await host.engine.remove(name_of(left.sandbox_id))
            await asyncio.to_thread(self._clear, left)
            said.append(f"sandbox {left.sandbox_id} of session {left.session_id}: its container was removed")
        return said + await asyncio.to_thread(self._estate.sweep)

    def close(self) -> None:
        """Lets another process use the state directory. Destroy the sandboxes first. Idempotent."""
        self._estate.close()
        self._host = None

    # ------------------------------------------------------------------------------------------------ opening, looking

    async def _open(self) -> Host:
        async with self._opening:
            if self._host is None:
                about = await oci_host.ask(self._engine, self._kind, self._runtime)
                self._host = await asyncio.to_thread(self._open_now, about)
            return self._host

    def _open_now(self, about: About) -> Host:
        self._estate.open()
        return oci_host.look(self._engine, about, self.technology, self._runtime, self._estate.state_dir)

    async def _try_true(self, place: Path) -> IsolationLabel:
        with trying.spec(place, SandboxLimits(memory_bytes=256 << 20, pids=64, tmp_bytes=1 << 20)) as spec:
            try:
                sandbox = await self.create(spec)
                try:
                    code, said = await oci_launchers.run(sandbox.launcher)
                finally:
                    await sandbox.destroy()
            except EngineError as error:
                raise SandboxUnavailable(f"a trial container failed: {error}") from error
        if code != trying.RAN:
            raise SandboxUnavailable(f"a program in a trial container failed ({code}): {said}")
        return sandbox.label

    # ------------------------------------------------------------------------------------------------ making and ending

    async def _create(self, host: Host, spec: SandboxSpec) -> OciSandbox:
        specs.check(spec)
        spec = replace(spec, limits=within_host(spec.limits))
        image = await self._image_for(host, spec)
        holding, ground = await asyncio.to_thread(self._prepare, host, spec, image)
        name = name_of(holding.sandbox_id)
        try:
            config = oci_container.config(
                spec, ground, self._kind, self._runtime, self.technology == "gvisor", host.seccomp
            )
            await host.engine.create(name, config)
            await host.engine.start(name)
        except EngineError as error:
            await self._end(holding)
            raise SandboxUnavailable(f"{host.about.name} made no container: {error}") from error
        except BaseException:
            await self._end(holding)
            raise
        return OciSandbox(self, host, holding, spec.workspace)

    async def _image_for(self, host: Host, spec: SandboxSpec) -> str:
        if spec.layer is not None:
            return await host.images.layered(spec.layer)
        root = await asyncio.to_thread(self._image)
        if root is None:
            raise SandboxUnavailable("there is no base image for containers: hostler image build")
        return await host.images.base(root)

    def _prepare(self, host: Host, spec: SandboxSpec, image: str) -> tuple[Holding, Ground]:
        """Everything that is on the host before the container is. The record comes first."""
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox_id = self._estate.new_id()
        holding = self._estate.begin(sandbox_id, spec.session_id, spec.workspace, (), adoptable=True, one_user=True)
        home = self._estate.home(sandbox_id)
        try:
            handing_over.give_away(spec, holding.file_uid, self._uid_range)
            user = _user_of(holding)
            oci_launchers.write_etc(home / "etc", user)
            oci_launchers.write_calls(home / "calls")
            roads = oci_launchers.lay_roads(self._roads_of(sandbox_id), spec)
            prefix = f"/v{host.about.api}"
            oci_launchers.write_programs(home, self._engine.socket, prefix, sandbox_id, user, spec)
        except BaseException:
            self._remove(holding)
            raise
        return holding, Ground(sandbox_id, host.state, image, user, home / "etc", home / "calls", roads)

    def _roads_of(self, sandbox_id: str) -> Path:
        if self._roads is None:
            return self._estate.home(sandbox_id) / "roads"
        self._roads.mkdir(mode=0o711, parents=True, exist_ok=True)
        return self._roads / f"roads-{sandbox_id}"

    async def _take_over(self, host: Host, holding: Holding, spec: SandboxSpec) -> None:
        home, name = self._estate.home(holding.sandbox_id), name_of(holding.sandbox_id)

        def renew() -> None:
            leftovers.kill_marked(holding.sandbox_id)
            oci_launchers.renew_roads(self._roads_of(holding.sandbox_id), spec)
            for path in (spec.model_socket, spec.egress_socket):
                handing_over.give_socket(path, holding.file_uid)
            prefix, user = f"/v{host.about.api}", _user_of(holding)
            oci_launchers.write_programs(home, self._engine.socket, prefix, holding.sandbox_id, user, spec)

        await asyncio.to_thread(renew)
        found = await host.engine.inspect(name)
        if found is not None and found["State"].get("Paused"):
            await host.engine.unpause(name)
        code, said = await oci_launchers.run(home / "entrance", "/usr/bin/perl", "-e", "kill 9, -1")
        if code not in (0, 137):  # the tether goes, too
            raise SandboxUnavailable(f"the container of sandbox {holding.sandbox_id} takes no commands: {said}")

    async def _end(self, holding: Holding) -> None:
        """Ends a sandbox that this provider made. A second call, also a concurrent one, does no harm."""
        if not self._estate.is_live(holding.sandbox_id):
            return
        await asyncio.to_thread(leftovers.close_entrances, self._estate.home(holding.sandbox_id))
        await self._engine.remove(name_of(holding.sandbox_id))
        await asyncio.to_thread(self._remove, holding)

    def _remove(self, holding: Holding) -> None:
        """What is on the host of a sandbox of this process that has no container. Blocks. Idempotent."""
        shutil.rmtree(self._roads_of(holding.sandbox_id), ignore_errors=True)
        self._estate.end(holding)

    def _clear(self, left: LeftOver) -> None:
        """The same of one that was left over."""
        shutil.rmtree(self._roads_of(left.sandbox_id), ignore_errors=True)
        holding = Holding.load(self._estate.home(left.sandbox_id))
        self._estate.clear(holding or Holding(left.sandbox_id, left.session_id, None, None))


def _user_of(holding: Holding) -> int:
    """Uid on the host of what is inside."""
    return os.geteuid() if holding.file_uid is None else holding.file_uid
