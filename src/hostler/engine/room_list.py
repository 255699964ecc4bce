"""Which rooms does a workspace have, who is in them, and who has overwritten whose changes? And how does one join?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from hostler.domain.environments import CloudConfig, SelfHostedConfig
from hostler.domain.errors import InvalidRequest
from hostler.domain.rooms import SharedRooms, name_of, refuse_room_keys, room_of
from hostler.domain.sessions import Position
from hostler.store import rooms as rows
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.rooms import ConflictRow, RoomRow

View = dict[str, Any]


def join_its_room(
    conn: Connection,
    now: float,
    workspace: str,
    environment_id: str,
    config: CloudConfig | SelfHostedConfig,
    session_id: str,
    metadata: Mapping[str, str],
) -> None:
    """A session that was just made joins the room that its metadata names, if its environment has rooms.

    Raises InvalidRequest when the room is full, and for words about rooms where there are none; Conflict.
    """
    if not isinstance(config, CloudConfig) or config.hosting.pattern != "shared":
        refuse_room_keys(metadata)
        return
    rules = config.hosting.shared or SharedRooms()
    name = name_of(metadata) or session_id
    rows.join_room(conn, now, workspace, environment_id, room_of(metadata), session_id, name, rules.max_sessions)


def refuse_in_room(environment: Mapping[str, Any]) -> None:
    """A session can't be there twice in one room: both would change what is common. Raises InvalidRequest."""
    hosting = (environment.get("config") or {}).get("hosting") or {}
    if hosting.get("pattern") == "shared":
        raise InvalidRequest(
            "This session lives in a room with others, which has one common folder; a fork would be one more in it, "
            "with the memory of this one. Make a new session in the room instead."
        )


class RoomList:
    """The rooms of all workspaces. NotFound for another workspace's room."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def listed(self, workspace: str, limit: int, after: Position | None) -> tuple[list[View], bool]:
        """Newest first, and whether more follow."""

        def read(conn: Connection) -> tuple[list[View], bool]:
            found = rows.list_rooms(
                conn, workspace, limit=limit, after=None if after is None else StorePosition(*after)
            )
            now = self._database.now(conn)
            return [_view(conn, now, row) for row in found.rows], found.has_next

        return await self._database.read(read)

    async def retrieve(self, workspace: str, room_id: str) -> View:
        return await self._database.read(
            lambda c: _view(c, self._database.now(c), rows.get_room(c, workspace, room_id))
        )

    async def conflicts(
        self, workspace: str, room_id: str, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow."""

        def read(conn: Connection) -> tuple[list[View], bool]:
            rows.get_room(conn, workspace, room_id)
            place = None if after is None else StorePosition(*after)
            found = rows.list_conflicts(conn, room_id, limit=limit, after=place)
            return [conflict_view(row) for row in found.rows], found.has_next

        return await self._database.read(read)


def _view(conn: Connection, now: float, row: RoomRow) -> View:
    live = rows.inside(conn, now, row.id)
    return {
        "id": row.id,
        "type": "room",
        "environment_id": row.environment_id,
        "name": row.name,
        "worker": row.worker if live else None,
        "sessions": [
            {
                "session_id": each.session_id,
                "name": each.name,
                "joined_at": each.joined_at,
                "live": each.session_id in live,
            }
            for each in rows.members_of(conn, row.id)
        ],
        "created_at": row.created_at,
    }


def conflict_view(row: ConflictRow) -> View:
    return {
        "id": row.id,
        "type": "room_conflict",
        "room_id": row.room_id,
        "path": row.path,
        "session_id": row.session_id,
        "other_session_id": row.other_session_id,
        "outcome": row.outcome,
        "created_at": row.happened_at,
    }
