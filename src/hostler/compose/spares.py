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
    live: Callable[[], int],
    memory: MemoryUse,
) -> Spares:
    """`live`: how many sessions have a process on this server. `memory`: of the worker, who asks the host for it."""
    wanted = settings.spares

    def pressed() -> bool:
        headroom = memory.headroom()
        return live() >= settings.worker.slots or (headroom is not None and headroom < wanted.free_memory_mb << 20)

    terms = SpareTerms(wanted.most, wanted.keep_seconds, wanted.rest_seconds)
    return Spares(database, around, attachments, copies, pressed, terms)
