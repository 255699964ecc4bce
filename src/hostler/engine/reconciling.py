"""Do the gateway, the harness and the clock agree about what a session has used? Looked at when a run ends.

Three ledgers: what the gateway wrote down for each request, what the harness says that its process has used, and the
spans of running time. `docs/how-to/see-what-it-costs.md` says which differences are no fault; any other is a row, and
a line of the log that an operator can be woken by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final

from hostler.domain.errors import HostlerError
from hostler.domain.prices import NANOS_OF_A_DOLLAR, Prices
from hostler.engine.budget import priced
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.runs import Ended, ReportedUse
from hostler.engine.state import SessionState
from hostler.store import reconcile
from hostler.store.database import Database
from hostler.store.reconcile import Ledgers
from hostler.store.sessions import Usage

log = logging.getLogger("hostler.usage")

Mismatch = tuple[str, dict[str, object]]
"""Its kind, and by how much: of the session above its rows (session_total, runtime), or of the harness above the
gateway (harness_tokens, harness_cost)."""

RELATIVE: Final = 1e-9
PATIENCE_SECONDS: Final = 1.0
_KINDS: Final = tuple(field.name for field in fields(ReportedUse) if field.name != "cost_usd")


class Meter:
    """What the gateway recorded of the requests of one process. Begins anew with each process."""

    def __init__(self, prices: Prices | None) -> None:
        """`prices`: those that the harness has, too; None: it has others, so nobody compares costs."""
        self._prices = prices
        self._process: object = None
        self._certain = self._doubtful = self._last = ReportedUse()
        self._nanos: int | None = 0
        """Of everything; None: not to be compared."""
        self._cut = False
        """Whether an answer was cut off since both agreed."""
        self._added = asyncio.Event()

    def begin(self, process: object) -> None:
        """What is added from now on is this process's."""
        if process is not self._process:
            self._process = process
            self._certain = self._doubtful = self._last = ReportedUse()
            self._nanos, self._cut = 0, False

    def add(self, record: ModelRequestRecord) -> None:
        self._added.set()
        used = record.usage
        if used == Usage():
            return
        written = used.cache_creation_5m_input_tokens + used.cache_creation_1h_input_tokens
        use = ReportedUse(
            used.input_tokens, used.output_tokens, used.cache_read_input_tokens, written, used.web_search_requests
        )
        if not (record.complete and record.delivered and record.status == 200):  # it has seen a part, or nothing
            self._doubtful, self._nanos, self._cut = self._doubtful.plus(use), None, True
            return
        self._certain, self._last = self._certain.plus(self._last), use
        if self._prices is None or record.model != record.requested_model or self._nanos is None:
            self._nanos = None
            return
        cost = priced(self._prices, record.model, used)
        self._nanos = None if cost.unpriced_requests else self._nanos + cost.list_cost_nanos

    async def more(self) -> bool:
        """Whether something was added within a second: the end of an answer can be known before it is written down."""
        self._added.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._added.wait()
                return True
        return False

    def compare(self, reported: Mapping[str, ReportedUse], *, stopped: bool) -> list[Mismatch]:
        """`stopped`: the run was ended from outside. The harness may not have seen the end of the last answer, and the
        gateway may not have written down yet what was cut off: what they say is compared when the next run ends.
        """
        if stopped:
            self._doubtful, self._last, self._nanos = self._doubtful.plus(self._last), ReportedUse(), None
            self._cut = True
            return []
        least = self._certain.plus(self._last)
        most = least.plus(self._doubtful)
        said = ReportedUse(cost_usd=0.0)
        for use in reported.values():
            said = said.plus(use)
        details: dict[str, object] = {}
        for kind in _KINDS:
            low, high, told = getattr(least, kind), getattr(most, kind), getattr(said, kind)
            if self._cut and kind == "output_tokens":
                high = max(high, told)  # of an answer that was cut off, the harness estimates what it has seen
            if not low <= told <= high:
                details[kind] = told - (low if told < low else high)
        if details:
            return [("harness_tokens", details)]
        if self._cut:
            # What was doubtful is as the harness says: from here on both must agree exactly again.
            self._certain, self._last, self._doubtful, self._cut = said, ReportedUse(), ReportedUse(), False
        if self._nanos is None or said.cost_usd is None:
            return []
        claimed = round(said.cost_usd * NANOS_OF_A_DOLLAR)
        if abs(claimed - self._nanos) > max(1, RELATIVE * max(claimed, self._nanos)):
            return [("harness_cost", {"list_cost_nanos": claimed - self._nanos})]
        return []


def disagreements(of: Ledgers) -> list[Mismatch]:
    """What the counters of a session say otherwise than the rows that they were counted from."""
    found: list[Mismatch] = []
    details: dict[str, object] = {}
    for name in Usage.__slots__:
        counted, summed = getattr(of.counted, name), getattr(of.requests, name)
        if name == "list_cost_nanos":
            summed += of.runtime_nanos
        if counted != summed:
            details[name] = counted - summed
    if details:
        found.append(("session_total", details))
    state = SessionState.model_validate_json(of.state)
    if state.running_since is None:
        micros = round(state.active_seconds * 1_000_000)
        if abs(micros - of.active_us) > max(of.spans, RELATIVE * micros):  # each span is rounded to one
            found.append(("runtime", {"active_us": micros - of.active_us}))
    return found


class Reconciler:
    """Compares, and tells what does not agree."""

    def __init__(self, database: Database, prices: Prices) -> None:
        """`prices`: those that requests are booked with."""
        self._database = database
        # A table of the operator's own says something else than the harness's, and is right.
        self._prices = prices if prices.version == Prices().version else None
        self.compared = 0
        """How often, in this process; what was found is told."""
        self.mismatched = 0

    def meter(self) -> Meter:
        return Meter(self._prices)

    async def run_ended(self, workspace_id: str, session_id: str, meter: Meter, ended: Ended, *, stopped: bool) -> None:
        """A run has ended and is written down. Raises nothing: what can't be compared now is compared the next time."""
        found: list[Mismatch] = []
        if ended.used is not None:
            stopped = stopped or ended.how == "interrupted"
            while (found := meter.compare(ended.used, stopped=stopped)) and await meter.more():
                pass
        try:
            for of in await self._database.read(lambda conn: reconcile.ledgers(conn, session_id=session_id)):
                found += disagreements(of)
            if found:
                await self._tell(workspace_id, session_id, found)
            self.compared += 1
        except (HostlerError, OSError):
            log.exception("usage_not_compared", extra={"session": session_id})

    async def _tell(self, workspace_id: str, session_id: str, found: list[Mismatch]) -> None:
        new = await self._database.write(
            lambda conn: reconcile.note(conn, self._database.now(conn), workspace_id, session_id, found)
        )
        for row in new:
            self.mismatched += 1
            details: dict[str, Any] = {"session": session_id, "kind": row.kind, "details": row.details, "id": row.id}
            log.error("usage_mismatch", extra=details)
