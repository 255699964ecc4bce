"""How is work done in threads, and beside each other?

A thread can't be stopped. Whoever is cancelled while one works for him waits for its end, before he takes anything
away that it uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """`undo` is given what nobody gets any more, because he was cancelled meanwhile: a descriptor has to be closed."""
    working = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        with suppress(asyncio.CancelledError):
            await over(working)
        if working.exception() is None and undo is not None:  # looked at: nobody else will
            undo(working.result())
        raise


async def over(working: asyncio.Future[T]) -> None:
    """Waits until it has ended, however often the caller is cancelled meanwhile; that he is told afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What it gives or raises, once it has ended: a caller who is cancelled meanwhile is told only then."""
    working = asyncio.get_running_loop().create_task(work)
    await over(working)
    return working.result()


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error as it is, not a group of errors."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
