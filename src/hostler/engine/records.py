"""How does a step of the state machine become durable, and who hears of it?

`Records.apply` runs one transition (`engine.inputs`, `engine.turns`) inside the transaction that appends its events,
and tells readers and workers after the commit: nothing is announced before it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from hostler.domain import events as ev
from hostler.domain.sessions import Frame
from hostler.domain.webhooks import told_by
from hostler.engine import running_time
from hostler.engine.audit_trail import acts, stamped
from hostler.engine.budget import totals
from hostler.engine.budget_pauses import keep_pause, lacks
from hostler.engine.hub import Hub
from hostler.engine.profile import pattern_of
from hostler.engine.runs import Notice
from hostler.engine.self_hosting import follow
from hostler.engine.state import Moment, OpenCall, SessionState, Step, Totals, waits_for_people
from hostler.store import runtime, webhooks
from hostler.store.acting import SERVER, acting
from hostler.store.audit import Act, append
from hostler.store.database import Database
from hostler.store.eventlog import Change, LogView, NewEvent, transact
from hostler.store.runtime import OpenSpan
from hostler.store.sessions import KEEP, SessionRow, SessionUpdate
from hostler.store.waiting import WaitingCall, replace_waiting
from hostler.store.work import Lease, Need

Decide = Callable[[SessionState, Moment, Totals, SessionRow], Step]


EventWatch = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Applied:
    """What was recorded."""

    step: Step
    session: SessionRow
    state: SessionState
    at: Moment
    frames: tuple[Frame, ...]
    """For the streams, once it is committed."""
    queued: bool = False
    """True: a work item waits for a worker of the session's self-hosted environment."""
    wanted_since: float | None = None
    """When the session, which was running before this, became so; or when its time was counted last."""


class Records:
    """The log of every session, as the engine writes it."""

    def __init__(
        self, database: Database, hub: Hub, watch: EventWatch | None = None, runtime_nanos_per_hour: int = 0
    ) -> None:
        """`watch` is told of each event that is recorded here: its type, and the whole of it as JSON text.

        `runtime_nanos_per_hour`: what an hour of a working sandbox costs, in billionths of a dollar.
        """
        self._database = database
        self._hub = hub
        self._watch = watch
        self._rate = runtime_nanos_per_hour

    async def apply(
        self,
        session_id: str,
        decide: Decide,
        *,
        lease: Lease | None = None,
        workspace: str | None = None,
        update: SessionUpdate | None = None,
    ) -> Applied:
        """Record what `decide` makes of the session's present state, and tell those who wait.

        With `lease`, only while that lease holds: LeaseLost otherwise. Without, for anyone who may see `workspace`;
        NotFound otherwise. Errors of `decide` change nothing.
        """
        applied = await self._database.write(
            lambda connection: self.apply_in(
                connection, session_id, decide, lease=lease, workspace=workspace, update=update
            )
        )
        self.announce(session_id, applied, by_worker=lease is not None)
        return applied

    def apply_in(
        self,
        connection: Connection,
        session_id: str,
        decide: Decide,
        *,
        lease: Lease | None = None,
        workspace: str | None = None,
        update: SessionUpdate | None = None,
    ) -> Applied:
        """The same within a transaction of the caller, who calls `announce` after the commit."""
        outcome: list[tuple[Step, Moment, SessionState, OpenSpan | None, str, float | None]] = []
        trail: list[Act] = []

        def run(view: LogView) -> Change:
            at = Moment(view.now, view.now_text)
            was = SessionState.model_validate_json(view.session.state)
            # Read once the session is locked: whoever books its time locks it, too.
            span = None if was.running_since is None else runtime.open_span(connection, session_id)
            if span is not None:  # booked while this waited for the session
                at = Moment(max(at.unix, span.seen_at), at.text)
            before = running_time.as_worked(was, span, lease, at.unix)
            worked = running_time.with_unbooked(view.session, span, lease, at.unix)
            budget = _budget(view.session, update)
            used = replace(totals(worked, budget), lacks=partial(lacks, connection, view.now, view.session, budget))
            step = decide(before, at, used, view.session)
            step = stamped(before, step, at)
            outcome[:] = [(step, at, before, span, view.webhook_events, was.running_since)]
            trail[:] = acts(before, step, at, view.session, acting(connection) if lease is None else SERVER, update)
            return Change(
                state=step.state.model_dump_json(),
                status=step.state.status,
                events=[NewEvent(e.id, e.type, str(e.body["processed_at"]), e.text()) for e in step.events],
                wanted=_wanted(step, before, view.session, by_worker=lease is not None),
                need=need_of(step.state),
                begins=step.state.turn is not None and (before.turn is None or before.turn.id != step.state.turn.id),
                update=update,
                waiting=[event.id for event in step.queued],
            )

        appended = transact(
            connection, self._database.now(connection), session_id, run, lease=lease, workspace_id=workspace
        )
        step, at, before, span, interest, wanted_since = outcome[0]
        running_time.keep(connection, appended.session, span, lease, before, step.state, at.unix, self._rate)
        _keep_inbox(connection, at, appended.session, before, step.state)
        keep_pause(connection, at.unix, appended.session.id, before, step.state)
        if interest != "[]":
            self._tell(connection, at, appended.session, step, interest)
        if trail:
            append(connection, at.unix, appended.session.workspace_id, trail)
        frames = [Frame(event.type, event.body, event.seq) for event in appended.events]
        frames += [Frame(event.type, event.text()) for event in step.queued]
        queued = follow(connection, at.unix, appended.session, before, step.state, step.events)
        return Applied(step, appended.session, step.state, at, tuple(frames), queued, wanted_since)

    @staticmethod
    def _tell(connection: Connection, at: Moment, session: SessionRow, step: Step, interest: str) -> None:
        """Webhooks of what was just recorded, in the same transaction. Nothing is asked or written unless wanted."""
        happened = list(
            told_by(step.events, session.id, session.thread_id, lambda type_: webhooks.wanted(interest, type_))
        )
        if happened:
            webhooks.emit_all(connection, at.unix, session.workspace_id, happened)

    def announce(self, session_id: str, applied: Applied, *, by_worker: bool = False) -> None:
        """After the commit: readers hear of the events, a worker hears that it is wanted."""
        if applied.frames:
            self._hub.publish(session_id, applied.frames)
            if self._watch is not None:
                for frame in applied.frames:
                    if frame.seq is not None:
                        self._watch(frame.name, frame.data)
        if applied.step.wanted and not by_worker:
            self._hub.work(session_id)
        if applied.queued:
            self._hub.queued(applied.session.environment_id)


