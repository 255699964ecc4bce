"""How is written down what is in a snapshot?

Four lines of JSON, compressed with zstd as one frame:

1. `{"format": "hostler-snapshot", "version": 1, "id": "snap_…"}`
2. the packs: `[[sha256, bytes], …]`
3. the pieces: `[[sha256, bytes, number of the pack, start, stored bytes], …]`
4. the entries: `[[path, kind, mode, mtime_ns, size, spans, target], …]`, each folder before what is in it

A span is `[bytes of the hole before it, bytes, number of the piece]`. Names that are no UTF-8 are written as Python's
`surrogateescape` has them. What is read was verified by its digest and is still not believed: a path that leads out, or
twice to the same place, or through a link, is refused here, before anything is laid out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Self, get_args

import zstandard

from hostler.engine.snapshot_port import PARTS, SnapshotTooLarge
from hostler.snapshots.limits import PIECE_BYTES, SnapshotLimits

FORMAT: Final = "hostler-snapshot"
VERSION: Final = 1
Kind = Literal["file", "folder", "symlink", "hardlink"]
_MODES: Final = 0o1777
"""Bits that are kept. A program that runs as somebody else is not something a snapshot brings back."""
_LINK_BYTES: Final = 4096
_LEVEL: Final = 3


class Span(NamedTuple):
    """A run of a file's bytes."""

    gap: int
    """Bytes of the hole before it."""
    length: int
    piece: str
    """SHA-256 of the bytes."""


class Entry(NamedTuple):
    """One name."""

    path: str
    """Relative to the home; `os.fsencode` gives its bytes."""
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    """Of a file; else 0."""
    spans: tuple[Span, ...] = ()
    target: str | None = None
    """Where a symlink points, or the path of the file that a hard link is another name of."""


class Place(NamedTuple):
    """Where a piece is."""

    length: int
    """Of its content."""
    pack: str
    start: int
    stored: int
    """How many bytes it takes there."""


class ManifestWrong(Exception):
    """This is no manifest of a snapshot, or not one that this program may follow."""


@dataclass(frozen=True, slots=True)
class Manifest:
    snapshot_id: str
    """Of the snapshot that it was made for; others may share it."""
    entries: Sequence[Entry]
    places: Mapping[str, Place]
    """Of all pieces of the entries."""
    packs: Mapping[str, int]
    """Their sizes."""
    by_path: Mapping[str, Entry] = field(default_factory=dict)


def kept_mode(mode: int) -> int:
    return mode & _MODES


@dataclass(frozen=True, slots=True)
class Outline:
    """Entries as they are written down."""

    line: str
    pieces: Sequence[str]
    """Digests, in the order of their numbers."""

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Self:
        numbers: dict[str, int] = {}
        for entry in entries:
            for span in entry.spans:
                numbers.setdefault(span.piece, len(numbers))
        rows = [(*e[:5], [(gap, n, numbers[piece]) for gap, n, piece in e.spans], e.target) for e in entries]
        return cls(_json(rows), list(numbers))

    def digest(self) -> str:
        """The same for two trees that are the same, wherever their pieces are."""
        return hashlib.sha256("\n".join((self.line, *self.pieces)).encode()).hexdigest()


def encode(snapshot_id: str, outline: Outline, places: Mapping[str, Place], packs: Mapping[str, int]) -> bytes:
    """Only the pieces and packs that the entries use are written. Raises SnapshotTooLarge."""
    used: dict[str, int] = {}
    for piece in outline.pieces:
        used.setdefault(places[piece].pack, len(used))
    found = [(piece, places[piece]) for piece in outline.pieces]
    lines = (
        _json({"format": FORMAT, "version": VERSION, "id": snapshot_id}),
        _json([[pack, packs[pack]] for pack in used]),
        _json([[piece, at.length, used[at.pack], at.start, at.stored] for piece, at in found]),
        outline.line,
    )
    plain = "\n".join(lines).encode()
    if len(plain) > SnapshotLimits().manifest_bytes:
        raise SnapshotTooLarge(f"what the session keeps can't be described in {SnapshotLimits().manifest_bytes} bytes")
    return zstandard.ZstdCompressor(level=_LEVEL).compress(plain)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def decode(data: bytes) -> Manifest:
    """Raises ManifestWrong."""
    try:
        plain = unpacked(data, most=SnapshotLimits().manifest_bytes)
        head, packs, pieces, entries = (json.loads(line) for line in plain.split(b"\n"))
        if head["format"] != FORMAT or head["version"] != VERSION:
            raise ManifestWrong(f"format {head['format']!r}, version {head['version']!r}, is not known here")
        return _Checker().manifest(head["id"], packs, pieces, entries)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, zstandard.ZstdError) as error:
        raise ManifestWrong(f"it is no manifest: {error}") from error


