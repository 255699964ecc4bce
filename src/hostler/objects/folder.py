"""How is a folder of this host a place for objects?

An object is a file under its name. It is written beside, synced, and renamed, and so are the folders on the way: a
crash leaves at most a file that no name refers to, which `list` removes when it is old.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from hostler.domain.clock import SystemClock
from hostler.engine.object_port import ObjectInfo, ObjectMissing, ObjectsUnavailable
from hostler.objects.names import checked

_P = ParamSpec("_P")
_T = TypeVar("_T")
_NEW = ".new-"
_LEFT_SECONDS = 6 * 3600.0
"""After that nobody writes a file any more that has no name yet."""


class FolderObjects:
    """Objects in `folder`, which nobody but this server's user reaches. Implements `Objects`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, data: bytes | Path) -> None:
        await asyncio.to_thread(_told(self._put), checked(name), data)

    async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return await asyncio.to_thread(_told(self._get), checked(name), start, length)

    async def delete(self, names: Iterable[str]) -> None:
        await asyncio.to_thread(_told(self._delete), [checked(name) for name in names])

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in await asyncio.to_thread(_told(self._list), prefix):
            yield info

    # -- in threads

    def _put(self, name: str, data: bytes | Path) -> None:
        target = self._folder / name
        if target.exists():
            return
        self._make_folder(target.parent)
        descriptor, new = tempfile.mkstemp(prefix=_NEW, dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, out, 1 << 20)
                else:
                    out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.rename(new, target)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """With all above it that are missing; each is durable before anything is put into it."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(each.parent)

    def _get(self, name: str, start: int, length: int | None) -> bytes:
        try:
            with (self._folder / name).open("rb") as content:
                content.seek(start)
                return content.read(-1 if length is None else length)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectMissing(name) from None

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        top = self._folder / prefix.rpartition("/")[0]
        old = SystemClock().now().timestamp() - _LEFT_SECONDS
        found = []
        for folder, _, files in os.walk(top):
            for file in files:
                path = Path(folder) / file
                name = path.relative_to(self._folder).as_posix()
                try:
                    seen = path.lstat()
                except FileNotFoundError:
                    continue
                if file.startswith(_NEW):
                    if seen.st_mtime < old:
                        path.unlink(missing_ok=True)
                elif stat.S_ISREG(seen.st_mode) and name.startswith(prefix):
                    found.append(ObjectInfo(name, seen.st_size, seen.st_mtime))
        return found


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same, with what the disk says against it in the words of the port."""

    def told(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            do = "make room on its file system" if full else "check the folder and who may write there"
            raise ObjectsUnavailable(f"objects.url: {error.strerror or error} ({error.filename}): {do}") from error

    return told
