"""What did a session's files look like when they were last kept from here?

One file for each session, in a folder that no sandbox reaches. It spares reading what has not changed, and is never
more than a help: one that is missing, damaged or of another version is as good as none. It isn't synced for that
reason: what a power cut tears is told by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hostler.domain.clock import SystemClock
from hostler.snapshots.manifest import Place, Span
from hostler.snapshots.scan import Signature

_VERSION: Final = 1
_YOUNG_SECONDS: Final = 3600.0
"""Whoever writes for longer than that has died."""
RACY_NS: Final = 500_000_000
"""A file that changed this shortly before it was looked at is read again the next time: the clock of a file system
ticks every few milliseconds, and a second change within a tick leaves the same signature."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file that was read."""

    signature: Signature
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    snapshot_id: str
    """What the folders were kept as, or filled with."""
    restored: bool
    """Filled with: it may be another one than the latest."""
    files: Mapping[str, Known] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    """Of all pieces of the snapshot."""
    packs: Mapping[str, int] = field(default_factory=dict)
    """Their sizes."""


class Memories:
    """Those of all sessions of this host, in `folder`. All methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, session_id: str) -> Memory | None:
        try:
            digest, _, content = (self._folder / session_id).read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                return None
            return _decoded(json.loads(content))
        except (OSError, ValueError):
            return None

    def keep(self, session_id: str, memory: Memory) -> None:
        """Raises OSError; then what was there before is still there."""
        content = json.dumps(_encoded(memory), separators=(",", ":")).encode()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, new = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            os.rename(new, self._folder / session_id)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise

    def forget(self, session_id: str) -> None:
        (self._folder / session_id).unlink(missing_ok=True)

    def sessions(self) -> Sequence[str]:
        """Ids of those of which there is something. What a crash has left half-written goes."""
        for left in self._folder.glob(".new-*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < SystemClock().now().timestamp() - _YOUNG_SECONDS:
                    left.unlink()
        try:
            return sorted(name for name in os.listdir(self._folder) if not name.startswith("."))
        except FileNotFoundError:
            return ()


def _encoded(memory: Memory) -> dict[str, Any]:
    pieces = {piece: number for number, piece in enumerate(memory.places)}
    packs = {pack: number for number, pack in enumerate(memory.packs)}
    return {
        "version": _VERSION,
        "snapshot_id": memory.snapshot_id,
        "restored": memory.restored,
        "packs": list(memory.packs.items()),
        "pieces": [(piece, at.length, packs[at.pack], at.start, at.stored) for piece, at in memory.places.items()],
        "files": [
            (path, known.signature, [(span.gap, span.length, pieces[span.piece]) for span in known.spans])
            for path, known in memory.files.items()
        ],
    }


def _decoded(found: Any) -> Memory | None:
    if found.get("version") != _VERSION:
        return None
    packs = [pack for pack, _ in found["packs"]]
    pieces = [piece for piece, *_ in found["pieces"]]
    return Memory(
        found["snapshot_id"],
        found["restored"],
        {
            path: Known(Signature(*signature), tuple(Span(gap, length, pieces[n]) for gap, length, n in spans))
            for path, signature, spans in found["files"]
        },
        {piece: Place(length, packs[pack], start, stored) for piece, length, pack, start, stored in found["pieces"]},
        dict(found["packs"]),
    )
