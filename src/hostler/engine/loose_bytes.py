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


class LooseBytes:
    """Of each workspace, as this server has taken them in. A restart forgets them: the disk has a guard of its own.

    From several threads.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """`seconds`: after so long a sweep has taken them."""
        self._seconds = seconds
        self._clock = clock
        self._came: dict[str, dict[str, tuple[float, int]]] = {}
        """When they came, and how many, by digest: the same bytes lie there once."""
        self._changing = threading.Lock()

    def add(self, workspace: str, digest: str, size: int) -> None:
        """So many came."""
        with self._changing:
            came = self._came.setdefault(workspace, {})
            came.pop(digest, None)  # the oldest are first
            came[digest] = (self._clock(), size)

    def referred_to(self, workspace: str, digest: str) -> None:
        """Something refers to these now."""
        with self._changing:
            self._came.get(workspace, {}).pop(digest, None)

    def of(self, workspace: str, but: str = "") -> int:
        """Those that count, without those of the digest `but`."""
        oldest = self._clock() - self._seconds
        with self._changing:
            came = self._came.pop(workspace, {})
            while came and next(iter(came.values()))[0] < oldest:
                del came[next(iter(came))]
            if came:
                self._came[workspace] = came
            return max(0, sum(size for digest, (_, size) in came.items() if digest != but) - FORGIVEN)
