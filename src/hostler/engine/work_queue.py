"""How do workers of self-hosted environments get their work, keep it, and give it back? The queue's service.

Leases that ran out are noticed by whoever looks next: nothing here runs by itself. A poll that waits is woken by the
hub when something is queued; it looks once more when its time is over, for what time alone has brought.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.principals import Principal
from hostler.domain.sessions import Position
from hostler.domain.values import merge_metadata
from hostler.engine import self_hosting
from hostler.engine.environments import body_of
from hostler.engine.hub import Hub
from hostler.engine.state import SessionState
from hostler.engine.work_items import (
    RECLAIM_SECONDS,
    Bearer,
    Beat,
    Terms,
    acknowledged,
    beaten,
    claimed,
    run_out,
    stop_requested,
    work_wire,
)
from hostler.store import catalog, sessions
from hostler.store import work_items as rows
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.pages import Position as StorePosition
from hostler.store.session_tokens import expire_token, mint_token
from hostler.store.work_items import WorkItemRow

NOTE_POLLER_SECONDS = 10.0
"""How often a worker's polling is written down."""

Work = dict[str, Any]
"""A work item as the wire shows it."""


@dataclass(frozen=True, slots=True)
class Poll:
    """What a worker asks for."""

    worker: str | None
    block_seconds: float = 0.0
    """How long to wait for something when there is nothing."""
    reclaim_seconds: float = RECLAIM_SECONDS


