"""How is one session served by the worker that owns it?

A `SessionRunner` holds the lease of one session. It asks the state machine what to do, runs a turn through the harness,
records what happens, and keeps the process for the next message until the session has been idle for too long. While a
turn waits for a person or a client there is no process, and no runner either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from hostler.domain import events as ev
from hostler.domain.compaction import Compaction
from hostler.domain.errors import HostlerError, LeaseLost, NotFound
from hostler.domain.ids import derived_uuid
from hostler.engine import runs, turns
from hostler.engine.budget import used_up
from hostler.engine.call_gate import CallGate
from hostler.engine.composer import Composer, Op, Preview, composer_of, joined
from hostler.engine.denials import TurnDenials
from hostler.engine.egress_port import EgressDecision
from hostler.engine.layers import LayerFailed
from hostler.engine.lodging import Lodging
from hostler.engine.memory import Memory
from hostler.engine.permissions import Permissions
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.engine.process import LiveProcess
from hostler.engine.profile import Profile
from hostler.engine.records import Applied, Decide
from hostler.engine.redaction import Replacer
from hostler.engine.runner_parts import RunnerParts
from hostler.engine.sandbox_port import Sandbox
from hostler.engine.single_task import SingleTask
from hostler.engine.state import Moment, SessionState, Step, Totals, Turn, is_paused
from hostler.engine.turns import Plan, RunEnd
from hostler.engine.waiting import Waiting
from hostler.engine.waiting_turns import Errand
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

log = logging.getLogger("hostler.runner")

CONTINUE = (
    "The previous run of this conversation was cut off by a restart of its host. Calls without a recorded result may "
    "or may not have taken effect: check before you repeat one. Go on with the task."
)
"""What the model is told when a turn goes on after a crash."""

LINGER_SECONDS = 0.01
"""How long the start or the end of a model request may wait to be written together with what follows."""

GO_ON = "The work was paused because its budget was used up. It may go on now: go on with the task."
"""What it is told when the budget was raised, after a run that the budget had stopped in the middle."""

BEGUN_BEFORE = (
    "An earlier run of this task was cut off by a restart of its host before it could remember what it did. It had "
    "begun these calls, which may or may not have taken effect: {calls}. Check before you repeat one."
)
"""What it is told besides its prompt when the crash came before the transcript had the prompt, but after calls."""

OLDER_FILES = (
    "The worker that had this session was lost with the latest changes to its files: the workspace is older than this "
    "conversation. Look at what is there before you rely on it."
)
"""What it is told besides, with the next prompt."""


class SessionRunner:
    """Serves one session under one lease. `serve` once; `wake` and `retire` any time, from the same loop."""

    def __init__(
        self, lease: Lease, parts: RunnerParts, on_idle: Callable[[], None], errand: Errand | None = None
    ) -> None:
        """`on_idle` is called when the process begins to wait for input: from then on it can make room for others.

        `errand`: there is no place for a process; only what needs none is done.
        """
        self.lease = lease
        self._errand = errand
        self._parts = parts
        self._wake = asyncio.Event()
        self._retired = False
        self._told: tuple[str, set[str]] = ("", set())
        """A turn, and the limits that its user was told of."""
        self._state: SessionState | None = None
        """As last seen."""
        self._more = False
        """True when the state as last seen has something to do."""
        self._composer = Composer(Permissions(), ())
        self._notices: list[runs.Notice] = []
        """What the user is to be told with the next records."""
        self._arrived: asyncio.Queue[runs.RunEvent | None] | None = None
        """What the run under way says; None in it: look at the notices."""
        self._denials = TurnDenials(parts.allowing)
        self._stopping: RunEnd | None = None
        self._profile: Profile | None = None
        self._session: SessionRow | None = None
        self._ended: SessionRow | None = None
        """As it was when the last run had just ended, until that was looked at."""
        self._memory = Memory(lease, parts.ledger, parts.around.harness, self._apply, parts.profile_of)
        self._gate = CallGate(parts.content, self._apply, self._is_stopping)
        self._care = None
        if parts.compactions is not None:
            harness = parts.around.harness
            self._care = parts.compactions.of(lease, harness, self._context, self.notice, self._is_stopping)
        self._lodging = Lodging(lease, parts, self._memory, self._gate, self, self._apply, self.notice, self._care)
        self._waiting = Waiting(
            lease.session_id,
            parts,
            self._lodging,
            self._wake,
            self._is_wanted,
            lambda: self._retired,
            on_idle,
            self.notice,
        )
        self._task = None
        if parts.copies is not None:
            self._task = SingleTask(lease, parts.copies, self._lodging, self._memory, self._apply)
        self._fresh = True
        """Nothing was looked at yet."""

    # -- from the worker

    def wake(self) -> None:
        """Something happened to the session: look again."""
        self._wake.set()

    def retire(self) -> None:
        """Give the session back at the next idle moment."""
        self._retired = True
        self._wake.set()

    @property
    def idle_since(self) -> float | None:
        """Monotonic time since when its process could be ended to make room; None: it could not."""
        return None if self._parts.awake.reasons(self.lease.session_id) else self._waiting.since

    @property
    def sandbox(self) -> Sandbox | None:
        """The one that its process lives in now."""
        return None if self._lodging.process is None else self._lodging.process.sandbox

    async def serve(self) -> None:
        """Until the session needs nobody, or the lease is lost. Afterwards there is no process."""
        try:
            with self._parts.denials.heard_by(self.lease.session_id, self._on_denied):
                async with asyncio.TaskGroup() as tasks:
                    keeper = tasks.create_task(self._keep_lease())
                    try:
                        await self._work()
                        await self._lodging.look_through(self._session)
                    finally:
                        keeper.cancel()
        except* (LeaseLost, NotFound) as lost:
            log.warning("lease_lost", extra={"session": self.lease.session_id, "reason": str(lost.exceptions[0])})
        finally:
            await self._lodging.aclose()

    async def give_up(self) -> None:
        """End the turn with an error: this worker can't serve it, and trying again has not helped."""
        end = RunEnd("failed", message="This server failed to run the turn; its log says why.")
        await self._apply(lambda s, at, totals, _: turns.run_ended(s, at, totals, end))

    # -- what the user is told

    def notice(self, told: runs.Notice) -> None:
        """Recorded soon while a turn runs; otherwise with the next one: nothing may stand behind `idle`."""
        self._notices.append(told)
        if self._arrived is not None:
            with suppress(asyncio.QueueFull):  # then somebody is about to look anyway
                self._arrived.put_nowait(None)

    def _on_denied(self, decision: EgressDecision) -> None:
        told = self._denials.note(decision)
        if told is not None:
            self.notice(told)

    # -- lease

    async def _keep_lease(self) -> None:
        terms = self._parts.terms
        good_until = monotonic() + terms.seconds - terms.margin_seconds
        while True:
            await asyncio.sleep(min(terms.seconds / 3, max(0.05, good_until - monotonic())))
            asked = monotonic()
            try:
                async with asyncio.timeout(max(0.05, good_until - asked)):
                    held = await self._parts.ledger.extend(self.lease)
            except (TimeoutError, OSError, HostlerError):
                held = None
            if held:
                good_until = asked + terms.seconds - terms.margin_seconds
                self._wake.set()  # input may have come through another server, whose hints don't reach this process
            elif held is False or monotonic() >= good_until:
                raise LeaseLost(f"epoch {self.lease.epoch} of {self.lease.session_id} could not be extended")

    # -- the loop

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            plan = await self._take_up()
            if plan.do != "nothing":
                await self._turn(plan)
                await self._after(plan)
            ended, self._ended = self._ended, None
            if await self._parts.boundary.look(self.lease, self._lodging, ended):
                return
            if plan.do != "nothing":
                if self._retired:
                    return
                was_sick = self._profile is not None and await self._waiting.replaced(self._profile)
                if was_sick or self._more or self._wake.is_set():
                    continue
            elif self._state is not None and self._state.stands_by and not (self._retired or self._errand):
                await self._stand_by()
            if self._lodging.process is None or self._retired or self._profile is None:
                return
            if not await self._waiting.out(self._profile):
                return

    async def _after(self, plan: Plan) -> None:
        """A run has ended and was announced: see to what it has left."""
        session, profile = self._known_session(), self._profile
        turn = self._state.turn if self._state is not None else None
        is_over = turn is None or plan.turn is None or turn.id != plan.turn.id
        if is_over and self._task is not None and profile is not None and profile.pattern == "ephemeral":
            await self._task.end(session)
        else:
            await self._lodging.collect(session)
            await self._lodging.keep(session)

    async def _stand_by(self) -> None:
        """Have a process although there is nothing to do. One that can't be had is not tried again until a message."""
        try:
            await self._process()
        except (LeaseLost, NotFound):
            raise
        except Exception:
            log.exception("not_standing_by", extra={"session": self.lease.session_id})
            await self._apply(lambda s, *_: Step(s.model_copy(update={"stays": False}), wanted=False))

    async def _is_wanted(self) -> bool:
        row = await self._parts.ledger.read_state(self.lease.session_id)
        held = SessionState.model_validate_json(row.state)
        if held.status != "idle" or held.interrupt is not None:
            return True
        return await self._parts.boundary.asked(self.lease.session_id)

    async def _take_up(self) -> Plan:
        plan = await self._ask_for_plan(caught_up=False)
        if plan is None:
            await self._lodging.close()
            await self._memory.catch_up()
            await self._settle_compactions()
            plan = await self._ask_for_plan(caught_up=True)
        elif self._fresh:
            await self._settle_compactions()
        self._fresh = False
        assert plan is not None, "there is a plan after catching up"
        return plan

    async def _settle_compactions(self) -> None:
        if self._care is not None:
            row = await self._parts.ledger.read_state(self.lease.session_id)
            await self._care.settle(SessionState.model_validate_json(row.state))

    def _context(self) -> tuple[SessionRow, Compaction | None]:
        return self._known_session(), None if self._profile is None else self._profile.compaction

    def _is_stopping(self) -> bool:
        return self._stopping is not None

    async def _ask_for_plan(self, *, caught_up: bool) -> Plan | None:
        """None: the turn was begun before, and the log must first learn what its process left in the transcript."""
        plans: list[Plan | None] = []

        def decide(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            if self._errand is not None and not self._errand.is_done_by(before):
                plans[:] = [Plan("nothing")]
                return Step(before)
            if before.turn is not None and before.turn.phase == "handed" and not caught_up and not is_paused(before):
                plans[:] = [None]
                return Step(before)
            step, plan = (self._errand or turns).take_up(before, at, totals)
            plans[:] = [plan]
            stays = self._parts.profile_of(row).pattern == "long_running"
            if plan.do == "nothing" or step.state.stays == stays:
                return step
            return replace(step, state=step.state.model_copy(update={"stays": stays}))

        applied = await self._apply(decide)
        if applied.state.status == "terminated":
            await self._lodging.close()
            return Plan("nothing")
        self._session = applied.session
        self._profile = self._parts.profile_of(applied.session)
        return plans[0]

    async def _turn(self, plan: Plan) -> None:
        turn = plan.turn
        assert turn is not None, "a plan to act has a turn"
        self._stopping = None
        try:
            if plan.do == "resume" or plan.unclosed:
                await self._lodging.close()
            if plan.do == "resume" and not await self._memory.ready_to_resume():
                end = RunEnd("lost", message="The waiting tool call could not be resumed.")
                await self._apply(lambda s, at, totals, _: turns.resume_failed(s, at, totals, end))
                return
            if plan.do != "resume" and plan.unclosed:
                await self._memory.close(plan.unclosed)
            if turn.ask is not None and plan.do == "recover":
                await self._lodging.close()
                if self._care is None or await self._care.is_done(turn.ask.id):
                    await self._end(runs.Ended("completed", alive=False))
                    return
            prompt = None if turn.ask is not None else await self._prompt(plan, turn)
            await self._begin_task(plan, turn)
            process = await self._process()
            if process is None:
                await self._end(runs.Ended("interrupted", alive=False))
                return
            if turn.ask is not None:
                await process.run.compact(derived_uuid("compact", turn.id, f"{turn.recoveries}.{turn.pauses}"))
            elif prompt is not None:
                key, content = prompt
                if self._lodging.older:
                    content = [*content, ev.text_block(OLDER_FILES)]
                    self._lodging.older = False
                await process.run.prompt(key, content)
        except (LeaseLost, NotFound):
            raise
        except runs.ProcessLost as error:
            await self._end(runs.Ended("lost", message=str(error), alive=False))
            return
        except LayerFailed as error:
            await self._end(runs.Ended("failed", message=str(error), alive=False))
            return
        except Exception as error:
            log.exception("turn_not_started", extra={"session": self.lease.session_id})
            await self._end(runs.Ended("failed", message=f"The agent could not be started: {error}", alive=False))
            return
        await self._follow(process, turn)

    async def _begin_task(self, plan: Plan, turn: Turn) -> None:
        """Where sessions keep nothing, a turn that nothing was done for finds nothing of the turns before."""
        if self._task is None or self._profile is None or self._profile.pattern != "ephemeral":
            return
        untouched = plan.do == "recover" and not any(call.started for call in plan.lost)
        if plan.do == "start" or (untouched and not await self._memory.has(derived_uuid("prompt", turn.id))):
            await self._task.begin(self._known_session(), self._profile, anew=plan.do == "start")

    async def _prompt(self, plan: Plan, turn: Turn) -> tuple[str, Sequence[ev.Body]] | None:
        """What to hand to the run, with the key that keeps it from being taken twice."""
        assert self._session is not None
        content = [block for prompt in turn.prompts for block in prompt.content]
        content = await self._parts.content.resolve(self._session.workspace_id, content)
        key = derived_uuid("prompt", turn.id)
        if plan.do == "start":
            return key, content
        if plan.do == "resume":
            return None
        if plan.do == "continue":
            return derived_uuid("go on", turn.id, str(turn.pauses)), [ev.text_block(GO_ON)]
        await self._lodging.close()
        if await self._memory.has(key):
            return derived_uuid("continue", turn.id, str(turn.recoveries)), [ev.text_block(CONTINUE)]
        begun = ", ".join(call.name for call in plan.lost if call.started)
        return key, [*content, ev.text_block(BEGUN_BEFORE.format(calls=begun))] if begun else content

    async def _process(self) -> LiveProcess | None:
        """One that serves for what counts now. None: a person interrupted the turn while it was being made ready."""
        assert self._profile is not None
        self._profile = await self._at_present(self._known_session(), self._profile)
        kept = self._lodging.process
        process = await self._lodging.process_for(
            self._known_session(), self._profile, self._wake, self._interrupt_waits
        )
        if process is not kept:
            self._composer = composer_of(self._profile)
            if self._care is not None:
                await self._care.keep_schedule(self._known_session(), self._profile.compaction)
        return process

    async def _at_present(self, session: SessionRow, profile: Profile) -> Profile:
        """The same, with the version of `claude` that the environment asks for by now: sessions move between turns."""
        if profile.self_hosted:
            return profile
        version = await self._parts.ledger.cli_version(session.workspace_id, session.environment_id)
        return profile if version == profile.cli_version else replace(profile, cli_version=version)

    def _known_session(self) -> SessionRow:
        assert self._session is not None, "a plan was asked for first"
        return self._session

    # -- one turn

    async def _follow(self, process: LiveProcess, turn: Turn) -> None:
        """Record what the run does until it ends. Watches for an interrupt and for the turn's limits meanwhile."""
        assert self._profile is not None
        arrived: asyncio.Queue[runs.RunEvent | None] = asyncio.Queue(maxsize=4096)

        async def read() -> None:
            async for event in process.run.events():
                await arrived.put(event)

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
        await self._end(ended, pending)
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
        session_id, hub = self.lease.session_id, self._parts.hub
        urgent = False
        notices, self._notices = self._notices, []
        for event in (*self._gate.failures(), *notices, *batch):
            if event is None:
                continue
            if isinstance(event, runs.Ended):
                if (rest := self._denials.rest()) is not None:
                    pending += [op for op in self._composer.compose(rest) if not isinstance(op, Preview)]
                if not event.alive:  # much is done before that is written
                    await self._flush(pending)
                await self._tell_care(batch)
                return event
            for made in self._composer.compose(event):
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
            self._stop(end)

    def _too_long(self, turn: Turn | None) -> RunEnd | None:
        """How a turn has to end that has made more model requests than it may. None: it has not."""
        if turn is None or self._profile is None or turn.requests <= self._profile.turn_limits.max_requests:
            return None
        most = self._profile.turn_limits.max_requests
        text = f"The turn was stopped after {most} model requests (max_turns)."
        limit = ev.Limit("max_turns_reached", "config.limits.max_turns", most)
        return RunEnd("failed", "tool_use_limit_reached_error", text, limit=limit)

    async def _end(self, ended: runs.Ended, pending: Sequence[Op] = ()) -> None:
        """The run has stopped working. What that means was decided by whoever stopped it, or else by the run.

        `pending` is what it did before that and is not written yet.
        """
        if not ended.alive and ended.how != "deferred":
            await self._lodging.close()
        by_harness = ended.alive and ended.how == "interrupted"
        end = RunEnd(ended.how, ended.error, ended.message, ended.details, closed_by_harness=by_harness)
        if self._stopping is not None:
            stop = self._stopping
            end = RunEnd(stop.how, stop.error, stop.message, limit=stop.limit, closed_by_harness=by_harness)
        stopped, self._stopping = self._stopping is not None, None
        self._composer.dropping_errors = False

        def finish(state: SessionState, at: Moment, totals: Totals) -> Step:
            too_long = None if stopped else self._too_long(state.turn)
            return turns.run_ended(state, at, totals, too_long or end)

        step = joined([*pending, finish])
        self._ended = (await self._apply(lambda s, at, totals, _: step(s, at, totals))).session
        # A lost compaction is looked for in the transcript.
        if self._care is not None and self._care.busy and end.how != "lost":
            await self._settle_compactions()
        if not ended.alive:
            await self._lodging.close()

    async def _watch(self, process: LiveProcess) -> None:
        """Stop the run when a person asks for it, when it has run for too long, or when `_stop` was called."""
        assert self._profile is not None
        seconds = self._profile.turn_limits.seconds
        try:
            async with asyncio.timeout(seconds):
                while self._stopping is None:
                    await self._wake.wait()
                    self._wake.clear()
                    if await self._interrupt_waits():
                        break
            self._stop(RunEnd("interrupted"))
        except TimeoutError:
            text = (
                f"The turn was stopped after {seconds:g} seconds (turn_seconds). The session goes on with the next "
                "message; raise config.limits.turn_seconds of the environment for new sessions."
            )
            limit = ev.Limit("turn_seconds_reached", "config.limits.turn_seconds", seconds)
            self._stop(RunEnd("failed", "unknown_error", text, limit=limit))
        killed_at = monotonic() + self._parts.interrupt_grace_seconds
        # A run that can't be asked is gone already, or doesn't answer: the agent can stop it with a signal.
        with suppress(Exception):
            async with asyncio.timeout(self._parts.interrupt_grace_seconds):
                await process.run.interrupt()
        await asyncio.sleep(killed_at - monotonic())
        await process.sandbox.destroy()

    async def _interrupt_waits(self) -> bool:
        row = await self._parts.ledger.read_state(self.lease.session_id)
        return SessionState.model_validate_json(row.state).interrupt is not None

    def _stop(self, end: RunEnd) -> None:
        """The run has to end, for this reason unless there is one already. The watcher sees to it."""
        if self._stopping is None:
            self._stopping = end
            # Every result was there before the request that the budget has no room for.
            self._composer.dropping_errors = end.how != "capped"
            self._wake.set()

    async def _apply(self, decide: Decide) -> Applied:
        variables = self._lodging.variables
        if variables is not None and variables.placeholders:
            decide = without(await variables.replacer(), decide)
        applied = await self._parts.records.apply(self.lease.session_id, decide, lease=self.lease)
        turn = applied.state.turn
        self._state = applied.state
        self._more = applied.state.interrupt is not None or (turn is not None and applied.state.status != "idle")
        await self._gate.announce(applied.state.calls)
        return applied

    # -- told by the gateway (ModelRoadListener)

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        translate = self._parts.around.harness.call
        self._composer.hold(shown, [translate(call.tool_use_id, call.name, call.input) for call in calls])

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        await self._parts.ledger.record_request(record)
        if self._care is not None:
            await self._care.on_request(record)

    async def may_request(self) -> bool:
        """Before each model request: is there room for it in the budget? If not, the run is stopped here.

        Only creation gives a session a budget, so one that had none when its turn began needs no look.
        """
        if self._session is None or self._session.budget_json is None:
            return True
        row = await self._parts.ledger.read_state(self.lease.session_id)
        if not used_up(row.budget, row.usage):
            return True
        self._stop(RunEnd("capped"))
        return False


def without(secrets: Replacer, decide: Decide) -> Decide:
    """The same decision, with events that repeat no secret. What the road did not see may have brought one."""

    def decided(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
        step = decide(before, at, totals, row)
        return replace(step, events=tuple(map(secrets.event, step.events)))

    return decided
