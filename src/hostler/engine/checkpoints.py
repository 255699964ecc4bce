"""What may be done with the points of a session from outside? Take one, look, remove one, go back.

Taking one and going back are the business of the worker that has, or will have, the session: it alone can see to it
that nothing writes meanwhile. So they are ordered, and waited for.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.checkpoints import KEPT_BY_HAND, CreateCheckpoint, Reason, Rewind
from hostler.domain.errors import Conflict, InvalidRequest
from hostler.domain.sessions import Position
from hostler.engine.boundary import ERRORS
from hostler.engine.hub import Hub
from hostler.engine.points import checkpoint_view, refuse_unless_a_point
from hostler.store import checkpoints as rows
from hostler.store import orders
from hostler.store.checkpoints import CheckpointRow, RewindRow
from hostler.store.database import Database
from hostler.store.pages import Page
from hostler.store.pages import Position as StorePosition
from hostler.store.sessions import lock_session

View = dict[str, Any]

PATIENCE_SECONDS: Final = 60.0
"""How long a worker may take for what was asked. Longer than it takes to bring a session's files to another worker."""
_LOOK_SECONDS: Final = 1.0
"""How long the outcome may stand before it is seen, when no hint of it comes (it may be another server's)."""


class Checkpoints:
    """Of all workspaces. Every method raises NotFound for a session of another one."""

    def __init__(self, database: Database, hub: Hub, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._database = database
        self._hub = hub
        self._patience = patience_seconds
        self._waiting: set[asyncio.Event] = set()
        database.signals.on(orders.SIGNAL, self._look)

    async def create(self, workspace: str, session_id: str, params: CreateCheckpoint) -> View:
        """Raises Conflict while the session runs, InvalidRequest when it can't have one, or has too many."""
        return checkpoint_view(await self.take(workspace, session_id, params.name, "manual"))

    async def take(self, workspace: str, session_id: str, name: str | None, reason: Reason) -> CheckpointRow:
        def refuse(conn: Connection) -> None:
            if reason == "manual" and rows.count_by_hand(conn, session_id) >= KEPT_BY_HAND:
                raise InvalidRequest(
                    f"this session has {KEPT_BY_HAND} checkpoints that were taken by hand, and may not have more; "
                    "delete one first"
                )

        checkpoint_id = await self._order(workspace, session_id, "checkpoint", {"name": name, "reason": reason}, refuse)
        return await self.row(workspace, session_id, checkpoint_id)

    async def keep_files(self, workspace: str, session_id: str) -> None:
        """The session's latest snapshot has its files as they are. Raises what taking a checkpoint raises."""
        await self._order(workspace, session_id, "keep", {}, lambda _: None)

    async def row(self, workspace: str, session_id: str, checkpoint_id: str) -> CheckpointRow:
        """Raises NotFound."""
        return await self._database.read(lambda c: rows.get_checkpoint(c, workspace, session_id, checkpoint_id))

    async def retrieve(self, workspace: str, session_id: str, checkpoint_id: str) -> View:
        return checkpoint_view(await self.row(workspace, session_id, checkpoint_id))

    async def listed(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow."""
        place = StorePosition(*after) if after else None
        found: Page[CheckpointRow] = await self._database.read(
            lambda c: rows.list_checkpoints(c, workspace, session_id, limit=limit, after=place)
        )
        return [checkpoint_view(row) for row in found.rows], found.has_next

    async def delete(self, workspace: str, session_id: str, checkpoint_id: str) -> View:
        """The point is forgotten; its snapshot goes when nothing else needs it."""

        def unit(conn: Connection) -> None:
            rows.get_checkpoint(conn, workspace, session_id, checkpoint_id)
            rows.drop_checkpoint(conn, session_id, checkpoint_id)

        await self._database.write(unit)
        return {"id": checkpoint_id, "type": "checkpoint_deleted"}

    async def rewind(self, workspace: str, session_id: str, params: Rewind) -> View:
        """The session is where it was at the checkpoint. Raises NotFound, and what `create` does."""

        def refuse(conn: Connection) -> None:
            rows.get_checkpoint(conn, workspace, session_id, params.checkpoint_id)

        asked = {"checkpoint_id": params.checkpoint_id, "force": params.force}
        rewind_id = await self._order(workspace, session_id, "rewind", asked, refuse)
        found = await self._database.read(lambda c: rows.get_rewind(c, workspace, session_id, rewind_id))
        return rewind_view(found)

    async def rewinds(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow."""
        place = StorePosition(*after) if after else None
        found: Page[RewindRow] = await self._database.read(
            lambda c: rows.list_rewinds(c, workspace, session_id, limit=limit, after=place)
        )
        return [rewind_view(row) for row in found.rows], found.has_next

    # -- orders

    async def _order(
        self, workspace: str, session_id: str, act: orders.Act, params: dict[str, Any], refuse: Any
    ) -> str:
        """The id of what came of it. Raises what the worker said, Conflict when no worker was in time."""

        def unit(conn: Connection) -> str:
            row = lock_session(conn, workspace, session_id)
            what = "going back" if act == "rewind" else "a checkpoint"
            refuse_unless_a_point(row, what)
            refuse(conn)
            now = self._database.now(conn)
            return orders.give(
                conn, now, session_id, act, {**params, "seq": row.last_seq}, seconds=self._patience + _LOOK_SECONDS
            )

        order_id = await self._database.write(unit)
        self._hub.work(session_id)
        outcome = await self._outcome(order_id)
        if "error" in outcome:
            raise ERRORS[outcome["error"]](outcome["message"], code=outcome["code"])
        return str(outcome["id"] or "")

    async def _outcome(self, order_id: str) -> dict[str, Any]:
        hint = asyncio.Event()
        self._waiting.add(hint)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        try:
            while loop.time() < until:
                hint.clear()
                found = await self._database.read(lambda c: orders.outcome_of(c, order_id))
                if found is not None:
                    return found
                try:
                    async with asyncio.timeout(min(_LOOK_SECONDS, max(0.01, until - loop.time()))):
                        await hint.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting.discard(hint)
        late = Conflict(
            f"no worker could do this within {self._patience:g} seconds, and nothing was changed: all are busy, or "
            "none runs. Try again later."
        )
        abandoned = {"error": "conflict", "message": late.message, "code": None}
        await self._database.write(lambda c: orders.close(c, self._database.now(c), order_id, abandoned))
        outcome = await self._database.read(lambda c: orders.outcome_of(c, order_id))
        if outcome is None:  # nobody carries it out any more: it has expired
            raise late
        return outcome

    def _look(self) -> None:
        for hint in self._waiting:
            hint.set()


def rewind_view(row: RewindRow) -> View:
    return {
        "id": row.id,
        "type": "rewind",
        "session_id": row.session_id,
        "checkpoint_id": row.checkpoint_id,
        "left_checkpoint_id": row.left_checkpoint_id,
        "from_seq": row.from_seq,
        "to_seq": row.to_seq,
        "memories": row.memories,
        "created_at": row.created_at,
    }
