"""What do rooms stand on, on this host?"""

from __future__ import annotations

import asyncio

from hostler.config import Settings
from hostler.engine.home_notes import HomeNotes
from hostler.engine.homes import Homes
from hostler.engine.room_files import RoomFiles
from hostler.engine.rooms import Rooms
from hostler.engine.snapshot_port import Snapshots
from hostler.sandbox.views import SpreadViews
from hostler.sandbox.watching import Fanotify, hindrance
from hostler.store.database import Database


async def open_rooms(
    settings: Settings, owner: str, database: Database, snapshots: Snapshots, homes: Homes
) -> Rooms | None:
    """None where the kernel doesn't let rooms be watched: then no rung here gives any (`IsolationLabel.no_rooms`)."""
    if await asyncio.to_thread(hindrance):
        return None
    notes = HomeNotes(settings.state_dir / "room-notes")
    files = RoomFiles(database, snapshots, notes, homes.volumes.flush)
    rooms = Rooms(owner, database, files, homes, notes, SpreadViews(), Fanotify, settings.state_dir / "rooms")
    await rooms.sweep()
    return rooms
