"""Who compacts sessions when their agent's schedule says so? Every server looks, and one of them takes each date.

Taking a date, asking the session for a compaction and setting the next date are one transaction, which finds the date
as it was seen: of two servers one changes nothing. The session then wants a worker like any other, hibernated or not.
Dates that passed while no server ran are made up for once. A session in which nothing was said since its last
compaction is passed over, and stays asleep.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.errors import Conflict, HostlerError, InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.schedules import parse_schedule
from hostler.engine.compactions import ask_in
from hostler.engine.records import Applied, Records
from hostler.engine.state import Ask, SessionState
from hostler.store import compactions, eventlog
from hostler.store.compactions import ScheduleRow
from hostler.store.database import Database
from hostler.store.pages import Range
from hostler.store.sessions import SessionRow, get_session

log = logging.getLogger("hostler.compaction")

_AT_ONCE: Final = 20


class CompactionClock:
    """Looks until it is cancelled. `run` once; `look` is one look."""

    def __init__(self, database: Database, records: Records, *, look_seconds: float = 30.0) -> None:
        self._database = database
        self._records = records
        self._look_seconds = look_seconds

    async def run(self) -> None:
        while True:
            try:
                while await self.look() == _AT_ONCE:
                    pass
            except (HostlerError, OSError):
                log.exception("schedules_not_read")
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> int:
        """Takes what is due, at most 20; tells how many there were."""
        found = await self._database.read(lambda conn: compactions.due(conn, self._database.now(conn), _AT_ONCE))
        for row in found:
            try:
                await self._take(row)
            except (HostlerError, OSError):
                log.exception("schedule_not_taken", extra={"session": row.session_id})
        return len(found)

    async def _take(self, row: ScheduleRow) -> None:
        def unit(conn: Connection) -> Applied | None:
            now = self._database.now(conn)
            schedule = parse_schedule(row.schedule)
            due = schedule.last(now, after=row.next_at)
            if not compactions.take_due(conn, row, due=due, next_at=schedule.after(now)):
                return None  # another server has it
            session = get_session(conn, None, row.session_id)
            if session.archived_at is not None:
                compactions.drop_schedule(conn, row.session_id)
                return None
            return self._ask(conn, now, session, rfc3339_of(due))

        applied = await self._database.write(unit)
        if applied is not None:
            self._records.announce(row.session_id, applied)

    def _ask(self, conn: Connection, now: float, session: SessionRow, due_at: str) -> Applied | None:
        compaction_id = new_id("cmpn")
        applied, reason = None, _nothing_new(conn, session)
        if reason is None:
            try:
                applied = ask_in(self._records, conn, session, Ask(id=compaction_id, trigger="scheduled"))
            except (Conflict, InvalidRequest) as error:
                reason = error.message
        compactions.create(
            conn,
            now,
            id=compaction_id,
            workspace_id=session.workspace_id,
            session_id=session.id,
            cause="scheduled",
            state="waiting" if applied is not None else "skipped",
            reason=reason,
            due_at=due_at,
        )
        return applied


def _nothing_new(conn: Connection, session: SessionRow) -> str | None:
    """Why the session need not be compacted. None: something was said since it was."""
    state = SessionState.model_validate_json(session.state)
    if state.first_running_at is None:
        return "nothing was said yet"
    last = next((row for row in compactions.newest(conn, session.id, 200) if row.state == "completed"), None)
    since = Range() if last is None or last.ended_at is None else Range(gt=last.ended_at)
    messages, _ = eventlog.list_events(
        conn, session.id, limit=1, types=("user.message", "agent.message"), processed=since
    )
    return None if messages else "nothing was said since the last compaction"
