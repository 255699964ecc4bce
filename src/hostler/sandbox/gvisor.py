"""How is a session's sandbox made by gVisor, whose kernel in user space answers every system call of what is inside?

`runsc` is used directly, with an OCI bundle for each sandbox. `docs/how-to/isolate-with-gvisor.md` says what that
gives, and what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hostler.engine.sandbox_port import (
    IsolationLabel,
    LeftOver,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    SandboxUnavailable,
)
from hostler.sandbox import (
    cgroups,
    gvisor_bundle,
    gvisor_enter,
    gvisor_host,
    gvisor_start,
    handing_over,
    leftovers,
    specs,
    staging,
    trying,
    users,
)
from hostler.sandbox.cgroups import Group
from hostler.sandbox.estate import Estate, Holding
from hostler.sandbox.gvisor_host import AUTOMATIC, Host, Platform
from hostler.sandbox.holding_still import HoldingStill
from hostler.sandbox.launch import MARK
from hostler.sandbox.making import make
from hostler.sandbox.trials import trial_folder

TRIAL_SECONDS = 20.0
"""After that long a start hangs, when a platform is tried."""
COMMAND_SECONDS = 30.0

HOST_PIDS = 4, 512
"""Host threads that one thread inside may need, and those of gVisor itself. Its own count is the one that ends a fork
bomb inside; were this one reached first, gVisor would die, and the sandbox with it."""

Lowers = Callable[[Path | None], tuple[Path, ...]]


def host_programs(layer: Path | None) -> tuple[Path, ...]:
    """The root file system when there is no image: what the host has."""
    if layer is not None:
        raise SandboxUnavailable("packages go over a base image, and there is none here: hostler image build")
    return ()


@dataclass(frozen=True, slots=True)
class _Made:
    holding: Holding
    bundle_launcher: Path
    group: Group
    workspace: Path
    begun: staging.Begun | None
    """Its start. None: it was adopted."""


class GvisorSandbox:
    """One sandbox, from `GvisorProvider`. It may still be starting: its launcher and entrance wait for that, and so
    does whatever else needs it."""

    def __init__(self, provider: GvisorProvider, host: Host, label: IsolationLabel, made: _Made) -> None:
        self._provider = provider
        self._host = host
        self._label = label
        self._made = made
        self._starting = asyncio.create_task(asyncio.to_thread(gvisor_start.failure_of, made.begun))
        self._still = HoldingStill(made.workspace, self._stop, self._go_on)
        self._paused = False

    @property
    def label(self) -> IsolationLabel:
        return self._label

    @property
    def sandbox_id(self) -> str:
        return self._made.holding.sandbox_id

    @property
    def launcher(self) -> Path:
        """See the port. SIGTERM to its process is passed on to the program; SIGKILL ends the program. When gVisor does
        not start, it says why on its standard error, and its exit status is 125."""
        return self._made.bundle_launcher

    @property
    def entrance(self) -> Path:
        """See the port. While the sandbox is suspended nothing gets in."""
        return self._made.bundle_launcher.with_name("entrance")

    @property
    def host_uid(self) -> int | None:
        """Owner of the session's folders on the host."""
        return self._made.holding.file_uid

    async def suspend(self) -> None:
        await self._still.suspend()

    async def resume(self) -> None:
        await self._still.resume()

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed."""
        await self._still.snapshot(target)

    async def _stop(self) -> None:
        if not self._paused:  # gVisor does neither twice
            await self._runsc("pause")
            self._paused = True

    async def _go_on(self) -> None:
        if self._paused:
            await self._runsc("resume")
            self._paused = False

    async def stats(self) -> SandboxStats:
        """See the port. `pids` are the agent's; memory and time are gVisor's own too."""
        return await asyncio.to_thread(self._stats)

    def _stats(self) -> SandboxStats:
        counted = self._host.limits.stats(self._made.group)
        try:
            said = json.loads(self._provider._command(self._host, self._made.holding, "events", "--stats"))
            pids = max(int(said["data"]["pids"]["current"]) - gvisor_bundle.HOLDER_PIDS, 0)
        except (SandboxUnavailable, ValueError, KeyError, TypeError):
            pids = None
        return replace(counted, pids=pids, pids_refused=None)

    async def glance(self) -> SandboxStats:
        return await asyncio.to_thread(cgroups.glance, self._made.group)

    async def yield_processors(self, yes: bool) -> None:
        await asyncio.to_thread(lambda: cgroups.weigh(self._made.group, low=yes))

    async def destroy(self) -> None:
        """Idempotent, safe to call concurrently. Raises SandboxNotEnded when the kernel doesn't let a process die."""
        await asyncio.to_thread(self._provider._estate.end, self._made.holding)
        await asyncio.shield(self._starting)

    async def _runsc(self, command: str) -> None:
        if failure := await asyncio.shield(self._starting):
            raise SandboxUnavailable(failure)
        await asyncio.to_thread(self._provider._command, self._host, self._made.holding, command)


