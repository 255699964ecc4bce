"""Who sees to it that no reservation is left over, and that sessions go on when a budget has room?

Every server looks now and then, and at once when it hears of a change. What two of them do at the same time one of them
finds done.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from hostler.domain.errors import HostlerError
from hostler.engine import turns
from hostler.engine.purse import StoredPurse
from hostler.engine.records import Records
from hostler.store import budgets
from hostler.store.database import Database
from hostler.store.reservations import MOST_ABANDONED

log = logging.getLogger("hostler.budgets")

_AT_ONCE: Final = 20


class BudgetKeeper:
    """Looks until it is cancelled. `run` once; `look` is one look."""

    def __init__(self, database: Database, records: Records, purse: StoredPurse, *, look_seconds: float = 5.0) -> None:
        self._database = database
        self._records = records
        self._purse = purse
        self._look_seconds = look_seconds
        self._changed = asyncio.Event()
        database.signals.on(budgets.SIGNAL, self._changed.set)

    async def run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self.look()
            except (HostlerError, OSError):
                log.exception("budgets_not_kept")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._changed.wait()

    async def look(self) -> int:
        """Counts what crashed servers have left, and lets sessions go on. How many did."""
        while await self._purse.abandon() >= MOST_ABANDONED:
            pass
        return await self._resume()

    async def _resume(self) -> int:
        resumed: set[str] = set()
        while True:
            found = await self._database.read(lambda c: budgets.resumable(c, self._database.now(c), _AT_ONCE))
            left = [session_id for session_id in found if session_id not in resumed]
            for session_id in left:
                resumed.add(session_id)
                try:
                    await self._records.apply(session_id, lambda s, at, totals, _: turns.budget_changed(s, at, totals))
                except (HostlerError, OSError):
                    log.exception("session_not_resumed", extra={"session": session_id})
            if not left:
                return len(resumed)
