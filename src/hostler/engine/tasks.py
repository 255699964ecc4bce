"""Who owns the tasks of a road?

Protocol callbacks can't await, so each request runs in a task of its own. `Tasks` is the one owner of them: nothing
runs that it doesn't know, and `close` returns only when none is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger("hostler.roads")


class Tasks:
    """A set of running tasks. A task that dies of an exception is logged; its errors belong to its own request."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self, grace_seconds: float) -> None:
        """Waits up to `grace_seconds` for the tasks to end by themselves, then cancels and waits for the rest."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace_seconds)
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(set(self._running))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("road.task_died", exc_info=task.exception(), extra={"task": task.get_name()})