def need_of(state: SessionState) -> Need:
    """What a worker is wanted for, if one is."""
    if state.interrupt is not None:
        return "errand"
    if state.stands_by:
        return "stand_by"
    return "turn" if state.status in ("running", "rescheduling") else "errand"


def _budget(session: SessionRow, update: SessionUpdate | None) -> Mapping[str, Any] | None:
    """The budget that holds once `update` is made."""
    return session.budget if update is None or update.budget is KEEP else update.budget


def waiting_call(call: OpenCall) -> WaitingCall:
    """A call as the inbox has it."""
    return WaitingCall(call.event_id, "custom_tool" if call.kind == "custom" else "confirmation", call.name)


def _keep_inbox(
    connection: Connection, at: Moment, session: SessionRow, before: SessionState, after: SessionState
) -> None:
    """What waits for people is kept in rows of its own, so that the inbox is a query. Most steps change nothing."""
    waited = {call.event_id for call in waits_for_people(before)}
    waiting = waits_for_people(after)
    if not waited and not waiting:
        return
    replace_waiting(
        connection,
        at.text,
        session.id,
        session.workspace_id,
        added=[waiting_call(call) for call in waiting if call.event_id not in waited],
        removed=waited - {call.event_id for call in waiting},
    )


def _wanted(step: Step, before: SessionState, session: SessionRow, *, by_worker: bool) -> bool | None:
    """Whether a worker is wanted from now on; None: as before."""
    ended = before.turn is not None and step.state.turn is None
    if ended and not by_worker and pattern_of(session.environment) == "ephemeral":
        return True  # nobody has the task, and somebody has to remove what is left of it
    return True if step.state.stands_by and step.wanted is False else step.wanted


class Telling:
    """Notices for the user of a session that are written in transactions of somebody else. `announce` afterwards."""

    def __init__(self, records: Records, lease: Lease) -> None:
        self._records = records
        self._lease = lease
        self._applied: Applied | None = None

    def tell(self, connection: Connection, told: Sequence[Notice]) -> None:
        """Again, if the transaction is. Raises LeaseLost."""

        def decide(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            return Step(state, tuple(ev.notice(at.text, one.kind, one.message, one.details) for one in told))

        self._applied = self._records.apply_in(connection, self._lease.session_id, decide, lease=self._lease)

    def announce(self) -> None:
        """After the commit: to those who read the session's events."""
        if self._applied is not None:
            self._records.announce(self._lease.session_id, self._applied, by_worker=True)
