"""On which terms do sessions get a place, as the settings have it?"""

from __future__ import annotations

import os

from hostler.config import Settings
from hostler.engine.guards import Guards, GuardTerms
from hostler.engine.memory_use import MemoryUse
from hostler.engine.waiting_room import WaitTerms
from hostler.engine.worker import WorkerSettings
from hostler.sandbox.host_memory import ProcMemory


def memory_use(settings: Settings) -> MemoryUse:
    terms = settings.admission
    return MemoryUse(
        ProcMemory(),
        limit_bytes=terms.memory_mb << 20 if terms.memory_mb else None,
        reserve_bytes=terms.reserve_mb << 20 if terms.reserve_mb else None,
    )


def guards(settings: Settings) -> Guards:
    terms, memory = settings.guards, ProcMemory()

    def disk() -> int:
        found = os.statvfs(settings.state_dir)
        return found.f_bavail * found.f_frsize

    def available() -> int | None:
        found = memory.host()
        return None if found is None else found.available_bytes

    return Guards(
        GuardTerms(terms.disk_free_mb << 20, terms.memory_available_mb << 20, terms.loop_delay_ms / 1000),
        disk,
        available,
    )


def wait_terms(settings: Settings) -> WaitTerms:
    return WaitTerms(settings.admission.notice_seconds, settings.admission.longest_wait_seconds)


def worker_settings(settings: Settings) -> WorkerSettings:
    return WorkerSettings(settings.worker.slots, settings.worker.poll_seconds, settings.admission.hold_seconds)
