"""How are the ports of roads and runner that keep something joined to the store?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.prices import Prices
from hostler.engine.budget import priced
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision
from hostler.engine.memory import Ledger
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.runner_parts import LeaseTerms
from hostler.engine.tasks import Tasks
from hostler.store import eventlog, ledger, work
from hostler.store import sessions as session_rows
from hostler.store.database import Database
from hostler.store.sequences import load_sequence, save_sequence
from hostler.store.sessions import SessionRow
from hostler.store.transcripts import TranscriptStore
from hostler.store.work import Lease

_MOST_AT_ONCE: Final = 256
"""Decisions that are written by one transaction."""
_ENOUGH: Final = 32
"""Decisions for which it pays to begin a transaction at once: it costs as much as writing eight of them."""
_QUIET_TURNS: Final = 3
"""Turns of the loop in which nobody came: whoever was under way when the last transaction ended has come by then."""
_GATHER_SECONDS: Final = 0.001
_CLOSE_SECONDS: Final = 10.0
_Entry = tuple[EgressDecision, "asyncio.Future[None]"]
"""A decision, and who waits for it to be committed."""


class StoredSequence:
    """Held calls of one session, fenced by its lease. Implements `SequenceStore`."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def load(self) -> str | None:
        return await self._database.read(lambda c: load_sequence(c, self._lease.session_id))

    async def save(self, state: str) -> None:
        await self._database.write(
            lambda c: save_sequence(c, self._database.now(c), self._lease.session_id, state, lease=self._lease)
        )


class StoredDecisions:
    """Implements `EgressRecorder`. `denials` hears of what was denied, once it is written down.

    `record` returns when the decision is committed; when it raises, nothing may be done on it. What comes while a
    transaction is under way, and in the turns of the loop that follow it, is written by the next one together: many
    requests at once cost few commits. A decision whose request is gone meanwhile is written all the same.
    """

    def __init__(self, database: Database, denials: Denials) -> None:
        self._database = database
        self._denials = denials
        self._waiting: list[_Entry] = []
        self._writer = Tasks()
        self._writing = False

    async def record(self, decision: EgressDecision) -> None:
        committed = asyncio.get_running_loop().create_future()
        self._waiting.append((decision, committed))
        if not self._writing:
            self._writing = True
            self._writer.spawn(self._write_waiting(), "egress-records")
        await committed
        if not decision.allowed:
            self._denials.told(decision)

    async def close(self) -> None:
        """What waits is still written. Nobody records anything any more."""
        await self._writer.close(grace_seconds=_CLOSE_SECONDS)

    async def _write_waiting(self) -> None:
        """Until nobody waits."""
        batch: list[_Entry] = []
        try:
            while self._waiting:
                await self._gather()
                batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
                await self._write(batch)
        finally:
            self._writing = False
            left, self._waiting = [*batch, *self._waiting], []
            for _, committed in left:  # Of a closed recorder; else they are done.
                committed.cancel()

    async def _gather(self) -> None:
        """Lets the loop turn while it brings more. At rest that is three empty turns, a hundredth of a commit."""
        begun, quiet = time.monotonic(), 0
        while quiet < _QUIET_TURNS and len(self._waiting) < _ENOUGH and time.monotonic() - begun < _GATHER_SECONDS:
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = 0 if len(self._waiting) > before else quiet + 1

    async def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            await self._commit(batch)
        except (NotFound, InvalidRequest) as error:
            if len(batch) == 1:
                _settle(batch, error)
                return
            for entry in batch:  # One of them is what can't be written.
                await self._write([entry])
        except Exception as error:
            _settle(batch, error)
        else:
            _settle(batch, None)

    async def _commit(self, batch: Sequence[_Entry]) -> None:
        decisions = [decision for decision, _ in batch]
        await self._database.write(lambda c: ledger.record_egress_all(c, self._database.now(c), decisions))


def _settle(batch: Sequence[_Entry], error: Exception | None) -> None:
    for _, committed in batch:
        if committed.done():  # Its request is gone.
            continue
        if error is None:
            committed.set_result(None)
        else:
            committed.set_exception(error)


def runner_ledger(database: Database, terms: LeaseTerms, prices: Prices) -> Ledger:
    async def extend(lease: Lease) -> bool:
        return await database.write(lambda c: work.extend(c, database.now(c), lease, ttl=terms.seconds))

    async def read_state(session_id: str) -> SessionRow:
        return await database.read(lambda c: session_rows.get_session(c, None, session_id))

    async def read_event(session_id: str, event_id: str) -> dict[str, Any] | None:
        found = await database.read(lambda c: eventlog.find_event(c, session_id, event_id))
        return None if found is None else json.loads(found.body)

    async def messages_since(session_id: str, event_id: str) -> int:
        return await database.read(lambda c: eventlog.count_since(c, session_id, event_id, "agent.message"))

    async def record_request(record: ModelRequestRecord) -> None:
        def unit(connection: Connection) -> Any:
            return ledger.record_model_request(
                connection,
                database.now(connection),
                session_id=record.session_id,
                model=record.model,
                status=record.status,
                usage=priced(prices, record.model, record.usage),
                stop_reason=record.stop_reason,
                duration_ms=record.duration_ms,
                first_byte_ms=record.first_byte_ms,
            )

        await database.write(unit)

    return Ledger(
        extend=extend,
        read_state=read_state,
        messages_since=messages_since,
        read_event=read_event,
        record_request=record_request,
        transcripts=lambda lease: TranscriptStore(database, session_id=lease.session_id, lease=lease),
        sequence=lambda lease: StoredSequence(database, lease),
    )
