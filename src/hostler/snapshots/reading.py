"""What is in a snapshot, for those who want to read it without a home?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final

from hostler.domain.errors import NotFound
from hostler.engine.object_port import Objects
from hostler.engine.snapshot_port import SnapshotEntry
from hostler.engine.threads import in_thread
from hostler.snapshots.differences import shown
from hostler.snapshots.limits import PIECE_BYTES
from hostler.snapshots.manifest import Manifest
from hostler.snapshots.segments import Segment, contents, fetch, object_name, segments

_KEPT_SEGMENTS: Final = 2
"""Unpacked, in memory, because the next file is mostly in the same one."""


class Reading:
    """Implements `OpenSnapshot`."""

    def __init__(self, objects: Objects, workspace_id: str, manifest: Manifest) -> None:
        self._objects = objects
        self._workspace_id = workspace_id
        self._manifest = manifest
        wanted = (span.piece for entry in manifest.entries for span in entry.spans)
        self._segments = {piece: one for one in segments(manifest, wanted) for piece, _ in one.pieces}
        self._unpacked: OrderedDict[tuple[str, int], dict[str, bytes]] = OrderedDict()

    @property
    def entries(self) -> Sequence[SnapshotEntry]:
        return [SnapshotEntry(e.path, e.kind, e.mode, e.mtime_ns, e.size, e.target) for e in self._manifest.entries]

    async def content(self, path: str) -> AsyncGenerator[bytes, None]:
        entry = self._manifest.by_path.get(path)
        if entry is not None and entry.kind == "hardlink":
            entry = self._manifest.by_path[entry.target or ""]
        if entry is None or entry.kind != "file":
            raise NotFound(f"there is no file {path!r} in this snapshot")
        end = 0
        for gap, length, piece in entry.spans:
            for zeros in _zeros(gap):
                yield zeros
            yield await self._piece(piece)
            end += gap + length
        for zeros in _zeros(entry.size - end):
            yield zeros

    async def beginning(self, path: str, most: int) -> bytes | None:
        """The first `most` bytes of a file; `path` as `shown` shows it. None: there is no such file."""
        for each in self._manifest.entries:
            if shown(each.path) == path and each.kind in ("file", "hardlink"):
                found = bytearray()
                async with aclosing(self.content(each.path)) as pieces:
                    async for piece in pieces:
                        found += piece[: most - len(found)]
                        if len(found) == most:
                            break
                return bytes(found)
        return None

    async def _piece(self, piece: str) -> bytes:
        segment = self._segments[piece]
        key = segment.pack, segment.start
        if key not in self._unpacked:
            self._unpacked[key] = await self._fetch(segment)
            while len(self._unpacked) > _KEPT_SEGMENTS:
                self._unpacked.popitem(last=False)
        return self._unpacked[key][piece]

    async def _fetch(self, segment: Segment) -> dict[str, bytes]:
        name = object_name(self._workspace_id, "pack", segment.pack)
        data = await fetch(self._objects, name, "pack", segment.pack, segment.start, segment.length)
        return await in_thread(lambda: dict(contents(segment, data)))


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, PIECE_BYTES))
        count -= PIECE_BYTES
