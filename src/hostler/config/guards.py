"""When does a server begin nothing new?"""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section


class GuardSettings(Section):
    """When a server refuses (529) what would begin or keep something new, to go on with what it has. 0: never."""

    disk_free_mb: int = Field(
        512, ge=0, le=1 << 30, description="Less than this, in MiB, is free on the disk of the state folder."
    )
    memory_available_mb: int = Field(
        256, ge=0, le=1 << 30, description="Less than this of the host's memory, in MiB, is available."
    )
    loop_delay_ms: int = Field(
        1000, ge=0, le=600_000, description="The event loop comes this much too late four times in a row."
    )
