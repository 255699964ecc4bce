"""How are the ports of roads and runner that keep something joined to the store?"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, InvalidRequest, NotFound, QuotaExceeded
from hostler.domain.prices import Prices
from hostler.engine.budget import priced
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision
from hostler.engine.memory import Ledger
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.purse import StoredPurse
from hostler.engine.runner_parts import LeaseTerms
from hostler.engine.together import Together
from hostler.gateway.sequence import close_held_text, without_unannounced
from hostler.store import catalog, eventlog, ledger, runtime, work
from hostler.store import sessions as session_rows
from hostler.store.database import Database
from hostler.store.sequences import load_sequence, save_sequence
from hostler.store.sessions import SessionRow, Usage
from hostler.store.transcripts import TranscriptStore
from hostler.store.work import Lease

log = logging.getLogger("hostler.worker")

_BOOK_SECONDS: Final = 1.0
"""Booking running time may take so long within a heartbeat."""

MOST_DECISIONS: Final = 1_000_000
_COUNTED: Final = 4096


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

    `record` returns when the decision is committed; when it raises, nothing may be done on it. Decisions that wait are
    committed together, so many requests at once cost few commits. One whose request is gone is written all the same.
    """

    def __init__(self, database: Database, denials: Denials, most: int = MOST_DECISIONS) -> None:
        """`most`: decisions of one session. It is told QuotaExceeded for those that follow."""
        self._database = database
        self._denials = denials
        self._most = most
        self._counts: OrderedDict[str, int] = OrderedDict()
        """Of the sessions that asked last. A session is served by one server at a time."""
        self._commits = Together(self._commit, "egress-records")

    async def record(self, decision: EgressDecision) -> None:
        await self._commits.do(decision)
        if not decision.allowed:
            self._denials.told(decision)

    async def close(self) -> None:
        """What waits is still written. Nobody records anything any more."""
        await self._commits.close()

    async def _commit(self, decisions: Sequence[EgressDecision]) -> Sequence[Exception | None]:
        def unit(conn: Connection) -> tuple[list[Exception | None], dict[str, int]]:
            counts: dict[str, int] = {}
            outcomes = [self._counted(conn, counts, decision.session_id) for decision in decisions]
            admitted = [each for each, refused in zip(decisions, outcomes, strict=True) if refused is None]
            if admitted:
                ledger.record_egress_all(conn, self._database.now(conn), admitted)
            return outcomes, counts

        try:
            outcomes, counts = await self._database.write(unit)
        except (NotFound, InvalidRequest) as error:
            if len(decisions) == 1:
                return [error]
            # One of them is what can't be written.
            return [outcome for decision in decisions for outcome in await self._commit([decision])]
        for session_id, count in counts.items():
            self._counts[session_id] = count
            self._counts.move_to_end(session_id)
        while len(self._counts) > _COUNTED:
            self._counts.popitem(last=False)
        return outcomes

    def _counted(self, conn: Connection, counts: dict[str, int], session_id: str) -> Exception | None:
        """Count one more of the session in `counts`. Not None: it has had all that it may have."""
        count = counts.get(session_id, self._counts.get(session_id))
        if count is None:
            count = ledger.count_egress(conn, session_id, self._most)
        counts[session_id] = min(count + 1, self._most)
        if count < self._most:
            return None
        return QuotaExceeded(
            f"session {session_id} has asked the network for {self._most} things, and more are not written down; "
            "go on in a new session, or raise sessions.max_egress_decisions"
        )


def runner_ledger(
    database: Database,
    terms: LeaseTerms,
    prices: Prices,
    purse: StoredPurse,
    told: Callable[[Usage], None] | None = None,
) -> Ledger:
    """`told` hears what each model request has used and cost, once it is written down."""

    async def extend(lease: Lease) -> bool:
        held = await database.write(lambda c: work.extend(c, database.now(c), lease, ttl=terms.seconds))
        if held:
            try:  # The lease is held, whoever has locked a budget meanwhile. What is not booked now is booked later.
                async with asyncio.timeout(min(_BOOK_SECONDS, terms.seconds / 10)):
                    await book(lease)
            except (HostlerError, OSError, TimeoutError):
                log.warning("runtime_not_booked", extra={"session": lease.session_id}, exc_info=True)
        return held

    async def book(lease: Lease) -> None:
        # Its own transaction: whoever changes a session locks its row before that of its work.
        if await database.read(lambda c: runtime.open_span(c, lease.session_id)) is not None:
            await database.write(lambda c: runtime.book(c, database.now(c), lease.session_id, lease.epoch))

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
        names = (name for name in ledger.RequestFacts.__slots__ if name != "price_version")
        facts = ledger.RequestFacts(
            **{name: getattr(record, name) for name in names},
            price_version=prices.version,
        )

        def unit(connection: Connection) -> Usage:
            now = database.now(connection)
            used = priced(prices, record.model, record.usage, now)
            row = ledger.record_model_request(
                connection,
                now,
                session_id=record.session_id,
                model=record.model,
                status=record.status,
                usage=used,
                stop_reason=record.stop_reason,
                duration_ms=record.duration_ms,
                first_byte_ms=record.first_byte_ms,
                facts=facts,
                results=record.results,
            )
            purse.settle_in(connection, now, record, row.workspace_id, used.list_cost_nanos)
            return used

        used = None
        with suppress(ledger.AlreadyRecorded):  # and all that comes with it: nobody knew how an earlier try had ended
            used = await database.write(unit)
        purse.freed()
        if told is not None and used is not None:
            told(used)

    async def close_held(lease: Lease, results: Mapping[str, tuple[Any, bool]]) -> None:
        held = StoredSequence(database, lease)
        state = await held.load()
        if state is not None:
            await held.save(close_held_text(state, results))

    async def forget_held(lease: Lease, announced: frozenset[str]) -> None:
        held = StoredSequence(database, lease)
        left = without_unannounced(await held.load(), announced)
        if left is not None:
            await held.save(left)

    return Ledger(
        extend=extend,
        read_state=read_state,
        messages_since=messages_since,
        cli_version=cli_version,
        read_event=read_event,
        record_request=record_request,
        transcripts=lambda lease: TranscriptStore(database, session_id=lease.session_id, lease=lease),
        sequence=lambda lease: StoredSequence(database, lease),
        close_held=close_held,
        forget_held=forget_held,
    )
