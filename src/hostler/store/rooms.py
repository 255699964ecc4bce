"""Which sessions share a room, where is it at home, and who has overwritten whose changes in it?

A room has no lease of its own. A session that enters it does so under its session's lease, and while that lease holds
the room belongs to that worker: nobody on another worker gets in. Whoever writes for the room shows that lease, and the
room's epoch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from hostler.domain.ids import new_id
from hostler.store import work as leases
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables import sessions, work
from hostler.store.tables_rooms import room_conflicts, room_members, rooms
from hostler.store.tables_snapshots import snapshots
from hostler.store.work import Lease

Outcome = Literal["overwritten", "refused"]


class RoomElsewhere(LeaseLost):
    """Another worker has the room at this moment."""


@dataclass(frozen=True, slots=True)
class RoomRow:
    id: str
    workspace_id: str
    environment_id: str
    name: str
    created_at: str
    worker: str
    """Who has it, or had it last. Empty: nobody has had it."""
    epoch: int
    copy: str
    """Name of the copy of the common folder that counts."""
    dirty: bool
    """There may be more in it than the latest snapshot has."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    session_id: str
    room_id: str
    name: str
    joined_at: str
    entered_epoch: int | None


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """A session has changed a file without having seen what another one had made of it."""

    id: str
    room_id: str
    path: str
    """Relative to the common folder."""
    session_id: str
    """Who did, or was kept from it."""
    other_session_id: str
    """Whose change it was."""
    outcome: Outcome
    happened_at: str
    told: bool


@dataclass(frozen=True, slots=True)
class RoomLease:
    """The right to write for a room: the lease of a session that is in it, at an epoch of the room."""

    room_id: str
    epoch: int
    session: Lease


_ROOM: Final = tuple(rooms.c[name] for name in RoomRow.__slots__)
_MEMBER: Final = tuple(room_members.c[name] for name in MemberRow.__slots__)
_CONFLICT: Final = tuple(room_conflicts.c[name] for name in ConflictRow.__slots__)

CONFLICTS_KEPT: Final = 1000
"""Of one room; the oldest go."""

# -- joining


def join_room(
    conn: Connection,
    now: float,
    workspace_id: str,
    environment_id: str,
    room_name: str,
    session_id: str,
    name: str,
    most: int,
) -> str:
    """The session, which was just made, is in that room of its environment from now on; gives the room's id.

    Raises InvalidRequest when `most` sessions that are not archived are in it, Conflict when the name is taken.
    """
    values = {
        "id": new_id("room"),
        "workspace_id": workspace_id,
        "environment_id": environment_id,
        "name": room_name,
        "created_at": moment(now),
    }
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    which = sa.and_(rooms.c.environment_id == environment_id, rooms.c.name == room_name)
    room_id: str | None = None
    while room_id is None:  # its last member may leave, and the room go, between the two
        conn.execute(dialect.insert(rooms).values(**values).on_conflict_do_nothing())
        room_id = conn.execute(sa.select(rooms.c.id).where(which).with_for_update()).scalar_one_or_none()
    inside = sa.select(sa.func.count()).select_from(room_members.join(sessions))
    inside = inside.where(room_members.c.room_id == room_id, sessions.c.archived_at.is_(None))
    if int(conn.execute(inside).scalar_one()) >= most:
        raise InvalidRequest(
            f"the room {room_name} of this environment is full: {most} sessions are in it "
            "(config.hosting.shared.max_sessions); archive or delete one, or name another room in the metadata "
            "(hostler.room)",
            code="room_full",
        )
    taken = sa.select(room_members.c.session_id).where(room_members.c.room_id == room_id, room_members.c.name == name)
    if conn.execute(taken).first() is not None:
        raise Conflict(
            f"the room {room_name} has a session of the name {name} already; choose another hostler.room_name"
        )
    member = {"session_id": session_id, "room_id": room_id, "name": name, "joined_at": moment(now)}
    conn.execute(room_members.insert().values(**member))
    return room_id


def leave_room(conn: Connection, session_id: str) -> None:
    """The session is about to be removed. A room that nobody is in any more goes, with all that was kept of it."""
    found = conn.execute(sa.select(room_members.c.room_id).where(room_members.c.session_id == session_id)).first()
    if found is None:
        return
    room_id = found[0]
    conn.execute(sa.select(rooms.c.id).where(rooms.c.id == room_id).with_for_update())
    conn.execute(room_members.delete().where(room_members.c.session_id == session_id))
    left = sa.select(room_members.c.session_id).where(room_members.c.room_id == room_id).limit(1)
    if conn.execute(left).first() is None:
        conn.execute(snapshots.delete().where(snapshots.c.session_id == room_id))
        conn.execute(rooms.delete().where(rooms.c.id == room_id))


# -- reading


def find_member(conn: Connection, session_id: str) -> MemberRow | None:
    row = conn.execute(sa.select(*_MEMBER).where(room_members.c.session_id == session_id)).first()
    return None if row is None else MemberRow(*row)


def members_of(conn: Connection, room_id: str) -> list[MemberRow]:
    """Those who joined first come first."""
    query = sa.select(*_MEMBER).where(room_members.c.room_id == room_id)
    return [
        MemberRow(*row) for row in conn.execute(query.order_by(room_members.c.joined_at, room_members.c.session_id))
    ]


def get_room(conn: Connection, workspace_id: str | None, room_id: str) -> RoomRow:
    """Raises NotFound, also when it is another workspace's (None: of any)."""
    row = conn.execute(sa.select(*_ROOM).where(rooms.c.id == room_id)).first()
    if row is None or workspace_id not in (None, row.workspace_id):
        raise NotFound(f"room {room_id} does not exist")
    return RoomRow(*row)


