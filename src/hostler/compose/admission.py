"""On which terms do sessions get a place, as the settings have it?"""

from __future__ import annotations

from hostler.config import Settings
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


def wait_terms(settings: Settings) -> WaitTerms:
    return WaitTerms(settings.admission.notice_seconds, settings.admission.longest_wait_seconds)


def worker_settings(settings: Settings) -> WorkerSettings:
    return WorkerSettings(settings.worker.slots, settings.worker.poll_seconds, settings.admission.hold_seconds)
