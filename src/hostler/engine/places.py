"""Which sessions of a workspace are live, and which wait for a place? What a person sees of `engine.admission`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from hostler.domain.sessions import Position
from hostler.engine.admission import Admission
from hostler.engine.waiting_room import MOST
from hostler.engine.waiting_turns import Wait
from hostler.store import admission as rows
from hostler.store.admission import WaitingRow
from hostler.store.database import Database
from hostler.store.moments import moment

View = dict[str, Any]


class Places:
    """Answers for `/hostler/v1`; changes nothing."""

    def __init__(self, database: Database, admission: Admission) -> None:
        """`admission`: of this server. What it lacks is told as the reason of those that no server has a place for."""
        self._database = database
        self._admission = admission

    async def live(self, workspace: str, *, limit: int, after: Position | None) -> tuple[list[View], bool]:
        """Those that have a process on a server, or are getting one; longest first. And whether more follow."""
        found = await self._database.read(lambda c: rows.live(c, self._database.now(c), workspace))
        views = [
            {
                "type": "live_session",
                "session_id": row.session_id,
                "environment_id": row.environment_id,
                "server": row.server,
                "since": moment(row.since),
                "idle": row.status == "idle",
            }
            for row in found
        ]
        return _page(views, limit, after)

    async def waiting(self, workspace: str, *, limit: int, after: Position | None) -> tuple[list[View], bool]:
        """Those with something to do and no process yet, longest first. And whether more follow.

        Of an environment with more of them than a thousand, those that come first.
        """

        def unit(conn: Connection) -> list[tuple[WaitingRow, Wait]]:
            return self._admission.waits(conn, self._database.now(conn), most=MOST)

        found = [(row, wait) for row, wait in await self._database.read(unit) if row.workspace_id == workspace]
        views = [
            {
                "type": "waiting_session",
                "session_id": row.session_id,
                "environment_id": row.environment_id,
                "since": moment(row.since),
                "reason": wait.reason,
                "place": wait.place,
                "limit": wait.limit,
                "message": wait.message(),
            }
            for row, wait in found
        ]
        return _page(views, limit, after)


def _page(views: Sequence[View], limit: int, after: Position | None) -> tuple[list[View], bool]:
    ordered = sorted(views, key=_place)
    behind = [view for view in ordered if after is None or _place(view) > (after.created_at, after.id)]
    return behind[:limit], len(behind) > limit


def _place(view: View) -> tuple[str, str]:
    return view["since"], view["session_id"]
