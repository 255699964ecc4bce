"""Which parts of which packs hold the pieces that are wanted, and are they what was kept?

A segment is one request: pieces that lie near each other in one pack. Every piece is verified by its digest before
anybody sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import zstandard

from hostler.engine.object_port import ObjectMissing, Objects
from hostler.engine.snapshot_port import SnapshotDamaged
from hostler.engine.threads import in_thread
from hostler.snapshots.limits import PIECE_BYTES
from hostler.snapshots.manifest import Manifest, ManifestWrong, Place, decode, unpacked
from hostler.store.snapshots import Kind, SnapshotRow

_GAP: Final = 256 << 10
"""Bytes that nobody wants are fetched too, up to this many between two pieces: cheaper than one more request."""
_SEGMENT: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    pack: str
    start: int
    length: int
    pieces: Sequence[tuple[str, Place]]


class ObjectDamaged(SnapshotDamaged):
    """An object is missing or holds something else."""

    def __init__(self, sha256: str, kind: Kind, what: str) -> None:
        super().__init__(f"{kind} {sha256} of this snapshot {what}")
        self.sha256 = sha256


def object_name(workspace_id: str, kind: Kind, sha256: str) -> str:
    return f"{objects_of(workspace_id)}{kind}s/{sha256[:2]}/{sha256}"


def objects_of(workspace_id: str = "") -> str:
    """How the names of all objects of a workspace begin; of all workspaces, when it is empty."""
    return f"snapshots/{workspace_id}/" if workspace_id else "snapshots/"


async def load_manifest(objects: Objects, row: SnapshotRow) -> Manifest:
    """Raises ObjectDamaged, ObjectsUnavailable."""
    data = await fetch(objects, object_name(row.workspace_id, "manifest", row.manifest), "manifest", row.manifest)
    return await in_thread(lambda: _verified(row.manifest, data))


def _verified(sha256: str, data: bytes) -> Manifest:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ObjectDamaged(sha256, "manifest", "is not what was kept")
    try:
        return decode(data)
    except ManifestWrong as error:
        raise ObjectDamaged(sha256, "manifest", f"can't be followed: {error}") from error


async def fetch(
    objects: Objects, name: str, kind: Kind, sha256: str, start: int = 0, length: int | None = None
) -> bytes:
    """Raises ObjectDamaged when it is missing, ObjectsUnavailable."""
    try:
        return await objects.get(name, start, length)
    except ObjectMissing:
        raise ObjectDamaged(sha256, kind, "is missing") from None


def segments(manifest: Manifest, wanted: Iterable[str]) -> Iterator[Segment]:
    """Requests that give these pieces."""
    by_pack: dict[str, list[tuple[str, Place]]] = {}
    for piece in dict.fromkeys(wanted):
        place = manifest.places[piece]
        by_pack.setdefault(place.pack, []).append((piece, place))
    for pack, pieces in by_pack.items():
        pieces.sort(key=lambda each: each[1].start)
        together: list[tuple[str, Place]] = []
        for each in pieces:
            if together and not _near(together, each[1]):
                yield _segment(pack, together)
                together = []
            together.append(each)
        yield _segment(pack, together)


def _near(together: Sequence[tuple[str, Place]], place: Place) -> bool:
    last = together[-1][1]
    return (
        place.start - (last.start + last.stored) <= _GAP
        and place.start + place.stored - together[0][1].start <= _SEGMENT
    )


def _segment(pack: str, pieces: Sequence[tuple[str, Place]]) -> Segment:
    start = pieces[0][1].start
    end = max(place.start + place.stored for _, place in pieces)
    return Segment(pack, start, end - start, pieces)


def contents(segment: Segment, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The pieces of a segment, each with its digest. Raises ObjectDamaged."""
    for piece, place in segment.pieces:
        at = place.start - segment.start
        try:
            content = unpacked(data[at : at + place.stored], most=PIECE_BYTES, exactly=place.length)
        except (zstandard.ZstdError, ValueError) as error:
            raise ObjectDamaged(segment.pack, "pack", f"has lost piece {piece}: {error}") from error
        if hashlib.sha256(content).hexdigest() != piece:
            raise ObjectDamaged(segment.pack, "pack", f"holds something else in place of piece {piece}")
        yield piece, content
