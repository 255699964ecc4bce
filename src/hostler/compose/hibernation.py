"""How are a host's homes joined to what is kept of sessions outside of it?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from hostler.config import Settings
from hostler.engine.attachments import Attachments, collect_left
from hostler.engine.copies import Copies
from hostler.engine.home_keeping import CacheTerms, HomeKeeper
from hostler.engine.home_notes import HomeNotes
from hostler.engine.homes import Homes
from hostler.engine.hub import Hub
from hostler.engine.mounted_files import MountedFiles
from hostler.engine.runner_parts import LeaseTerms
from hostler.engine.snapshot_port import Snapshots
from hostler.store.database import Database


def home_copies(
    settings: Settings, database: Database, snapshots: Snapshots, homes: Homes, files: MountedFiles
) -> Copies:
    notes = HomeNotes(settings.state_dir / "homes")

    async def forget(session_id: str) -> None:
        await asyncio.to_thread(notes.remove, session_id)
        await asyncio.to_thread(homes.remove, session_id)
        await asyncio.to_thread(files.forget, session_id)

    return Copies(database, snapshots, notes, forget, homes.volumes.flush)


def home_keeping(
    settings: Settings,
    owner: str,
    database: Database,
    copies: Copies,
    homes: Homes,
    attachments: Attachments,
    hub: Hub,
    lease_terms: LeaseTerms,
) -> Callable[[], Coroutine[None, None, None]]:
    """What runs beside the worker until it is cancelled."""
    terms = CacheTerms(settings.worker.cache_mb << 20, look_seconds=settings.worker.cache_look_seconds)
    keeper = HomeKeeper(owner, database, copies, homes, attachments, hub.work, lease_terms, terms)

    async def run() -> None:
        await collect_left(homes, database, attachments, copies.counts)
        await keeper.run()

    return run
