"""How is a session's sandbox made as a machine of its own, with a kernel of its own?

QEMU's `microvm`: no disk, no network card, no bus; a line for commands and shared folders. With KVM where a machine
really boots with it, without only where the settings say so. `docs/how-to/isolate-with-a-microvm.md` says more.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform as computer
import re
import shutil
import subprocess
from collections.abc import Sequence
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
)
from hostler.sandbox import (
    cgroups,
    handing_over,
    launch,
    machine_enter,
    machine_frames,
    machine_guest,
    microvm_bundle,
    seccomp,
    specs,
    staging,
    trying,
    users,
)
from hostler.sandbox.cgroup_detection import detect
from hostler.sandbox.cgroups import Cgroups, Group
from hostler.sandbox.estate import Estate, Holding
from hostler.sandbox.gvisor import Lowers, host_programs
from hostler.sandbox.holding_still import HoldingStill
from hostler.sandbox.machine_guest import Guest
from hostler.sandbox.making import make
from hostler.sandbox.microvm_bundle import Tools
from hostler.sandbox.trials import trial_folder

Acceleration = Literal["kvm", "tcg"]

START_SECONDS = 120.0
"""After that long a start hangs. Without KVM a machine boots for several seconds on a machine that has nothing else to
do."""
TRIAL_SECONDS = 20.0
"""A machine with KVM that takes longer than this doesn't boot: on some hosts KVM opens, and then crawls or hangs."""
QUESTION_SECONDS = 10.0

_PACKAGES = {
    "env": "coreutils",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "bash": "bash",
    "mount": "mount",
    "busybox": "busybox-static",
}


@dataclass(frozen=True, slots=True)
class _Host:
    tools: Tools
    limits: Cgroups
    guest: Guest
    etc: Path
    etc_from_host: tuple[str, ...]
    filter: Path
    version: str

    def label(self, acceleration: Acceleration) -> IsolationLabel:
        slow = "Machines run without KVM, ten times slower: their instructions are translated one by one."
        return IsolationLabel(
            technology="microvm",
            host_user="per_sandbox",
            limits_by="machine",
            kernel="own",
            runtime=f"QEMU {self.version} ({acceleration}), Linux {self.guest.version}",
            missing=(slow,) if acceleration == "tcg" else (),
        )


@dataclass(frozen=True, slots=True)
class _Made:
    holding: Holding
    launcher: Path
    workspace: Path


class MicrovmSandbox:
    """One machine, from `MicrovmProvider`."""

    def __init__(self, provider: MicrovmProvider, label: IsolationLabel, made: _Made) -> None:
        self._provider = provider
        self._label = label
        self._made = made
        self._still = HoldingStill(made.workspace, self._stop, self._go_on)

    @property
    def label(self) -> IsolationLabel:
        return self._label

    @property
    def sandbox_id(self) -> str:
        return self._made.holding.sandbox_id

    @property
    def launcher(self) -> Path:
        """See the port. SIGTERM to its process is passed on to the program; SIGKILL ends the program."""
        return self._made.launcher

    @property
    def entrance(self) -> Path:
        return self._made.launcher.with_name("entrance")

    async def suspend(self) -> None:
        await self._still.suspend()

    async def resume(self) -> None:
        await self._still.resume()

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed."""
        await self._still.snapshot(target)

    async def stats(self) -> SandboxStats:
        """See the port: as the guest counts. Nothing is known of a machine that is suspended or has ended."""
        try:
            said = json.loads(await self._ask(""))
        except (SandboxUnavailable, ValueError):
            return cgroups.NOTHING_KNOWN
        cpu = said.get("cpu_us")
        return SandboxStats(
            memory_bytes=said.get("memory"),
            memory_peak_bytes=said.get("memory_peak"),
            cpu_seconds=None if cpu is None else cpu / 1e6,
            pids=said.get("pids"),
            oom_kills=said.get("oom_kills"),
            pids_refused=said.get("pids_refused"),
            file_cache_bytes=said.get("file_cache"),
        )

    async def destroy(self) -> None:
        """Idempotent, safe to call concurrently. Raises SandboxNotEnded when the kernel doesn't let a process die."""
        await asyncio.to_thread(self._provider._estate.end, self._made.holding)

    async def _stop(self) -> None:
        await self._ask("stop")

    async def _go_on(self) -> None:
        await self._ask("cont")

    async def _ask(self, question: str) -> bytes:
        home = self._provider._estate.home(self.sandbox_id)
        return await asyncio.to_thread(ask, microvm_bundle.relay_folder(home), question)


