"""What happens around a compaction of one session's context?

The run asks before it compacts (`before`). Then everything is archived, and only when that is durable the run may go
on; it gets instructions for the summary, and afterwards what stays besides it (`besides`). How it went is a row. A try
that came to nothing is told to the user, and nothing compacts by itself again before a pause is over, which doubles
with each: a model that can't write a summary must not eat the budget. A person who asks need not wait for that.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.compaction import Compaction
from hostler.domain.errors import HostlerError, LeaseLost
from hostler.domain.ids import new_id
from hostler.domain.schedules import parse_schedule
from hostler.engine import kept_words, runs
from hostler.engine.archives import Archives
from hostler.engine.kept_words import Kept, Said
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.profile import transcript_id
from hostler.engine.runs import GoAhead, NotNow
from hostler.engine.state import SessionState
from hostler.store import archives as archive_rows
from hostler.store import compactions, eventlog, work
from hostler.store.compactions import CompactionRow
from hostler.store.database import Database
from hostler.store.jsontext import decode
from hostler.store.pages import Range
from hostler.store.sessions import SessionRow, get_session
from hostler.store.work import Lease

log = logging.getLogger("hostler.compaction")

PAUSE_SECONDS: Final = 60.0
"""After the first try that came to nothing; each further one doubles it."""
MOST_PAUSE_SECONDS: Final = 6 * 3600.0
LEAST_GAIN: Final = 0.1
"""A compaction that makes the conversation shorter by less than this part counts as one that came to nothing."""
_CATCH_UP_SECONDS: Final = 5.0
"""How long what the run spoke of last may take to reach the transcript."""
_MESSAGES_READ: Final = 2_000
"""Of a session's log, the newest."""
_NOTHING_TO_DO: Final = ("too_few_groups", "not enough messages")
"""How the harness says that the conversation is too short to be compacted."""
_CANCELLED: Final = ("aborted", "canceled", "cancelled")


@dataclass(slots=True)
class _Open:
    """The compaction under way."""

    id: str
    cause: str
    policy: Compaction | None
    archive_id: str
    kept: Kept


