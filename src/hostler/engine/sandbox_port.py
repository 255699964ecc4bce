"""What does the engine ask of a place that is isolated from its host?

Five technologies implement it (`hostler.sandbox`). `hostler.testing.sandboxes` is the suite that each of them passes,
and `docs/how-to/write-a-sandbox-adapter.md` says how to write another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

from hostler.domain.isolation import SandboxLimit
from hostler.domain.isolation import Technology as Technology

LADDER: Final[tuple[frozenset[Technology], ...]] = (
    frozenset({"bubblewrap"}),
    frozenset({"docker", "podman"}),
    frozenset({"gvisor"}),
    frozenset({"microvm"}),
)
"""The rungs, the weakest first: what separates a sandbox from its host is namespaces, namespaces with an image of its
own, a kernel in user space, a machine."""


def rung(technology: Technology) -> int:
    """0 for the weakest."""
    return next(height for height, rung in enumerate(LADDER) if technology in rung)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one sandbox may use. `None` means: no limit of ours."""

    memory_bytes: int | None = 2 << 30
    """Hard limit of resident memory, page cache included, in bytes."""
    pids: int | None = 256
    """Processes and threads together."""
    cpus: float | None = 2.0
    """Share of processor time, in whole processors: 0.5 is half of one."""
    open_files: int = 4096
    """Descriptors of one process."""
    tmp_bytes: int = 256 << 20
    """Size of `/tmp`, and of the home directory outside the harness's own state, in bytes."""
    disk_bytes: int | None = 5 << 30
    """Size of what is kept of the session (workspace, outputs, state of the harness) together, in bytes.

    The session's folders are already on a volume of this size when a sandbox is made from them."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the host that is visible inside besides the session's own folders."""

    source: Path
    """Host file or directory. Read-only ones must be readable by everyone; writable ones are given to the sandbox."""
    inside: str
    """Absolute, normalised path inside. Missing parents are made."""
    writable: bool = False
    live: bool = False
    """What the host mounts below it is visible too, and goes away when the host takes it away. Only in a room."""


@dataclass(frozen=True, slots=True)
class SharedRoom:
    """What several sandboxes have in common that are one to the outside. See docs/explanation/shared-sandboxes.md."""

    room_id: str
    common: Path
    """Host directory that belongs to all of them. Who of them sees it where, and may write there, say `mounts`."""
    limits: SandboxLimits
    """Of memory, processes and processors, for all of them together."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a sandbox is made from. Nothing else of the host is visible inside."""

    session_id: str
    workspace: Path
    """Host directory that is `/workspace` inside: readable, writable, kept when the sandbox is gone."""
    outputs: Path
    """Host directory that is `/mnt/session/outputs` inside: readable, writable, kept."""
    harness_state: Path
    """Host directory that is `/home/agent/.claude` inside: transcript and state of the harness."""
    model_socket: Path
    """Host unix socket of this session's gateway; inside it is `/run/hostler/model.sock`."""
    egress_socket: Path
    """Host unix socket of this session's egress proxy; inside, `127.0.0.1:3128` is forwarded to it."""
    program: Path
    """Host path of the `claude` binary; inside it is `/opt/hostler/claude`, read-only."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole environment of the program. Nothing of the worker's environment is inherited."""
    limits: SandboxLimits = SandboxLimits()
    mounts: tuple[Mount, ...] = ()
    """In this order: a later one may lie inside an earlier one."""
    technology: Technology | None = None
    """None: the strongest that this host gives."""
    layer: Path | None = None
    """Host directory with what was installed over the base image (`hostler.sandbox.images`), read-only inside.

    It is laid over the root of the image; None: the image, or the host's programs, as they are."""
    room: SharedRoom | None = None
    """None: a sandbox of its own. Otherwise part of that room: `limits` but the room's own are those of one part."""


@dataclass(frozen=True, slots=True)
class IsolationLabel:
    """What this host really gives, said honestly. Shown by `hostler doctor` and kept with each session."""

    technology: Technology
    host_user: Literal["per_sandbox", "shared", "engine"]
    """`per_sandbox`: one host uid each (worker runs as root). `shared`: the worker's own uid, in a user namespace.
    `engine`: uid 1000 of the container engine's users, the same for all sandboxes."""
    limits_by: Literal["cgroup_v1", "cgroup_v2", "engine", "machine", "none"]
    """`engine`: the container engine's control groups. `machine`: memory and processors of a virtual machine."""
    kernel: Literal["host", "user_space", "own"] = "host"
    """Whose system calls the sandbox makes: the host's, gVisor's, or those of a kernel of its own."""
    disk_by: Literal["volume", "none"] = "none"
    """`volume`: what is kept of a session is on a file system of its own of the limited size."""
    runtime: str = ""
    """Name and version of the program that makes the sandbox, such as `bubblewrap 0.8.0`."""
    missing: tuple[str, ...] = ()
    """Promises that this host can't keep, each in a sentence for a person."""
    no_rooms: str = "each sandbox is one of its own"
    """Why several sessions can't share a sandbox here, for a person. Empty: they can."""
    unlimited: tuple[SandboxLimit, ...] = ()
    """Limits that are not enforced although `limits_by` and `disk_by` name who enforces limits here."""

    @property
    def unenforced(self) -> frozenset[SandboxLimit]:
        """Every limit that a sandbox here may exceed."""
        nobody: set[SandboxLimit] = {"memory_mb", "cpus", "pids"} if self.limits_by == "none" else set()
        return frozenset(self.unlimited) | nobody | ({"disk_mb"} if self.disk_by == "none" else set())


