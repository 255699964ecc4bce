"""Which of a session's files count, and how do they come to the worker that serves it?

A session's files are in the home that some worker has, and in snapshots that every worker can read. `Copies.put_right`
makes a home that was just entered the copy that counts; `keep` takes a snapshot of it; `clear` ends a task of which
nothing is to stay. The rule is in docs/explanation/hibernation.md, "Which copy counts".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.engine.home_notes import HomeNotes, Note
from hostler.engine.homes import Stay, remove_parts
from hostler.engine.records import Telling
from hostler.engine.runs import Notice
from hostler.engine.snapshot_port import PARTS, Reason, Shown, Snapshot, Snapshots
from hostler.engine.state import SessionState
from hostler.engine.threads import in_thread, together
from hostler.store import homes as rows
from hostler.store.database import Database
from hostler.store.homes import HomeRow
from hostler.store.sessions import SessionRow, get_session
from hostler.store.work import Lease

log = logging.getLogger("hostler.copies")

KERNEL_SECONDS: Final = 60.0
"""After so long the kernel has written it by itself: it begins after 30 seconds."""

FEW_ENTRIES: Final = 2_000
LITTLE_BYTES: Final = 16 << 20
"""Restored within some 50 ms, in which `claude` can't do without them."""

Tell = Callable[[Connection, Sequence[Notice]], None]
"""Writes down what a session's user is told, within a transaction of the caller."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database has of a session's files."""

    row: HomeRow | None
    latest: Snapshot | None
    """The latest snapshot that counts."""


@dataclass(frozen=True, slots=True)
class PutRight:
    """What became of a home that was entered. It counts from when `confirm` has returned."""

    confirm: Callable[[], Awaitable[None]]
    """Raises LeaseLost. Call it again when it has failed."""
    flush: Callable[[asyncio.Event], Coroutine[None, None, None]] | None = None
    """To be begun after `confirm`, and ended before the home is left: what was restored comes to the disk. Until it has
    come there, it counts for this boot of the host only. That may wait until the event is set."""
    older: bool = False
    """Something was lost: the files are older than the conversation. `confirm` tells the session's user; whoever tells
    its model says so (`Copies.model_knows`)."""
    unkept: bool = False
    """True: there is more in it than the latest snapshot has."""


