"""Snapshots as one tar archive each, in a folder. Implements `Snapshots` as far as homes that move need it."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import Sequence
from pathlib import Path

from hostler.domain.clock import SystemClock, rfc3339
from hostler.domain.ids import new_id
from hostler.engine.homes import remove_tree
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.snapshot_port import PARTS, Change, Reason, Restored, Snapshot
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease


class TarSnapshots:
    """For one process, however many servers are in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kept: dict[str, list[Snapshot]] = {}
        self.damaged: set[str] = set()
        self.away = False
        """True: the place can't be reached."""

    def _file(self, id_: str) -> Path:
        return self._folder / f"{id_}.tar"

    async def take(self, session: SessionRow, home: Path, reason: Reason, lease: Lease | None = None) -> Snapshot:
        if self.away:
            raise ObjectsUnavailable("the object store is away")
        kept = self.kept.setdefault(session.id, [])
        made = Snapshot(
            new_id("snap"),
            session.id,
            len(kept) + 1,
            kept[-1].id if kept else None,
            reason,
            rfc3339(SystemClock().now()),
            0,
            0,
            0,
        )

        def write() -> None:
            self._folder.mkdir(exist_ok=True, parents=True)
            with tarfile.open(self._file(made.id), "w") as tar:
                for part in PARTS:
                    if (home / part).is_dir():
                        tar.add(home / part, part)

        await asyncio.to_thread(write)
        kept.append(made)
        return made

    async def latest(self, session_id: str) -> Snapshot | None:
        kept = self.kept.get(session_id)
        return kept[-1] if kept else None

    async def restore(self, session_id: str, home: Path, snapshot_id: str | None = None) -> Restored:
        for part in PARTS:
            await asyncio.to_thread(remove_tree, home / part)
        damaged = []
        for snapshot in reversed(self.kept.get(session_id, ())):
            if snapshot.id in self.damaged:
                damaged.append(snapshot.id)
                continue
            with tarfile.open(self._file(snapshot.id)) as tar:
                tar.extractall(home, filter="tar")
            return Restored(snapshot, tuple(damaged))
        return Restored(None, tuple(damaged))

    async def changes(self, before_id: str, after_id: str) -> Sequence[Change]:
        return ()

    async def share(self, snapshot_id: str, session: SessionRow) -> Snapshot:
        raise AssertionError("nobody forks here")
