"""How is a session's sandbox made by a container engine: Docker or Podman, also with gVisor as the engine's runtime?

One container for each sandbox, warm from `create` on: its process 1 only forwards the egress port, and every program
comes in by `oci_attach`. `docs/how-to/isolate-with-docker-or-podman.md` says how to set an engine up.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
    oci_launchers,
    oci_seccomp,
    oci_stats,
    snapshots,
    users,
)
from hostler.sandbox.bubblewrap_host import within_host
from hostler.sandbox.cgroups import Group
from hostler.sandbox.oci_container import LABEL_SANDBOX, LABEL_SESSION, LABEL_STATE, Ground, name_of
from hostler.sandbox.oci_engine import About, Engine, EngineError
from hostler.sandbox.oci_images import EngineImages, Root
from hostler.sandbox.trials import stale_trials, trial_folder

Kind = Literal["docker", "podman"]

log = logging.getLogger("hostler.sandbox")

PROBE_SECONDS = 60.0

_START = {
    "docker": "systemctl start docker",
    "podman": "systemctl start podman.socket",
}
_SETTINGS = {"docker": "sandbox.docker.socket", "podman": "sandbox.podman.socket"}


@dataclass(frozen=True, slots=True)
class _Host:
    """What was found on this host, once."""

    about: About
    engine: Engine
    images: EngineImages
    state: str
    seccomp: str
    label: IsolationLabel


class OciSandbox:
    """One sandbox, from `OciProvider.create` or `adopt`."""

    def __init__(
        self, provider: OciProvider, host: _Host, record: leftovers.Record, directory: Path, spec: SandboxSpec
    ) -> None:
        self._provider = provider
        self._host = host
        self._record = record
        self._directory = directory
        self._workspace = spec.workspace
        self._groups = Group()
        self._holding = asyncio.Lock()
        self._suspended = False

    @property
    def sandbox_id(self) -> str:
        return self._record.sandbox_id

    @property
    def label(self) -> IsolationLabel:
        return self._host.label

    @property
    def launcher(self) -> Path:
        """See the port. SIGTERM to its process is passed on, and followed by SIGKILL; whatever ends `claude` ends
        every other process inside."""
        return self._directory / "launcher"

    @property
    def entrance(self) -> Path:
        """See the port. Works from `create` on, with or without the launcher's program."""
        return self._directory / "entrance"

    @property
    def host_uid(self) -> int | None:
        """Uid on the host; None: the worker's own."""
        return self._record.uid

    @property
    def container(self) -> str:
        """Name of the container."""
        return name_of(self.sandbox_id)

    async def suspend(self) -> None:
        async with self._holding:
            await self._pause()
            self._suspended = True

    async def resume(self) -> None:
        async with self._holding:
            await self._unpause()
            self._suspended = False

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed, EngineError."""
        async with self._holding:
            if not self._suspended:
                await self._pause()
            try:
                await asyncio.to_thread(snapshots.write, self._workspace, target)
            finally:
                if not self._suspended:
                    await self._unpause()

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
        await self._provider._end(self._record, self._directory)


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
        self._state_dir = Path(os.path.abspath(state_dir))
        self._sandboxes = self._state_dir / "sandboxes"
        self._roads = roads_dir
        self.technology: Technology = technology
        self._kind: Kind = kind
        self._engine = Engine(Path(engine_socket))
        self._image = image
        self._runtime = runtime
        self._uid_range = uid_range
        self._uid_lock_file = uid_lock_file
        self._root = os.geteuid() == 0
        self._opening = asyncio.Lock()
        self._host: _Host | None = None
        self._users: users.UidPool | None = None
        self._state_lock: int | None = None
        self._live: dict[str, asyncio.Lock] = {}

    # ------------------------------------------------------------------------------------------------------- the port

    async def probe(self) -> IsolationLabel:
        """See the port. Imports the base image when the engine doesn't have it yet."""
        # Where the worker keeps its state the engine can see it; a service with a /tmp of its own can't see ours.
        near = self._state_dir if self._state_dir.is_dir() else None
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
        for record in await asyncio.to_thread(self._records):
            found[record.sandbox_id] = LeftOver(record.sandbox_id, record.session_id, self.technology, alive=False)
        for container in await host.engine.labelled(LABEL_STATE, host.state):
            labels = container["Labels"]
            sandbox_id = labels[LABEL_SANDBOX]
            if sandbox_id not in self._live:
                # Without its record it can't be adopted: nobody knows its user.
                alive = container["State"] in ("running", "paused") and sandbox_id in found
                found[sandbox_id] = LeftOver(sandbox_id, labels[LABEL_SESSION], self.technology, alive)
        return [found[name] for name in sorted(found)]

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> OciSandbox:
        """See the port. A program that the earlier worker had started in it is ended."""
        host = await self._open()
        oci_container.check(spec)
        left = {one.sandbox_id: one for one in await self.left_over()}.get(sandbox_id)
        record = leftovers.Record.load(self._sandboxes / sandbox_id) if left is not None else None
        if left is None or record is None or not left.alive:
            raise SandboxUnavailable(f"there is no live container of sandbox {sandbox_id}; create another one")
        if record.uid is not None and (self._users is None or not self._users.claim(record.uid)):
            raise SandboxUnavailable(f"the user of sandbox {sandbox_id} is taken by another one; create another one")
        self._live[sandbox_id] = asyncio.Lock()
        try:
            return await self._take_over(host, record, spec)
        except BaseException:
            del self._live[sandbox_id]
            if record.uid is not None and self._users is not None:
                self._users.release(record.uid)
            raise

    async def sweep(self) -> Sequence[str]:
        host = await self._open()
        said = []
        for left in await self.left_over():
            directory = self._sandboxes / left.sandbox_id
            record = leftovers.Record.load(directory) or leftovers.Record(left.sandbox_id, left.session_id, None, ())
            await host.engine.remove(name_of(left.sandbox_id))
            # Somebody else's sandbox may have got the uid since: then only our marks are looked for.
            ours = record.uid is not None and self._users is not None and self._users.claim(record.uid)
            try:
                await asyncio.to_thread(self._clear, record, directory, ours)
            finally:
                if ours and record.uid is not None and self._users is not None:
                    self._users.release(record.uid)
            said.append(f"sandbox {left.sandbox_id} of session {left.session_id}: its container was removed")
        for directory in await asyncio.to_thread(self._unrecorded):
            await asyncio.to_thread(self._clear, leftovers.Record(directory.name, "", None, ()), directory, False)
            said.append(f"sandbox {directory.name}: removed its files; it had not been made yet")
        return said

    def close(self) -> None:
        """Lets another process use the state directory. Destroy the sandboxes first. Idempotent."""
        if self._users is not None:
            self._users.close()
            self._users = None
        if self._state_lock is not None:
            os.close(self._state_lock)
            self._state_lock = None
        self._host = None
        self._live = {}

    # ------------------------------------------------------------------------------------------------ opening, looking

    async def _open(self) -> _Host:
        async with self._opening:
            if self._host is None:
                about = await self._about()
                self._host = await asyncio.to_thread(self._open_now, about)
            return self._host

    async def _about(self) -> About:
        if not self._engine.socket.is_socket():
            raise SandboxUnavailable(
                f"there is no {self._kind.title()} engine at {self._engine.socket}; start it ({_START[self._kind]}), "
                f"or set {_SETTINGS[self._kind]}"
            )
        about = await self._engine.about()
        if about.kind != self._kind:
            raise SandboxUnavailable(
                f"{self._engine.socket} is {about.name}, not {self._kind}; set {_SETTINGS[about.kind]} to it instead"
            )
        if about.rootless and (self._root or about.kind == "docker"):
            raise SandboxUnavailable(
                f"{about.name} at {self._engine.socket} runs without root, and its containers' users can't own the "
                "folders of sessions; use the engine of the system, or bubblewrap"
            )
        if self._runtime and self._runtime not in about.runtimes:
            raise SandboxUnavailable(
                f"{about.name} knows no runtime {self._runtime!r}, only {', '.join(sorted(about.runtimes))}; add it to "
                "the engine's configuration (docs/how-to/isolate-with-docker-or-podman.md)"
            )
        return about

    def _open_now(self, about: About) -> _Host:
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._sandboxes.mkdir(mode=0o711, exist_ok=True)
        if self._state_lock is None:
            self._state_lock = self._lock_state()
        if self._root and self._users is None:
            start = int.from_bytes(hashlib.sha256(os.fsencode(self._state_dir)).digest()[:4], "big")
            self._users = users.UidPool(self._uid_range, self._uid_lock_file, start=start)
        profile = self._state_dir / "seccomp.json"
        new = profile.with_suffix(".new")
        new.write_text(oci_seccomp.text())
        new.replace(profile)
        seccomp = str(profile) if about.kind == "podman" else oci_seccomp.text()
        return _Host(about, self._engine, EngineImages(self._engine), self._identity(), seccomp, self._label(about))

    def _identity(self) -> str:
        """Of this state directory, unlike that of the same path on another machine or in another container."""
        file = self._state_dir / "identity"
        if not file.exists():
            new = file.with_suffix(".new")
            new.write_text(secrets.token_hex(16))
            new.replace(file)
        return file.read_text().strip()

    def _label(self, about: About) -> IsolationLabel:
        missing = []
        if not self._root:
            missing.append(
                "All sandboxes are the worker's own user on the host: only the engine's namespaces keep them apart. "
                "Run the worker as root."
            )
        if not about.seccomp:
            missing.append("The engine filters no system calls: its build or its kernel has no seccomp.")
        if about.rootless and about.cgroup_version == "1":
            missing.append("An engine without root enforces no limits under version 1 of control groups.")
        gvisor = self.technology == "gvisor"
        return IsolationLabel(
            technology=self.technology,
            host_user="per_sandbox" if self._root else "shared",
            limits_by="none" if about.rootless and about.cgroup_version == "1" else "engine",
            kernel="user_space" if gvisor else "host",
            runtime=f"{about.name}, runtime {self._runtime}" if self._runtime else about.name,
            missing=tuple(missing),
        )

    def _lock_state(self) -> int:
        fd = os.open(self._state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise SandboxUnavailable(
                f"another process uses {self._state_dir}; stop it, or give this one a state directory of its own"
            ) from error
        return fd

    async def _try_true(self, place: Path) -> IsolationLabel:
        program = place / "program"
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
        ends = [_listen(place / name) for name in ("model.sock", "egress.sock")]
        try:
            sandbox = await self.create(
                SandboxSpec(
                    session_id="probe",
                    workspace=place / "workspace",
                    outputs=place / "outputs",
                    harness_state=place / "harness",
                    model_socket=place / "model.sock",
                    egress_socket=place / "egress.sock",
                    program=program,
                    limits=SandboxLimits(memory_bytes=256 << 20, pids=64, tmp_bytes=1 << 20),
                )
            )
            try:
                code, said = await _run(sandbox.launcher)
            finally:
                await sandbox.destroy()
            if code != 0:
                raise SandboxUnavailable(f"a program in a trial container failed ({code}): {said}")
            return sandbox.label
        except EngineError as error:
            raise SandboxUnavailable(f"a trial container failed: {error}") from error
        finally:
            for end in ends:
                end.close()

    # ------------------------------------------------------------------------------------------------ making and ending

    async def _create(self, host: _Host, spec: SandboxSpec) -> OciSandbox:
        oci_container.check(spec)
        spec = replace(spec, limits=within_host(spec.limits))
        image = await self._image_for(host, spec)
        record, ground = await asyncio.to_thread(self._prepare, host, spec, image)
        directory = self._sandboxes / record.sandbox_id
        try:
            config = oci_container.config(
                spec, ground, self._kind, self._runtime, self.technology == "gvisor", host.seccomp
            )
            await host.engine.create(name_of(record.sandbox_id), config)
            await host.engine.start(name_of(record.sandbox_id))
        except EngineError as error:
            await self._end(record, directory)
            raise SandboxUnavailable(f"{host.about.name} made no container: {error}") from error
        except BaseException:
            await self._end(record, directory)
            raise
        return OciSandbox(self, host, record, directory, spec)

    async def _image_for(self, host: _Host, spec: SandboxSpec) -> str:
        if spec.layer is not None:
            return await host.images.layered(spec.layer)
        root = await asyncio.to_thread(self._image)
        if root is None:
            raise SandboxUnavailable("there is no base image for containers: hostler image build")
        return await host.images.base(root)

    def _prepare(self, host: _Host, spec: SandboxSpec, image: str) -> tuple[leftovers.Record, Ground]:
        """Everything that is on the host before the container is. The record comes first."""
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox_id = secrets.token_hex(12)
        uid = None if self._users is None else self._users.acquire(os.lstat(spec.workspace).st_uid)
        user = os.geteuid() if uid is None else uid
        record = leftovers.Record(sandbox_id, spec.session_id, uid, ())
        home = self._sandboxes / sandbox_id
        self._live[sandbox_id] = asyncio.Lock()
        try:
            home.mkdir(mode=0o711)
            home.chmod(0o711)
            record.save(home)
            handing_over.give_away(spec, uid, self._uid_range)
            oci_launchers.write_etc(home / "etc", user)
            oci_launchers.write_calls(home / "calls")
            roads = oci_launchers.lay_roads(self._roads_of(sandbox_id), spec)
            prefix = f"/v{host.about.api}"
            oci_launchers.write_programs(home, self._engine.socket, prefix, sandbox_id, user, spec)
        except BaseException:
            self._clear(record, home, uid is not None)
            self._forget(record)
            raise
        return record, Ground(sandbox_id, host.state, image, user, home / "etc", home / "calls", roads)

    def _roads_of(self, sandbox_id: str) -> Path:
        if self._roads is None:
            return self._sandboxes / sandbox_id / "roads"
        self._roads.mkdir(mode=0o711, parents=True, exist_ok=True)
        return self._roads / f"roads-{sandbox_id}"

    async def _take_over(self, host: _Host, record: leftovers.Record, spec: SandboxSpec) -> OciSandbox:
        directory, name = self._sandboxes / record.sandbox_id, name_of(record.sandbox_id)
        user = os.geteuid() if record.uid is None else record.uid

        def renew() -> None:
            leftovers.kill_marked(record.sandbox_id)
            oci_launchers.renew_roads(self._roads_of(record.sandbox_id), spec)
            for path in (spec.model_socket, spec.egress_socket):
                handing_over.give_socket(path, record.uid)
            prefix = f"/v{host.about.api}"
            oci_launchers.write_programs(directory, self._engine.socket, prefix, record.sandbox_id, user, spec)

        await asyncio.to_thread(renew)
        found = await host.engine.inspect(name)
        if found is not None and found["State"].get("Paused"):
            await host.engine.unpause(name)
        code, said = await _run(directory / "entrance", "/usr/bin/perl", "-e", "kill 9, -1")
        if code not in (0, 137):  # the tether goes, too
            raise SandboxUnavailable(f"the container of sandbox {record.sandbox_id} takes no commands: {said}")
        return OciSandbox(self, host, record, directory, spec)

    async def _end(self, record: leftovers.Record, directory: Path) -> None:
        """Ends a sandbox that this provider made. The second call, also a concurrent one, finds nothing to do.

        It must not run twice: after the first the uid may be another sandbox's.
        """
        lock = self._live.get(record.sandbox_id)
        if lock is None:
            return
        async with lock:
            if record.sandbox_id not in self._live:
                return
            await asyncio.to_thread(leftovers.close_entrances, directory)
            await self._engine.remove(name_of(record.sandbox_id))
            await asyncio.to_thread(self._clear, record, directory, record.uid is not None)
            self._forget(record)

    def _clear(self, record: leftovers.Record, directory: Path, uid_is_ours: bool) -> None:
        """What is on the host of a sandbox whose container is gone. Blocks. Idempotent."""
        shutil.rmtree(self._roads_of(record.sandbox_id), ignore_errors=True)
        leftovers.end(record, directory, uid_is_ours=uid_is_ours)

    def _forget(self, record: leftovers.Record) -> None:
        if record.uid is not None and self._users is not None:
            self._users.release(record.uid)
        self._live.pop(record.sandbox_id, None)

    def _records(self) -> list[leftovers.Record]:
        found = [
            leftovers.Record.load(directory)
            for directory in sorted(self._sandboxes.iterdir())
            if directory.name not in self._live
        ]
        return [record for record in found if record is not None]

    def _unrecorded(self) -> list[Path]:
        return [
            directory
            for directory in sorted(self._sandboxes.iterdir())
            if directory.name not in self._live and leftovers.Record.load(directory) is None
        ]


def _listen(path: Path) -> socket.socket:
    """A socket at a path of any length."""
    end = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end.bind(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        end.close()
        raise
    finally:
        os.close(folder)
    return end


async def _run(program: str | Path, *arguments: str) -> tuple[int, str]:
    """Exit status and words of something that is quick. Raises SandboxUnavailable when it isn't."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError as error:
        raise SandboxUnavailable("a command in a container did not answer") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace").strip()[-600:]
