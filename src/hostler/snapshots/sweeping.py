"""Which objects does no snapshot use any more?

First rows, then objects: an object whose row is gone is removed, now or by a later sweep; a row whose object is gone
would be a lie. Several servers may sweep, and take snapshots, at the same time: what a snapshot is about to use is held
by the database, what was put a moment ago and has no row yet is too young, and a name that was removed never comes
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hostler.domain.errors import HostlerError
from hostler.engine.object_port import ObjectInfo, Objects, ObjectsUnavailable
from hostler.engine.snapshot_port import Swept
from hostler.snapshots.remembered import Memories
from hostler.snapshots.segments import object_name, objects_of
from hostler.store import snapshots as rows
from hostler.store.database import Database

log = logging.getLogger("hostler.snapshots")

_BATCH: Final = 500


class SnapshotSweep:
    """Removes what nobody uses. Any server may, and several at once."""

    YOUNG_SECONDS = 6 * 3600.0
    """An object this young stays: its snapshot may not be recorded yet. Much more than `service.PUT_SECONDS`, because
    the clock of a bucket need not be the database's."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        memories: Path | None = None,
        *,
        young_seconds: float = YOUNG_SECONDS,
    ) -> None:
        """`memories`: the folder of `StoredSnapshots`, whose left-overs go too."""
        self._database = database
        self._objects = objects
        self._memories = None if memories is None else Memories(memories)
        self._young = young_seconds

    async def sweep(self, *, dry_run: bool = False) -> Swept:
        """Everything that is old enough; `dry_run`: only says what. Raises ObjectsUnavailable."""
        if not dry_run:
            await self._forget_gone()
        unused = await self._unused(dry_run=dry_run)
        nameless = await self._nameless(dry_run=dry_run)
        return Swept(unused[0] + nameless[0], unused[1] + nameless[1], nameless[0])

    async def _forget_gone(self) -> None:
        """What this host remembers of sessions that have no snapshots any more."""
        if self._memories is None:
            return
        every = await asyncio.to_thread(self._memories.sessions)
        there = await self._database.read(lambda c: rows.with_snapshots(c, every))
        for session_id in every:
            if session_id not in there:
                await asyncio.to_thread(self._memories.forget, session_id)

    async def _unused(self, *, dry_run: bool) -> tuple[int, int]:
        """Those with a row that no snapshot uses: how many, and their bytes."""
        if dry_run:
            return await self._database.read(lambda c: rows.unused_figures(c, self._database.now(c) - self._young))
        count = size = 0
        while True:
            gone = await self._database.write(
                lambda c: rows.drop_unused(c, self._database.now(c) - self._young, _BATCH)
            )
            if not gone:
                return count, size
            await self._objects.delete(object_name(workspace, each.kind, each.sha256) for workspace, each in gone)
            count, size = count + len(gone), size + sum(each.size_bytes for _, each in gone)

    async def _nameless(self, *, dry_run: bool) -> tuple[int, int]:
        """Those without a row: how many, and their bytes."""
        before = await self._database.read(self._database.now) - self._young
        count = size = 0
        batch: dict[str, list[ObjectInfo]] = {}
        async for info in self._objects.list(objects_of()):
            words = info.name.split("/")
            if info.modified_at >= before or len(words) != 5:
                continue
            some = batch.setdefault(words[1], [])
            some.append(info)
            if len(some) >= _BATCH:
                found = await self._remove_nameless(words[1], batch.pop(words[1]), dry_run=dry_run)
                count, size = count + found[0], size + found[1]
        for workspace_id, rest in batch.items():
            found = await self._remove_nameless(workspace_id, rest, dry_run=dry_run)
            count, size = count + found[0], size + found[1]
        return count, size

    async def _remove_nameless(
        self, workspace_id: str, found: Sequence[ObjectInfo], *, dry_run: bool
    ) -> tuple[int, int]:
        digests = {info.name.rpartition("/")[2]: info for info in found}
        named = await self._database.read(lambda c: rows.known_objects(c, workspace_id, digests))
        nameless = [info for digest, info in digests.items() if digest not in named]
        if nameless and not dry_run:
            await self._objects.delete(info.name for info in nameless)
        return len(nameless), sum(info.size for info in nameless)

    async def keep_swept(self, seconds: float = 3600.0) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                swept = await self.sweep()
                if swept.objects:
                    log.info("snapshot_objects_removed", extra={"count": swept.objects, "bytes": swept.object_bytes})
            except (HostlerError, ObjectsUnavailable, OSError):
                log.exception("snapshots_not_swept")
            await asyncio.sleep(seconds)
