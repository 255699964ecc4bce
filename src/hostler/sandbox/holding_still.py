"""How does a sandbox hold still: for its user, and for as long as its workspace is written down?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from hostler.sandbox import snapshots


class HoldingStill:
    """Of one sandbox. One change at a time."""

    def __init__(
        self, workspace: Path, stop: Callable[[], Awaitable[None]], go_on: Callable[[], Awaitable[None]]
    ) -> None:
        """`stop`: afterwards nothing inside runs, until `go_on`. Both are also called when there is nothing to do."""
        self._workspace, self._stop, self._go_on = workspace, stop, go_on
        self._changing = asyncio.Lock()
        self.suspended = False
        """Whether its user wants it so."""

    async def suspend(self) -> None:
        async with self._changing:
            await self._stop()
            self.suspended = True

    async def resume(self) -> None:
        async with self._changing:
            await self._go_on()
            self.suspended = False

    async def snapshot(self, target: Path) -> None:
        """See the port. Raises SnapshotFailed."""
        async with self._changing:
            if not self.suspended:
                await self._stop()
            try:
                await asyncio.to_thread(snapshots.write, self._workspace, target)
            finally:
                if not self.suspended:
                    await self._go_on()
