"""Where are the bytes of files when several hosts serve the same sessions? In the object store.

What comes is kept there before anybody hears of it. Each host's own folder is a cache of it: what is asked for and is
not here is fetched, and what was not asked for for longest goes when there is too much. A row says under which name the
object store has a blob. Names are used once, so a sweep that removes an object can't meet somebody who puts the same
bytes there again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from hostler.domain.errors import Busy, StoreDamaged
from hostler.domain.ids import new_id
from hostler.engine.object_port import ObjectInfo, ObjectMissing, Objects, ObjectsUnavailable
from hostler.store import blob_objects as rows
from hostler.store.blobs import Blob, Blobs, opened_in_thread
from hostler.store.database import Database

log = logging.getLogger("hostler.shared_blobs")

PREFIX: Final = "blobs/"
_AT_ONCE: Final = 4 << 20
"""Bytes fetched at once."""
_BATCH: Final = 500
_LEFT_SECONDS: Final = 6 * 3600.0
"""An object that no row names, and that is older than this, was left by a crash."""


class SharedBlobs(Blobs):
    """Blobs in an object store, with `folder` as this host's cache. Use from one event loop."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        objects: Objects,
        *,
        cache_bytes: int,
        young_seconds: float = Blobs.YOUNG_SECONDS,
    ) -> None:
        super().__init__(folder, young_seconds=young_seconds)
        self._database = database
        self._objects = objects
        self._cache_bytes = cache_bytes
        self._come = 0
        """Bytes that came into the cache since it was last made smaller."""
        self._fetching: dict[str, tuple[asyncio.Lock, int]] = {}

    async def put(self, chunks: AsyncIterator[bytes], *, most: int) -> Blob:
        """Raises Busy, too, when the object store can't be reached."""
        blob = await super().put(chunks, most=most)
        await self._share(blob)
        await self._came(blob.size)
        return blob

    async def _share(self, blob: Blob) -> None:
        """Puts what is here into the object store, unless it is there."""
        if not await self._database.write(lambda c: rows.renew(c, self._database.now(c), blob.sha256)):
            name = f"{PREFIX}{blob.sha256[:2]}/{blob.sha256}-{new_id('blob')}"
            with _reaching():
                await self._objects.put(name, self.path(blob.sha256))
            if not await self._database.write(lambda c: rows.note(c, self._database.now(c), blob.sha256, name)):
                with suppress(ObjectsUnavailable):  # a later sweep finds it
                    await self._objects.delete([name])

    async def here(self, blob: Blob) -> None:
        path = self.path(blob.sha256)
        if await asyncio.to_thread(_touched, path, blob.size):
            return
        lock, users = self._fetching.get(blob.sha256, (asyncio.Lock(), 0))
        self._fetching[blob.sha256] = (lock, users + 1)
        try:
            async with lock:
                if not await asyncio.to_thread(_touched, path, blob.size):
                    await self._fetch(blob)
        finally:
            lock, users = self._fetching.pop(blob.sha256)
            if users > 1:
                self._fetching[blob.sha256] = (lock, users - 1)

    async def read(self, blob: Blob) -> AsyncGenerator[bytes, None]:
        await self.here(blob)
        async for piece in super().read(blob):
            yield piece

    async def sweep(self, used: Callable[[Sequence[str]], Awaitable[Collection[str]]]) -> int:
        """Of the object store as well. How many went there."""
        await super().sweep(used)
        try:
            await self._share_all()
            removed = await self._sweep_known(used)
            await self._sweep_nameless()
        except ObjectsUnavailable as error:
            log.warning("blobs_not_swept", extra={"reason": str(error)})
            removed = 0
        await self._trim()
        return removed

    # -- inside

    async def _fetch(self, blob: Blob) -> None:
        name = await self._database.read(lambda c: rows.name_of(c, blob.sha256))
        if name is None:
            raise _missing(blob)
        new = await opened_in_thread(self._begin)
        try:
            with new as out:
                await self._copy(name, blob, out)
                await asyncio.to_thread(self._finish, out, blob)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
        await self._came(blob.size)

    async def _copy(self, name: str, blob: Blob, out: IO[bytes]) -> None:
        digest, at = hashlib.sha256(), 0
        while at < blob.size:
            try:
                with _reaching():
                    piece = await self._objects.get(name, at, min(_AT_ONCE, blob.size - at))
            except ObjectMissing:
                raise _missing(blob) from None
            if not piece:
                break
            at += len(piece)
            await asyncio.to_thread(digest.update, piece)
            await asyncio.to_thread(out.write, piece)
        if digest.hexdigest() != blob.sha256:
            raise _missing(blob)

    async def _came(self, size: int) -> None:
        self._come += size
        if self._come > self._cache_bytes // 8:
            self._come = 0
            await self._trim()

    async def _trim(self) -> None:
        """Removes what was not asked for for longest, until the rest fits. Only what the object store has."""
        found = await asyncio.to_thread(self._by_use)
        surplus = sum(size for _, size, _ in found) - self._cache_bytes
        for _, size, sha256 in found:
            if surplus <= 0:
                return
            if await self._database.read(lambda c, sha256=sha256: rows.name_of(c, sha256)) is not None:  # type: ignore[misc]
                await asyncio.to_thread(self.path(sha256).unlink, missing_ok=True)
                surplus -= size

    def _by_use(self) -> list[tuple[float, int, str]]:
        found = []
        for folder in self._folders():
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        seen = entry.stat()
                        found.append((seen.st_mtime, seen.st_size, entry.name))
        return sorted(found)

    async def _share_all(self) -> None:
        """What this host took when it was alone, or while the object store was away."""
        for _, size, sha256 in await asyncio.to_thread(self._by_use):
            if await self._database.read(lambda c, sha256=sha256: rows.name_of(c, sha256)) is None:  # type: ignore[misc]
                with suppress(FileNotFoundError):
                    await self._share(Blob(sha256, size))

    async def _sweep_known(self, used: Callable[[Sequence[str]], Awaitable[Collection[str]]]) -> int:
        removed, after = 0, ""
        before = await self._database.read(self._database.now) - self._young
        while asked := await self._database.read(lambda c: rows.oldest(c, before, after, _BATCH)):  # noqa: B023
            after = asked[-1]
            unused = set(asked) - set(await used(asked))
            gone = await self._database.write(lambda c: rows.drop(c, before, unused))  # noqa: B023
            await self._objects.delete(gone)
            removed += len(gone)
        return removed

    async def _sweep_nameless(self) -> None:
        before = await self._database.read(self._database.now) - _LEFT_SECONDS
        batch: list[ObjectInfo] = []

        async def look() -> None:
            names = [info.name for info in batch]
            known = await self._database.read(lambda c: rows.known(c, names))
            await self._objects.delete([name for name in names if name not in known])
            batch.clear()

        async for info in self._objects.list(PREFIX):
            if info.modified_at < before:
                batch.append(info)
            if len(batch) == _BATCH:
                await look()
        if batch:
            await look()


@contextmanager
def _reaching() -> Iterator[None]:
    """What the object store says against it, as the API says it: try again later."""
    try:
        yield
    except ObjectsUnavailable as error:
        raise Busy(f"the object store can't be reached now: {error}") from error


def _touched(path: Path, size: int) -> bool:
    """Whether it is here, as large as it has to be; it is used now."""
    try:
        os.utime(path)
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _missing(blob: Blob) -> StoreDamaged:
    return StoreDamaged(
        f"blob {blob.sha256} is missing or damaged in the object store; restore it from a backup. A host that took it "
        "before objects.url was set puts it there when it starts"
    )
