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
    """The same for what is exported and for what is imported. What is over raises BundleWrong."""

    content_bytes: int = 20 << 30
    """Of all members together, unpacked; holes of files count, because a reader has to pass them."""
    members: int = 250_000
    ratio: int = 1_000
    """Unpacked bytes for each packed one, beyond the first 256 MiB. Zeros don't count: nobody keeps them."""
