"""How does what is in a home become objects, as little of it as possible?

What is as it was is not read; what was read and is known to the workspace is not kept again. Objects come first and
rows after them: a crash leaves objects that no row names, which a sweep removes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from hostler.engine.object_port import Objects
from hostler.engine.snapshot_port import SnapshotTooLarge
from hostler.engine.threads import in_thread
from hostler.snapshots.limits import PACK_BYTES
from hostler.snapshots.manifest import Entry, Outline, Place, Span
from hostler.snapshots.packs import FinishedPack, Pack, Piece, Reader
from hostler.snapshots.remembered import RACY_NS, Known, Memory
from hostler.snapshots.scan import Found, Scan
from hostler.snapshots.segments import object_name
from hostler.store import snapshots as rows
from hostler.store.database import Database
from hostler.store.snapshots import PiecePlace, StoredObject

_MOST_PACKS: Final = 48
"""Of one snapshot. With more, what is in the emptiest of them is kept anew, together."""
_REWRITTEN: Final = 16 << 20
"""Compressed bytes that one snapshot keeps anew for that reason, at most."""


@dataclass(slots=True)
class Taken:
    """What a tree came to."""

    entries: list[Entry]
    outline: Outline
    content: str
    """The same for two trees that are the same."""
    places: dict[str, Place]
    packs: dict[str, int]
    memory: dict[str, Known]
    """Files that the next scan may take for unchanged if they look the same."""
    last: FinishedPack | None
    """The last pack, which is not kept yet: its row belongs to the snapshot's transaction."""
    kept_bytes: int
    """What the packs before it added."""


