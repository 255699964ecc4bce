"""Is the process of a session that stays still well, and if not, what is done about it?

Only processes of the pattern `long_running` are watched: the others are made anew all the time. A sick one is replaced
between two turns. The conversation goes on in the new process, from the transcript, with the same files.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.engine.process import LiveProcess
from hostler.engine.runs import Notice
from hostler.engine.sandbox_port import InGroups, SandboxLimits
from hostler.engine.volume_port import Room

MEMORY_SHARE: Final = 0.9
"""Of the memory limit, without what the kernel would give up: from here on the kernel is about to kill something."""
DISK_SHARE: Final = 0.03
"""Of the disk limit that is left: from here on the session is about to fail."""
ANSWER_SECONDS: Final = 15.0
"""How long the harness may take to answer a question that needs no model. It takes milliseconds when it is well."""

Sickness = Literal["memory", "disk", "hung"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong."""

    kind: Sickness
    message: str
    """For a person: what was found and what was done."""
    details: dict[str, Any]

    @property
    def notice(self) -> Notice:
        return Notice("process_replaced", self.message, {"reason": self.kind, **self.details})


class Health:
    """Of the processes of one session, one after the other."""

    def __init__(self) -> None:
        self._full = False
        """The disk was full already when the last process was replaced: a new one doesn't help."""

    async def look(
        self, process: LiveProcess, limits: SandboxLimits, room: Room | None, *, used: bool
    ) -> Finding | None:
        """Between two turns. None: it is well, or a new one would be no better.

        `used`: the process has run a turn. One that needs so much memory from the start gets no better by replacing.
        """
        stats = await (process.sandbox.glance() if isinstance(process.sandbox, InGroups) else process.sandbox.stats())
        if used and limits.memory_bytes and stats.memory_bytes is not None and stats.file_cache_bytes is not None:
            needed = stats.memory_bytes - stats.file_cache_bytes
            if needed > MEMORY_SHARE * limits.memory_bytes:
                used_mb, most_mb = needed >> 20, limits.memory_bytes >> 20
                return Finding(
                    "memory",
                    f"The session's process was replaced by a new one: it used {used_mb} of {most_mb} MiB of memory. "
                    "The conversation goes on; programs that were left running are gone.",
                    {"memory_mb": used_mb, "limit_mb": most_mb},
                )
        full = room is not None and room.free_bytes < DISK_SHARE * room.total_bytes
        was_full, self._full = self._full, full
        if full and not was_full and room is not None:
            free_mb, most_mb = room.free_bytes >> 20, room.total_bytes >> 20
            return Finding(
                "disk",
                f"The session's disk has {free_mb} of {most_mb} MiB left. Its process was replaced by a new one, which "
                "frees what only the old one held; let the agent remove files, or raise config.limits.disk_mb of the "
                "environment for new sessions.",
                {"free_mb": free_mb, "limit_mb": most_mb},
            )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                well = await process.run.alive()
        except TimeoutError:
            well = False
        if well:
            return None
        return Finding(
            "hung",
            "The session's process did not answer any more and was replaced by a new one. The conversation goes on; "
            "programs that were left running are gone.",
            {"answer_seconds": ANSWER_SECONDS},
        )
