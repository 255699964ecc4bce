"""Where are the bytes of files? In one folder, each under the SHA-256 of what it holds, written once.

Rows of the database refer to blobs by digest. The same bytes are kept once, whoever uploaded them; a blob to which no
row refers any more is removed by `sweep`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from hostler.domain.clock import SystemClock
from hostler.domain.errors import TooLarge


@dataclass(frozen=True, slots=True)
class Blob:
    sha256: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""


class Blobs:
    """Blobs in `folder`, which is private to this server. Use from one event loop."""

    YOUNG_SECONDS = 3600.0
    """A blob this young is never swept: the row that refers to it may not be committed yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, chunks: AsyncIterator[bytes], *, most: int) -> Blob:
        """Keep what `chunks` holds. Raises TooLarge past `most` bytes; then nothing is kept."""
        file = await asyncio.to_thread(self._begin)
        try:
            with os.fdopen(file[0], "wb") as out:
                digest, size = hashlib.sha256(), 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > most:
                        raise TooLarge(f"the file is larger than {most} bytes")
                    digest.update(chunk)
                    await asyncio.to_thread(out.write, chunk)
                blob = Blob(digest.hexdigest(), size)
                await asyncio.to_thread(self._finish, out.fileno(), out.flush, file[1], blob)
        except BaseException:
            Path(file[1]).unlink(missing_ok=True)
            raise
        return blob

    async def put_bytes(self, content: bytes) -> Blob:
        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await self.put(whole(), most=len(content))

    async def put_file(self, source: Path, *, most: int) -> Blob:
        """Keep a copy of a regular file of the host. Follows no link. Raises OSError, TooLarge."""
        descriptor = await asyncio.to_thread(os.open, source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as content:

            async def pieces() -> AsyncIterator[bytes]:
                while piece := await asyncio.to_thread(content.read, 1 << 20):
                    yield piece

            return await self.put(pieces(), most=most)

    def path(self, sha256: str) -> Path:
        """The file that holds a blob: readable by this server only. Never write to it."""
        return self._folder / sha256[:2] / sha256

    async def sweep(self, used: Callable[[Collection[str]], Collection[str]]) -> int:
        """Remove old blobs that `used` doesn't give back of those it is asked about. How many went."""
        return await asyncio.to_thread(self._sweep, used)

    def _begin(self) -> tuple[int, str]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.mkstemp(prefix=".new-", dir=self._folder)

    def _finish(self, descriptor: int, flush: Callable[[], None], name: str, blob: Blob) -> None:
        flush()
        os.fsync(descriptor)
        target = self.path(blob.sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        os.replace(name, target)  # also when it is there already: its age begins anew

    def _sweep(self, used: Callable[[Collection[str]], Collection[str]]) -> int:
        old, removed = SystemClock().now().timestamp() - self.YOUNG_SECONDS, 0
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            found = [blob.name for blob in folder.iterdir() if blob.stat().st_mtime < old]
            for name in set(found) - set(used(found)) if found else ():
                (folder / name).unlink(missing_ok=True)
                removed += 1
        for left in self._folder.glob(".new-*"):
            if left.stat().st_mtime < old:
                left.unlink(missing_ok=True)
        return removed
