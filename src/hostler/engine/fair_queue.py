"""In which order do those who wait get a place?

Workspaces take turns; within a workspace whoever came first is first. A workspace's turn comes by the moment since when
it is owed one: when it was served last, or when the one that waits longest there came, whichever is later. So a
workspace that floods the queue owns one place in it, like the others, and a new one stands behind those that wait
already. Nobody is passed more than once by each of the other workspaces before it is its own workspace's turn again.

Pure: what was granted is told to `granted`.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar


class Waits(Protocol):
    """Who wants a place."""

    @property
    def workspace_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def since(self) -> float:
        """By the clock of `granted`."""
        ...


Row = TypeVar("Row", bound=Waits)


class FairQueue:
    """Remembers when workspaces were served, for as long as anybody waits. Of one server."""

    def __init__(self) -> None:
        self._served: dict[str, tuple[float, int]] = {}
        """When, and as the how-many-eth: several are served at the same moment."""
        self._count = 0

    def order(self, waiting: Sequence[Row], blocked: Callable[[Row], bool] = lambda _: False) -> Iterator[Row]:
        """Everybody who could be served, in the order in which they are.

        `blocked` is asked of each when it is its turn; whoever is blocked stands in nobody's way.
        """
        rows: dict[str, deque[Row]] = defaultdict(deque)
        for row in sorted(waiting, key=lambda row: (row.since, row.session_id)):
            rows[row.workspace_id].append(row)
        # Who is served in this order is owed the next place after all who wait now: (1, …) is behind (0, …).
        turns: list[tuple[tuple[int, float, int], str]] = []
        for workspace, mine in rows.items():
            while mine and blocked(mine[0]):
                mine.popleft()
            if mine:
                owed = max(self._served.get(workspace, (0.0, 0)), (mine[0].since, 0))
                turns.append(((0, *owed), workspace))
        heapq.heapify(turns)
        count = 0
        while turns:
            _, workspace = heapq.heappop(turns)
            mine = rows[workspace]
            while mine and blocked(mine[0]):
                mine.popleft()
            if not mine:
                continue
            yield mine.popleft()
            if mine:
                count += 1
                heapq.heappush(turns, ((1, 0.0, count), workspace))

    def granted(self, workspace_id: str, at: float) -> None:
        """One of this workspace got a place, at that second of the clock by which they wait."""
        self._count += 1
        self._served[workspace_id] = (at, self._count)

    def nobody_waits(self) -> None:
        """There is nothing to be fair about."""
        self._served.clear()