@dataclass(slots=True)
class Copies:
    """The copies of all sessions' files, as one worker sees them."""

    database: Database
    snapshots: Snapshots
    notes: HomeNotes
    forget: Callable[[str], Awaitable[None]]
    """Removes everything of a session from this host that is not entered."""
    flush: Callable[[Path], bool]
    """Writes to the disk what is in a home that is entered; False: that can't be done here. Blocks."""
    _stays: dict[str, tuple[asyncio.Lock, int]] = field(default_factory=dict)

    @asynccontextmanager
    async def staying(self, session_id: str) -> AsyncIterator[None]:
        """Inside the block nobody else on this host touches the session's home, or takes it away."""
        lock, users = self._stays.get(session_id, (asyncio.Lock(), 0))
        self._stays[session_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._stays.pop(session_id)
            if users > 1:
                self._stays[session_id] = (lock, users - 1)

    def in_use(self, session_id: str) -> bool:
        return session_id in self._stays

    async def known(self, session_id: str) -> Known:
        """For `put_right`. What it says holds for as long as the lease does."""
        row = await self.database.read(lambda c: rows.get_home(c, session_id))
        latest = await self.snapshots.latest(session_id)
        if latest is not None and row is not None and latest.number <= row.void_until:
            latest = None
        return Known(row, latest)

    async def settle(self, session: SessionRow, lease: Lease, home: Path, tell: Tell) -> PutRight:
        """`put_right`, confirmed."""
        right = await self.put_right(session, lease, home, await self.known(session.id), tell)
        await right.confirm()
        if right.flush is not None:
            at_once = asyncio.Event()
            at_once.set()
            await right.flush(at_once)
        return right

    async def put_right(
        self, session: SessionRow, lease: Lease, home: Path, known: Known, tell: Tell, shown: Shown | None = None
    ) -> PutRight:
        """Makes the folders of a home that is entered, and to which nobody writes, what counts.

        Whoever may change them runs after `confirm`, with which this worker's copy counts, and is dirty; `tell` is
        called in the transaction that says so, when something was lost. Raises ObjectsUnavailable.
        """
        row, latest = known.row, known.latest
        as_of = latest.id if latest is not None else None
        note = await asyncio.to_thread(self.notes.read, session.id, home)
        if note is not None and row is not None and note.copy_name == row.copy and note.as_of == as_of:
            used = note.but(as_of=as_of, dirty=True)
            return PutRight(lambda: self._write(session.id, used), older=note.untold, unkept=note.dirty)
        if row is None and latest is None:  # the first worker ever, or a home of a time without notes
            unkept = await asyncio.to_thread(_has_something, home)
            name = new_id("copy")
            return PutRight(
                lambda: self._found(lease, home, Note(copy_name=name, as_of=as_of, dirty=True)), unkept=unkept
            )
        await in_thread(lambda: self._void(session.id, home))
        return await self.bring(session, lease, Stay(home), known, tell, shown)

    async def kept_and_small(self, session_id: str, known: Known) -> bool:
        """Whether all files of the session are in a snapshot, which has not much in it: then its home here, if it has
        one, is worth no more than any other."""
        row, latest = known.row, known.latest
        if latest is None or latest.entries > FEW_ENTRIES or latest.logical_bytes > LITTLE_BYTES:
            return False
        note = await asyncio.to_thread(self.notes.glance, session_id)
        if row is None or note is None or note.copy_name != row.copy:
            return True
        return not note.dirty and not note.untold and note.as_of == latest.id

    async def bring(
        self, session: SessionRow, lease: Lease, stay: Stay, known: Known, tell: Tell, shown: Shown | None
    ) -> PutRight:
        """Puts the session's latest files into a home that may have another name until `confirm`. As `put_right`."""
        row, latest, home = known.row, known.latest, stay.home
        async with together() as tasks:
            unsaved = tasks.create_task(self._unsaved(session.id, row, latest))
            if latest is None:
                if shown is not None:
                    await shown()
                await in_thread(lambda: remove_parts(home, shown=shown is not None))
                notices = []
            else:
                notices = await self._restore(session.id, home, latest, 0 if row is None else row.void_until, shown)
        told = (*unsaved.result(), *notices)
        as_of = None if latest is None else latest.id
        copy = new_id("copy")
        note = Note(copy_name=copy, as_of=as_of, dirty=True, unwritten=self.notes.boot, untold=bool(told))
        return PutRight(
            lambda: self._found(lease, stay.home, note, lambda connection: tell(connection, told) if told else None),
            lambda now: self._flush(session.id, stay.home, note.copy_name, now),
            older=bool(told),
            unkept=bool(told),
        )

    async def keep(self, session: SessionRow, lease: Lease, home: Path, reason: Reason, *, last: bool) -> Snapshot:
        """Takes a snapshot of a home that is settled, while nothing runs in it.

        `last`: nothing will, either, before it is settled again. Raises LeaseLost, SnapshotTooLarge,
        ObjectsUnavailable.
        """
        snapshot = await self.snapshots.take(session, home, reason, lease)
        dirty = True
        try:
            await self.database.write(lambda c: rows.note_kept(c, self.database.now(c), lease, snapshot.number))
            dirty = not last
        finally:  # it is the latest: a home that does not know of it would be given up for it
            await in_thread(
                lambda: self.notes.change(session.id, lambda note: note.but(as_of=snapshot.id, dirty=dirty))
            )
        return snapshot

    async def model_knows(self, session_id: str) -> None:
        """The session's model was told that its files are older than its conversation."""
        await in_thread(lambda: self.notes.change(session_id, lambda note: note.model_copy(update={"untold": False})))

    async def none_yet(self, session_id: str) -> bool:
        """Whether there are no files of the session anywhere, and never were."""
        row = await self.database.read(lambda c: rows.get_home(c, session_id))
        return row is None and await self.snapshots.latest(session_id) is None

    async def rest(self, session_id: str) -> None:
        """Nothing was changed in the home since it was settled or kept, and nobody is in it any more."""
        await in_thread(lambda: self.notes.change(session_id, lambda note: note.but(as_of=note.as_of, dirty=False)))

    async def left_of_a_task(self, session_id: str) -> HomeRow | None:
        """What is known of the files of the session's earlier tasks. None: it had none."""
        return await self.database.read(lambda c: rows.get_home(c, session_id))

    async def clear(self, lease: Lease) -> None:
        """A task is over: nothing of its files is to be found again. The home is left. Raises LeaseLost."""
        session_id = lease.session_id
        latest = await self.snapshots.latest(session_id)
        until = 0 if latest is None else latest.number
        await self.database.write(lambda c: rows.clear_home(c, self.database.now(c), lease, until))
        await asyncio.to_thread(self.notes.remove, session_id)
        await self.forget(session_id)
        if latest is not None:
            await self.snapshots.forget(session_id)

    async def counts(self, session_id: str) -> bool:
        """Whether the files on this host may be the session's newest ones."""
        row = await self.database.read(lambda c: rows.get_home(c, session_id))
        note = await asyncio.to_thread(self.notes.glance, session_id)
        return row is None or (note is not None and note.copy_name == row.copy)

    # -- inside

    def _void(self, session_id: str, home: Path) -> None:
        self.notes.remove(session_id)
        self.notes.unmark(home)

    async def _found(
        self, lease: Lease, home: Path, note: Note, also: Callable[[Connection], None] = lambda _: None
    ) -> None:
        """This home is the copy that counts, from the moment at which the database says so."""
        await in_thread(lambda: self.notes.mark(home, note.copy_name))
        await self._write(lease.session_id, note)

        def unit(connection: Connection) -> None:
            rows.take_home(connection, self.database.now(connection), lease, note.copy_name)
            also(connection)

        await self.database.write(unit)

    async def _flush(self, session_id: str, home: Path, name: str, now: asyncio.Event) -> None:
        """What can't be written is reported, and goes on counting for this boot.

        Not at once: many that wake up together would have the disk flush for each, and the database wait for it.
        """
        had_time = await _kernel_had_time(now)
        try:
            written = await in_thread(lambda: self.flush(home))
        except OSError as error:
            log.error("files_not_on_disk", extra={"session": session_id, "reason": str(error)})
            return
        if written or had_time:
            await in_thread(lambda: self.notes.change(session_id, lambda note: note.written(name)))

    async def _write(self, session_id: str, note: Note) -> None:
        await in_thread(lambda: self.notes.write(session_id, note))

    async def _unsaved(self, session_id: str, row: HomeRow | None, latest: Snapshot | None) -> list[Notice]:
        """What to say of changes that another worker has not kept."""
        if row is None or row.cleared:
            return []
        taken_at = None if latest is None else latest.taken_at
        calls = await self.database.read(lambda c: calls_since(c, session_id, row.kept_seq, taken_at))
        if not calls:
            return []
        log.warning("files_lost", extra={"session": session_id, "worker": row.worker, "calls": calls})
        since = "the workspace is empty" if latest is None else f"the workspace is as it was at {latest.taken_at}"
        return [
            Notice(
                "files_lost",
                f"The worker that had this session was cut off before it could keep its files: {since}. "
                f"What {calls} later tool call{'s' if calls > 1 else ''} changed there is gone.",
                {"worker": row.worker, "snapshot_id": latest and latest.id, "tool_calls": calls},
            )
        ]

    async def _restore(
        self, session_id: str, home: Path, latest: Snapshot, void_until: int, shown: Shown | None
    ) -> list[Notice]:
        restored = await self.snapshots.restore(session_id, home, shown=shown)
        found = restored.snapshot
        if found is not None and found.number <= void_until:
            await in_thread(lambda: remove_parts(home, shown=shown is not None))
            found = None
        if not restored.damaged:
            return []
        log.error("snapshots_damaged", extra={"session": session_id, "damaged": restored.damaged})
        now = "the workspace is empty" if found is None else f"the workspace is as it was at {found.taken_at}"
        return [
            Notice(
                "snapshots_damaged",
                f"What was kept of this session's files at {latest.taken_at} can't be read any more: {now}. "
                "What was changed later is gone.",
                {"damaged": list(restored.damaged), "snapshot_id": found and found.id},
            )
        ]


def calls_since(connection: Connection, session_id: str, seq: int, taken_at: str | None) -> int:
    """As `store.homes.calls_since`, and those that may have begun and have no result yet."""
    state = SessionState.model_validate_json(get_session(connection, None, session_id).state)
    begun = sum(call.started and call.kind != "custom" for call in state.calls)
    return begun + rows.calls_since(connection, session_id, seq, taken_at)


async def confirmed(right: PutRight, telling: Telling, leaving: AsyncExitStack) -> None:
    """`leaving`: of the home."""
    await right.confirm()
    telling.announce()
    if right.flush is not None:
        at_once = asyncio.Event()
        flushing = asyncio.create_task(right.flush(at_once))

        async def flushed() -> None:
            at_once.set()
            await asyncio.wait({flushing})

        leaving.push_async_callback(flushed)


async def _kernel_had_time(now: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(KERNEL_SECONDS):
            await now.wait()
    except TimeoutError:
        return True
    return False


def _has_something(home: Path) -> bool:
    return any((home / part).is_dir() and any((home / part).iterdir()) for part in PARTS)
