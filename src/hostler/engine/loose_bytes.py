"""How much was sent that nothing refers to? Uploads that were refused lie on the disk until a sweep takes them.

Whoever may keep so many bytes may not have more than that lying there either, so these count too, but for a few: who is
refused for a mistake is not to find its room taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

FORGIVEN: Final = 64 << 20
"""Bytes of a workspace that don't count."""
_MINUTE: Final = 60.0


class LooseBytes:
    """Of each workspace, as this server has taken them in. A restart forgets them: the disk has a guard of its own.

    From several threads.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """`seconds`: after so long a sweep has taken them."""
        self._seconds = seconds
        self._clock = clock
        self._came: dict[str, dict[int, int]] = {}
        """Bytes by the minute in which they came."""
        self._changing = threading.Lock()

    def add(self, workspace: str, size: int) -> Callable[[], None]:
        """So many came. Call what it gives when something refers to them; a second time it does nothing."""
        minute, sizes = int(self._clock() / _MINUTE), [size]
        with self._changing:
            came = self._came.setdefault(workspace, {})
            came[minute] = came.get(minute, 0) + size

        def referred_to() -> None:
            with self._changing:
                came = self._came.get(workspace, {})
                if sizes and minute in came:
                    came[minute] -= sizes.pop()

        return referred_to

    def of(self, workspace: str) -> int:
        """Those that count."""
        oldest = (self._clock() - self._seconds) / _MINUTE - 1
        with self._changing:
            came = self._came.pop(workspace, {})
            kept = {minute: size for minute, size in came.items() if minute >= oldest and size}
            if kept:
                self._came[workspace] = kept
            return max(0, sum(kept.values()) - FORGIVEN)
