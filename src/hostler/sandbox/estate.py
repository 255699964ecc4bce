"""Which sandboxes of one state directory are whose: this worker's, or left by an earlier one?

For technologies whose sandboxes outlive their worker. Every sandbox has a folder with a record in it that is written
before anything else of it exists, and two host users: one that its processes on the host have, one that its files have.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import leftovers, users

RECORD = "holding.json"


@dataclass(frozen=True, slots=True)
class Holding:
    """One sandbox: what there may be of it on the host."""

    sandbox_id: str
    session_id: str
    process_uid: int | None
    """Every process of the sandbox on the host has it, but those that wait for a command to end. None: the worker is
    not root, and they are its own user's."""
    file_uid: int | None
    """Owner of the session's folders on the host. None: the worker."""
    groups: tuple[str, ...] = ()
    """Directories of control groups."""
    adoptable: bool = False
    """Whether another worker could open its roads anew."""

    def save(self, home: Path) -> None:
        """Atomic: a record that is there is whole."""
        new = home / f".{RECORD}"
        new.write_text(json.dumps(asdict(self)))
        new.replace(home / RECORD)

    @staticmethod
    def load(home: Path) -> Holding | None:
        """None: the worker died before there was anything to record."""
        try:
            data = json.loads((home / RECORD).read_text())
        except FileNotFoundError:
            return None
        return Holding(**{**data, "groups": tuple(data["groups"])})

    @property
    def record(self) -> leftovers.Record:
        """What ends it."""
        return leftovers.Record(self.sandbox_id, self.session_id, self.process_uid, self.groups)

    @property
    def uids(self) -> frozenset[int]:
        """Host users of its own."""
        return frozenset(uid for uid in (self.process_uid, self.file_uid) if uid is not None)


class Estate:
    """The sandboxes of one state directory. One process at a time uses it. Thread-safe; everything may block."""

    def __init__(self, state_dir: Path, *, uid_range: range, uid_lock_file: Path, passage: bool = False) -> None:
        """Touches nothing. `passage`: other users may go through the folders, to what they know of."""
        self._mode = 0o711 if passage else 0o700
        self.state_dir = Path(os.path.abspath(state_dir))
        self.sandboxes = self.state_dir / "sandboxes"
        self.uid_range = uid_range
        self._uid_lock_file = uid_lock_file
        self._users: users.UidPool | None = None
        self._lock: int | None = None
        self._live: dict[str, threading.Lock] = {}

    def open(self) -> None:
        """Idempotent. Raises SandboxUnavailable when another process uses the directory."""
        self.state_dir.mkdir(mode=self._mode, parents=True, exist_ok=True)
        self.sandboxes.mkdir(mode=self._mode, exist_ok=True)
        if self._lock is None:
            fd = os.open(self.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise SandboxUnavailable(
                    f"another process uses {self.state_dir}; stop it, or give this one a state directory of its own"
                ) from error
            self._lock = fd
        if self._users is None and os.geteuid() == 0:
            start = int.from_bytes(hashlib.sha256(os.fsencode(self.state_dir)).digest()[:4], "big")
            self._users = users.UidPool(self.uid_range, self._uid_lock_file, start=start)

    def close(self) -> None:
        """Lets another process use the directory. Idempotent."""
        if self._users is not None:
            self._users.close()
            self._users = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._live.clear()

    # ------------------------------------------------------------------------------------------------ making and ending

    def home(self, sandbox_id: str) -> Path:
        return self.sandboxes / sandbox_id

    def new_id(self) -> str:
        return secrets.token_hex(12)

    def begin(
        self,
        sandbox_id: str,
        session_id: str,
        workspace: Path,
        groups: tuple[Path, ...],
        *,
        adoptable: bool,
        one_user: bool = False,
    ) -> Holding:
        """Takes two users, makes the folder and writes the record. Ended by `end`, also when what follows fails.

        `one_user`: its processes are the owner of its files. Without root there is none to take.
        """
        pool = self._pool()
        file_uid = process_uid = None
        if pool is not None:
            file_uid = process_uid = pool.acquire(os.lstat(workspace).st_uid)
            if not one_user:
                try:
                    process_uid = pool.acquire()
                except BaseException:
                    pool.release(file_uid)
                    raise
        holding = Holding(sandbox_id, session_id, process_uid, file_uid, tuple(map(str, groups)), adoptable)
        self._live[sandbox_id] = threading.Lock()
        try:
            self.home(sandbox_id).mkdir(mode=self._mode)
            self.home(sandbox_id).chmod(self._mode)  # whatever the umask
            holding.save(self.home(sandbox_id))
        except BaseException:
            self.end(holding)
            raise
        return holding

    def end(self, holding: Holding) -> int:
        """Kills and removes; gives the number of processes. The second call, also a concurrent one, does nothing: after
        the first its users may be another sandbox's. Raises SandboxNotEnded."""
        lock = self._live.get(holding.sandbox_id)
        if lock is None:
            return 0
        with lock:
            if holding.sandbox_id not in self._live:
                return 0
            killed = leftovers.end(holding.record, self.home(holding.sandbox_id), uid_is_ours=bool(holding.uids))
            self.forget(holding)
            return killed

    def forget(self, holding: Holding) -> None:
        """It isn't this process's own any more, whatever there is of it."""
        self._release(holding.uids)
        del self._live[holding.sandbox_id]

    # ----------------------------------------------------------------------------------------------- what others left

    def left(self) -> Iterator[Holding]:
        """Records of sandboxes that this process neither made nor adopted."""
        for home in self._left_homes():
            holding = Holding.load(home)
            if holding is not None:
                yield holding

    def adopt(self, holding: Holding) -> bool:
        """Makes it this process's own. False: another worker has got one of its users."""
        pool = self._pool()
        claimed = [uid for uid in holding.uids if pool is not None and pool.claim(uid)]
        if len(claimed) < len(holding.uids):
            self._release(claimed)
            return False
        self._live[holding.sandbox_id] = threading.Lock()
        return True

    def sweep(self) -> list[str]:
        """Ends and removes what is left; says what it was."""
        said = []
        for home in self._left_homes():
            holding = Holding.load(home)
            if holding is None:
                shutil.rmtree(home, ignore_errors=True)
                said.append(f"sandbox {home.name}: removed its files; it had not been made yet")
                continue
            killed = self.clear(holding)
            said.append(
                f"sandbox {holding.sandbox_id} of session {holding.session_id}: {killed} processes ended, removed"
            )
        return said

    def clear(self, holding: Holding) -> int:
        """Ends and removes one that is left; gives the number of processes. Raises SandboxNotEnded."""
        pool, uid = self._pool(), holding.process_uid
        # Somebody else's sandbox may have got the uid since: then only our marks and groups are looked for.
        ours = pool is not None and uid is not None and pool.claim(uid)
        try:
            return leftovers.end(holding.record, self.home(holding.sandbox_id), uid_is_ours=ours)
        finally:
            if ours and pool is not None and uid is not None:
                pool.release(uid)

    def _left_homes(self) -> list[Path]:
        return [home for home in sorted(self.sandboxes.iterdir()) if home.name not in self._live]

    def is_live(self, sandbox_id: str) -> bool:
        """Whether this process made or adopted it, and has not ended it."""
        return sandbox_id in self._live

    def _release(self, uids: Iterable[int]) -> None:
        if (pool := self._pool()) is not None:
            for uid in uids:
                pool.release(uid)

    def _pool(self) -> users.UidPool | None:
        """None: without root there are no users to give."""
        if self._lock is None:
            raise SandboxUnavailable("this provider was closed")
        return self._users
