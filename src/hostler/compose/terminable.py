"""How does a process run what has to be taken down again, whoever ends the process?"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

TERMINATED: Final = 128 + signal.SIGTERM
"""What a shell says of a program that SIGTERM has ended."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, with SIGTERM cancelling the work as SIGINT does. Raises SystemExit when it has."""

    async def until_told() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(until_told())
    except asyncio.CancelledError:  # everything that was made is removed on the way here
        raise SystemExit(TERMINATED) from None