class CompactionCare:
    """Of one session under one lease. Implements `runs.ContextKeeper`.

    `current` gives the session as it is known, `notice` tells its user something, `stopping` says whether the turn
    under way is being stopped.
    """

    def __init__(
        self,
        lease: Lease,
        database: Database,
        archives: Archives,
        harness: runs.Harness,
        current: Callable[[], tuple[SessionRow, Compaction | None]],
        notice: Callable[[runs.Notice], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._lease = lease
        self._database = database
        self._archives = archives
        self._harness = harness
        self._current = current
        self._notice = notice
        self._stopping = stopping
        self._open: _Open | None = None
        self._scheduled = False

    # -- ContextKeeper

    async def before(self, trigger: Literal["auto", "manual"], last_entry: str | None) -> GoAhead | NotNow:
        session, policy = self._current()
        await self._drop_open()
        asked = await self._begin(session, policy, trigger)
        if isinstance(asked, NotNow):
            return asked
        try:
            await self._caught_up(last_entry)
            archive = await self._archives.write(session, self._lease)
            kept = Kept() if policy is None else await self._to_keep(policy)
        except LeaseLost:
            return NotNow("this server does not serve the session any more")
        except Exception as error:
            log.exception("archive_failed", extra={"session": session.id})
            message = error.message if isinstance(error, HostlerError) else "the server's log says why."
            await self._failed(asked, "blocked", f"The conversation could not be archived: {message}")
            return NotNow("the conversation could not be archived")
        self._open = _Open(asked.id, asked.cause, policy, archive.id, kept)
        await self._write(asked.id, state="running", archive_id=archive.id)
        if policy is None:
            return GoAhead(asked.instructions or "")
        return GoAhead(kept_words.instructions(policy, kept, archive.id, asked.instructions))

    async def besides(self, summary: str | None) -> str | None:
        here = self._open
        if here is None:
            return None
        text, counts = kept_words.note(here.kept, here.archive_id, summary)
        values: dict[str, Any] = {"summary": summary}
        if here.policy is not None:
            target = here.policy.summary_target
            values["kept"] = {**counts, **({} if target is None else {"summary_target_tokens": target})}
        await self._write(here.id, **values)
        return None if here.policy is None else text

    # -- told by the runner

    @property
    def busy(self) -> bool:
        """Whether a compaction is under way."""
        return self._open is not None

    async def on_request(self, record: ModelRequestRecord) -> None:
        """A model request has ended. While a compaction is under way the main thread asks for nothing else; sub-agents
        and what the harness asks besides may. An attempt that another one followed is the same request."""
        here = self._open
        if here is not None and record.last and not record.thread and record.purpose != "auxiliary":
            usage = record.usage
            read = usage.input_tokens + usage.cache_read_input_tokens
            read += usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens
            await self._database.write(lambda conn: compactions.count_request(conn, here.id, read, usage.output_tokens))

    async def on_event(self, event: runs.RunEvent) -> None:
        """Of the run, after it is recorded."""
        match event:
            case runs.Compacted():
                here, self._open = self._open, None
                if here is not None:
                    await self._completed(here.id, event)
            case runs.CompactionFailed(message=message):
                here, self._open = self._open, None
                if here is not None:  # otherwise we have stopped it ourselves, and said so
                    row = await self._database.read(lambda conn: compactions.find(conn, here.id))
                    if row is not None:
                        await self._not_done(row, message)

    async def settle(self, read_state: Callable[[], Awaitable[SessionState]]) -> None:
        """Gives an end to what has none although nothing works on it: its process is gone, or somebody stopped it."""
        self._open = None
        open_ones = await self._database.read(lambda conn: compactions.open_ones(conn, self._lease.session_id))
        if not open_ones:
            return
        state = await read_state()  # afterwards: one that is asked for at this moment is not among them, or waits in it
        waiting = {ask.id for ask in (state.ask, state.turn.ask if state.turn else None) if ask is not None}
        for row in open_ones:
            done = await self._done(row)
            if done is not None:
                await self._completed(row.id, done)
            elif row.id not in waiting:
                await self._write(row.id, state="failed", reason="interrupted: nothing was compacted", ended=True)

    async def is_done(self, compaction_id: str) -> bool:
        """Whether this one has its end."""
        row = await self._database.read(lambda conn: compactions.find(conn, compaction_id))
        return row is None or row.ended_at is not None

    async def keep_schedule(self, session: SessionRow, policy: Compaction | None) -> None:
        """The session is due when its agent says so, from now on."""
        if self._scheduled:
            return
        schedule = None if policy is None else policy.schedule

        def unit(conn: Connection) -> None:
            now = self._database.now(conn)
            next_at = 0.0 if schedule is None else parse_schedule(schedule).after(now)
            compactions.set_schedule(conn, session.id, schedule, next_at)

        has = await self._database.read(lambda conn: compactions.schedule_of(conn, session.id))
        if (has.schedule if has else None) != schedule:
            await self._database.write(unit)
        self._scheduled = True

    # -- steps

    async def _begin(
        self, session: SessionRow, policy: Compaction | None, trigger: Literal["auto", "manual"]
    ) -> CompactionRow | NotNow:
        """The row that says what is under way: of whoever asked for it, or a new one."""

        def unit(conn: Connection) -> CompactionRow | NotNow:
            now = self._database.now(conn)
            work.check(conn, now, self._lease)
            state = SessionState.model_validate_json(get_session(conn, None, session.id).state)
            ask = state.turn.ask if state.turn is not None else None
            if ask is not None:
                strategy = None if policy is None else policy.strategy
                fresh = {"reason": None, "retry_at": None, "ended_at": None}  # the budget may have stopped it before
                compactions.change(conn, ask.id, state="running", strategy=strategy, **fresh)
                row = compactions.find(conn, ask.id)
                return row or NotNow("nobody knows of this compaction any more")
            if trigger == "manual":
                return NotNow("nobody has asked for it")
            _, retry_at = compactions.failures(conn, session.id)
            if retry_at is not None and now < retry_at:
                return NotNow(f"the one before came to nothing; the next is tried after {rfc3339_of(retry_at)}")
            made = new_id("cmpn")
            compactions.create(
                conn,
                now,
                id=made,
                workspace_id=session.workspace_id,
                session_id=session.id,
                cause="auto",
                state="running",
                strategy=None if policy is None else policy.strategy,
            )
            row = compactions.find(conn, made)
            assert row is not None, "it was just made"
            return row

        try:
            return await self._database.write(unit)
        except LeaseLost:
            return NotNow("this server does not serve the session any more")

    async def _drop_open(self) -> None:
        """One that the run never told the end of, and begins anew."""
        here, self._open = self._open, None
        if here is not None and here.cause == "auto":
            await self._write(here.id, state="failed", reason="its end was not reported", ended=True)

    async def _caught_up(self, last_entry: str | None) -> None:
        """Waits until the transcript has what the run spoke of last. What is still missing then is in the next one."""
        if last_entry is None:
            return
        session_id = self._lease.session_id
        name = transcript_id(session_id)
        until = monotonic() + _CATCH_UP_SECONDS
        while not await self._database.read(lambda conn: archive_rows.has_entry(conn, session_id, name, last_entry)):
            if monotonic() > until:
                log.warning("transcript_lags", extra={"session": session_id})
                return
            await asyncio.sleep(0.02)

    async def _to_keep(self, policy: Compaction) -> Kept:
        days, tags = policy.days_kept, policy.tags_kept
        if not days and not tags:
            return Kept(policy.facts)

        def unit(conn: Connection) -> tuple[Sequence[eventlog.StoredEvent], Sequence[eventlog.StoredEvent]]:
            since = rfc3339_of(self._database.now(conn) - days * 86_400)
            of_users: Sequence[eventlog.StoredEvent] = ()
            recent: Sequence[eventlog.StoredEvent] = ()
            if tags:
                of_users = self._messages(conn, frozenset({"user.message"}), None)
            if days:
                recent = self._messages(conn, frozenset({"user.message", "agent.message"}), since)
            return of_users, recent

        of_users, recent = await self._database.read(unit)
        tagged = [message for message in _said(of_users) if kept_words.is_tagged(message, tags)]
        return kept_words.to_keep(policy, tagged, _said(recent))

    def _messages(self, conn: Connection, types: frozenset[str], since: str | None) -> Sequence[eventlog.StoredEvent]:
        found, _ = eventlog.list_events(
            conn,
            self._lease.session_id,
            limit=_MESSAGES_READ,
            order="desc",
            types=types,
            processed=Range(gte=since) if since is not None else Range(),
        )
        return found

    async def _completed(self, compaction_id: str, done: runs.Compacted) -> None:
        before, after = done.before_tokens, done.after_tokens
        gained = before is None or after is None or before - after >= LEAST_GAIN * before

        def unit(conn: Connection) -> None:
            now = self._database.now(conn)
            row = compactions.find(conn, compaction_id)
            if row is None or row.state == "completed":
                return
            more: dict[str, Any] = {}
            if not gained:
                more = {
                    "retry_at": now + self._pause(conn, row.session_id),
                    "reason": "little gain: almost all of the conversation is still there",
                }
            compactions.change(
                conn,
                compaction_id,
                state="completed",
                boundary=done.boundary,
                before_tokens=before,
                after_tokens=after,
                ended_at=rfc3339_of(now),
                **more,
            )

        await self._database.write(unit)

    async def _not_done(self, row: CompactionRow, message: str) -> None:
        told = message.lower()
        if self._stopping() or (row.cause != "auto" and any(word in told for word in _CANCELLED)):
            await self._write(row.id, state="failed", reason="interrupted: nothing was compacted", ended=True)
        elif any(word in told for word in _NOTHING_TO_DO):
            await self._failed(row, "skipped", "The conversation is too short to be compacted.")
        else:
            await self._failed(row, "failed", message)

    async def _failed(self, row: CompactionRow, state: Literal["failed", "blocked", "skipped"], reason: str) -> None:
        def unit(conn: Connection) -> float:
            now = self._database.now(conn)
            work.check(conn, now, self._lease)
            retry_at = now + (PAUSE_SECONDS if state == "skipped" else self._pause(conn, row.session_id))
            compactions.change(conn, row.id, state=state, reason=reason, retry_at=retry_at, ended_at=rfc3339_of(now))
            return retry_at

        retry_at = rfc3339_of(await self._database.write(unit))
        if state == "skipped":
            return
        self._notice(
            runs.Notice(
                f"compaction_{state}",
                f"The context was not compacted, and is as it was. {reason} It is not tried by itself before "
                f"{retry_at}; POST /hostler/v1/sessions/{row.session_id}/compact tries at once.",
                {"compaction_id": row.id, "cause": row.cause, "retry_at": retry_at},
            )
        )

    def _pause(self, conn: Connection, session_id: str) -> float:
        count, _ = compactions.failures(conn, session_id)
        return min(MOST_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** min(count, 20))

    async def _done(self, row: CompactionRow) -> runs.Compacted | None:
        """What the transcript says behind the row's archive of a compaction that was not noted yet."""
        if row.archive_id is None:
            return None
        archive_id, name = row.archive_id, transcript_id(row.session_id)

        def unit(conn: Connection) -> list[str]:
            archive = archive_rows.get_archive(conn, row.workspace_id, row.session_id, archive_id)
            first = archive.upto.get("", 0)
            found: list[str] = []
            while part := archive_rows.part(conn, row.session_id, name, "", first=first, end=1 << 62):
                found += [text for _, text in part if '"compact_boundary"' in text]
                first = part[-1][0] + 1
            return found

        entries = [decode(text) for text in await self._database.read(unit)]
        noted = self._harness.compactions(entries)
        return noted[-1] if noted else None

    async def _write(self, compaction_id: str, *, ended: bool = False, **values: Any) -> None:
        def unit(conn: Connection) -> None:
            now = self._database.now(conn)
            if ended:
                values["ended_at"] = rfc3339_of(now)
            compactions.change(conn, compaction_id, **values)

        await self._database.write(unit)


def _said(events: Sequence[eventlog.StoredEvent]) -> list[Said]:
    found = (kept_words.said(json.loads(event.body)) for event in events)
    return [message for message in found if message is not None]


@dataclass(frozen=True, slots=True)
class CompactionCares:
    """What the care of every session shares."""

    database: Database
    archives: Archives

    def of(
        self,
        lease: Lease,
        harness: runs.Harness,
        current: Callable[[], tuple[SessionRow, Compaction | None]],
        notice: Callable[[runs.Notice], None],
        stopping: Callable[[], bool],
    ) -> CompactionCare:
        return CompactionCare(lease, self.database, self.archives, harness, current, notice, stopping)