class GvisorProvider:
    """Makes gVisor sandboxes. One process at a time may use a state directory, which is private to the worker."""

    def __init__(
        self,
        state_dir: Path,
        *,
        lowers: Lowers = host_programs,
        runsc: str = "runsc",
        platform: Platform | None = None,
        uid_range: range = users.DEFAULT_RANGE,
        cgroup_name: str = "hostler",
        uid_lock_file: Path = users.LOCK_FILE,
    ) -> None:
        """Touches nothing.

        lowers       says what the root file system is made of, the upper folder first, given a specification's layer;
                     nothing: the programs of the host. May raise SandboxUnavailable.
        platform     how gVisor gets at system calls; None: the first of `AUTOMATIC` that works here.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", cgroup_name):
            raise ValueError("cgroup_name must be 1 to 32 of a-z, 0-9, '_' and '-', with a letter first")
        self._estate = Estate(state_dir, uid_range=uid_range, uid_lock_file=uid_lock_file)
        self._lowers = lowers
        self._runsc = runsc
        self._wanted = platform
        self._uid_range = uid_range
        self._uid_lock_file = uid_lock_file
        self._cgroup_name = cgroup_name
        self._opening = asyncio.Lock()
        self._host: Host | None = None
        self._platform: Platform | None = None

    # ------------------------------------------------------------------------------------------------------- the port

    async def probe(self) -> IsolationLabel:
        """Runs a program in a real sandbox, on each platform until it works on one."""
        async with self._opening:
            self._platform = None
            return await asyncio.to_thread(self._try)

    async def create(self, spec: SandboxSpec) -> GvisorSandbox:
        """See the port. Raises SandboxUnavailable and ValueError.

        gVisor starts while the launcher is started and gets ready: why it does not, the launcher says.
        """
        host, platform = await self._open()
        made = await make(lambda: self._create(host, platform, spec), self._take_back)
        return GvisorSandbox(self, host, host.label(platform), made)

    async def left_over(self) -> Sequence[LeftOver]:
        host, _ = await self._open()
        return await asyncio.to_thread(self._left_over, host)

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> GvisorSandbox:
        """See the port. Programs of its earlier life that were started by its launcher and entrance are ended."""
        host, platform = await self._open()
        made = await asyncio.to_thread(self._adopt, host, sandbox_id, spec)
        return GvisorSandbox(self, host, host.label(platform), made)

    async def sweep(self) -> Sequence[str]:
        await self._open()
        return await asyncio.to_thread(self._estate.sweep)

    def close(self) -> None:
        self._estate.close()
        self._host = None

    # ------------------------------------------------------------------------------------------------ opening, looking

    async def _open(self) -> tuple[Host, Platform]:
        async with self._opening:
            if self._platform is None:
                await asyncio.to_thread(self._try)
            if self._host is None:
                self._host = await asyncio.to_thread(self._open_now)
            assert self._platform is not None, "_try raises when no platform works"
            return self._host, self._platform

    def _open_now(self) -> Host:
        self._estate.open()
        return gvisor_host.look(self._estate.state_dir, self._cgroup_name, self._runsc)

    def _try(self) -> IsolationLabel:
        """Finds the platform; disturbs nobody who uses the state directory."""
        reasons = []
        for platform in AUTOMATIC if self._wanted is None else (self._wanted,):
            with trial_folder("gvisor", self._end_trial) as place:
                trial = self._trial(place)
                try:
                    label = trial._try_platform(place, platform)
                except _PlatformFailed as failed:
                    reasons.append(f"{platform}: {failed}")
                else:
                    self._platform = platform
                    return label
                finally:
                    trial.close()
        raise SandboxUnavailable(f"a trial sandbox did not run. {'; '.join(reasons)}")

    def _trial(self, place: Path) -> GvisorProvider:
        return GvisorProvider(
            place / "state",
            lowers=self._lowers,
            runsc=self._runsc,
            uid_range=self._uid_range,
            cgroup_name=self._cgroup_name,
            uid_lock_file=self._uid_lock_file,
        )

    def _end_trial(self, place: Path) -> None:
        """What a trial has left whose process was killed: gVisor's own go on without it."""
        trial = self._trial(place)
        try:
            trial._open_now()
            trial._estate.sweep()
        finally:
            trial.close()

    def _try_platform(self, place: Path, platform: Platform) -> IsolationLabel:
        host = self._open_now()
        with trying.spec(place, SandboxLimits(memory_bytes=512 << 20, pids=32, tmp_bytes=1 << 20)) as spec:
            made = self._create(host, platform, spec)
            try:
                if failure := gvisor_start.failure_of(made.begun, TRIAL_SECONDS):
                    raise _PlatformFailed(failure)
                code, said = trying.run(made.bundle_launcher, TRIAL_SECONDS)
            except SandboxUnavailable as error:
                raise _PlatformFailed(str(error)) from error
            finally:
                self._estate.end(made.holding)
        if code != trying.RAN:
            raise _PlatformFailed(f"{code}: {said[-400:]}")
        return host.label(platform)

    # ---------------------------------------------------------------------------------------------- making and adopting

    def _create(self, host: Host, platform: Platform, spec: SandboxSpec) -> _Made:
        specs.check(spec)
        lowers = self._lowers(spec.layer)
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox_id = self._estate.new_id()
        group = self._group(host, sandbox_id, spec.limits)
        home = self._estate.home(sandbox_id)
        holding = self._estate.begin(
            sandbox_id,
            spec.session_id,
            spec.workspace,
            group.directories,
            adoptable=staging.can_reopen(home, spec),
        )
        try:
            handing_over.give_away(spec, holding.file_uid, self._uid_range, group=True)
            cgroups.make(group)
            base = staging.Base(lowers, host.etc, host.etc_from_host)
            flags = (*host.flags, f"--platform={platform}")
            bundle = gvisor_bundle.write(home, spec, holding, host.tools, base, flags, group.entrances)
            begun = gvisor_start.begin(home, bundle.start)
        except BaseException:
            self._estate.end(holding)
            raise
        return _Made(holding, bundle.launcher, group, spec.workspace, begun)

    def _take_back(self, made: _Made) -> None:
        self._estate.end(made.holding)
        gvisor_start.failure_of(made.begun)

    def _group(self, host: Host, sandbox_id: str, limits: SandboxLimits) -> Group:
        each, own = HOST_PIDS
        pids = None if limits.pids is None else limits.pids * each + own
        return host.limits.plan(f"{self._cgroup_name}-{sandbox_id}", replace(limits, pids=pids))

    def _left_over(self, host: Host) -> list[LeftOver]:
        return [
            LeftOver(one.sandbox_id, one.session_id, "gvisor", alive=one.adoptable and self._state(host, one) != "")
            for one in self._estate.left()
        ]

    def _state(self, host: Host, holding: Holding) -> str:
        """`running` or `paused`; empty: it runs no more. Waits for the end of a start that an earlier worker began."""
        gvisor_start.wait(self._estate.home(holding.sandbox_id))
        try:
            status = json.loads(self._command(host, holding, "state"))["status"]
        except (SandboxUnavailable, ValueError, KeyError):
            return ""
        return status if status in ("running", "paused") else ""

    def _adopt(self, host: Host, sandbox_id: str, spec: SandboxSpec) -> _Made:
        specs.check(spec)
        found = next((one for one in self._estate.left() if one.sandbox_id == sandbox_id), None)
        state = self._state(host, found) if found is not None and found.adoptable else ""
        if found is None or not state or not self._estate.adopt(found):
            raise SandboxUnavailable(f"there is no sandbox {sandbox_id} alive here; create another one")
        home = self._estate.home(sandbox_id)
        try:
            if state == "paused":
                self._command(host, found, "resume")
            _end_commands(home, sandbox_id)
            handing_over.give_away(spec, found.file_uid, self._uid_range, group=True)
            staging.open_roads(home, spec)
        except BaseException as error:
            self._estate.end(found)
            if isinstance(error, OSError):
                raise SandboxUnavailable(f"sandbox {sandbox_id} could not be adopted: {error}") from error
            raise
        return _Made(found, home / "launcher", self._group(host, sandbox_id, spec.limits), spec.workspace, None)

    def _command(self, host: Host, holding: Holding, *words: str) -> str:
        """Raises SandboxUnavailable with what `runsc` said."""
        root = gvisor_bundle.runsc_root(self._estate.home(holding.sandbox_id))
        command = [host.tools.runsc, "--root", str(root), *words, holding.sandbox_id]
        mark = {MARK: holding.sandbox_id}  # should it hang, `end` finds it
        try:
            done = subprocess.run(
                command, env=mark, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxUnavailable(f"runsc {words[0]} failed: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-400:]
            raise SandboxUnavailable(f"runsc {words[0]} failed ({done.returncode}): {said}")
        return done.stdout.decode()


class _PlatformFailed(Exception):
    """gVisor doesn't run on this platform here."""


def _end_commands(home: Path, sandbox_id: str) -> None:
    """Ends what an earlier worker's launcher and entrances run: each ends its command when it is killed."""
    mark = f"{MARK}={sandbox_id}".encode()
    deadline = time.monotonic() + leftovers.END_WITHIN_SECONDS
    while running := [entry for entry in os.scandir(home / gvisor_enter.RUNS) if entry.name.isdigit()]:
        for entry in running:
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(int(entry.name))
                try:
                    if mark in Path(f"/proc/{entry.name}/environ").read_bytes().split(b"\0"):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)
        if time.monotonic() > deadline:
            raise SandboxUnavailable(f"programs of the earlier life of sandbox {sandbox_id} do not end")
        time.sleep(0.01)
