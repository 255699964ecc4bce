"""Which copy of a room's common folder counts, and how is it kept? As `engine.copies`, under a room's lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostler.domain.ids import new_id
from hostler.domain.rooms import COMMON
from hostler.engine.home_notes import HomeNotes, Note
from hostler.engine.homes import remove_tree
from hostler.engine.runs import Notice
from hostler.engine.snapshot_port import PARTS, Reason, Snapshots
from hostler.store import rooms as rows
from hostler.store.database import Database
from hostler.store.rooms import RoomLease, RoomRow


@dataclass(frozen=True, slots=True)
class RoomFiles:
    """The common folders of rooms, as one worker sees them. `home`: the room's, entered."""

    _database: Database
    _snapshots: Snapshots
    _notes: HomeNotes
    _flush: Callable[[Path], bool]
    """`Volumes.flush`."""

    async def settle(self, row: RoomRow, lease: RoomLease, home: Path) -> list[Notice]:
        """As `Copies.settle` does for a session: the folders of this host count, or the latest snapshot does."""
        latest = await self._snapshots.latest(row.id)
        as_of = None if latest is None else latest.id
        note = await asyncio.to_thread(self._notes.read, row.id, home)
        notices: list[Notice] = []
        if note is not None and note.copy_name == row.copy and note.as_of == as_of:
            note = note.but(as_of=as_of, dirty=True)
        else:
            await asyncio.to_thread(self._notes.remove, row.id)
            await asyncio.to_thread(self._notes.unmark, home)
            if row.copy and row.dirty:
                at = "empty" if latest is None else f"as it was at {latest.taken_at}"
                notices.append(
                    Notice(
                        "room_files_lost",
                        f"The worker that had this session's room was cut off before it could keep the common folder: "
                        f"{COMMON} is {at}. What was changed there later is gone.",
                        {"room_id": row.id, "worker": row.worker, "snapshot_id": as_of},
                    )
                )
            if latest is None:
                for part in PARTS:
                    await asyncio.to_thread(remove_tree, home / part)
            else:
                restored = await self._snapshots.restore(row.id, home)
                if restored.damaged:
                    found = restored.snapshot
                    at = "empty" if found is None else f"as it was at {found.taken_at}"
                    notices.append(
                        Notice(
                            "snapshots_damaged",
                            f"What was kept of the common folder of this session's room can't be read any more: "
                            f"{COMMON} is {at}. What was changed there later is gone.",
                            {"room_id": row.id, "damaged": list(restored.damaged)},
                        )
                    )
            written = await asyncio.to_thread(self._flush, home)
            unwritten = None if written else self._notes.boot
            note = Note(copy_name=new_id("copy"), as_of=as_of, dirty=True, unwritten=unwritten)
            await asyncio.to_thread(self._notes.mark, home, note.copy_name)
        await asyncio.to_thread(self._notes.write, row.id, note)
        copy = note.copy_name
        await self._database.write(lambda c: rows.set_copy(c, self._database.now(c), lease, dirty=True, copy=copy))
        return notices

    async def used(self, row: RoomRow, lease: RoomLease) -> None:
        """What is kept need not be all any more. Raises LeaseLost."""
        note = await asyncio.to_thread(self._notes.glance, row.id)
        if note is not None:
            await asyncio.to_thread(self._notes.write, row.id, note.but(as_of=note.as_of, dirty=True))
        await self._database.write(lambda c: rows.set_copy(c, self._database.now(c), lease, dirty=True))

    async def keep(self, row: RoomRow, lease: RoomLease, home: Path, reason: Reason, *, last: bool) -> None:
        """Takes a snapshot, while nothing in the room runs. `last`: nothing will, before somebody enters it again.

        Raises LeaseLost, SnapshotTooLarge, ObjectsUnavailable.
        """
        snapshot = await self._snapshots.take(row, home, reason, lease)
        note = await asyncio.to_thread(self._notes.glance, row.id)
        if note is not None:
            await asyncio.to_thread(self._notes.write, row.id, note.but(as_of=snapshot.id, dirty=not last))
        if last:
            await self._database.write(lambda c: rows.set_copy(c, self._database.now(c), lease, dirty=False))
