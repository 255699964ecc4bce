"""What becomes of the homes on this host that nobody is in?

They are a cache: what counts is kept in snapshots. Those that a crash has left unkept are kept as soon as nobody has
the session. When all of them together take too much room, or the host's disk gets full, the ones that were used least
recently go; never one with something that was not kept. What is of no session any more, or was overtaken by another
worker's copy, goes at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from hostler.domain.errors import Conflict, HostlerError, LeaseLost
from hostler.engine.attachments import Attachments
from hostler.engine.copies import Copies
from hostler.engine.home_notes import Note
from hostler.engine.homes import Homes
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.runner_parts import LeaseTerms
from hostler.engine.runs import Notice
from hostler.engine.snapshot_port import SnapshotTooLarge
from hostler.engine.volume_port import VolumeUnavailable
from hostler.store import homes as rows
from hostler.store import sessions as session_rows
from hostler.store import work
from hostler.store.database import Database
from hostler.store.signals import News, tell
from hostler.store.work import Lease

log = logging.getLogger("hostler.home_keeping")

_BATCH = 500


@dataclass(frozen=True, slots=True)
class CacheTerms:
    """How much the homes of sessions that nobody is in may take."""

    most_bytes: int = 20 << 30
    """Of the host's disk, all together."""
    free_share: float = 0.05
    """Of the host's disk that stays free."""
    look_seconds: float = 60.0
    """Pause between two looks."""


class HomeKeeper:
    """Looks after the homes of one host. `run` once, beside the worker."""

    def __init__(
        self,
        owner: str,
        database: Database,
        copies: Copies,
        homes: Homes,
        attachments: Attachments,
        wanted: Callable[[str], None],
        lease_terms: LeaseTerms,
        terms: CacheTerms | None = None,
    ) -> None:
        """`wanted` is told of a session that was held here for a moment and may want a worker by now."""
        self._owner = owner
        self._database = database
        self._copies = copies
        self._homes = homes
        self._attachments = attachments
        self._wanted = wanted
        self._lease_terms = lease_terms
        self._terms = terms or CacheTerms()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except (HostlerError, OSError):
                log.exception("homes_not_looked_after")
            await asyncio.sleep(self._terms.look_seconds)

    async def look(self) -> None:
        """Once, at everything."""
        notes = await asyncio.to_thread(self._notes)
        stray = [name for name in await asyncio.to_thread(self._homes.all) if name not in notes]
        for start in range(0, len(notes), _BATCH):
            await self._put_right(dict(list(notes.items())[start : start + _BATCH]))
        for start in range(0, len(stray), _BATCH):
            await self._clear_away(stray[start : start + _BATCH])
        await self._make_room()

    def _notes(self) -> dict[str, Note]:
        found = {name: self._copies.notes.glance(name) for name in self._copies.notes.sessions()}
        return {name: note for name, note in found.items() if note is not None}

    async def _put_right(self, notes: dict[str, Note]) -> None:
        """Removes what doesn't count, keeps what is not kept."""
        live, known = await self._database.read(
            lambda c: (session_rows.existing(c, notes), rows.get_homes(c, list(notes)))
        )
        for name, note in notes.items():
            if self._copies.in_use(name):
                continue
            row = known.get(name)
            if name not in live or (row is not None and row.copy != note.copy_name):
                await self._remove(name, note)
            elif note.dirty and row is not None:
                await self._keep(name)

    async def _clear_away(self, names: list[str]) -> None:
        """Homes without a note: of sessions that are gone, or half removed. Those of a time before notes stay."""
        live, known = await self._database.read(lambda c: (session_rows.existing(c, names), rows.get_homes(c, names)))
        for name in names:
            if name not in live or name in known:
                await self._remove(name, None)

    async def _remove(self, name: str, note: Note | None) -> None:
        """Unless somebody has begun to use it."""
        if self._copies.in_use(name):
            return
        async with self._copies.staying(name):
            if await asyncio.to_thread(self._copies.notes.glance, name) != note:
                return
            await asyncio.to_thread(self._copies.notes.remove, name)
            try:
                await self._copies.forget(name)
            except OSError:
                log.exception("files_not_removed", extra={"session": name})

    # -- what was not kept

    async def _keep(self, name: str) -> None:
        """Takes the snapshot that a crash, or an outage of the object store, has kept from being taken."""
        try:
            async with self._held(name) as lease:
                if lease is None:
                    return
                session = await self._database.read(lambda c: session_rows.get_session(c, None, name))
                if session.status not in ("idle", "terminated"):
                    return
                async with self._copies.staying(name), self._homes.entered(name) as stay:
                    settled = await self._copies.settle(session, lease, stay.home, _not_here)
                    if not settled.unkept:
                        await self._copies.rest(name)
                        return
                    stay.looked_through = await self._attachments.collect(session, stay.home, left=True)
                    await self._copies.keep(session, lease, stay.home, "hibernation", last=True)
        except* (HostlerError, OSError, VolumeUnavailable, ObjectsUnavailable, SnapshotTooLarge) as failed:
            log.warning("files_not_kept", extra={"session": name, "reason": str(failed.exceptions[0])})

    @asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[Lease | None]:
        """The lease of a session that nobody serves, extended inside the block. None: somebody does."""
        database, seconds = self._database, self._lease_terms.seconds

        def claim(connection: Connection) -> work.Claimed | None:
            return work.claim_free(connection, database.now(connection), self._owner, name, ttl=seconds)

        claimed = await database.write(claim)
        if claimed is None:
            yield None
            return
        lease = claimed.lease

        async def extend() -> None:
            while True:
                await asyncio.sleep(seconds / 3)
                if not await database.write(lambda c: work.extend(c, database.now(c), lease, ttl=seconds)):
                    raise LeaseLost(f"epoch {lease.epoch} of {name} could not be extended")

        def release(connection: Connection) -> None:
            if work.release(connection, lease):
                tell(connection, News("session", name, wanted=True))

        try:
            async with asyncio.TaskGroup() as tasks:
                extending = tasks.create_task(extend())
                try:
                    yield lease
                finally:
                    extending.cancel()
        finally:
            await database.write(release)
            self._wanted(name)

    # -- room

    async def _make_room(self) -> None:
        sizes = await asyncio.to_thread(self._sizes)
        total = sum(size for _, size in sizes)
        for name, size in sizes:
            if total <= self._terms.most_bytes and not await asyncio.to_thread(self._disk_is_full):
                return
            note = await asyncio.to_thread(self._copies.notes.glance, name)
            if note is None or note.dirty or self._copies.in_use(name):
                continue
            await self._remove(name, note)
            log.info("home_removed", extra={"session": name, "bytes": size})
            total -= size

    def _sizes(self) -> list[tuple[str, int]]:
        """Homes with a note and what each takes, the least recently used first."""
        volumes = self._homes.volumes
        return [(name, volumes.taken(self._homes.of(name))) for name in self._copies.notes.sessions()]

    def _disk_is_full(self) -> bool:
        found = os.statvfs(self._homes.kept)
        return found.f_bavail < found.f_blocks * self._terms.free_share


def _not_here(_: Connection, told: Sequence[Notice]) -> None:
    """Something was lost: the worker that goes on with the session finds that out again, and says so there."""
    raise Conflict(told[0].message)
