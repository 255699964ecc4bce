"""How does a snapshot come about whose files were never in a home here? Out of names and contents, as they come.

Nothing is laid out on a disk: contents are cut into pieces at once, and what the workspace lacks of them goes into
packs. Long runs of zeros become holes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy import Connection

from hostler.domain.errors import Conflict
from hostler.domain.ids import new_id
from hostler.engine.object_port import Objects
from hostler.engine.snapshot_port import Reason, SnapshotDamaged, SnapshotEntry, SnapshotTooLarge
from hostler.engine.threads import in_thread
from hostler.snapshots.limits import PACK_BYTES, PIECE_BYTES, SnapshotLimits
from hostler.snapshots.manifest import Entry, ManifestWrong, Outline, Place, Span, decode, encode, kept_mode
from hostler.snapshots.packs import FinishedPack, Pack, Piece
from hostler.snapshots.segments import object_name
from hostler.snapshots.taking import as_rows
from hostler.store import snapshots as rows
from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.store.snapshots import NewSnapshot, ObjectsGone, StoredObject

_BATCH_BYTES: Final = PACK_BYTES // 2
"""Of content that waits to be looked up together."""


class Making:
    """Implements `SnapshotMaking`."""

    def __init__(self, database: Database, objects: Objects, workspace_id: str, limits: SnapshotLimits) -> None:
        self._database = database
        self._objects = objects
        self._workspace_id = workspace_id
        self._limits = limits
        self._id = new_id("snap")
        self._entries: list[Entry] = []
        self._places: dict[str, Place] = {}
        self._packs: dict[str, int] = {}
        self._pack = Pack()
        self._waiting: dict[str, bytes] = {}
        self._waiting_bytes = self._content_bytes = self._pieces = self._kept_bytes = 0
        self._new: NewSnapshot | None = None
        self._used: set[str] = set()

    async def add(self, entry: SnapshotEntry, content: AsyncIterator[bytes]) -> None:
        if len(self._entries) >= self._limits.entries:
            raise SnapshotTooLarge(f"there are more than {self._limits.entries} files, folders and links")
        path = os.fsencode(entry.path)
        if path.count(b"/") > self._limits.depth or len(path) > self._limits.path_bytes:
            raise SnapshotTooLarge(f"the path {entry.path[:100]!r}… is longer or deeper than what is kept here")
        spans = await self._cut(content) if entry.kind == "file" else ()
        size = entry.size if entry.kind == "file" else 0
        mode = kept_mode(entry.mode)
        self._entries.append(Entry(entry.path, entry.kind, mode, entry.mtime_ns, size, spans, entry.target))

    async def _cut(self, content: AsyncIterator[bytes]) -> tuple[Span, ...]:
        spans: list[Span] = []
        gap = 0
        held = bytearray()
        async for part in content:
            held += part
            while len(held) >= PIECE_BYTES:
                gap = await self._piece(bytes(held[:PIECE_BYTES]), gap, spans)
                del held[:PIECE_BYTES]
        if held:
            await self._piece(bytes(held), gap, spans)
        return tuple(spans)

    async def _piece(self, data: bytes, gap: int, spans: list[Span]) -> int:
        """The hole that grew, or 0 after a piece."""
        if len(data) == PIECE_BYTES and not any(data[:1]) and data == bytes(PIECE_BYTES):
            return gap + PIECE_BYTES
        self._content_bytes += len(data)
        self._pieces += 1
        if self._content_bytes > self._limits.content_bytes or self._pieces > self._limits.pieces:
            raise SnapshotTooLarge(
                f"the files have more than {self._limits.content_bytes >> 20} MiB, or more than "
                f"{self._limits.pieces} pieces: raise snapshots.max_mb"
            )
        digest = await in_thread(lambda: hashlib.sha256(data).hexdigest())
        spans.append(Span(gap, len(data), digest))
        if digest not in self._places and digest not in self._pack and digest not in self._waiting:
            self._waiting[digest] = data
            self._waiting_bytes += len(data)
            if self._waiting_bytes >= _BATCH_BYTES:
                await self._look_up()
        return 0

    async def _look_up(self) -> None:
        """What waits is packed, apart from what the workspace has already."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if not waiting:
            return
        found = await self._database.read(lambda c: rows.find_pieces(c, self._workspace_id, waiting))
        for digest, (at, pack_bytes) in found.items():
            self._places[digest] = Place(len(waiting.pop(digest)), at.pack, at.start, at.stored)
            self._packs[at.pack] = pack_bytes
        lacking = [Piece(digest, data) for digest, data in waiting.items()]
        await in_thread(lambda: self._pack.add(lacking))
        if self._pack.content_bytes >= PACK_BYTES * 3 // 4:
            await self._keep_pack()

    async def _keep_pack(self) -> None:
        pack: FinishedPack = await in_thread(self._pack.finish)
        self._pack = Pack()
        await self._objects.put(object_name(self._workspace_id, "pack", pack.sha256), pack.data)
        stored, pieces = as_rows(pack)

        def unit(connection: Connection) -> None:
            rows.keep_objects(connection, self._database.now(connection), self._workspace_id, [stored], pieces)

        await self._database.write(unit)
        self._places |= pack.places
        self._packs[pack.sha256] = len(pack.data)
        self._kept_bytes += len(pack.data)

    async def finish(self) -> None:
        await self._look_up()
        if self._pack:
            await self._keep_pack()
        outline, data = await in_thread(self._written)
        manifest = hashlib.sha256(data).hexdigest()
        await self._objects.put(object_name(self._workspace_id, "manifest", manifest), data)
        stored = StoredObject(manifest, "manifest", len(data))

        def unit(connection: Connection) -> None:
            rows.keep_objects(connection, self._database.now(connection), self._workspace_id, [stored], ())

        await self._database.write(unit)
        self._used = {manifest, *(self._places[piece].pack for piece in outline.pieces)}
        self._new = NewSnapshot(
            id=self._id,
            workspace_id=self._workspace_id,
            session_id="",
            parent_id=None,
            reason="",
            entries=len(self._entries),
            logical_bytes=sum(entry.size for entry in self._entries),
            stored_bytes=self._kept_bytes + len(data),
            manifest=manifest,
            content=outline.digest(),
        )

    def _written(self) -> tuple[Outline, bytes]:
        """What reads it must be able to follow it."""
        entries: Sequence[Entry] = self._entries
        outline = Outline.of(entries)
        data = encode(self._id, outline, self._places, self._packs)
        try:
            decode(data)
        except ManifestWrong as error:
            raise SnapshotDamaged(str(error)) from None
        return outline, data

    def record_in(self, conn: Connection, now: float, session: SessionRow, reason: Reason) -> str:
        assert self._new is not None, "finish it first"
        assert session.workspace_id == self._workspace_id
        known = {name: getattr(self._new, name) for name in NewSnapshot.__slots__}
        new = NewSnapshot(**{**known, "session_id": session.id, "reason": reason})
        try:
            return rows.create_snapshot(conn, now, new, self._used).id
        except ObjectsGone:
            raise Conflict("this took so long that part of it was removed again; try once more") from None
