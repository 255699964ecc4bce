"""Which of a session's files count, and how do they come to the worker that serves it?

A session's files are in the home that some worker has, and in snapshots that every worker can read. `Copies.settle`
makes a home that was just entered the copy that counts; `keep` takes a snapshot of it; `clear` ends a task of which
nothing is to stay. The rule is in docs/explanation/hibernation.md, "Which copy counts".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.engine.home_notes import HomeNotes, Note
from hostler.engine.homes import remove_tree
from hostler.engine.runs import Notice
from hostler.engine.snapshot_port import PARTS, Reason, Snapshot, Snapshots
from hostler.engine.state import SessionState
from hostler.store import homes as rows
from hostler.store.database import Database
from hostler.store.homes import HomeRow
from hostler.store.sessions import SessionRow, get_session
from hostler.store.work import Lease

log = logging.getLogger("hostler.copies")

Tell = Callable[[Connection, Sequence[Notice]], None]
"""Writes down what a session's user is told, within a transaction of the caller."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a home that was entered."""

    older: bool = False
    """Something was lost, and the session's user was told: the files are older than the conversation."""
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

    async def settle(self, session: SessionRow, lease: Lease, home: Path, tell: Tell) -> Settled:
        """Makes the folders of a home that is entered, and to which nobody writes, what counts.

        From now on this worker's copy counts, and is dirty; `tell` was called in the transaction that says so, when
        something was lost. Raises LeaseLost, ObjectsUnavailable.
        """
        row = await self.database.read(lambda c: rows.get_home(c, session.id))
        latest = await self._latest(session.id, row)
        as_of = latest.id if latest is not None else None
        note = await asyncio.to_thread(self.notes.read, session.id, home)
        if note is not None and row is not None and note.copy_name == row.copy and note.as_of == as_of:
            await self._write(session.id, note.but(as_of=as_of, dirty=True))
            return Settled(unkept=note.dirty)
        if row is None and latest is None:  # the first worker ever, or a home of a time without notes
            await self._found(session.id, lease, home, as_of, lambda _: None)
            return Settled(unkept=await asyncio.to_thread(_has_something, home))
        await asyncio.to_thread(self.notes.remove, session.id)
        await asyncio.to_thread(self.notes.unmark, home)
        notices = await self._unsaved(session.id, row, latest)
        if latest is None:
            await asyncio.to_thread(_empty, home)
        else:
            notices += await self._restore(session.id, home, latest, 0 if row is None else row.void_until)
        told = tuple(notices)
        await self._found(session.id, lease, home, as_of, lambda connection: tell(connection, told) if told else None)
        return Settled(older=bool(told), unkept=bool(told))

    async def keep(self, session: SessionRow, lease: Lease, home: Path, reason: Reason, *, last: bool) -> Snapshot:
        """Takes a snapshot of a home that is settled, while nothing runs in it.

        `last`: nothing will, either, before it is settled again. Raises LeaseLost, SnapshotTooLarge,
        ObjectsUnavailable.
        """
        snapshot = await self.snapshots.take(session, home, reason, lease)
        await self.database.write(lambda c: rows.note_kept(c, self.database.now(c), lease, snapshot.number))
        note = await asyncio.to_thread(self.notes.glance, session.id)
        if note is not None:
            await self._write(session.id, note.but(as_of=snapshot.id, dirty=not last))
        return snapshot

    async def none_yet(self, session_id: str) -> bool:
        """Whether there are no files of the session anywhere, and never were."""
        row = await self.database.read(lambda c: rows.get_home(c, session_id))
        return row is None and await self.snapshots.latest(session_id) is None

    async def rest(self, session_id: str) -> None:
        """Nothing was changed in the home since it was settled or kept, and nobody is in it any more."""
        note = await asyncio.to_thread(self.notes.glance, session_id)
        if note is not None:
            await self._write(session_id, note.but(as_of=note.as_of, dirty=False))

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

    async def _latest(self, session_id: str, row: HomeRow | None) -> Snapshot | None:
        latest = await self.snapshots.latest(session_id)
        return None if latest is None or (row is not None and latest.number <= row.void_until) else latest

    async def _found(
        self, session_id: str, lease: Lease, home: Path, as_of: str | None, also: Callable[[Connection], None]
    ) -> None:
        """This home is the copy that counts, from the moment at which the database says so."""
        name = new_id("copy")
        await asyncio.to_thread(self.notes.mark, home, name)
        await self._write(session_id, Note(copy_name=name, as_of=as_of, dirty=True))

        def unit(connection: Connection) -> None:
            rows.take_home(connection, self.database.now(connection), lease, name)
            also(connection)

        await self.database.write(unit)

    async def _write(self, session_id: str, note: Note) -> None:
        await asyncio.to_thread(self.notes.write, session_id, note)

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

    async def _restore(self, session_id: str, home: Path, latest: Snapshot, void_until: int) -> list[Notice]:
        restored = await self.snapshots.restore(session_id, home)
        found = restored.snapshot
        if found is not None and found.number <= void_until:
            await asyncio.to_thread(_empty, home)
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


def _has_something(home: Path) -> bool:
    return any((home / part).is_dir() and any((home / part).iterdir()) for part in PARTS)


def _empty(home: Path) -> None:
    for part in PARTS:
        remove_tree(home / part)
