"""Who tells the sessions that have to wait for a place, and who ends their waiting when it has lasted too long?

`WaitingRoom` looks once a second for as long as anybody waits; when nobody does, it costs nothing. Whether a session
has said already that it waits is part of its state, so it says so once, whichever of several servers sees it first.
How long each has waited is counted from when this server saw it waiting: a restart begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError
from hostler.engine.admission import Admission
from hostler.engine.records import Applied, Records
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.engine.waiting_turns import Wait, told_to_wait
from hostler.store import admission as rows
from hostler.store.admission import WaitingRow
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.admission")

MOST: Final = 1000
"""Of each environment so many are looked at: those behind them are told when it is their turn to be."""
_TOLD_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class WaitTerms:
    """In seconds."""

    notice_seconds: float = 1.0
    """A session that waits for longer says so."""
    longest_wait_seconds: float = 600.0
    """After that its turn ends."""


class WaitingRoom:
    """Of one server. `run` once, from the loop of the worker."""

    def __init__(
        self,
        database: Database,
        records: Records,
        admission: Admission,
        terms: WaitTerms,
        on_overdue: Callable[[], None],
    ) -> None:
        """`on_overdue` is called when somebody has waited for too long: see `overdue`."""
        self._database = database
        self._records = records
        self._admission = admission
        self.terms = terms
        self._on_overdue = on_overdue
        self._somebody = asyncio.Event()
        self._since: dict[tuple[str, float], float] = {}
        """When each was first seen, by session and when it began to want a place: its next turn waits anew."""
        self._told: set[tuple[str, float]] = set()
        self.overdue: dict[str, tuple[WaitingRow, Wait]] = {}
        """Sessions whose turn is to end, and what they waited for."""

    def somebody_waits(self) -> None:
        """Look from now on."""
        self._somebody.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._somebody.wait()
            await asyncio.sleep(min(1.0, self.terms.notice_seconds, self.terms.longest_wait_seconds))
            try:
                if not await self.look():
                    self._somebody.clear()
            except Exception:  # whatever it is: what runs here must not end with it
                log.exception("waiting_not_looked_at")

    async def look(self) -> bool:
        """Whether anybody waits."""

        def unit(conn: Connection) -> tuple[list[tuple[WaitingRow, Wait]], float]:
            now = self._database.now(conn)
            return self._admission.waits(conn, now, most=MOST), now

        found, now = await self._database.read(unit)
        waiting = {(row.session_id, row.since) for row, _ in found}
        self._since = {each: self._since.get(each, now) for each in waiting}
        self._told &= waiting
        self.overdue = {
            row.session_id: (row, wait)
            for row, wait in found
            if now - self._since[row.session_id, row.since] >= self.terms.longest_wait_seconds
        }
        if self.overdue:
            self._on_overdue()
        if not found:
            self._admission.queue.nobody_waits()
            return False
        # What was seen first a moment ago came a little earlier: nobody looks before somebody waits.
        due = [
            (row, wait)
            for row, wait in found
            if (row.session_id, row.since) not in self._told and row.session_id not in self.overdue
        ]
        for row, wait in due[:_TOLD_AT_ONCE]:
            if now - row.since >= self.terms.notice_seconds:
                await self._tell(row, wait)
        return True

    async def _tell(self, row: WaitingRow, wait: Wait) -> None:
        self._told.add((row.session_id, row.since))

        def decide(state: SessionState, at: Moment, totals: Totals, session: SessionRow) -> Step:
            return told_to_wait(state, at, wait, moment(row.since))

        def unit(conn: Connection) -> Applied | None:
            # Who got a place meanwhile need not be told; who gets one in this moment says that it runs right after it.
            if not rows.is_waiting(conn, self._database.now(conn), row.session_id):
                return None
            return self._records.apply_in(conn, row.session_id, decide)

        try:
            applied = await self._database.write(unit)
        except HostlerError as error:  # deleted meanwhile
            log.info("not_told_to_wait", extra={"session": row.session_id, "reason": str(error)})
            return
        if applied is not None:
            self._records.announce(row.session_id, applied, by_worker=True)
            log.info("waits_for_place", extra={"session": row.session_id, "reason": wait.reason, "place": wait.place})
