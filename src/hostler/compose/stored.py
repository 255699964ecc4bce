"""How are the ports of roads and runner that keep something joined to the store?"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.prices import Prices
from hostler.engine.budget import priced
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision
from hostler.engine.memory import Ledger
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.runner_parts import LeaseTerms
from hostler.store import catalog, eventlog, ledger, work
from hostler.store import sessions as session_rows
from hostler.store.database import Database
from hostler.store.sequences import load_sequence, save_sequence
from hostler.store.sessions import SessionRow
from hostler.store.transcripts import TranscriptStore
from hostler.store.work import Lease

_MOST_AT_ONCE: Final = 256
"""Decisions that are written by one transaction."""


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


@dataclass(slots=True, eq=False)
class _Entry:
    decision: EgressDecision
    written: bool = False
    error: Exception | None = None


class StoredDecisions:
    """Implements `EgressRecorder`. `denials` hears of what was denied, once it is written down.

    `record` returns when the decision is committed. While one transaction is under way, those that come are gathered,
    and written by the next one together: many sessions cost no more commits than the database can do one after the
    other.
    """

    def __init__(self, database: Database, denials: Denials) -> None:
        self._database = database
        self._denials = denials
        self._turn = asyncio.Lock()
        self._waiting: list[_Entry] = []

    async def record(self, decision: EgressDecision) -> None:
        entry = _Entry(decision)
        self._waiting.append(entry)
        try:
            async with self._turn:
                if not entry.written and entry.error is None:
                    await self._write_waiting()
        finally:
            if entry in self._waiting:  # Cancelled before its turn.
                self._waiting.remove(entry)
        if entry.error is not None:
            raise entry.error
        if not decision.allowed:
            self._denials.told(decision)

    async def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        try:
            await self._write(batch)
        except asyncio.CancelledError:
            # Whether it was committed isn't known: those who wait write theirs again, rather twice than never.
            self._waiting = [*batch, *self._waiting]
            raise
        except Exception:
            for entry in batch:  # One of them may be what can't be written.
                try:
                    await self._write([entry])
                except Exception as error:
                    entry.error = error

    async def _write(self, batch: list[_Entry]) -> None:
        facts = [
            ledger.EgressFacts(d.session_id, d.method, d.host, d.port, d.allowed, d.reason, d.path, d.hint)
            for d in (entry.decision for entry in batch)
        ]
        await self._database.write(lambda c: ledger.record_egress_all(c, self._database.now(c), facts))
        for entry in batch:
            entry.written = True


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

    async def cli_version(workspace_id: str, environment_id: str) -> str | None:
        row = await database.read(lambda c: catalog.get_environment(c, workspace_id, environment_id))
        found: str | None = (json.loads(row.body_json)["config"].get("hosting") or {}).get("cli_version")
        return found

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
        cli_version=cli_version,
        read_event=read_event,
        record_request=record_request,
        transcripts=lambda lease: TranscriptStore(database, session_id=lease.session_id, lease=lease),
        sequence=lambda lease: StoredSequence(database, lease),
    )
