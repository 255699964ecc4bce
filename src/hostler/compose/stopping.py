"""When does a server that somebody has stopped end? Once its running turns have, or at the second signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostler.compose.server import Hostler

log = logging.getLogger("hostler")


async def until_signal(hostler: Hostler, draining: Callable[[int], None] | None = None) -> None:
    """Return on SIGINT or SIGTERM. Idle sessions are given back, running turns may finish; a second one cuts short.

    `draining` is told at the first one how many sessions have a process.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await first.wait()
    log.info("draining", extra={"sessions": hostler.worker.live()})
    if draining is not None:
        draining(hostler.worker.live())
    hostler.worker.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(hostler.settings.worker.drain_seconds):
            while hostler.worker.busy() and not second.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await second.wait()
