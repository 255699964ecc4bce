"""Where are the bytes of files? In one folder, each under the SHA-256 of what it holds, written once.

Rows of the database refer to blobs by digest. The same bytes are kept once, whoever uploaded them; a blob to which no
row refers any more is removed by `sweep`. A crash leaves at most a file that the next sweep removes: a blob is there
under its digest only when all of it is on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from hostler.domain.clock import SystemClock
from hostler.domain.errors import StoreDamaged, TooLarge

F = TypeVar("F", bound=IO[bytes])

PIECE = 256 << 10
"""Bytes read at once."""


@dataclass(frozen=True, slots=True)
class Blob:
    sha256: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""


async def opened_in_thread(opens: Callable[[], F]) -> F:
    """What `opens` gives, from a thread. Whoever is cancelled meanwhile leaves no file open."""
    opening = asyncio.get_running_loop().run_in_executor(None, opens)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opened: asyncio.Future[F]) -> None:
    if opened.exception() is None:
        opened.result().close()


class Blobs:
    """Blobs in `folder`, which is private to this server. Use from one event loop."""

    YOUNG_SECONDS = 3600.0
    """A blob this young is never swept: the row that refers to it may not be committed yet."""

    def __init__(self, folder: Path, *, young_seconds: float = YOUNG_SECONDS) -> None:
        self._folder = folder
        self._young = young_seconds
        self._naming = threading.Lock()
        """Held while a blob gets its name and while one loses it, so that a sweep never takes what has just come."""

    async def put(self, chunks: AsyncIterator[bytes], *, most: int) -> Blob:
        """Keep what `chunks` holds. Raises TooLarge past `most` bytes; then nothing is kept.

        The row that refers to it must be committed within `YOUNG_SECONDS`.
        """
        made = await opened_in_thread(self._begin)
        try:
            with made as out:
                digest, size = hashlib.sha256(), 0

                def take(chunk: bytes) -> None:
                    digest.update(chunk)
                    out.write(chunk)

                async for chunk in chunks:
                    size += len(chunk)
                    if size > most:
                        raise TooLarge(f"the file is larger than {most} bytes")
                    await asyncio.to_thread(take, chunk)
                blob = Blob(digest.hexdigest(), size)
                await asyncio.to_thread(self._finish, out, blob)
        except BaseException:
            # After the renaming there is nothing of this name any more.
            Path(made.name).unlink(missing_ok=True)
            raise
        return blob

    async def put_bytes(self, content: bytes) -> Blob:
        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await self.put(whole(), most=len(content))

    async def put_open(self, content: BinaryIO, *, most: int) -> Blob:
        """Keep what an open file still holds."""

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await asyncio.to_thread(content.read, 1 << 20):
                yield piece

        return await self.put(pieces(), most=most)

    async def here(self, blob: Blob) -> None:
        """After this the file of `path` is on this host, if the blob is anywhere. Raises StoreDamaged, Busy."""

    def path(self, sha256: str) -> Path:
        """The file that holds a blob; nobody but this server reaches it by this name. Never write to it.

        Everybody may read it through another name, such as a mount or a hard link; nobody but its owner may write.
        """
        return self._folder / sha256[:2] / sha256

    async def read(self, blob: Blob) -> AsyncGenerator[bytes, None]:
        """The bytes, in pieces. What was damaged on the disk is noticed before the last piece is given.

        Raises StoreDamaged.
        """
        content = await opened_in_thread(lambda: self._open(blob))
        with content:
            digest, size, last = hashlib.sha256(), 0, b""

            def take() -> bytes:
                piece = content.read(PIECE)
                digest.update(piece)
                return piece

            while piece := await asyncio.to_thread(take):
                size += len(piece)
                if last:
                    yield last
                last = piece
            if size != blob.size or digest.hexdigest() != blob.sha256:
                raise _damaged(blob)
            if last:
                yield last

    async def read_all(self, blob: Blob) -> bytes:
        return b"".join([piece async for piece in self.read(blob)])

    async def sweep(self, used: Callable[[Sequence[str]], Awaitable[Collection[str]]]) -> int:
        """Remove old blobs that `used` doesn't give back of those it is asked about. How many went."""
        removed = 0
        for folder in await asyncio.to_thread(self._folders):
            found = await asyncio.to_thread(self._old_ones, folder)
            if found:
                unused = sorted(set(found) - set(await used(found)))
                removed += await asyncio.to_thread(self._remove, folder, unused)
        await asyncio.to_thread(self._remove_left)
        return removed

    # -- in threads

    def _begin(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.NamedTemporaryFile(prefix=".new-", dir=self._folder, delete=False)

    def _finish(self, out: IO[bytes], blob: Blob) -> None:
        out.flush()
        os.fchmod(out.fileno(), 0o644)
        os.fsync(out.fileno())
        target = self.path(blob.sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        with self._naming:
            # Also when it is there already: its age begins anew, and what a disk has damaged is whole again.
            os.replace(out.name, target)
        for folder in (target.parent, self._folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _open(self, blob: Blob) -> BinaryIO:
        try:
            return self.path(blob.sha256).open("rb")
        except FileNotFoundError:
            raise _damaged(blob) from None

    def _folders(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9a-f][0-9a-f]"))

    def _old_ones(self, folder: Path) -> list[str]:
        return [blob.name for blob in folder.iterdir() if self._is_old(blob)]

    def _is_old(self, file: Path) -> bool:
        try:
            return file.stat().st_mtime < SystemClock().now().timestamp() - self._young
        except FileNotFoundError:
            return False

    def _remove(self, folder: Path, names: Sequence[str]) -> int:
        removed = 0
        for name in names:
            with self._naming:
                if self._is_old(folder / name):  # it may have come again while the database was asked
                    (folder / name).unlink()
                    removed += 1
        return removed

    def _remove_left(self) -> None:
        for left in self._folder.glob(".new-*"):
            if self._is_old(left):
                left.unlink(missing_ok=True)


def _damaged(blob: Blob) -> StoreDamaged:
    return StoreDamaged(f"blob {blob.sha256} is missing or damaged on the disk; restore it from a backup")
