"""What becomes of a sandbox whose maker is told to stop while it makes it? It is made, and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


async def make(making: Callable[[], Made], take_back: Callable[[Made], object]) -> Made:
    """Calls both in threads. A thread can't be stopped: when the caller is cancelled, this waits for what `making`
    makes."""
    begun = asyncio.get_running_loop().run_in_executor(None, making)
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        made = await begun
        await asyncio.to_thread(take_back, made)
        raise
