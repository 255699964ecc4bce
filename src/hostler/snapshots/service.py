"""How are snapshots taken, found again and given back? The port `Snapshots`, over database and object store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, cast

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict, NotFound
from hostler.domain.ids import new_id
from hostler.engine.object_port import Objects, ObjectsUnavailable
from hostler.engine.snapshot_port import Change, Holder, Reason, Restored, Shown, Snapshot
from hostler.engine.threads import in_thread, together
from hostler.snapshots.differences import differences
from hostler.snapshots.limits import SnapshotLimits
from hostler.snapshots.making import Making
from hostler.snapshots.manifest import Manifest, encode
from hostler.snapshots.reading import Reading
from hostler.snapshots.remembered import Memories, Memory
from hostler.snapshots.restoring import Restoring
from hostler.snapshots.scan import Left, Scan
from hostler.snapshots.segments import ObjectDamaged, load_manifest, object_name
from hostler.snapshots.taking import Taken, Taking, as_rows, memory_of
from hostler.store import snapshots as rows
from hostler.store import work
from hostler.store.database import Database
from hostler.store.rooms import RoomLease, check_room
from hostler.store.sessions import SessionRow
from hostler.store.snapshots import NewSnapshot, ObjectsGone, PiecePlace, SnapshotRow, StoredObject
from hostler.store.work import Lease

log = logging.getLogger("hostler.snapshots")

_TRIES: Final = 3
_PASSING: Final = frozenset({"turn", "hibernation"})
"""Reasons of snapshots that nobody asks for by name: only the last few of them stay."""
PUT_SECONDS: Final = 3600.0
"""What was put longer ago than this isn't named by a row any more: a sweep may be about to remove it."""
Held = Callable[[Connection, Collection[str]], Collection[str]]
"""Those of the ids whose snapshots somebody needs, however many there are."""


@dataclass(frozen=True, slots=True)
class SnapshotTerms:
    limits: SnapshotLimits = field(default_factory=SnapshotLimits)
    keep_last: int = 3
    """How many of a session stay that were taken after turns. One is what the next falls back to."""


