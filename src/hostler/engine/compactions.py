"""What may be asked about the compaction of sessions from outside? To have one made now, and how they went."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.compaction import RequestCompaction
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.engine import inputs, kept_words
from hostler.engine.about import about
from hostler.engine.archives import Archives
from hostler.engine.profile import pattern_of, transcript_id
from hostler.engine.records import Applied, Records
from hostler.engine.state import Ask, Moment, SessionState, Step, Totals
from hostler.store import archives as archive_rows
from hostler.store import compactions as rows
from hostler.store.compactions import CompactionRow
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.sessions import SessionRow, get_session

View = dict[str, Any]


class Compactions:
    """Of sessions of every workspace. Every method raises NotFound for a session of another one."""

    def __init__(self, database: Database, records: Records, archives: Archives) -> None:
        self._database = database
        self._records = records
        self._archives = archives

    async def request(self, workspace: str, session_id: str, wanted: RequestCompaction) -> View:
        """A compaction of the session, as soon as no turn runs. It is made by whoever serves the session.

        Raises InvalidRequest when there is nothing to compact or the budget is used up, Conflict when one waits or runs
        already.
        """
        compaction_id, trace = new_id("cmpn"), about().traceparent

        def unit(conn: Connection) -> tuple[Applied, CompactionRow | None]:
            session = get_session(conn, workspace, session_id)
            _refuse_ephemeral(session)
            if not archive_rows.ends(conn, session_id, transcript_id(session_id)).get(""):
                raise InvalidRequest("Nothing was said in this session yet, so there is nothing to compact.")
            ask = Ask(id=compaction_id, trigger="manual", instructions=wanted.instructions or None, trace=trace)
            applied = ask_in(self._records, conn, session, ask)
            rows.create(
                conn,
                applied.at.unix,
                id=compaction_id,
                workspace_id=workspace,
                session_id=session_id,
                cause="manual",
                state="waiting",
                instructions=ask.instructions,
            )
            return applied, rows.find(conn, compaction_id)

        applied, row = await self._database.write(unit)
        self._records.announce(session_id, applied)
        assert row is not None, "it was just made"
        return _view(row)

    async def list(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """How each went, newest first, and whether more follow."""

        def unit(conn: Connection) -> tuple[list[CompactionRow], bool, SessionState]:
            found = rows.list_compactions(
                conn, workspace, session_id, limit=limit, after=StorePosition(*after) if after else None
            )
            session = get_session(conn, workspace, session_id)
            return list(found.rows), found.has_next, SessionState.model_validate_json(session.state)

        found, more, state = await self._database.read(unit)
        return [_view(row, state) for row in found], more

    async def state(self, workspace: str, session_id: str) -> View:
        """How the session stands: its agent's policy, what is due, what waits, and until when nothing is tried."""

        def unit(conn: Connection) -> View:
            session = get_session(conn, workspace, session_id)
            state = SessionState.model_validate_json(session.state)
            now = self._database.now(conn)
            failed, retry_at = rows.failures(conn, session_id)
            schedule = rows.schedule_of(conn, session_id)
            last = rows.newest(conn, session_id)
            return {
                "type": "compaction_state",
                "session_id": session_id,
                "policy": session.agent.get("compaction"),
                "failures": failed,
                "retry_at": rfc3339_of(retry_at) if retry_at is not None and retry_at > now else None,
                "next_due_at": None if schedule is None else rfc3339_of(schedule.next_at),
                "last_due_at": None if schedule is None or schedule.last_due is None else rfc3339_of(schedule.last_due),
                "last": _view(last[0], state) if last else None,
            }

        shown = await self._database.read(unit)
        return {**shown, "archives": await self._archives.used(workspace, session_id)}


def ask_in(records: Records, conn: Connection, session: SessionRow, ask: Ask) -> Applied:
    """Within a transaction of the caller, who announces it after the commit.

    Raises what `inputs.compact` raises, and InvalidRequest where nothing stays of a conversation.
    """
    _refuse_ephemeral(session)

    def decide(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
        return inputs.compact(state, at, totals, ask)

    return records.apply_in(conn, session.id, decide, workspace=session.workspace_id)


def _refuse_ephemeral(session: SessionRow) -> None:
    if pattern_of(session.environment) == "ephemeral":
        raise InvalidRequest(
            "This session is ephemeral: it begins each task without a conversation, so there is nothing to compact "
            "between two of them."
        )


def _view(row: CompactionRow, state: SessionState | None = None) -> View:
    shown, reason = row.state, row.reason
    if state is not None and row.cause != "auto" and row.ended_at is None:
        asked = {ask.id for ask in (state.ask, state.turn.ask if state.turn else None) if ask is not None}
        if row.id not in asked:  # whoever serves the session next writes that down
            shown, reason = "failed", "interrupted: nothing was compacted"
    return {
        "id": row.id,
        "type": "compaction",
        "session_id": row.session_id,
        "trigger": row.cause,
        "strategy": row.strategy,
        "state": shown,
        "reason": reason,
        "instructions": row.instructions,
        "archive_id": row.archive_id,
        "before_tokens": row.before_tokens,
        "after_tokens": row.after_tokens,
        "summary": row.summary,
        "summary_tokens": None if row.summary is None else kept_words.tokens_of(row.summary),
        "kept": json.loads(row.kept),
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "due_at": row.due_at,
        "retry_at": None if row.retry_at is None else rfc3339_of(row.retry_at),
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }
