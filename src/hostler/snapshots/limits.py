"""How much may one snapshot hold?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PIECE_BYTES: Final = 4 << 20
PACK_BYTES: Final = 32 << 20
"""Of content, before it is compressed."""


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """What is over raises SnapshotTooLarge: half a workspace is worse than the one before."""

    entries: int = 200_000
    """Files, folders and links."""
    content_bytes: int = 20 << 30
    """Of all files together; holes don't count."""
    logical_bytes: int = 1 << 50
    """Sizes of all files together, with holes."""
    pieces: int = 400_000
    depth: int = 128
    path_bytes: int = 16 << 10
    manifest_bytes: int = 512 << 20
    """Of the description, before it is compressed."""
