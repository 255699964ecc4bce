"""How much may one bundle hold?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NAME_BYTES: Final = 16 << 10
"""Of a member's name, or of where a link points."""
LINE_BYTES: Final = 64 << 20
"""Of one line of JSON: as much as one append to a transcript may carry."""
DOCUMENT_BYTES: Final = 64 << 20
"""Of `session.json`."""
FREE_BYTES: Final = 256 << 20
"""What a bundle may hold, unpacked, before anybody asks how well it was compressed."""


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """Of what is exported and of what is imported. What is over raises BundleWrong."""

    content_bytes: int = 20 << 30
    """Of all members together, unpacked; holes of files count, because a reader has to pass them."""
    members: int = 250_000
    ratio: int = 1_000
    """Unpacked bytes for each packed one, beyond the first 256 MiB. Zeros don't count: nobody keeps them."""
    events: int = 400_000
    """This and what follows: of what is imported, twice what a session may have that still takes messages. A session
    that is full may have that much, and be moved."""
    log_bytes: int = 1 << 30
    transcript_bytes: int = 1 << 30
    archives: int = 1_000
    archive_bytes: int = 2 << 30
    """Compressed."""
