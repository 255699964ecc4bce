"""When is there room for spares, and how are they put together with the rest?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hostler.config import Settings
from hostler.engine.attachments import Attachments
from hostler.engine.copies import Copies
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
) -> Spares:
    """`live`: how many sessions have a process on this server."""
    wanted = settings.spares

    def pressed() -> bool:
        return live() >= settings.worker.slots or available_bytes() < wanted.free_memory_mb << 20

    terms = SpareTerms(wanted.most, wanted.keep_seconds, wanted.rest_seconds)
    return Spares(database, around, attachments, copies, pressed, terms)


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What programs could have of this host's memory without anything being moved out of it."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