def unpacked(frame: bytes, *, most: int, exactly: int | None = None) -> bytes:
    """What a zstd frame holds, if it says beforehand that this isn't more. Raises ZstdError, ValueError."""
    size = zstandard.get_frame_parameters(frame).content_size
    if size > most or (exactly is not None and size != exactly):
        raise ValueError(f"a frame of {size} bytes is not what was kept")
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=most, allow_extra_data=False)


class _Checker:
    """Builds the manifest out of what was read; everything in it is a number, a digest or a path that stays inside."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def manifest(self, snapshot_id: str, packs: Any, pieces: Any, entries: Any) -> Manifest:
        sizes = {_digest(sha): _number(size) for sha, size in packs}
        names = list(sizes)
        places = {}
        for sha, length, pack, start, stored in pieces:
            place = Place(_number(length), names[_number(pack)], _number(start), _number(stored))
            if not 0 < place.length <= PIECE_BYTES or place.start + place.stored > sizes[place.pack]:
                raise ManifestWrong(f"piece {sha} is where it can't be")
            places[_digest(sha)] = place
        digests = list(places)
        for path, kind, mode, mtime_ns, size, spans, target in entries:
            if not isinstance(path, str):
                raise ManifestWrong(f"{path!r} is no path")
            found = tuple(Span(_number(gap), _number(n), digests[_number(piece)]) for gap, n, piece in spans)
            if any(span.length != places[span.piece].length for span in found):
                raise ManifestWrong(f"{path!r} has a piece of another size")
            self._add(Entry(path, kind, _number(mode), _signed(mtime_ns), _number(size), found, target))
        return Manifest(snapshot_id, list(self._entries.values()), places, sizes, self._entries)

    def _add(self, entry: Entry) -> None:
        path = entry.path
        above, _, name = path.rpartition("/")
        encoded = os.fsencode(name)
        if name in ("", ".", "..") or "\0" in path or len(encoded) > 255:
            raise ManifestWrong(f"{path!r} is no path inside")
        if above:
            parent = self._entries.get(above)
            if parent is None or parent.kind != "folder":
                raise ManifestWrong(f"{path!r} is not in a folder")
        elif name not in PARTS or entry.kind != "folder":
            raise ManifestWrong(f"{path!r} is no part of a home")
        if path in self._entries:
            raise ManifestWrong(f"{path!r} is there twice")
        if entry.kind not in get_args(Kind) or entry.mode & ~_MODES or not -(1 << 63) <= entry.mtime_ns < 1 << 63:
            raise ManifestWrong(f"{path!r} is not described in a way that can be followed")
        self._check_content(entry)
        self._entries[path] = entry

    def _check_content(self, entry: Entry) -> None:
        path, target = entry.path, entry.target
        if (entry.kind in ("symlink", "hardlink")) != isinstance(target, str):
            raise ManifestWrong(f"{path!r} has a target and is no link, or the reverse")
        if entry.kind == "symlink":
            encoded = os.fsencode(target or "")
            if not 0 < len(encoded) < _LINK_BYTES or b"\0" in encoded:
                raise ManifestWrong(f"{path!r} points nowhere")
        if entry.kind == "hardlink":
            other = self._entries.get(target or "")
            if other is None or other.kind != "file":
                raise ManifestWrong(f"{path!r} is another name of something that is no file")
        if entry.kind == "file":
            if sum(span.gap + span.length for span in entry.spans) > entry.size or entry.size >= 1 << 63:
                raise ManifestWrong(f"{path!r} is shorter than its content")
        elif entry.size or entry.spans:
            raise ManifestWrong(f"{path!r} has content and is no file")


def _digest(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or value.strip("0123456789abcdef"):
        raise ManifestWrong(f"{value!r} is no digest")
    return value


def _signed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ManifestWrong(f"{value!r} is no number")
    return value


def _number(value: Any) -> int:
    if _signed(value) < 0:
        raise ManifestWrong(f"{value!r} is negative")
    return int(value)
