"""How is a session's sandbox made from Linux namespaces by bubblewrap, without image, daemon or set-uid program?

`docs/explanation/sandbox.md` says what is inside and what every flag is for.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hostler.engine.sandbox_port import (
    IsolationLabel,
    LeftOver,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    SandboxUnavailable,
)
from hostler.engine.threads import in_thread
from hostler.sandbox import (
    bubblewrap_host,
    cgroups,
    freezing,
    handing_over,
    launch,
    leftovers,
    rooms,
    specs,
    trying,
    users,
)
from hostler.sandbox.bubblewrap_host import Host
from hostler.sandbox.cgroups import Group
from hostler.sandbox.enter import NotEntered, find_inside
from hostler.sandbox.holding_still import HoldingStill
from hostler.sandbox.making import make
from hostler.sandbox.trials import trial_folder

PROBE_SECONDS = 20.0


class BubblewrapSandbox:
    """One sandbox, from `BubblewrapProvider.create`."""

    def __init__(
        self,
        provider: BubblewrapProvider,
        host: Host,
        record: leftovers.Record,
        directory: Path,
        launcher: Path,
        group: Group,
        workspace: Path,
    ) -> None:
        self._provider = provider
        self._host = host
        self._record = record
        self._directory = directory
        self._launcher = launcher
        self._group = group
        self._still = HoldingStill(workspace, self._stop, self._go_on)

    @property
    def label(self) -> IsolationLabel:
        return self._host.label

    @property
    def launcher(self) -> Path:
        """See the port. SIGTERM to its process ends the sandbox at once; to let `claude` finish, close its stdin."""
        return self._launcher

    @property
    def entrance(self) -> Path:
        """See the port."""
        return self._launcher.with_name("entrance")

    @property
    def sandbox_id(self) -> str:
        """24 hexadecimal digits: the name of its record, its control group and its mark."""
        return self._record.sandbox_id

    @property
    def host_uid(self) -> int | None:
        """Uid on the host; None: the worker's own."""
        return self._record.uid

    async def suspend(self) -> None:
        """See the port. Raises NotSuspended."""
        await self._still.suspend()

    async def resume(self) -> None:
        await self._still.resume()

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed, NotSuspended."""
        await self._still.snapshot(target)

    async def _stop(self) -> None:
        await asyncio.to_thread(freezing.freeze, self._group.directories, lambda: leftovers.processes(self._record))

    async def _go_on(self) -> None:
        await asyncio.to_thread(freezing.thaw, self._group.directories, lambda: leftovers.processes(self._record))

    async def stats(self) -> SandboxStats:
        return await asyncio.to_thread(self._counted, self._host.limits.stats)

    async def glance(self) -> SandboxStats:
        return await asyncio.to_thread(self._counted, cgroups.glance)

    def _counted(self, look: Callable[[Group], SandboxStats]) -> SandboxStats:
        own = look(self._group)
        if not self._record.room_groups:
            return own
        return rooms.together(own, look(Group(tuple(map(Path, self._record.room_groups)))))

    async def see(self, inside: str) -> int:
        """See `InRooms`."""
        return await in_thread(lambda: self._see(inside), undo=os.close)

    def _see(self, inside: str) -> int:
        try:
            pid = find_inside(f"{launch.MARK}={self._record.sandbox_id}".encode())
        except NotEntered as error:
            raise ProcessLookupError(str(error)) from error
        return os.open(f"/proc/{pid}/root{inside}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    async def yield_processors(self, yes: bool) -> None:
        await asyncio.to_thread(lambda: cgroups.weigh(self._group, low=yes))

    async def destroy(self) -> None:
        """Idempotent, safe to call concurrently. Raises SandboxNotEnded when the kernel doesn't let a process die."""
        await asyncio.to_thread(self._provider._end, self._record, self._directory)