def list_rooms(conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None) -> Page[RoomRow]:
    """Newest first."""
    return page(
        conn,
        rooms,
        _ROOM,
        (rooms.c.workspace_id == workspace_id,),
        RoomRow,
        keys=(rooms.c.created_at, rooms.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def existing_rooms(conn: Connection, room_ids: Collection[str]) -> dict[str, RoomRow]:
    query = sa.select(*_ROOM).where(rooms.c.id.in_(sorted(room_ids)))
    return {row.id: RoomRow(*row) for row in conn.execute(query)} if room_ids else {}


def inside(conn: Connection, now: float, room_id: str) -> set[str]:
    """Ids of the sessions that are in the room now."""
    return {str(row[0]) for row in conn.execute(_inside(room_id, now))}


def _inside(room_id: str, now: float) -> sa.Select[tuple[str]]:
    held = sa.and_(work.c.epoch == room_members.c.entered_epoch, work.c.lease_until > now)
    joined = room_members.join(work, work.c.session_id == room_members.c.session_id)
    return sa.select(room_members.c.session_id).select_from(joined).where(room_members.c.room_id == room_id, held)


# -- being inside


def enter_room(conn: Connection, now: float, lease: Lease) -> tuple[RoomRow, MemberRow]:
    """The session of the lease is in its room now, and the room is at home on the lease's owner.

    Raises LeaseLost, RoomElsewhere while somebody is in it on another worker, NotFound for a session without a room.
    """
    leases.check(conn, now, lease)
    member = find_member(conn, lease.session_id)
    if member is None:
        raise NotFound(f"session {lease.session_id} is in no room")
    row = conn.execute(sa.select(*_ROOM).where(rooms.c.id == member.room_id).with_for_update()).one()
    room = RoomRow(*row)
    if room.worker != lease.owner:
        others = _inside(room.id, now).where(work.c.owner != lease.owner)
        if conn.execute(others.limit(1)).first() is not None:
            raise RoomElsewhere(f"room {room.id} is at home on {room.worker}")
        changed = rooms.update().where(rooms.c.id == room.id).values(worker=lease.owner, epoch=rooms.c.epoch + 1)
        conn.execute(changed)
        room = get_room(conn, None, room.id)
    entered = room_members.update().where(room_members.c.session_id == lease.session_id)
    conn.execute(entered.values(entered_epoch=lease.epoch))
    return room, member


def leave_place(conn: Connection, lease: Lease) -> None:
    """The session of the lease is not in its room any more."""
    mine = (room_members.c.session_id == lease.session_id, room_members.c.entered_epoch == lease.epoch)
    conn.execute(room_members.update().where(*mine).values(entered_epoch=None))


def check_room(conn: Connection, now: float, lease: RoomLease) -> None:
    """Raises LeaseLost unless the session's lease holds and the room has not moved; it can't before this ends."""
    leases.check(conn, now, lease.session)
    query = sa.select(rooms.c.epoch).where(rooms.c.id == lease.room_id, rooms.c.worker == lease.session.owner)
    if conn.execute(query.with_for_update()).scalar() != lease.epoch:
        raise LeaseLost(f"room {lease.room_id} has moved from {lease.session.owner}")


def set_copy(conn: Connection, now: float, lease: RoomLease, *, dirty: bool, copy: str | None = None) -> None:
    """`copy` counts from now on (None: the one that did). Raises LeaseLost."""
    check_room(conn, now, lease)
    named = {} if copy is None else {"copy": copy}
    conn.execute(rooms.update().where(rooms.c.id == lease.room_id).values(dirty=dirty, **named))


# -- conflicts


def add_conflict(
    conn: Connection, now: float, room_id: str, path: str, session_id: str, other_session_id: str, outcome: Outcome
) -> ConflictRow:
    row = ConflictRow(new_id("cnfl"), room_id, path, session_id, other_session_id, outcome, moment(now), False)
    conn.execute(room_conflicts.insert().values({name: getattr(row, name) for name in ConflictRow.__slots__}))
    newest_first = (room_conflicts.c.happened_at.desc(), room_conflicts.c.id.desc())
    which = sa.select(room_conflicts.c.id).where(room_conflicts.c.room_id == room_id).order_by(*newest_first)
    old = [one for (one,) in conn.execute(which.offset(CONFLICTS_KEPT).limit(100))]
    conn.execute(room_conflicts.delete().where(room_conflicts.c.id.in_(old)))
    return row


def list_conflicts(conn: Connection, room_id: str, *, limit: int, after: Position | None = None) -> Page[ConflictRow]:
    """Newest first."""
    return page(
        conn,
        room_conflicts,
        _CONFLICT,
        (room_conflicts.c.room_id == room_id,),
        ConflictRow,
        keys=(room_conflicts.c.happened_at, room_conflicts.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def mark_told(conn: Connection, conflict_id: str) -> None:
    conn.execute(room_conflicts.update().where(room_conflicts.c.id == conflict_id).values(told=True))


def untold(conn: Connection, session_id: str) -> list[ConflictRow]:
    """What others have done to the session's changes that it has not been told of: from now on it has. Oldest first."""
    which = (room_conflicts.c.other_session_id == session_id, sa.not_(room_conflicts.c.told))
    query = sa.select(*_CONFLICT).where(*which).order_by(room_conflicts.c.happened_at, room_conflicts.c.id)
    found = [ConflictRow(*row) for row in conn.execute(query)]
    if found:
        told = room_conflicts.update().where(room_conflicts.c.id.in_([row.id for row in found]))
        conn.execute(told.values(told=True))
    return found