class StoredSnapshots:
    """Implements `Snapshots`, `SnapshotReading` and `SnapshotMakers`. Use from one event loop."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        memories: Path,
        terms: SnapshotTerms | None = None,
        *,
        linked_owner: int | None = None,
        held: Sequence[Held] = (),
    ) -> None:
        """`memories`: a folder of this host that no sandbox reaches. `linked_owner`: see `Restoring`.

        `held`: who is asked before a snapshot goes. Nobody: then only those go that were taken after turns.
        """
        self._database = database
        self._objects = objects
        self._memories = Memories(memories)
        self._terms = terms or SnapshotTerms()
        self._linked_owner = linked_owner
        self._held = held
        self._busy: dict[str, tuple[asyncio.Lock, int]] = {}

    # -- taking

    async def take(
        self, session: Holder, home: Path, reason: Reason, lease: Lease | RoomLease | None = None
    ) -> Snapshot:
        async with self._one_at_a_time(session.id):
            for last_try in (False, False, True):
                try:
                    return await self._take(session, home, reason, lease, trusting=not last_try)
                except (ObjectsGone, IntegrityError) as error:
                    # A sweep, or another snapshot of the same session, was quicker: look again.
                    if last_try:
                        raise Conflict(
                            f"the files of session {session.id} were kept by somebody else at the same time"
                        ) from error
        raise AssertionError("the loop returns or raises")

    async def _take(
        self, session: Holder, home: Path, reason: Reason, lease: Lease | RoomLease | None, *, trusting: bool
    ) -> Snapshot:
        scan = Scan(self._terms.limits)

        def look() -> Memory | None:
            scan.look(home)
            return self._memories.load(session.id) if trusting else None

        try:
            memory = await in_thread(look)
            state = await self._database.read(lambda c: _state(c, self._database.now(c), session, memory))
            taking = Taking(self._database, self._objects, session.workspace_id, scan, memory, state.sound)
            taken = await taking.read()
        finally:
            if scan.loosened:
                await in_thread(scan.tighten)
            scan.close()
        _log_left(session.id, scan.left)
        if state.latest is not None and state.latest.content == taken.content and state.latest_is_sound:
            snapshot = await self._same_again(state.latest, reason)
        else:
            snapshot = await self._record(session, taken, state, reason, lease)
        await self._remember(session.id, lambda: memory_of(snapshot.id, taken))
        return snapshot

    async def _same_again(self, latest: SnapshotRow, reason: Reason) -> Snapshot:
        """The latest, which stays for as long as the new reason asks."""
        if latest.reason in _PASSING and reason not in _PASSING:
            await self._database.write(lambda c: rows.change_reason(c, latest.id, reason))
            latest = await self._database.read(lambda c: rows.get_snapshot(c, latest.id))
        return view(latest)

    async def _record(
        self,
        session: Holder,
        taken: Taken,
        state: _State,
        reason: Reason,
        lease: Lease | RoomLease | None,
    ) -> Snapshot:
        snapshot_id, workspace = new_id("snap"), session.workspace_id
        data, used, size = await in_thread(lambda: _written_down(snapshot_id, taken))
        manifest = hashlib.sha256(data).hexdigest()
        began = await self._database.read(self._database.now) if taken.kept_bytes else state.now
        stored, pieces = [StoredObject(manifest, "manifest", len(data))], list[PiecePlace]()
        async with together() as tasks:
            tasks.create_task(self._objects.put(object_name(workspace, "manifest", manifest), data))
            if taken.last is not None:
                pack, pieces = as_rows(taken.last)
                stored.append(pack)
                tasks.create_task(self._objects.put(object_name(workspace, "pack", pack.sha256), taken.last.data))
        new = NewSnapshot(
            id=snapshot_id,
            workspace_id=workspace,
            session_id=session.id,
            parent_id=state.parent_id,
            reason=reason,
            entries=len(taken.entries),
            logical_bytes=size,
            stored_bytes=taken.kept_bytes + sum(each.size_bytes for each in stored),
            manifest=manifest,
            content=taken.content,
        )

        def unit(connection: Connection) -> SnapshotRow:
            now = self._database.now(connection)
            if isinstance(lease, RoomLease):
                check_room(connection, now, lease)
            elif lease is not None:
                work.check(connection, now, lease)
            if now - began > PUT_SECONDS:
                raise ObjectsGone
            rows.keep_objects(connection, now, workspace, stored, pieces)
            row = rows.create_snapshot(connection, now, new, {manifest, *used})
            self._trim(connection, session.id, ())
            return row

        return view(await self._database.write(unit))

    async def _remember(self, session_id: str, memory: Callable[[], Memory]) -> None:
        try:
            await in_thread(lambda: self._memories.keep(session_id, memory()))
        except OSError as error:  # the next one reads everything, that is all
            log.warning("snapshot_not_remembered", extra={"session": session_id, "error": str(error)})

    # -- giving back

    async def latest_id(self, session_id: str) -> str | None:
        found = await self.latest(session_id)
        return None if found is None else found.id

    async def latest(self, session_id: str) -> Snapshot | None:
        row = await self._database.read(lambda c: rows.latest_snapshot(c, session_id))
        return None if row is None else view(row)

    async def restore(
        self, session_id: str, home: Path, snapshot_id: str | None = None, shown: Shown | None = None
    ) -> Restored:
        async with self._one_at_a_time(session_id):
            for last_try in (False, False, True):
                candidates = await self._candidates(session_id, snapshot_id)
                try:
                    return await self._restore(session_id, home, candidates, shown, named=snapshot_id is not None)
                except _Gone:
                    if last_try:
                        raise ObjectsUnavailable(
                            f"the snapshots of session {session_id} were removed while they were read; try again"
                        ) from None
        raise AssertionError("the loop returns or raises")

    async def _candidates(self, session_id: str, snapshot_id: str | None) -> list[SnapshotRow]:
        """The one that is wanted, and what it falls back to, one after the other. Raises NotFound."""

        def unit(connection: Connection) -> list[SnapshotRow]:
            if snapshot_id is not None:
                row = rows.get_snapshot(connection, snapshot_id)
                if row.session_id != session_id:
                    raise NotFound(f"snapshot {snapshot_id} does not exist in session {session_id}")
                return [row]
            every = rows.list_snapshots(connection, session_id)
            chain = every[:1]
            while chain and (parent := chain[-1].parent_id) is not None:
                before = rows.find_snapshot(connection, parent)
                if before is None or before in chain:
                    break
                chain.append(before)
            return chain + [row for row in every if row not in chain]

        return await self._database.read(unit)

    async def _restore(
        self, session_id: str, home: Path, candidates: Sequence[SnapshotRow], shown: Shown | None, *, named: bool
    ) -> Restored:
        damaged: list[str] = []
        for row in candidates:
            try:
                manifest = await load_manifest(self._objects, row)
                await self._restoring(row.workspace_id).fill(home, manifest, shown)
            except ObjectDamaged as error:
                await self._note_damage(row, error)
                if named:
                    raise
                damaged.append(row.id)
                continue
            await self._remember(session_id, partial(Memory, row.id, restored=True))
            return Restored(view(row), tuple(damaged))
        await self._restoring("").fill(home, None, shown)
        await in_thread(lambda: self._memories.forget(session_id))
        return Restored(None, tuple(damaged))

    def _restoring(self, workspace_id: str) -> Restoring:
        return Restoring(self._objects, workspace_id, self._linked_owner)

    async def _note_damage(self, row: SnapshotRow, error: ObjectDamaged) -> None:
        """Nothing new relies on what is damaged. Raises _Gone when it was merely removed, with its snapshot."""

        def unit(connection: Connection) -> bool:
            if rows.find_snapshot(connection, row.id) is None:
                return False
            rows.mark_damaged(connection, row.workspace_id, error.sha256)
            return True

        if not await self._database.write(unit):
            raise _Gone from error
        log.error("snapshot_damaged", extra={"session": row.session_id, "snapshot": row.id, "why": str(error)})

    # -- making them of something else

    def making(self, workspace_id: str) -> Making:
        """Implements `SnapshotMakers`."""
        return Making(self._database, self._objects, workspace_id, self._terms.limits)

    # -- looking into them

    async def changes(self, before_id: str, after_id: str) -> Sequence[Change]:
        before = await self._database.read(lambda c: rows.get_snapshot(c, before_id))
        after = await self._database.read(lambda c: rows.get_snapshot(c, after_id, workspace_id=before.workspace_id))
        manifests = [await self._readable(row) for row in (before, after)]
        return await in_thread(lambda: differences(manifests[0], manifests[1]))

    @asynccontextmanager
    async def opened(self, snapshot_id: str) -> AsyncIterator[Reading]:
        row = await self._database.read(lambda c: rows.get_snapshot(c, snapshot_id))
        manifest = await self._readable(row)
        yield await in_thread(lambda: Reading(self._objects, row.workspace_id, manifest))

    async def content(self, snapshot_id: str, path: str, most: int) -> bytes | None:
        """What a file says, its first `most` bytes; `path` as `changes` has it. None: there is no such file.

        Raises NotFound, SnapshotDamaged, ObjectsUnavailable.
        """
        async with self.opened(snapshot_id) as reading:
            return await reading.beginning(path, most)

    async def _readable(self, row: SnapshotRow) -> Manifest:
        """Raises NotFound, SnapshotDamaged."""
        try:
            return await load_manifest(self._objects, row)
        except ObjectDamaged as error:
            try:
                await self._note_damage(row, error)
            except _Gone:
                raise NotFound(f"snapshot {row.id} does not exist any more") from None
            raise

    # -- keeping and removing

    async def share(self, snapshot_id: str, session: SessionRow) -> Snapshot:
        made = await self._database.write(
            lambda c: self.share_in(c, self._database.now(c), snapshot_id, session, "fork")
        )
        return view(await self._database.read(lambda c: rows.get_snapshot(c, made)))

    def share_in(self, conn: Connection, now: float, snapshot_id: str, session: SessionRow, reason: str) -> str:
        """The same in a transaction of the caller's; gives the id."""
        row = rows.get_snapshot(conn, snapshot_id, workspace_id=session.workspace_id)
        new = NewSnapshot(
            id=new_id("snap"),
            workspace_id=row.workspace_id,
            session_id=session.id,
            parent_id=row.parent_id,
            reason=reason,
            entries=row.entries,
            logical_bytes=row.logical_bytes,
            stored_bytes=0,
            manifest=row.manifest,
            content=row.content,
        )
        objects = rows.used_objects(conn, row.id)
        if row.manifest not in objects:  # It was removed since it was read, and its objects may follow.
            raise NotFound(f"snapshot {row.id} does not exist any more")
        return rows.create_snapshot(conn, now, new, objects).id

    async def trim(self, session_id: str, keep_ids: Collection[str]) -> None:
        await self._database.write(lambda c: self._trim(c, session_id, keep_ids, every=True))

    def _trim(self, connection: Connection, session_id: str, keep_ids: Collection[str], *, every: bool = False) -> None:
        """`every`: whatever they were taken for."""
        old = rows.list_snapshots(connection, session_id)[self._terms.keep_last :]
        every = every or bool(self._held)
        surplus = {row.id: row for row in old if row.id not in keep_ids and (every or row.reason in _PASSING)}
        for holds in self._held if surplus else ():
            for needed in holds(connection, list(surplus)):
                surplus.pop(needed, None)
        rows.remove_snapshots(connection, list(surplus.values()))

    async def forget(self, session_id: str) -> None:
        await self._database.write(lambda c: rows.remove_snapshots(c, rows.list_snapshots(c, session_id)))
        await in_thread(lambda: self._memories.forget(session_id))

    @asynccontextmanager
    async def _one_at_a_time(self, session_id: str) -> AsyncIterator[None]:
        lock, users = self._busy.get(session_id, (asyncio.Lock(), 0))
        self._busy[session_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy.pop(session_id)
            if users > 1:
                self._busy[session_id] = (lock, users - 1)


class _Gone(Exception):
    """A snapshot was removed while it was read."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the database says before anything is read."""

    now: float
    latest: SnapshotRow | None
    latest_is_sound: bool
    parent_id: str | None
    """What the next one falls back to: the one that the folders were filled from, or the latest."""
    sound: set[str]
    """Packs that what is remembered may rely on."""


def _state(connection: Connection, now: float, session: Holder, memory: Memory | None) -> _State:
    latest, workspace = rows.latest_snapshot(connection, session.id), session.workspace_id
    parent = latest.id if latest is not None else None
    if memory is not None and memory.restored and rows.find_snapshot(connection, memory.snapshot_id) is not None:
        parent = memory.snapshot_id
    return _State(
        now,
        latest,
        latest is not None and not rows.has_damage(connection, latest.id),
        parent,
        rows.sound_objects(connection, workspace, memory.packs) if memory is not None else set(),
    )


def _written_down(snapshot_id: str, taken: Taken) -> tuple[bytes, set[str], int]:
    """The manifest, the packs that it needs, and the sizes of all files together."""
    data = encode(snapshot_id, taken.outline, taken.places, taken.packs)
    used = {taken.places[piece].pack for piece in taken.outline.pieces}
    return data, used, sum(entry.size for entry in taken.entries)


def view(row: SnapshotRow) -> Snapshot:
    return Snapshot(
        id=row.id,
        session_id=row.session_id,
        number=row.number,
        parent_id=row.parent_id,
        reason=cast(Reason, row.reason),
        taken_at=row.taken_at,
        entries=row.entries,
        logical_bytes=row.logical_bytes,
        stored_bytes=row.stored_bytes,
    )


def _log_left(session_id: str, left: Left) -> None:
    if left.reasons:
        log.warning(
            "snapshot_left_out", extra={"session": session_id, "reasons": left.reasons, "example": left.example}
        )