class WorkQueue:
    """The queues of all environments. Every method raises NotFound for an environment of another workspace."""

    def __init__(self, database: Database, hub: Hub, terms: Terms | None = None) -> None:
        self._database = database
        self._hub = hub
        self._terms = terms or Terms()
        self._noted: dict[tuple[str, str], float] = {}

    async def poll(self, workspace: str, environment_id: str, poll: Poll) -> Work | None:
        """Claim the item that has waited longest; None when there is none. The answer holds the claim's `secret`."""
        await self._note(workspace, environment_id, poll.worker)
        if poll.block_seconds <= 0:
            return await self._claim(environment_id, poll)
        until = monotonic() + poll.block_seconds
        with self._hub.queue_waiter(environment_id) as waiter:  # before the first look, so that nothing is missed
            while True:
                found = await self._claim(environment_id, poll)
                if found is not None or monotonic() >= until:
                    return found
                try:
                    async with asyncio.timeout(until - monotonic()):
                        await waiter.wait()
                except TimeoutError:
                    pass
                waiter.clear()

    async def ack(self, workspace: str, environment_id: str, work_id: str, principal: Principal) -> Work:
        """The claimed item is being started. The same again changes nothing. Raises InvalidRequest."""

        def unit(conn: Connection) -> WorkItemRow:
            now, row = self._current(conn, workspace, environment_id, work_id, principal)
            return rows.put_item(conn, acknowledged(row, now, _bearer(principal)))

        return work_wire(await self._database.write(unit))

    async def heartbeat(
        self, workspace: str, environment_id: str, work_id: str, principal: Principal, beat: Beat
    ) -> dict[str, Any]:
        """Extend the lease. Raises HeartbeatRefused when somebody else has it, or nobody."""

        def look(conn: Connection) -> WorkItemRow:
            return self._current(conn, workspace, environment_id, work_id, principal)[1]

        def unit(conn: Connection) -> tuple[WorkItemRow, bool]:
            now = self._database.now(conn)
            row = look(conn)
            row, extended = beaten(row, now, _bearer(principal), beat, self._terms)
            return rows.put_item(conn, row), extended

        # A lease that is found to have run out stays so although the heartbeat is refused: that is its own transaction.
        await self._lapse_one(workspace, environment_id, work_id)
        row, extended = await self._database.write(unit)
        return {
            "type": "work_heartbeat",
            "last_heartbeat": row.latest_heartbeat_at or "",
            "lease_extended": extended,
            "state": row.state,
            "ttl_seconds": row.ttl_seconds,
        }

    async def stop(
        self, workspace: str, environment_id: str, work_id: str, principal: Principal, *, force: bool
    ) -> Work:
        """Raises Conflict when it is stopped already."""

        def unit(conn: Connection) -> tuple[WorkItemRow, bool]:
            now, row = self._current(conn, workspace, environment_id, work_id, principal)
            after = rows.put_item(conn, stop_requested(row, now, force=force))
            if after.state != "stopped":
                return after, False
            return after, self_hosting.ended(conn, now, after, by_worker=principal.kind != "api_key")

        await self._lapse_one(workspace, environment_id, work_id)
        row, queued = await self._database.write(unit)
        if queued:
            self._hub.queued(environment_id)
        return work_wire(row)

    async def retrieve(self, workspace: str, environment_id: str, work_id: str) -> Work:
        await self._lapse_one(workspace, environment_id, work_id)
        return work_wire(
            await self._database.read(lambda conn: rows.get_item(conn, workspace, environment_id, work_id))
        )

    async def update(self, workspace: str, environment_id: str, work_id: str, metadata: dict[str, str | None]) -> Work:
        """Merge `metadata` into the item's: null deletes a key."""

        def unit(conn: Connection) -> WorkItemRow:
            row = rows.get_item(conn, workspace, environment_id, work_id, for_update=True)
            merged = merge_metadata(row.metadata, metadata)
            return rows.put_item(conn, replace(row, metadata_json=rows.metadata_text(merged)))

        await self._lapse_one(workspace, environment_id, work_id)
        return work_wire(await self._database.write(unit))

    async def list(
        self, workspace: str, environment_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[Work], bool]:
        """Items, newest first, stopped ones included, and whether more follow."""
        await self._lapse(workspace, environment_id)
        place = None if after is None else StorePosition(*after)
        found = await self._database.read(
            lambda conn: rows.list_items(conn, workspace, environment_id, limit=limit, after=place)
        )
        return [work_wire(row) for row in found.rows], found.has_next

    async def stats(self, workspace: str, environment_id: str) -> dict[str, Any]:
        await self._lapse(workspace, environment_id)

        def unit(conn: Connection) -> rows.QueueStats:
            now = self._database.now(conn)
            return rows.queue_stats(conn, now, environment_id, claimed_before=now - RECLAIM_SECONDS)

        found = await self._database.read(unit)
        return {
            "type": "work_queue_stats",
            "depth": found.depth,
            "pending": found.pending,
            "oldest_queued_at": None if found.oldest_queued_at is None else moment(found.oldest_queued_at),
            "workers_polling": found.workers_polling,
        }

    # -- the parts

    async def _claim(self, environment_id: str, poll: Poll) -> Work | None:
        def due(conn: Connection) -> bool:
            now = self._database.now(conn)
            return rows.anything_due(conn, now, environment_id, claimed_before=now - poll.reclaim_seconds)

        queued: list[bool] = []

        def unit(conn: Connection) -> tuple[WorkItemRow, str] | None:
            now = self._database.now(conn)
            queued[:] = [self._end_lease(conn, now, gone) for gone in rows.run_out_items(conn, now, environment_id)]
            row = rows.next_item(conn, environment_id, claimed_before=now - poll.reclaim_seconds)
            if row is None:
                return None
            if row.token_id is not None:  # of a claim that nobody acknowledged
                expire_token(conn, now, row.token_id)
            token_id, secret = mint_token(
                conn,
                now,
                workspace_id=row.workspace_id,
                environment_id=row.environment_id,
                session_id=row.session_id,
                work_id=row.id,
            )
            return rows.put_item(conn, claimed(row, now, token_id, self._terms)), secret

        if not await self._database.read(due):  # most polls find nothing, and must not cost a write
            return None
        found = await self._database.write(unit)
        if found is None:
            return None
        for _ in range(sum(queued) - 1):  # one of them was taken here; others who poll may have the rest
            self._hub.queued(environment_id)
        return work_wire(found[0], secret=_sealed(found[1]))

    async def _note(self, workspace: str, environment_id: str, worker: str | None) -> None:
        """Check the environment, and remember that a worker polls."""
        now = monotonic()
        stale = worker is not None and now - self._noted.get((environment_id, worker), -1e9) > NOTE_POLLER_SECONDS

        await self._database.read(lambda conn: _self_hosted(conn, workspace, environment_id))
        if worker is None or not stale:
            return
        if len(self._noted) > 10_000:
            self._noted.clear()
        self._noted[environment_id, worker] = now
        await self._database.write(
            lambda conn: rows.note_poller(conn, self._database.now(conn), environment_id, worker)
        )

    def _current(
        self, conn: Connection, workspace: str, environment_id: str, work_id: str, principal: Principal
    ) -> tuple[float, WorkItemRow]:
        """Now, and the item, locked. A session's token sees the items of its session only."""
        now = self._database.now(conn)
        row = rows.get_item(conn, workspace, environment_id, work_id, for_update=True)
        if principal.session_id is not None and row.session_id != principal.session_id:
            raise NotFound(f"work {work_id} does not exist in this environment")
        return now, row

    async def _lapse(self, workspace: str, environment_id: str) -> None:
        """Write down what time has brought."""

        def due(conn: Connection) -> bool:
            _self_hosted(conn, workspace, environment_id)
            return rows.anything_run_out(conn, self._database.now(conn), environment_id)

        def unit(conn: Connection) -> bool:
            now = self._database.now(conn)
            queued = [self._end_lease(conn, now, gone) for gone in rows.run_out_items(conn, now, environment_id)]
            return any(queued)

        if await self._database.read(due) and await self._database.write(unit):
            self._hub.queued(environment_id)

    async def _lapse_one(self, workspace: str, environment_id: str, work_id: str) -> None:
        """The same for one item. Raises NotFound."""

        def gone(row: WorkItemRow, now: float) -> bool:
            return row.lease_until is not None and row.lease_until <= now

        def due(conn: Connection) -> bool:
            row = rows.get_item(conn, workspace, environment_id, work_id)
            return gone(row, self._database.now(conn))

        def unit(conn: Connection) -> bool:
            now = self._database.now(conn)
            row = rows.get_item(conn, workspace, environment_id, work_id, for_update=True)
            return gone(row, now) and self._end_lease(conn, now, row)

        if await self._database.read(due) and await self._database.write(unit):
            self._hub.queued(environment_id)

    def _end_lease(self, conn: Connection, now: float, row: WorkItemRow) -> bool:
        """True: something is queued that was not."""
        if row.token_id is not None:
            expire_token(conn, now, row.token_id)
        state = SessionState.model_validate_json(sessions.get_session(conn, None, row.session_id).state)
        after = rows.put_item(conn, run_out(row, now, needed=self_hosting.needs_worker(state)))
        if after.state != "stopped":
            return True
        return self_hosting.ended(conn, now, after, by_worker=True)


def _self_hosted(conn: Connection, workspace: str, environment_id: str) -> None:
    environment = catalog.get_environment(conn, workspace, environment_id)
    if body_of(environment).config.type != "self_hosted":
        raise InvalidRequest(f"environment {environment_id} is a cloud environment; only self_hosted ones have a queue")


def _bearer(principal: Principal) -> Bearer:
    return Bearer(principal.token_id or principal.id, principal.token_id)


def _sealed(secret: str) -> str:
    """What a work item's `secret` is: URL-safe base64 of JSON. Not encrypted; whoever has it has the session."""
    return base64.urlsafe_b64encode(json.dumps({"sessions_token": secret}).encode()).decode()
