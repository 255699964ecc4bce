"""How do files become pieces, and pieces packs?

A file is cut into pieces of at most 4 MiB, holes left out; a piece is named by the SHA-256 of its bytes. Pieces that
the workspace lacks are compressed, each for itself, and put one after the other into packs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import zstandard

from hostler.domain.ids import new_id
from hostler.engine.snapshot_port import SnapshotTooLarge
from hostler.snapshots.descending import FILE, Folders
from hostler.snapshots.limits import PACK_BYTES, PIECE_BYTES
from hostler.snapshots.manifest import Place, Span
from hostler.snapshots.scan import Found, Scan, Signature, signature_of

_LEVEL: Final = 1
_MAGIC: Final = b"hostler-pack 1 "
_TRIES: Final = 3
"""How often a file that changes while it is read is read again."""
_SMALL_HOLE: Final = 64 << 10
"""A hole that isn't larger is kept as zeros: else a file full of them would be described at more length than kept."""
_MAPPED_NS: Final = 60_000_000_000
"""For so long after a change somebody may still write through a mapping without a new change time."""
_SYNC_FILE_RANGE_WRITE: Final = 2


class Piece(NamedTuple):
    sha256: str
    content: bytes


@dataclass(slots=True)
class Content:
    """What was read of one file."""

    signature: Signature
    """As it was while this was read."""
    stable: bool
    """False: it changed again and again."""
    spans: list[Span] = field(default_factory=list)


class Reader:
    """Reads files and gives their pieces in batches. Every call blocks; one call at a time, from any thread."""

    def __init__(self, scan: Scan, files: Sequence[Found]) -> None:
        self.contents: dict[str, Content] = {}
        """What was read, complete when there are no more batches. A file that is not in it could not be read."""
        self._scan = scan
        self._folders = Folders(scan.home)
        self._budget = scan.limits.content_bytes
        self._pieces_left = scan.limits.pieces
        self._pieces = self._all(files)

    def batch(self) -> list[Piece]:
        """The next pieces, of about a pack together; empty: there are no more. Raises SnapshotTooLarge."""
        batch, size = [], 0
        for piece in self._pieces:
            batch.append(piece)
            size += len(piece.content)
            if size > PACK_BYTES - PIECE_BYTES:
                break
        return batch

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]  # it is a generator
        self._folders.close()

    def _all(self, files: Sequence[Found]) -> Iterator[Piece]:
        for found in files:
            try:
                yield from self._file(found)
            except OSError as error:
                self.contents.pop(found.path, None)
                self._scan.left.out(f"not_readable: {error.strerror}", found.path)

    def _file(self, found: Found) -> Iterator[Piece]:
        descriptor = self._open(found)
        try:
            for attempt in range(_TRIES):
                before = signature_of(os.fstat(descriptor))
                if not stat.S_ISREG(before.mode):
                    raise OSError(22, "it is something else by now")
                if self._scan.began_ns - before.mtime_ns < _MAPPED_NS:
                    _protect_mapped(descriptor)
                content = Content(before, stable=False)
                yield from self._read(descriptor, before.size, content, sparse=found.sparse or attempt > 0)
                content.stable = signature_of(os.fstat(descriptor)) == before
                self.contents[found.path] = content
                if content.stable:
                    return
            self._scan.left.out("changed_while_read", found.path)
        finally:
            os.close(descriptor)

    def _open(self, found: Found) -> int:
        above, name = self._folders.parent_of(found.path)
        try:
            return _open_regular(name, above)
        except PermissionError:
            self._scan.loosen(found, self._folders, stat.S_IFREG)
            above, name = self._folders.parent_of(found.path)
            return _open_regular(name, above)

    def _read(self, descriptor: int, size: int, content: Content, *, sparse: bool) -> Iterator[Piece]:
        end_before = 0
        for start, end in _runs(descriptor, size) if sparse else [(0, size)]:
            at = start
            while at < end:
                data = os.pread(descriptor, min(PIECE_BYTES, end - at), at)
                if not data:
                    break  # it has become shorter
                self._budget -= len(data)
                self._pieces_left -= 1
                if self._budget < 0 or self._pieces_left < 0:
                    raise SnapshotTooLarge(
                        f"the session keeps more than {self._scan.limits.content_bytes >> 20} MiB, or files with more "
                        f"than {self._scan.limits.pieces} pieces: remove some, or raise snapshots.max_mb"
                    )
                digest = hashlib.sha256(data).hexdigest()
                content.spans.append(Span(at - end_before, len(data), digest))
                yield Piece(digest, data)
                at += len(data)
                end_before = at


def _open_regular(name: str, folder: int) -> int:
    """Raises OSError. The kind is looked at before it is opened: opening a device can already do something."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise OSError(22, "it is something else by now", name)
    return os.open(name, FILE, dir_fd=folder)


def _runs(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has bytes: beginning and end of each run, small holes filled."""
    begin, end = 0, -1
    at = 0
    while at < size:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break  # nothing but a hole from here on
        at = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
        if end < 0:
            begin, end = data, at
        elif data - end <= _SMALL_HOLE:
            end = at
        else:
            yield begin, end
            begin, end = data, at
    if end > begin:
        yield begin, end


_libc = ctypes.CDLL(None, use_errno=True)


def _protect_mapped(descriptor: int) -> None:
    """Begins to write out what is dirty, which makes the kernel notice the next write through a mapping.

    Until then such a write to a page that is dirty already leaves the change time as it is, and the next scan would
    take the file for unchanged.
    """
    _libc.sync_file_range(
        ctypes.c_int(descriptor), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
    )


class Pack:
    """One pack that is being made. Blocks."""

    def __init__(self) -> None:
        # Something that no other pack has: a name that was removed never comes again, so that nobody takes for kept
        # what a sweep is about to remove.
        self._parts = [_MAGIC + new_id("pack").encode() + b"\n"]
        self._size = len(self._parts[0])
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._at: dict[str, tuple[int, int, int]] = {}
        self.content_bytes = 0

    def add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.sha256 not in self._at:
                frame = self._compressor.compress(piece.content)
                self._at[piece.sha256] = (len(piece.content), self._size, len(frame))
                self._parts.append(frame)
                self._size += len(frame)
                self.content_bytes += len(piece.content)

    def finish(self) -> FinishedPack:
        data = b"".join(self._parts)
        name = hashlib.sha256(data).hexdigest()
        return FinishedPack(name, data, {piece: Place(n, name, at, m) for piece, (n, at, m) in self._at.items()})

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._at

    def __bool__(self) -> bool:
        return bool(self._at)


@dataclass(frozen=True, slots=True)
class FinishedPack:
    sha256: str
    data: bytes
    places: dict[str, Place]