@dataclass(frozen=True, slots=True)
class SandboxStats:
    """Use of one sandbox at one moment. `None`: this host can't tell."""

    memory_bytes: int | None
    memory_peak_bytes: int | None
    cpu_seconds: float | None
    pids: int | None
    oom_kills: int | None
    pids_refused: int | None = None
    """How often a process or thread could not be made because the limit was reached."""
    file_cache_bytes: int | None = None
    """Of `memory_bytes`: what holds parts of files, and is given up when memory is needed."""


class Sandbox(Protocol):
    """One isolated place. `destroy` is idempotent; afterwards no process, mount or cgroup of it exists.

    Files go in and out through the folders of the spec: what is closed on one side is there on the other side.
    """

    @property
    def sandbox_id(self) -> str:
        """24 hexadecimal digits, unlike any other on this host."""
        ...

    @property
    def label(self) -> IsolationLabel: ...

    @property
    def launcher(self) -> Path:
        """Host program that runs `claude` inside, with the arguments and the standard streams that it is given.

        It is started at most once. Its environment is ignored: `SandboxSpec.environment` counts. Its exit status is
        the program's (128 + n for signal n).
        """
        ...

    @property
    def entrance(self) -> Path:
        """Host program that runs the command that its arguments are inside, in `/workspace`, with its own streams.

        It works while the launcher's program runs, as often as wanted and at the same time, and gives the command the
        same user, environment, limits and filters as the launcher's program. Its exit status is the command's (128 + n
        for signal n; 125 when it could not get in). When it is killed, so is the command.
        """
        ...

    async def suspend(self) -> None:
        """No process inside runs until `resume`. Idempotent."""
        ...

    async def resume(self) -> None:
        """Idempotent."""
        ...

    async def snapshot(self, target: Path) -> None:
        """Writes the workspace as a tar archive to the new file `target`, at one point of time: nothing runs meanwhile.

        Links, modes, times, empty and sparse files are in it; sockets, pipes and devices are not, and no link is
        followed. Owners are uid and gid 1000. A sandbox that was suspended stays so.
        """
        ...

    async def stats(self) -> SandboxStats: ...

    async def destroy(self) -> None: ...


@runtime_checkable
class InGroups(Protocol):
    """What a sandbox can do besides when its programs are in control groups that this process sees."""

    async def glance(self) -> SandboxStats:
        """What the groups say by themselves: cheap, for looking every second. What they don't say is None."""
        ...

    async def yield_processors(self, yes: bool) -> None:
        """From now on its programs get what others leave of the processors, or their even share again.

        Its limit stays. Idempotent; does nothing once it has ended.
        """
        ...


@runtime_checkable
class InRooms(Protocol):
    """What a sandbox can do besides that is part of a room."""

    async def see(self, inside: str) -> int:
        """A descriptor of that folder as the programs of this sandbox see it: through their own mount of it.

        The caller closes it. Only while the launcher's program runs; raises OSError.
        """
        ...


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A sandbox that an earlier process of this state directory made and did not destroy."""

    sandbox_id: str
    session_id: str
    technology: Technology
    alive: bool
    """Whether its program, or the place for it, still runs: then it can be adopted."""


class SandboxProvider(Protocol):
    """Makes sandboxes on this host. One process at a time uses one state directory."""

    async def probe(self) -> IsolationLabel:
        """What this host gives. Raises SandboxUnavailable, with what to install or change, when it gives nothing.

        Really runs something in a sandbox. Doesn't disturb a worker that uses the state directory.
        """
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Makes everything but the process of the launcher. The sockets must exist.

        Raises SandboxUnavailable, and ValueError for a spec that no sandbox can be made from; nothing is left then.
        """
        ...

    async def left_over(self) -> Sequence[LeftOver]:
        """What `sweep` would end."""
        ...

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> Sandbox:
        """Takes over one that is left and alive, as it is: its launcher and entrance work as if it had just been made.

        `spec` is what it was made from, except for the sockets, which may have been opened anew at the same paths.
        Raises SandboxUnavailable when there is no such thing; technologies whose sandboxes die with the worker never
        have one.
        """
        ...

    async def sweep(self) -> Sequence[str]:
        """Ends and removes all that is left over and was not adopted; says what it was, one sentence each."""
        ...

    def close(self) -> None:
        """Lets another process use the state directory. Destroy the sandboxes first. Idempotent."""
        ...


class Rungs(Protocol):
    """Who knows which technologies this host gives."""

    async def rungs(self) -> Mapping[Technology, IsolationLabel | str]:
        """What each technology gives here; or, for a person, why it gives nothing and what to do.

        Trials are remembered: this may be asked for every request. A technology that is not there is not configured.
        """
        ...


class SandboxUnavailable(Exception):
    """This host can't give the sandbox that was asked for. The message says what to do."""
