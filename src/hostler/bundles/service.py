"""The port `Bundles`: a few exports and imports at a time, because each takes room on the disk of this host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Final, Self

from hostler.bundles.exporting import Exporter
from hostler.bundles.importing import Importer
from hostler.domain.errors import Busy
from hostler.engine.bundle_port import ExportOptions, ImportOptions, OpenBundle
from hostler.engine.threads import in_thread

AT_ONCE: Final = 2
"""Exports, and imports, that are under way at the same time."""
OPEN: Final = 16
"""Bundles that are being sent at the same time. Slow readers keep nobody from exporting before there are so many."""
_PIECE: Final = 256 << 10


class StoredBundles:
    """Implements `Bundles`."""

    def __init__(self, exporter: Exporter, importer: Importer) -> None:
        self._exporter = exporter
        self._importer = importer
        self._exporting = self._importing = 0
        self._sending: set[_Sent] = set()

    @property
    def most_bytes(self) -> int:
        return self._importer.limits.content_bytes

    async def export(self, workspace: str, session_id: str, options: ExportOptions) -> OpenBundle:
        if self._exporting >= AT_ONCE or len(self._sending) >= OPEN:
            raise _busy("exports")
        self._exporting += 1
        try:
            made = await self._exporter.export(workspace, session_id, options)
        finally:
            self._exporting -= 1
        return OpenBundle(session_id, made.digest, made.size, _Sent(made.file, self._sending))

    async def take_in(self, workspace: str, chunks: AsyncIterator[bytes], options: ImportOptions) -> dict[str, Any]:
        with self._importing_one():
            return await self._importer.take_in(workspace, chunks, options)

    @contextmanager
    def _importing_one(self) -> Iterator[None]:
        if self._importing >= AT_ONCE:
            raise _busy("imports")
        self._importing += 1
        try:
            yield
        finally:
            self._importing -= 1


class _Sent:
    """The bytes of a bundle, in pieces. Close it, begun or not."""

    def __init__(self, file: BinaryIO, among: set[_Sent]) -> None:
        self._file = file
        self._among = among
        among.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await in_thread(partial(self._file.read, _PIECE))
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._file.close()
        self._among.discard(self)


def _busy(what: str) -> Busy:
    return Busy(f"{AT_ONCE} {what} are under way on this server: try again in a moment", retry_after_seconds=5.0)
