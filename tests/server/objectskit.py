"""A place for objects that several servers share, and that can be away or give back something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from housekit import DEADLINE, House

from hostler.engine.object_port import ObjectInfo, ObjectsUnavailable
from hostler.objects.folder import FolderObjects
from hostler.store import snapshots as rows
from hostler.store.snapshots import SnapshotRow


class WaywardObjects:
    """Implements `Objects`. Does what it is told to do wrong."""

    def __init__(self, folder: Path) -> None:
        self._real = FolderObjects(folder)
        self.away = False
        """True: it can't be reached."""
        self.names: list[str] = []
        """What was put, in order."""
        self.damaged: set[str] = set()
        """What comes back with one bit turned."""
        self.read: list[str] = []
        """What was asked for, in order."""
        self.open = asyncio.Event()
        """Unset: nothing that is asked for comes before it is set."""
        self.open.set()
        self.asked = asyncio.Event()
        """Set when something was asked for."""

    def _reach(self) -> None:
        if self.away:
            raise ObjectsUnavailable("the object store is away")

    async def put(self, name: str, data: bytes | Path) -> None:
        self._reach()
        await self._real.put(name, data)
        self.names.append(name)

    async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self.asked.set()
        await self.open.wait()
        self._reach()
        self.read.append(name)
        found = await self._real.get(name, start, length)
        return bytes([found[0] ^ 1]) + found[1:] if name in self.damaged and found else found

    async def delete(self, names: Iterable[str]) -> None:
        self._reach()
        await self._real.delete(names)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self._reach()
        async for info in self._real.list(prefix):
            yield info


async def snapshots_of(house: House, session: str) -> list[SnapshotRow]:
    """The newest first."""
    assert house.hostler is not None
    return await house.hostler.database.read(lambda c: rows.list_snapshots(c, session))


async def until_kept(house: House, session: str, times: int = 1) -> None:
    async with asyncio.timeout(DEADLINE):
        while len(await snapshots_of(house, session)) < times:  # noqa: ASYNC110 - nothing announces a snapshot
            await asyncio.sleep(0.01)