@dataclass(slots=True)
class Taking:
    """One look at a tree."""

    database: Database
    objects: Objects
    workspace_id: str
    scan: Scan
    memory: Memory | None
    sound: Collection[str]
    """Packs of the memory that can be relied on."""
    rewriting: set[str] = field(default_factory=set)
    """Packs that the new snapshot does without."""
    _kept: dict[str, Known] = field(default_factory=dict)
    """Files that are not read."""
    _reader: Reader | None = None
    _places: dict[str, Place] = field(default_factory=dict)
    _packs: dict[str, int] = field(default_factory=dict)
    _kept_bytes: int = 0

    def _unchanged(self, memory: Memory) -> dict[str, Known]:
        """Files that look as they did, and whose pieces are where they were and stay there."""
        found, changed = {}, False
        for each in self.scan.found:
            if each.kind == "file":
                known = memory.files.get(each.path)
                if known is not None and known.signature == each.signature and self._held(memory, known, self.sound):
                    found[each.path] = known
                else:
                    changed = True
        self._packs |= memory.packs
        if changed:
            self._choose_rewriting(memory)
        if self.rewriting:
            staying = memory.packs.keys() - self.rewriting
            found = {path: known for path, known in found.items() if self._held(memory, known, staying)}
        for known in found.values():
            for span in known.spans:
                self._places[span.piece] = memory.places[span.piece]
        return found

    def _held(self, memory: Memory, known: Known, packs: Collection[str]) -> bool:
        return all(memory.places[span.piece].pack in packs for span in known.spans)

    def _choose_rewriting(self, memory: Memory) -> None:
        """Which packs hold so little of the snapshot before that they are better done without."""
        live: Counter[str] = Counter()
        for place in memory.places.values():
            live[place.pack] += place.stored
        budget, left = _REWRITTEN, len(live)
        for pack, size in sorted(live.items(), key=lambda each: each[1]):
            too_many = left > _MOST_PACKS // 2 and len(live) > _MOST_PACKS
            if size <= budget and (too_many or size * 4 < memory.packs[pack]):
                self.rewriting.add(pack)
                budget -= size
                left -= 1

    async def read(self) -> Taken:
        """Reads what has changed, and keeps all packs but the last. Few turns through threads: each costs a wake-up.

        Raises SnapshotTooLarge, ObjectsUnavailable, OSError.
        """
        pack = Pack()
        try:
            batch = await in_thread(self._begin)
            while batch:
                new = await self._lacking(batch, pack)
                batch, full = await in_thread(partial(self._go_on, pack, new))
                if full is not None:
                    await self._keep(full)
                    pack = Pack()
            return await in_thread(partial(self._end, pack))
        finally:
            if self._reader is not None:
                await in_thread(self._reader.close)

    def _begin(self) -> list[Piece]:
        if self.memory is not None:
            self._kept = self._unchanged(self.memory)
        changed = [each for each in self.scan.found if each.kind == "file" and each.path not in self._kept]
        self._reader = Reader(self.scan, changed)
        return self._reader.batch()

    def _go_on(self, pack: Pack, new: Sequence[Piece]) -> tuple[list[Piece], FinishedPack | None]:
        """The next batch, and the pack, if it is full."""
        assert self._reader is not None
        pack.add(new)
        full = pack.finish() if pack.content_bytes > PACK_BYTES * 3 // 4 else None
        return self._reader.batch(), full

    def _end(self, pack: Pack) -> Taken:
        assert self._reader is not None
        self._reader.close()
        last = pack.finish() if pack else None
        if last is not None:
            self._places |= last.places
            self._packs[last.sha256] = len(last.data)
        entries, memory = self._described(self._reader)
        outline = Outline.of(entries)
        self._reader = None
        return Taken(entries, outline, outline.digest(), self._places, self._packs, memory, last, self._kept_bytes)

    async def _lacking(self, batch: Sequence[Piece], pack: Pack) -> list[Piece]:
        """Those that the workspace doesn't have yet."""
        asked = {each.sha256: each for each in batch if each.sha256 not in self._places and each.sha256 not in pack}
        if not asked:
            return []
        found = await self.database.read(lambda c: rows.find_pieces(c, self.workspace_id, asked))
        for sha256, (at, pack_bytes) in found.items():
            if at.pack not in self.rewriting:
                piece = asked.pop(sha256)
                self._places[sha256] = Place(len(piece.content), at.pack, at.start, at.stored)
                self._packs[at.pack] = pack_bytes
        return list(asked.values())

    async def _keep(self, pack: FinishedPack) -> None:
        await self.objects.put(object_name(self.workspace_id, "pack", pack.sha256), pack.data)
        stored, pieces = as_rows(pack)

        def unit(connection: Connection) -> None:
            now = self.database.now(connection)
            rows.keep_objects(connection, now, self.workspace_id, [stored], pieces)

        await self.database.write(unit)
        self._places |= pack.places
        self._packs[pack.sha256] = len(pack.data)
        self._kept_bytes += len(pack.data)

    def _described(self, reader: Reader) -> tuple[list[Entry], dict[str, Known]]:
        entries, memory = [], {}
        there: set[str] = set()
        logical = 0
        for each in self.scan.found:
            size, mtime_ns = 0, each.mtime_ns
            spans: tuple[Span, ...] = ()
            if each.kind == "file":
                known = self._kept.get(each.path) or _read(reader, each)
                if known is None:
                    continue  # it was left out, and the log says so
                spans, mtime_ns = known.spans, known.signature.mtime_ns
                size = max(known.signature.size, _end(spans))
                if each.path in self._kept or self._may_remember(reader, each, known):
                    memory[each.path] = known
            elif each.kind == "hardlink" and each.target not in there:
                continue
            logical += size
            if logical > self.scan.limits.logical_bytes:
                raise SnapshotTooLarge(
                    f"the sizes of the files that the session keeps come to more than {self.scan.limits.logical_bytes} "
                    "bytes, holes included: remove the file that is mostly a hole"
                )
            entries.append(Entry(each.path, each.kind, each.mode, mtime_ns, size, spans, each.target))
            there.add(each.path)
        return entries, memory

    def _may_remember(self, reader: Reader, each: Found, known: Known) -> bool:
        return reader.contents[each.path].stable and known.signature.ctime_ns < self.scan.began_ns - RACY_NS


def as_rows(pack: FinishedPack) -> tuple[StoredObject, list[PiecePlace]]:
    pieces = [PiecePlace(sha256, pack.sha256, at.start, at.stored) for sha256, at in pack.places.items()]
    return StoredObject(pack.sha256, "pack", len(pack.data)), pieces


def memory_of(snapshot_id: str, taken: Taken) -> Memory:
    """What is to be remembered of what was kept as that snapshot."""
    places = {span.piece: taken.places[span.piece] for entry in taken.entries for span in entry.spans}
    packs = {place.pack: taken.packs[place.pack] for place in places.values()}
    return Memory(snapshot_id, False, taken.memory, places, packs)


def _read(reader: Reader, each: Found) -> Known | None:
    content = reader.contents.get(each.path)
    return None if content is None else Known(content.signature, tuple(content.spans))


def _end(spans: Sequence[Span]) -> int:
    return sum(span.gap + span.length for span in spans)