def ask(folder: Path, question: str) -> bytes:
    """QEMU's answer to a command, or, to an empty question, what the guest counts. Raises SandboxUnavailable."""
    try:
        with machine_enter.connect(str(folder)) as end:
            end.settimeout(QUESTION_SECONDS)
            said = question.encode()
            end.sendall(machine_frames.HEADER.pack(0, machine_frames.ASK, len(said)) + said)
            with end.makefile("rb") as answers:
                head = answers.read(machine_frames.HEADER.size)
                if len(head) < machine_frames.HEADER.size:
                    raise OSError("the connection ended")
                _, _, length = machine_frames.HEADER.unpack(head)
                return answers.read(min(length, machine_frames.LONGEST))
    except OSError as error:
        raise SandboxUnavailable(f"the machine does not answer: {error}") from error


class MicrovmProvider:
    """Makes machines. One process at a time may use a state directory, which is private to the worker."""

    def __init__(
        self,
        state_dir: Path,
        *,
        lowers: Lowers = host_programs,
        qemu: str = "qemu-system-x86_64",
        kernel: Path = Path("/"),
        acceleration: Literal["auto", "tcg"] = "auto",
        firecracker: str = "",
        uid_range: range = users.DEFAULT_RANGE,
        cgroup_name: str = "hostler",
        uid_lock_file: Path = users.LOCK_FILE,
    ) -> None:
        """Touches nothing.

        lowers        says what the root file system is made of, as for gVisor. It needs Python 3.
        kernel        folder with `boot/vmlinuz-…` and `lib/modules/…`.
        acceleration  `auto`: KVM, where it works; `tcg`: none, which is slow and needs no right.
        firecracker   refused: there is no adapter for it.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", cgroup_name):
            raise ValueError("cgroup_name must be 1 to 32 of a-z, 0-9, '_' and '-', with a letter first")
        self._estate = Estate(state_dir, uid_range=uid_range, uid_lock_file=uid_lock_file)
        self._lowers, self._qemu, self._kernel = lowers, qemu, kernel
        self._wanted: Acceleration = "tcg" if acceleration == "tcg" else "kvm"
        self._firecracker = firecracker
        self._uid_range, self._uid_lock_file, self._cgroup_name = uid_range, uid_lock_file, cgroup_name
        self._opening = asyncio.Lock()
        self._host: _Host | None = None
        self._works = False

    # ------------------------------------------------------------------------------------------------------- the port

    async def probe(self) -> IsolationLabel:
        """Boots a machine and runs a program in it. That KVM hangs here is found out once for each boot of the host."""
        async with self._opening:
            label = await asyncio.to_thread(self._try)
            self._works = True
            return label

    async def create(self, spec: SandboxSpec) -> MicrovmSandbox:
        """See the port. Raises SandboxUnavailable and ValueError."""
        host = await self._open()
        made = await make(lambda: self._create(host, spec, START_SECONDS), lambda made: self._estate.end(made.holding))
        return MicrovmSandbox(self, host.label(self._wanted), made)

    async def left_over(self) -> Sequence[LeftOver]:
        await self._open()
        return await asyncio.to_thread(
            lambda: [
                LeftOver(one.sandbox_id, one.session_id, "microvm", alive=self._alive(one))
                for one in self._estate.left()
            ]
        )

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> MicrovmSandbox:
        """See the port. Programs of its earlier life that were started by its launcher and entrance are ended."""
        host = await self._open()
        made = await asyncio.to_thread(self._adopt, sandbox_id, spec)
        return MicrovmSandbox(self, host.label(self._wanted), made)

    async def sweep(self) -> Sequence[str]:
        await self._open()
        return await asyncio.to_thread(self._estate.sweep)

    def close(self) -> None:
        self._estate.close()
        self._host = None

    # ------------------------------------------------------------------------------------------------ opening, looking

    async def _open(self) -> _Host:
        async with self._opening:
            if not self._works and self._wanted == "kvm":
                await asyncio.to_thread(self._try)  # never on the word of /dev/kvm alone
                self._works = True
            if self._host is None:
                self._host = await asyncio.to_thread(self._open_now)
            return self._host

    def _open_now(self) -> _Host:
        self._estate.open()
        return self._look()

    def _look(self) -> _Host:
        if self._firecracker:
            raise SandboxUnavailable(
                f"sandbox.microvm.firecracker names {self._firecracker}, and there is no adapter for Firecracker; "
                "leave it empty to use QEMU"
            )
        if os.geteuid() != 0:
            raise SandboxUnavailable("machines have host users of their own: run the worker as root")
        if computer.machine() != "x86_64":
            raise SandboxUnavailable(f"QEMU's microvm is for x86_64, and this host is {computer.machine()}")
        tools = self._find()
        if self._wanted == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise SandboxUnavailable(
                "there is no /dev/kvm to use: turn virtualisation on, or set sandbox.microvm.acceleration to tcg "
                "(slow, for trying it out)"
            )
        said = subprocess.run([tools.qemu, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\S+)", said)
        etc = self._estate.state_dir / "etc"
        launch.prepare_etc(etc)
        return _Host(
            tools,
            detect(self._cgroup_name),
            machine_guest.prepare(self._kernel, tools.busybox, self._estate.state_dir / "guest"),
            etc,
            tuple(name for name in launch.ETC_FROM_HOST if Path("/etc", name).exists()),
            seccomp.program(self._estate.state_dir / "seccomp"),
            version[1] if version else "of unknown version",
        )

    def _find(self) -> Tools:
        path = os.pathsep.join(filter(None, [os.environ.get("PATH"), launch.USUAL_PLACES]))
        qemu = shutil.which(self._qemu, path=path)
        found = {name: shutil.which(name, path=path) for name in _PACKAGES}
        missing = {_PACKAGES[name] for name, place in found.items() if place is None}
        if qemu is None:
            missing.add("qemu-system-x86")
        if missing or qemu is None:
            raise SandboxUnavailable(f"missing on this host: install with: apt-get install {' '.join(sorted(missing))}")
        paths = {name: os.path.abspath(place) for name, place in found.items() if place is not None}
        return Tools(qemu=os.path.abspath(qemu), **paths)

    def _try(self) -> IsolationLabel:
        with trial_folder("microvm", self._end_trial) as place:
            trial = self._trial(place)
            try:
                failure = self._failed_before(trial)
                if failure.exists():
                    raise SandboxUnavailable(failure.read_text())
                try:
                    return trial._try_it(place)
                except SandboxUnavailable as unavailable:
                    if self._wanted == "kvm":
                        self._estate.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                        failure.write_text(f"{unavailable} (tried once since the host has started; remove {failure})")
                    raise
            finally:
                trial.close()

    def _trial(self, place: Path) -> MicrovmProvider:
        return MicrovmProvider(
            place / "state",
            lowers=self._lowers,
            qemu=self._qemu,
            kernel=self._kernel,
            acceleration="tcg" if self._wanted == "tcg" else "auto",
            firecracker=self._firecracker,
            uid_range=self._uid_range,
            cgroup_name=self._cgroup_name,
            uid_lock_file=self._uid_lock_file,
        )

    def _end_trial(self, place: Path) -> None:
        """What a trial has left whose process was killed: a machine goes on without it."""
        trial = self._trial(place)
        try:
            trial._open_now()
            trial._estate.sweep()
        finally:
            trial.close()

    def _failed_before(self, trial: MicrovmProvider) -> Path:
        """File with the reason why KVM does not work here: trying takes long where it hangs.

        Raises SandboxUnavailable for what is found without trying."""
        host = trial._open_now()
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            boot = "unknown"
        return self._estate.state_dir / f"kvm-failed-{boot}-{host.version}-{host.guest.version}"

    def _try_it(self, place: Path) -> IsolationLabel:
        host = self._host or self._open_now()
        seconds = TRIAL_SECONDS if self._wanted == "kvm" else START_SECONDS
        with trying.spec(place, SandboxLimits(memory_bytes=256 << 20, pids=32, cpus=1, tmp_bytes=1 << 20)) as spec:
            made = self._create(host, spec, seconds)
            try:
                code, said = trying.run(made.launcher, seconds)
            finally:
                self._estate.end(made.holding)
        if code != trying.RAN:
            raise SandboxUnavailable(f"a trial machine failed ({code}): {said}")
        return host.label(self._wanted)

    # ---------------------------------------------------------------------------------------------- making and adopting

    def _create(self, host: _Host, spec: SandboxSpec, seconds: float) -> _Made:
        specs.check(spec)
        lowers = self._lowers(spec.layer)
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox_id = self._estate.new_id()
        home = self._estate.home(sandbox_id)
        group = self._group(host, sandbox_id, spec.limits)
        holding = self._estate.begin(
            sandbox_id,
            spec.session_id,
            spec.workspace,
            group.directories,
            adoptable=staging.can_reopen(home, spec),
            one_user=True,
        )
        try:
            handing_over.give_away(spec, holding.file_uid, self._uid_range, group=True)
            cgroups.make(group)
            bundle = microvm_bundle.write(
                home,
                spec,
                holding,
                host.tools,
                staging.Base(lowers, host.etc, host.etc_from_host),
                host.guest,
                self._wanted,
                host.filter,
                group.entrances,
                seconds=seconds,
            )
            self._start(bundle.start, seconds)
        except BaseException:
            self._estate.end(holding)
            raise
        return _Made(holding, bundle.launcher, spec.workspace)

    def _group(self, host: _Host, sandbox_id: str, limits: SandboxLimits) -> Group:
        """QEMU's own: the guest keeps the sandbox's limits, and this what an attack on QEMU could take."""
        memory = (limits.memory_bytes or microvm_bundle.DEFAULT_BYTES) + microvm_bundle.GUEST_BYTES
        own = replace(limits, memory_bytes=memory + microvm_bundle.QEMU_BYTES, pids=microvm_bundle.QEMU_PIDS)
        # Not the processors: booting isn't the agent's use, and the machine has no more of them than its limit.
        return host.limits.plan(f"{self._cgroup_name}-{sandbox_id}", replace(own, cpus=None))

    def _start(self, script: Path, seconds: float) -> None:
        code, said = staging.run_script(script, seconds + 5)  # the relay gives up first, and says how far it came
        if code != 0:
            words = said[-1500:] or f"not within {seconds:g} s"
            advice = ". KVM does not work here: set sandbox.microvm.acceleration to tcg, or choose another technology"
            raise SandboxUnavailable(f"a machine did not boot: {words}{advice if self._wanted == 'kvm' else ''}")

    def _alive(self, holding: Holding) -> bool:
        if not holding.adoptable:
            return False
        try:
            ask(microvm_bundle.relay_folder(self._estate.home(holding.sandbox_id)), "query-status")
        except SandboxUnavailable:
            return False
        return True

    def _adopt(self, sandbox_id: str, spec: SandboxSpec) -> _Made:
        specs.check(spec)
        found = next((one for one in self._estate.left() if one.sandbox_id == sandbox_id), None)
        if found is None or not self._alive(found) or not self._estate.adopt(found):
            raise SandboxUnavailable(f"there is no machine {sandbox_id} alive here; create another one")
        home = self._estate.home(sandbox_id)
        try:
            ask(microvm_bundle.relay_folder(home), "cont")
            ask(microvm_bundle.relay_folder(home), "forget")
            handing_over.give_away(spec, found.file_uid, self._uid_range, group=True)
            staging.open_roads(home, spec)
        except BaseException as error:
            self._estate.end(found)
            if isinstance(error, OSError):
                raise SandboxUnavailable(f"machine {sandbox_id} could not be adopted: {error}") from error
            raise
        return _Made(found, home / "launcher", spec.workspace)
