"""How is one run recorded while it works, and how is it brought to an end?

A `Follower` writes down what a run says, in order, with as few transactions as the previews between allow. Meanwhile it
watches for an interrupt and for the turn's limits, and stops the run when one of them asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from hostler.domain import events as ev
from hostler.engine import runs, turns
from hostler.engine.call_gate import CallGate
from hostler.engine.compaction import CompactionCare
from hostler.engine.composer import Composer, Op, Preview, joined
from hostler.engine.denials import TurnDenials
from hostler.engine.egress_port import EgressDecision
from hostler.engine.lodging import Lodging
from hostler.engine.permissions import Permissions
from hostler.engine.process import LiveProcess
from hostler.engine.profile import TurnLimits
from hostler.engine.runner_parts import Apply, RunnerParts
from hostler.engine.state import Moment, SessionState, Step, Totals, Turn
from hostler.engine.trace_port import NO_TURN
from hostler.engine.turns import RunEnd
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

LINGER_SECONDS = 0.01
"""How long the start or the end of a model request may wait to be written together with what follows."""


class Follower:
    """For one session under one lease: `follow` one run after the other."""

    def __init__(
        self,
        lease: Lease,
        parts: RunnerParts,
        lodging: Lodging,
        gate: CallGate,
        wake: asyncio.Event,
        apply: Apply,
        care: CompactionCare | None,
    ) -> None:
        """`wake` is set when something may have happened to the session."""
        self.composer = Composer(Permissions(), ())
        """Of the process that the run is in."""
        self.ended: SessionRow | None = None
        """The session as it was when the last run had just ended. Whoever has looked at it takes it away."""
        self.trace = NO_TURN
        """Of the run."""
        self._lease = lease
        self._parts = parts
        self._lodging = lodging
        self._gate = gate
        self._wake = wake
        self._apply = apply
        self._care = care
        self._limits: TurnLimits | None = None
        self._told: tuple[str, set[str]] = ("", set())
        """A turn, and the limits that its user was told of."""
        self._notices: list[runs.Notice | runs.Waiting | runs.GoingOn] = []
        """What the user is to be told with the next records."""
        self._arrived: asyncio.Queue[runs.RunEvent | None] | None = None
        """What the run under way says; None in it: look at the notices."""
        self._denials = TurnDenials(parts.allowing)
        self._stopping: RunEnd | None = None
        self.meter = None if parts.reconciler is None else parts.reconciler.meter()
        """What was recorded of the process's model requests."""

    # -- what the user is told

    def notice(self, told: runs.Notice) -> None:
        """Recorded soon while a turn runs; otherwise with the next one: nothing may stand behind `idle`."""
        self._notices.append(told)
        if self._arrived is not None:
            with suppress(asyncio.QueueFull):  # then somebody is about to look anyway
                self._arrived.put_nowait(None)

    def tell(self, what: runs.Waiting | runs.GoingOn) -> None:
        """Of the turn that runs; otherwise nobody needs it any more."""
        if self._arrived is not None:
            self._notices.append(what)
            with suppress(asyncio.QueueFull):
                self._arrived.put_nowait(None)

    def on_denied(self, decision: EgressDecision) -> None:
        told = self._denials.note(decision)
        if told is not None:
            self.notice(told)

    # -- how it is stopped

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    def begin(self) -> None:
        """Another run: what stopped the last one is over."""
        self._stopping = None

    def stop(self, end: RunEnd) -> None:
        """The run has to end, for this reason unless there is one already. The watcher sees to it."""
        if self._stopping is None:
            self._stopping = end
            # Every result was there before the request that the budget has no room for.
            self.composer.dropping_errors = end.how != "capped"
            self._wake.set()

    # -- one run

    async def follow(self, process: LiveProcess, turn: Turn, limits: TurnLimits) -> None:
        """Record what the run does until it ends. Watches for an interrupt and for the turn's limits meanwhile."""
        self._limits = limits
        if self.meter is not None:
            self.meter.begin(process)
        arrived: asyncio.Queue[runs.RunEvent | None] = asyncio.Queue(maxsize=4096)

        async def read() -> None:
            async for event in process.run.events():
                await arrived.put(event)

        # What an earlier turn's requests waited for is nothing to this one.
        self._notices = [told for told in self._notices if isinstance(told, runs.Notice)]
        self._lodging.busy, self._lodging.used, self._arrived = True, True, arrived
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(read())
            watcher = tasks.create_task(self._watch(process))
            try:
                ended, pending = await self._consume(arrived, process, turn.id)
            finally:
                self._arrived = None
                reader.cancel()
                watcher.cancel()
        self._lodging.busy = ended.how in ("failed", "lost")
        await self._tell_limits(process, turn.id, pending)
        stopped = self.is_stopping
        await self.end(ended, pending)
        if self._parts.reconciler is not None and self.meter is not None and self.ended is not None:
            workspace, session = self.ended.workspace_id, self.ended.id
            await self._parts.reconciler.run_ended(workspace, session, self.meter, ended, stopped=stopped)
        if process.limits.crowded:  # a fork bomb that has outlived its turn: the next message gets a sandbox without it
            self._lodging.busy = True
            await self._lodging.close()
            self._lodging.busy = False

    async def _tell_limits(self, process: LiveProcess, turn_id: str, pending: list[Op]) -> None:
        """Says which limits were reached, each once in a turn: adds that to what is to be written."""
        if self._told[0] != turn_id:
            self._told = turn_id, set()
        told = self._told[1]
        hits = [hit for hit in await process.limits.look() if hit.kind not in told]
        told.update(hit.kind for hit in hits)
        if hits:
            pending.append(
                lambda s, at, _: Step(
                    s, tuple(ev.error(at.text, "unknown_error", hit.message, "retrying", hit.limit) for hit in hits)
                )
            )

    async def _consume(
        self, arrived: asyncio.Queue[runs.RunEvent | None], process: LiveProcess, turn_id: str
    ) -> tuple[runs.Ended, list[Op]]:
        """How the run ended, and what is to be written together with that."""
        pending: list[Op] = []
        while True:
            try:
                async with asyncio.timeout(LINGER_SECONDS if pending else None):
                    batch = [await arrived.get()]
            except TimeoutError:
                await self._flush(pending)
                continue
            while not arrived.empty():
                batch.append(arrived.get_nowait())
            ended = await self._record(batch, pending)
            if ended is not None:
                return ended, pending
            if any(isinstance(event, runs.ToolResult) for event in batch):
                await self._tell_limits(process, turn_id, pending)
                await self._flush(pending)

    async def _record(self, batch: Sequence[runs.RunEvent | None], pending: list[Op]) -> runs.Ended | None:
        """Write down what came, in order, with as few transactions as the previews between allow.

        Start and end of a request can linger in `pending`: they are soon followed by something that must be written.
        """
        session_id, hub = self._lease.session_id, self._parts.hub
        urgent = False
        notices, self._notices = self._notices, []
        for event in (*self._gate.failures(), *notices, *batch):
            if event is None:
                continue
            self.trace.told(event)
            if isinstance(event, runs.Ended):
                if (rest := self._denials.rest()) is not None:
                    pending += [op for op in self.composer.compose(rest) if not isinstance(op, Preview)]
                if not event.alive:  # much is done before that is written
                    await self._flush(pending)
                await self._tell_care(batch)
                return event
            for made in self.composer.compose(event):
                if not isinstance(made, Preview):
                    pending.append(made)
                    urgent |= not isinstance(event, runs.RequestStarted | runs.RequestEnded)
                elif hub.previews(session_id):
                    await self._flush(pending)
                    hub.preview(session_id, made.type, made.frame)
        if urgent:
            await self._flush(pending)
        await self._tell_care(batch)
        return None

    async def _tell_care(self, batch: Sequence[runs.RunEvent | None]) -> None:
        for event in batch:
            if self._care is not None and isinstance(event, runs.Compacted | runs.CompactionFailed):
                await self._care.on_event(event)

    async def _flush(self, pending: list[Op]) -> None:
        if not pending:
            return
        step = joined(pending)
        pending.clear()
        applied = await self._apply(lambda s, at, totals, _: step(s, at, totals))
        if (end := self._too_long(applied.state.turn)) is not None:
            self.stop(end)

    def _too_long(self, turn: Turn | None) -> RunEnd | None:
        """How a turn has to end that has made more model requests than it may. None: it has not."""
        if turn is None or self._limits is None or turn.requests <= self._limits.max_requests:
            return None
        most = self._limits.max_requests
        text = f"The turn was stopped after {most} model requests (max_turns)."
        limit = ev.Limit("max_turns_reached", "config.limits.max_turns", most)
        return RunEnd("failed", "tool_use_limit_reached_error", text, limit=limit)

    async def end(self, ended: runs.Ended, pending: Sequence[Op] = ()) -> None:
        """The run has stopped working. What that means was decided by whoever stopped it, or else by the run.

        `pending` is what it did before that and is not written yet.
        """
        if not ended.alive and ended.how != "deferred":
            await self._lodging.close()
        by_harness = ended.alive and ended.how == "interrupted"
        end = RunEnd(
            ended.how, ended.error, ended.message, ended.details, closed_by_harness=by_harness, untold=ended.untold
        )
        if self._stopping is not None:
            stop = self._stopping
            end = replace(stop, closed_by_harness=by_harness, untold=ended.untold)
        stopped, self._stopping = self._stopping is not None, None
        self.trace.ending(end.how, end.error if end.how in ("failed", "lost") else "")
        self.composer.dropping_errors = False

        def finish(state: SessionState, at: Moment, totals: Totals) -> Step:
            too_long = None if stopped else self._too_long(state.turn)
            return turns.run_ended(state, at, totals, too_long or end)

        step = joined([*pending, finish])
        self.ended = (await self._apply(lambda s, at, totals, _: step(s, at, totals))).session
        # A lost compaction is looked for in the transcript.
        if self._care is not None and self._care.busy and end.how != "lost":
            await self._care.settle(self._read)
        if not ended.alive:
            await self._lodging.close()

    async def _watch(self, process: LiveProcess) -> None:
        """Stop the run when a person asks for it, when it has run for too long, or when `_stop` was called."""
        assert self._limits is not None
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds):
                while self._stopping is None:
                    await self._wake.wait()
                    self._wake.clear()
                    if await self.interrupt_waits():
                        break
            self.stop(RunEnd("interrupted"))
        except TimeoutError:
            text = (
                f"The turn was stopped after {seconds:g} seconds (turn_seconds). The session goes on with the next "
                "message; raise config.limits.turn_seconds of the environment for new sessions."
            )
            limit = ev.Limit("turn_seconds_reached", "config.limits.turn_seconds", seconds)
            self.stop(RunEnd("failed", "unknown_error", text, limit=limit))
        killed_at = monotonic() + self._parts.interrupt_grace_seconds
        # A run that can't be asked is gone already, or doesn't answer: the agent can stop it with a signal.
        with suppress(Exception):
            async with asyncio.timeout(self._parts.interrupt_grace_seconds):
                await process.run.interrupt()
        await asyncio.sleep(killed_at - monotonic())
        await process.sandbox.destroy()

    async def interrupt_waits(self) -> bool:
        return (await self._read()).interrupt is not None

    async def _read(self) -> SessionState:
        row = await self._parts.ledger.read_state(self._lease.session_id)
        return SessionState.model_validate_json(row.state)
