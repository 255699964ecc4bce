"""When is there room for spares, and how are they put together with the rest?"""

from __future__ import annotations

from collections.abc import Callable

from hostler.config import Settings
from hostler.engine.attachments import Attachments
from hostler.engine.copies import Copies
from hostler.engine.memory_use import MemoryUse
from hostler.engine.process import Surroundings
from hostler.engine.spares import Spares, SpareTerms
from hostler.store.database import Database


def spare_sandboxes(
    settings: Settings,
    database: Database,
    around: Surroundings,
    attachments: Attachments,
    copies: Copies,
    memory: MemoryUse,
    live: Callable[[], int],
) -> Spares:
    """`memory`: as the worker measures it. `live`: how many sessions have a process on this server."""
    wanted = settings.spares

    def pressed() -> bool:
        headroom = memory.headroom()
        short = headroom is not None and headroom < wanted.free_memory_mb << 20
        return short or live() >= settings.worker.slots

    terms = SpareTerms(wanted.most, wanted.keep_seconds, wanted.rest_seconds)
    return Spares(database, around, attachments, copies, pressed, terms)
