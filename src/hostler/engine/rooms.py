"""How do the sessions of a room live together on the worker that has it?

The room's common folder is in a home of the room's own, which is made the copy that counts when the first session
enters, and kept after turns, when everything in the room stands still. Each session has its own home besides, as
sessions without a room have. See docs/explanation/shared-sandboxes.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError
from hostler.domain.rooms import COMMON, FOLDERS, SharedRooms
from hostler.engine.home_notes import HomeNotes
from hostler.engine.homes import ROOM, Homes
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.room_changes import Changes, Overwritten
from hostler.engine.room_files import RoomFiles
from hostler.engine.room_port import FolderViews, Opened, Watcher
from hostler.engine.runs import Notice, ToolCall
from hostler.engine.sandbox_port import InRooms, Mount, Sandbox, SandboxLimits, SharedRoom
from hostler.engine.snapshot_port import Reason, SnapshotTooLarge
from hostler.engine.threads import to_its_end
from hostler.store import rooms as rows
from hostler.store.database import Database
from hostler.store.rooms import ConflictRow, MemberRow, Outcome, RoomLease, RoomRow
from hostler.store.work import Lease

log = logging.getLogger("hostler.rooms")

Tell = Callable[[Notice], None]
TIDY_SECONDS: Final = 60.0
"""Pause between two looks for what is left of rooms, when nothing else happens."""
_WRITERS: Mapping[str, str] = {"write": "file_path", "edit": "file_path"}
"""Tools that name the file which they are about to write, and where."""


@dataclass(slots=True)
class _Room:
    """One that somebody is in, on this worker."""

    row: RoomRow
    home: Path
    lock: asyncio.Lock
    """Held while the room stands still, or somebody comes or goes."""
    changes: Changes
    watcher: Watcher
    places: dict[str, Place] = field(default_factory=dict)
    """By session."""
    clean: bool = False
    """True: what is common was kept for when nobody is in it any more."""
    names: dict[str, str] = field(default_factory=dict)
    """Of those that are or were in it, by session."""
    house: AsyncExitStack = field(default_factory=AsyncExitStack)


class Place:
    """A session's place in its room, while its files are entered."""

    def __init__(
        self,
        rooms: Rooms,
        room: _Room,
        member: MemberRow,
        lease: Lease,
        rules: SharedRooms,
        limits: SandboxLimits,
        home: Path,
        tell: Tell,
        notices: Sequence[Notice],
    ) -> None:
        self._rooms = rooms
        self._room = room
        self._rules = rules
        self._home = home
        self.member = member
        self.lease = RoomLease(room.row.id, room.row.epoch, lease)
        self.tell = tell
        self.notices = tuple(notices)
        """What the session's user is to know first."""
        self.ground = SharedRoom(room.row.id, room.home / "workspace", limits)
        self.sandbox: Sandbox | None = None
        self.resting = False
        """Nothing of the session will run before it enters again."""

    @property
    def mounts(self) -> list[Mount]:
        writes = self._rules.common_writers is None or self.member.name in self._rules.common_writers
        mounts = [Mount(self._room.home / "workspace", COMMON, writable=writes, live=True)]
        if self._rules.own_folders == "readable":
            mounts.append(Mount(self._rooms.views_of(self._room.row.id), FOLDERS, live=True))
        return mounts

    async def began(self, sandbox: Sandbox) -> None:
        """The session's process runs. From now on it is seen what it reads and writes of what is common."""
        async with self._room.lock:  # while the room stands still, nothing more begins to run in it
            await self._rooms.used(self._room, self.lease)
            self.sandbox = sandbox
        if not isinstance(sandbox, InRooms):
            raise TypeError("a sandbox of a room shows its folders")
        folder = await sandbox.see(COMMON)
        try:
            self._room.watcher.begin(self.member.session_id, folder, self._touched)
        finally:
            os.close(folder)
        if self._rules.own_folders == "readable":
            await self._rooms.show(self._room, self.member.name, self._home / "workspace")

    def ended(self) -> None:
        """Its process is about to end."""
        self.sandbox = None
        self._room.watcher.look()
        self._room.changes.forget(self.member.session_id)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside the block no other session of the room is kept, comes or goes."""
        async with self._room.lock:
            yield

    async def keep(self, reason: Reason, *, last: bool) -> None:
        """Keeps what is common, while the whole room stands still. Inside `alone`. Raises LeaseLost.

        `last`: nothing of this session runs any more, or will.
        """
        self.resting = last
        self._room.watcher.look()
        self.settle()
        await self._rooms.keep(self._room, self.lease, reason)

    def objects(self, call: ToolCall) -> str | None:
        """Why a call must not run that would overwrite what the session has not seen; None: it may."""
        key = _WRITERS.get(call.name)
        if key is None or self._rules.conflicts != "first_writer_wins":
            return None
        path = posixpath.normpath(str(call.input.get(key)))
        if not path.startswith(f"{COMMON}/"):
            return None
        self._room.watcher.look()
        self.settle()
        inside = path[len(COMMON) + 1 :]
        other = self._room.changes.unseen(self.member.session_id, inside)
        if other is None:
            return None
        self._rooms.report(self._room, Overwritten(inside, self.member.session_id, other), "refused")
        name = self._rooms.name_of(self._room.row.id, other)
        return (
            f"{path} was changed by {name} after you last read it, and your call would have overwritten that. Read "
            "the file again, then make your change on top of it."
        )

    def settle(self) -> None:
        for one in self._room.changes.moved():
            self._rooms.report(self._room, one, "overwritten")

    def _touched(self, who: str, path: str, inode: int, wrote: bool, file: Opened) -> None:
        inside = COMMON[1:] + "/"
        if path.startswith(inside) and _inode(self._room.home / "workspace", path) != inode:
            path = path[len(inside) :]  # the kernel may say it as the sandbox would
        changes = self._room.changes
        if not wrote:
            changes.read(who, path)
        elif (found := changes.wrote(who, path, inode, file)) is not None:
            self._rooms.report(self._room, found, "overwritten")


class Rooms:
    """The rooms that sessions of one worker are in. `run` once, beside the worker."""

    def __init__(
        self,
        owner: str,
        database: Database,
        files: RoomFiles,
        homes: Homes,
        notes: HomeNotes,
        views: FolderViews,
        watcher: Callable[[], Watcher],
        folder: Path,
    ) -> None:
        """`homes`: of rooms, by their ids. `watcher` makes one for a room; it may raise OSError. `folder`: where the
        views are made, one folder for each room."""
        self._owner = owner
        self._database = database
        self._files = files
        self._homes = homes
        self._notes = notes
        self._views = views
        self._folder = folder
        self._watcher = watcher
        self._live: dict[str, _Room] = {}
        self._coming = asyncio.Lock()
        self._told: asyncio.Queue[tuple[_Room, Overwritten, Outcome]] = asyncio.Queue()
        self._news: set[tuple[str, Overwritten, Outcome]] = set()
        """What is in it."""

    def views_of(self, room_id: str) -> Path:
        return self._folder / room_id

    def name_of(self, room_id: str, session_id: str) -> str:
        """Of a session that has been in the room lately; else its id."""
        room = self._live.get(room_id)
        return session_id if room is None else room.names.get(session_id, session_id)

    @asynccontextmanager
    async def entered(
        self, lease: Lease, rules: SharedRooms, limits: SandboxLimits, home: Path, tell: Tell
    ) -> AsyncIterator[Place]:
        """The session of the lease is in its room inside the block; `home` is its own, and entered.

        Raises RoomElsewhere, LeaseLost, NotFound; VolumeUnavailable, ObjectsUnavailable.
        """
        row, member = await self._database.write(lambda c: rows.enter_room(c, self._database.now(c), lease))
        room: _Room | None = None
        try:
            async with self._coming:
                room = self._live.get(row.id)
                notices: list[Notice] = []
                if room is None or room.row.epoch != row.epoch:
                    room, notices = await self._open(row, lease, limits)
                    self._live[row.id] = room
                notices += await self._untold(lease.session_id)
                place = Place(self, room, member, lease, rules, limits, home, tell, notices)
                room.places[lease.session_id] = place
                room.names[lease.session_id] = member.name
            yield place
        finally:
            if room is not None:
                await self._leave(room, member, lease)

    async def _leave(self, room: _Room, member: MemberRow, lease: Lease) -> None:
        async with self._coming:
            room.watcher.end(member.session_id)
            room.places.pop(lease.session_id, None)
            room.changes.forget(member.session_id)
            await asyncio.to_thread(self._views.hide, self.views_of(room.row.id), member.name)
            if not room.places:
                if self._live.get(room.row.id) is room:
                    del self._live[room.row.id]
                    await asyncio.to_thread(self._views.close, self.views_of(room.row.id))
                await room.house.aclose()
        try:
            await self._database.write(lambda c: rows.leave_place(c, lease))
        except (HostlerError, OSError):  # then the lease runs out
            log.exception("room_not_left", extra={"session": lease.session_id})

    async def show(self, room: _Room, name: str, folder: Path) -> None:
        """The others see a session's own folder from now on, until it leaves."""
        async with self._coming:
            await asyncio.to_thread(self._views.show, self.views_of(room.row.id), name, folder)

    # -- the common folder

    async def _open(self, row: RoomRow, lease: Lease, limits: SandboxLimits) -> tuple[_Room, list[Notice]]:
        """The room's files are here, and are those that count."""
        async with AsyncExitStack() as stack:
            stay = await stack.enter_async_context(self._homes.entered(row.id, limits.disk_bytes))
            stay.looked_through = True
            notices = await self._files.settle(row, RoomLease(row.id, row.epoch, lease), stay.home)
            common = stay.home / "workspace"
            await asyncio.to_thread(common.mkdir, mode=0o700, exist_ok=True)
            await asyncio.to_thread(self._views.open, self.views_of(row.id))
            watcher = self._watcher()
            stack.callback(watcher.close)
            room = _Room(row, stay.home, asyncio.Lock(), Changes(lambda path: _inode(common, path)), watcher)
            room.house = stack.pop_all()
        return room, notices

    async def used(self, room: _Room, lease: RoomLease) -> None:
        """Something is about to run in it. Holding the room's lock. Raises LeaseLost."""
        if room.clean:  # the last one has left since this one entered
            await self._files.used(room.row, lease)
            room.clean = False

    async def keep(self, room: _Room, lease: RoomLease, reason: Reason) -> None:
        """A snapshot of what is common, while nothing in the room runs. Holding the room's lock. Raises LeaseLost."""
        sandboxes = [place.sandbox for place in room.places.values() if place.sandbox is not None]
        stopped: list[Sandbox] = []
        try:
            for sandbox in sandboxes:
                stopped.append(sandbox)
                try:
                    await to_its_end(sandbox.suspend())  # What is only half suspended can't be resumed.
                except Exception:  # another session's trouble: this one's turn goes on, the next one keeps the folder
                    log.exception("room_not_kept", extra={"room": room.row.id})
                    return
            over = all(place.resting for place in room.places.values())
            room.clean = room.clean or over
            await self._files.keep(room.row, lease, room.home, reason, last=over)
        except SnapshotTooLarge as error:
            told = Notice("files_not_kept", f"The common folder of this session's room was not kept: {error}")
            for place in room.places.values():
                place.tell(told)
        except ObjectsUnavailable as error:
            log.error("room_not_kept", extra={"room": room.row.id, "reason": str(error)})
        finally:
            await to_its_end(_resume(stopped, room.row.id))

    # -- conflicts

    def report(self, room: _Room, found: Overwritten, outcome: Outcome) -> None:
        news = room.row.id, found, outcome
        if news not in self._news:  # Programs can overwrite a file faster than anybody writes it down.
            self._news.add(news)
            self._told.put_nowait((room, found, outcome))

    async def run(self) -> None:
        """Writes down conflicts, tells both sides, and tidies up now and then, until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(TIDY_SECONDS):
                    told = await self._told.get()
                    self._news.discard((told[0].row.id, *told[1:]))
            except TimeoutError:
                told = None
            try:
                await (self.tidy() if told is None else self._record(*told))
            except Exception:  # what sessions do to names and files must not end the server
                log.exception("room_not_looked_after", extra={"room": told and told[0].row.id})

    async def _record(self, room: _Room, found: Overwritten, outcome: Outcome) -> None:
        other = room.places.get(found.of)

        def unit(conn: Connection) -> ConflictRow:
            now = self._database.now(conn)
            made = rows.add_conflict(conn, now, room.row.id, _text(found.path), found.by, found.of, outcome)
            if other is not None:
                rows.mark_told(conn, made.id)
            return made

        row = await self._database.write(unit)
        log.info("room_conflict", extra={"room": room.row.id, "path": found.path, "outcome": outcome})
        writer = room.places.get(found.by)
        if writer is not None:
            writer.tell(self._notice(row, found.by))
        if other is not None:
            other.tell(self._notice(row, found.of))

    async def _untold(self, session_id: str) -> list[Notice]:
        found = await self._database.write(lambda c: rows.untold(c, session_id))
        return [self._notice(row, session_id) for row in found]

    def _notice(self, row: ConflictRow, reader: str) -> Notice:
        """For one of the two."""
        mine, path = row.session_id == reader, f"{COMMON}/{row.path}"
        other = row.other_session_id if mine else row.session_id
        name = self.name_of(row.room_id, other)
        if row.outcome == "refused":
            said = (
                f"A call was refused that would have overwritten what {name} has changed in {path}, unseen."
                if mine
                else f"{name} was kept from overwriting what this session has changed in {path}, unseen."
            )
        else:
            said = (
                f"This session has overwritten what {name} had changed in {path}, without having read it."
                if mine
                else f"{name} has overwritten what this session had changed in {path}, without having read it."
            )
        details = {
            "room_id": row.room_id,
            "conflict_id": row.id,
            "path": path,
            "session_id": row.session_id,
            "other_session_id": row.other_session_id,
            "outcome": row.outcome,
            "at": row.happened_at,
        }
        return Notice("shared_conflict", said, details)

    # -- what is left

    async def sweep(self) -> None:
        """Once, before the worker: what an earlier life has left mounted, and homes of rooms that don't count here."""
        await asyncio.to_thread(self._views.sweep, self._folder)
        await self.tidy()

    async def tidy(self) -> None:
        """Removes homes of rooms that are gone, or were overtaken by another worker's."""
        names = [name for name in await asyncio.to_thread(self._homes.volumes.homes) if name.startswith(ROOM)]
        known = await self._database.read(lambda c: rows.existing_rooms(c, names))
        for name in names:
            if await self._counts(name, known.get(name)):
                continue
            async with self._coming:  # nobody enters meanwhile; somebody may have, a moment ago
                known_now = await self._database.read(lambda c, id_=name: rows.existing_rooms(c, [id_]))  # type: ignore[misc]
                if name not in self._live and not await self._counts(name, known_now.get(name)):
                    await asyncio.to_thread(self._notes.remove, name)
                    await asyncio.to_thread(self._homes.remove, name)

    async def _counts(self, room_id: str, row: RoomRow | None) -> bool:
        """Whether the home of a room on this host may be what counts."""
        note = await asyncio.to_thread(self._notes.glance, room_id)
        return row is not None and (note is None or note.copy_name == row.copy)


async def _resume(stopped: Sequence[Sandbox], room_id: str) -> None:
    for sandbox in stopped:
        try:
            await sandbox.resume()
        except Exception:  # one that is gone; the others are to go on
            log.exception("room_not_resumed", extra={"room": room_id})


def _text(path: str) -> str:
    """Names are bytes, and a session chooses them: those that are no text are shown as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _inode(common: Path, path: str) -> int | None:
    try:
        return os.stat(common / path, follow_symlinks=False).st_ino
    except OSError:
        return None