class BubblewrapProvider:
    """Makes bubblewrap sandboxes. One process at a time may use a state directory, which is private to the worker."""

    def __init__(
        self,
        state_dir: Path,
        *,
        uid_range: range = users.DEFAULT_RANGE,
        cgroup_name: str = "hostler",
        uid_lock_file: Path = users.LOCK_FILE,
    ) -> None:
        """Touches nothing. `uid_range`: host uids for sandboxes of a root worker. `cgroup_name`: prefix of groups."""
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", cgroup_name):
            raise ValueError("cgroup_name must be 1 to 32 of a-z, 0-9, '_' and '-', with a letter first")
        self._state_dir = Path(os.path.abspath(state_dir))
        self._sandboxes = self._state_dir / "sandboxes"
        self._uid_range = uid_range
        self._uid_lock_file = uid_lock_file
        self._cgroup_name = cgroup_name
        self._root = os.geteuid() == 0
        self._opening = asyncio.Lock()
        self._host: Host | None = None
        self._users: users.UidPool | None = None
        self._state_lock: int | None = None
        self._live: dict[str, threading.Lock] = {}
        self._rooms = rooms.Grounds()

    # ------------------------------------------------------------------------------------------------------- the port

    async def probe(self) -> IsolationLabel:
        """Looks, and runs `true` in a real sandbox. Doesn't disturb a worker that uses the state directory."""
        return await asyncio.to_thread(self._probe)

    async def create(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """Makes everything but the process. The sockets must exist; the directories are made when they don't.

        Raises SandboxUnavailable, and ValueError for a spec that no sandbox can be made from.
        """
        host = await self._open()
        record, directory, launcher, group = await make(
            lambda: self._create(host, spec), lambda made: self._end(made[0], made[1])
        )
        return BubblewrapSandbox(self, host, record, directory, launcher, group, spec.workspace)

    async def left_over(self) -> Sequence[LeftOver]:
        """See the port. None of them is alive for long: they die with the worker that started them."""
        await self._open()
        return await asyncio.to_thread(self._left_over)

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> BubblewrapSandbox:
        """Refuses: a bubblewrap sandbox dies with the worker that made it."""
        raise SandboxUnavailable(f"sandbox {sandbox_id} ended with the worker that made it; create another one")

    async def sweep(self) -> Sequence[str]:
        """Ends every sandbox of this state directory that this provider didn't make itself. One sentence for each."""
        await self._open()
        return await asyncio.to_thread(self._sweep)

    # ------------------------------------------------------------------------------------------------ opening, looking

    async def _open(self) -> Host:
        async with self._opening:
            if self._host is None:
                self._host = await asyncio.to_thread(self._open_now)
            return self._host

    def _open_now(self) -> Host:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sandboxes.mkdir(mode=0o700, exist_ok=True)
        if self._state_lock is None:
            self._state_lock = self._lock_state()
        host = bubblewrap_host.look(self._state_dir, self._cgroup_name, root=self._root)
        if self._root and self._users is None:
            start = int.from_bytes(hashlib.sha256(os.fsencode(self._state_dir)).digest()[:4], "big")
            self._users = users.UidPool(self._uid_range, self._uid_lock_file, start=start)
        return host

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

    def _probe(self) -> IsolationLabel:
        with trial_folder("bubblewrap", self._end_trial) as place:
            trial = self._trial(place)
            try:
                return trial._try_true(place)
            finally:
                trial.close()

    def _trial(self, place: Path) -> BubblewrapProvider:
        return BubblewrapProvider(
            place / "state",
            uid_range=self._uid_range,
            cgroup_name=self._cgroup_name,
            uid_lock_file=self._uid_lock_file,
        )

    def _end_trial(self, place: Path) -> None:
        """What a trial has left whose process was killed: its control groups."""
        trial = self._trial(place)
        try:
            trial._open_now()
            trial._sweep()
        finally:
            trial.close()

    def _try_true(self, place: Path) -> IsolationLabel:
        host = self._host = self._open_now()
        with trying.spec(place, SandboxLimits(memory_bytes=256 << 20, pids=32, tmp_bytes=1 << 20)) as spec:
            record, directory, launcher, _ = self._create(host, spec)
            try:
                code, said = trying.run(launcher, PROBE_SECONDS)
            finally:
                self._end(record, directory)
        if code != trying.RAN:
            raise SandboxUnavailable(f"a trial sandbox failed ({code}): {said}{bubblewrap_host.hint()}")
        return host.label

    def close(self) -> None:
        """Lets another process use the state directory. Destroy the sandboxes first. Idempotent."""
        if self._users is not None:
            self._users.close()
            self._users = None
        if self._state_lock is not None:
            os.close(self._state_lock)
            self._state_lock = None
        self._host = None

    # ------------------------------------------------------------------------------------------------ making and ending

    def _create(self, host: Host, spec: SandboxSpec) -> tuple[leftovers.Record, Path, Path, Group]:
        specs.check(spec)
        spec = replace(spec, limits=bubblewrap_host.within_host(spec.limits))
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox_id = secrets.token_hex(12)
        uid, room = None, Group()
        own = self._users is not None and spec.room is None
        if spec.room is not None:
            before = os.lstat(spec.workspace).st_uid
            ground = self._rooms.enter(
                spec.room, sandbox_id, host.limits, self._cgroup_name, self._users, before, self._uid_range
            )
            uid, room = ground.uid, ground.group
            outer = f"{room.directories[0].name}/" if room.directories else ""
            group = host.limits.plan(f"{outer}{self._cgroup_name}-{sandbox_id}", rooms.part(spec.limits))
        else:
            if self._users is not None:
                uid = self._users.acquire(os.lstat(spec.workspace).st_uid)
            group = host.limits.plan(f"{self._cgroup_name}-{sandbox_id}", spec.limits)
        record = leftovers.Record(
            sandbox_id,
            spec.session_id,
            uid if own else None,
            tuple(map(str, group.directories)),
            tuple(map(str, room.directories)),
        )
        home = self._sandboxes / sandbox_id
        self._live[sandbox_id] = threading.Lock()
        try:
            home.mkdir(mode=0o700)
            record.save(home)
            handing_over.give_away(spec, uid, self._uid_range)
            cgroups.make_nested(room, group)
            identity = launch.Identity(sandbox_id, uid)
            launcher = launch.write(home, host.etc, spec, identity, host.tools, group.entrances, host.filter)
        except BaseException:
            self._end(record, home)
            raise
        return record, home, launcher, group

    def _end(self, record: leftovers.Record, directory: Path) -> int:
        """Ends a sandbox that this provider made. The second call, also a concurrent one, finds nothing to do.

        It must not run twice: after the first the uid may be another sandbox's.
        """
        lock = self._live.get(record.sandbox_id)
        if lock is None:
            return 0
        with lock:
            if record.sandbox_id not in self._live:
                return 0
            killed = leftovers.end(record, directory, uid_is_ours=record.uid is not None)
            self._rooms.leave(record.sandbox_id, self._users)
            if record.uid is not None and self._users is not None:
                self._users.release(record.uid)
            del self._live[record.sandbox_id]
            return killed

    def _left_over(self) -> list[LeftOver]:
        records = [
            leftovers.Record.load(directory)
            for directory in sorted(self._sandboxes.iterdir())
            if directory.name not in self._live
        ]
        return [
            LeftOver(record.sandbox_id, record.session_id, "bubblewrap", alive=False)
            for record in records
            if record is not None
        ]

    def _sweep(self) -> list[str]:
        said = []
        for directory in sorted(self._sandboxes.iterdir()):
            if directory.name in self._live:
                continue
            record = leftovers.Record.load(directory)
            if record is None:
                shutil.rmtree(directory, ignore_errors=True)
                said.append(f"sandbox {directory.name}: removed its files; it had not been made yet")
                continue
            # Somebody else's sandbox may have got the uid since: then only our marks and groups are looked for.
            ours = record.uid is not None and self._users is not None and self._users.claim(record.uid)
            try:
                killed = leftovers.end(record, directory, uid_is_ours=ours)
                cgroups.remove(map(Path, record.room_groups))  # by the last of the room; the others can't yet
            finally:
                if ours and record.uid is not None and self._users is not None:
                    self._users.release(record.uid)
            said.append(
                f"sandbox {record.sandbox_id} of session {record.session_id}: {killed} processes ended, removed"
            )
        return said
