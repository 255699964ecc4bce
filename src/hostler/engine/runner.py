"""How is one session served by the worker that owns it?

A `SessionRunner` holds the lease of one session. It asks the state machine what to do, runs a turn through the harness,
records what happens, and keeps the process for the next message until the session has been idle for too long. While a
turn waits for a person or a client there is no process, and no runner either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from hostler.domain import events as ev
from hostler.domain.compaction import Compaction
from hostler.domain.errors import HostlerError, LeaseLost, NotFound, StoreBusy
from hostler.domain.ids import derived_uuid
from hostler.engine import runs, turns
from hostler.engine.about import About
from hostler.engine.about import begin as begin_about
from hostler.engine.budget_pauses import reached, short_of
from hostler.engine.call_gate import CallGate
from hostler.engine.composer import composer_of
from hostler.engine.follower import Follower
from hostler.engine.layers import LayerFailed
from hostler.engine.lodging import Lodging
from hostler.engine.memory import Memory
from hostler.engine.model_port import Caller, Shortage, Wait
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.engine.process import LiveProcess
from hostler.engine.profile import Profile
from hostler.engine.records import Applied, Decide
from hostler.engine.redaction import Replacer
from hostler.engine.runner_parts import RunnerParts
from hostler.engine.sandbox_port import Sandbox
from hostler.engine.single_task import SingleTask
from hostler.engine.state import Moment, SessionState, Step, Totals, Turn, Unclosed, is_paused
from hostler.engine.threads import together
from hostler.engine.turn_traces import traced
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
        self,
        lease: Lease,
        parts: RunnerParts,
        on_idle: Callable[[], None],
        gives_way: Callable[[], bool] = lambda: False,
        errand: Errand | None = None,
    ) -> None:
        """`on_idle` is called when the process begins to wait for input: from then on it can make room for others.

        `gives_way` is asked when a turn has ended: whether others come first now, although there is more to do.
        `errand`: there is no place for a process; only what needs none is done.
        """
        self.lease = lease
        self._gives_way = gives_way
        self._errand = errand
        self._parts = parts
        self._wake = asyncio.Event()
        self._retired = False
        self._state: SessionState | None = None
        """As last seen."""
        self._more = False
        """True when the state as last seen has something to do."""
        self._profile: Profile | None = None
        self._session: SessionRow | None = None
        self._about = About(session_id=lease.session_id)
        self._taken: Applied | None = None
        """What taking up its turn has recorded."""
        self._asking: tuple[SessionRow, Caller] | None = None
        """The session as its requests show it, read once for each row."""
        self._memory = Memory(lease, parts.ledger, parts.around.harness, self._apply, parts.profile_of)
        self._gate = CallGate(parts.content, self._apply, self._is_stopping)
        self._care = None
        if parts.compactions is not None:
            harness = parts.around.harness
            self._care = parts.compactions.of(lease, harness, self._context, self.notice, self._is_stopping)
        self._lodging = Lodging(lease, parts, self._memory, self._gate, self, self._apply, self.notice, self._care)
        self._follower = Follower(lease, parts, self._lodging, self._gate, self._wake, self._apply, self._care)
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
        begin_about(self._about)
        try:
            with self._parts.denials.heard_by(self.lease.session_id, self._follower.on_denied):
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
        await self._apply(lambda s, at, totals, _: turns.lost_for_good(s, at, totals, end))

    def notice(self, told: runs.Notice) -> None:
        """What the user is to be told: `Follower.notice`."""
        self._follower.notice(told)

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
            else:
                await self._clear_task()
                await self._lodging.keep(self._known_session())  # put off for a message that came to nothing
            ended, self._follower.ended = self._follower.ended, None
            if await self._parts.boundary.look(self.lease, self._lodging, ended):
                return
            if plan.do != "nothing":
                stays = self._state is not None and self._state.stays
                if self._retired or (not stays and self._gives_way()):
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
            if not (self._lodging.put_off() and await self._waiting.wanted_soon()):
                await self._lodging.keep(session)

    async def _clear_task(self) -> None:
        """Where nothing stays: nor of a task that ended while nobody served it. What can't be cleared now stays."""
        if self._task is None or self._profile is None or self._profile.pattern != "ephemeral":
            return
        if self._state is None or self._state.turn is not None:
            return
        try:
            await self._task.clear(self._known_session(), self._profile)
        except (LeaseLost, NotFound):
            raise
        except Exception:
            log.exception("task_not_cleared", extra={"session": self.lease.session_id})

    async def _stand_by(self) -> None:
        """Have a process although there is nothing to do. One that can't be had is not tried again until a message."""
        try:
            await self._process()
        except (LeaseLost, NotFound):
            raise
        except Exception:
            log.exception("not_standing_by", extra={"session": self.lease.session_id})
            await self._lodging.close()  # it may be half of one

            def gone(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
                asked_meanwhile = state.status != "idle" or state.interrupt is not None
                return Step(state.model_copy(update={"stays": False}), wanted=None if asked_meanwhile else False)

            await self._apply(gone)

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
        async def state() -> SessionState:
            row = await self._parts.ledger.read_state(self.lease.session_id)
            return SessionState.model_validate_json(row.state)

        if self._care is not None:
            await self._care.settle(state)

    def _context(self) -> tuple[SessionRow, Compaction | None]:
        return self._known_session(), None if self._profile is None else self._profile.compaction

    def _is_stopping(self) -> bool:
        return self._follower.is_stopping

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

        applied = self._taken = await self._apply(decide)
        self._session, self._about.workspace_id = applied.session, applied.session.workspace_id
        self._profile = self._parts.profile_of(applied.session)
        if applied.state.status == "terminated":
            await self._lodging.close()
            return Plan("nothing")
        return plans[0]

    async def _with_files(self, call: Unclosed) -> Unclosed:
        if call.content is None:
            return call
        content = await self._parts.content.resolve(self._known_session().workspace_id, call.content)
        return call.model_copy(update={"content": tuple(content)})

    async def _turn(self, plan: Plan) -> None:
        assert self._taken is not None, "a plan was asked for first"
        with traced(self._parts.tracing, self._about, self._known_session(), plan, self._taken) as trace:
            self._follower.trace, self._gate.permitted = trace, trace.permitted
            await self._run(plan)

    async def _run(self, plan: Plan) -> None:
        turn = plan.turn
        assert turn is not None, "a plan to act has a turn"
        self._follower.begin()
        untold = plan.do == "start"
        try:
            if plan.do == "resume" or plan.unclosed:
                await self._lodging.close()
            if plan.do == "resume" and not await self._memory.ready_to_resume():
                end = RunEnd("lost", message="The waiting tool call could not be resumed.")
                await self._apply(lambda s, at, totals, _: turns.resume_failed(s, at, totals, end))
                return
            if plan.do != "resume" and plan.unclosed:
                await self._memory.close([await self._with_files(call) for call in plan.unclosed])
            if turn.ask is not None and plan.do == "recover":
                await self._lodging.close()
                if self._care is None or await self._care.is_done(turn.ask.id):
                    await self._follower.end(runs.Ended("completed", alive=False))
                    return
            elif plan.do == "recover" and await self._memory.is_answered(derived_uuid("prompt", turn.id)):
                # Cut off after its last answer and before its end: who is asked to go on has nothing to add.
                await self._follower.end(runs.Ended("completed", alive=False))
                return
            prompt = None if turn.ask is not None else await self._prompt(plan, turn)
            untold = prompt is not None and prompt[0] == derived_uuid("prompt", turn.id)
            await self._begin_task(plan, turn)
            process = await self._process()
            if process is None:
                await self._follower.end(runs.Ended("interrupted", alive=False, untold=untold))
                return
            if turn.ask is not None:
                await process.run.compact(derived_uuid("compact", turn.id, f"{turn.recoveries}.{turn.pauses}"))
            elif prompt is not None:
                key, content = prompt
                if self._lodging.older:
                    content = [*content, ev.text_block(OLDER_FILES)]
                untold = False
                await process.run.prompt(key, content)
            # Follow at once: what the run asks the model meanwhile would not be counted.
        except (LeaseLost, NotFound, StoreBusy):  # the turn is taken up again when the database is back
            raise
        except runs.ProcessLost as error:
            await self._follower.end(runs.Ended("lost", message=str(error), alive=False))
            return
        except LayerFailed as error:
            await self._follower.end(runs.Ended("failed", message=str(error), alive=False, untold=untold))
            return
        except Exception as error:
            log.exception("turn_not_started", extra={"session": self.lease.session_id})
            await self._follower.end(
                runs.Ended("failed", message=f"The agent could not be started: {error}", alive=False, untold=untold)
            )
            return
        assert self._profile is not None, "a process was opened for one"
        await self._follower.follow(process, turn, self._profile.turn_limits)
        if prompt is not None:
            await self._lodging.model_knows()

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
        kept, since = self._lodging.process, monotonic()
        async with together() as tasks:
            if self._care is not None:
                tasks.create_task(self._care.keep_schedule(self._known_session(), self._profile.compaction))
            process = await self._lodging.process_for(
                self._known_session(), self._profile, self._wake, self._follower.interrupt_waits
            )
        if process is not kept and process is not None:
            self._follower.trace.process_started(monotonic() - since)
        variables = self._lodging.variables
        if self._follower.trace.wants_content and variables is not None:
            self._follower.trace.redact = (await variables.replacer()).text
        if process is not kept:
            self._follower.composer = composer_of(self._profile)
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
        self._follower.composer.hold(shown, [translate(call.tool_use_id, call.name, call.input) for call in calls])

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        record = replace(record, results=tuple((self._tool_name(tool), size) for tool, size in record.results))
        await self._parts.ledger.record_request(record)
        if self._follower.meter is not None:
            self._follower.meter.add(record)
        if self._care is not None:
            try:
                await self._care.on_request(record)
            except (HostlerError, OSError):  # whoever gets an error here would have the request written down again
                log.exception("compaction_not_counted", extra={"session": self.lease.session_id})

    def _tool_name(self, name: str) -> str:
        """As people know it: `bash`, the name of a custom tool, or `server/tool`."""
        call = self._parts.around.harness.call("", name, {})
        servers = {} if self._profile is None else self._profile.permissions.servers
        server = servers.get(call.server or "")
        return call.name if server is None else f"{server.name}/{server.tool_name(call.name)}"

    @property
    def caller(self) -> Caller:
        session = self._known_session()
        if self._asking is None or self._asking[0] is not session:
            self._asking = (session, caller_of(session, self.lease.epoch))
        return self._asking[1]

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        if short.scope != "session" and not self._follower.is_stopping:  # the wire tells of the session's own
            self.notice(reached(why, short))
        self._follower.stop(RunEnd("capped", short=short_of(short)))

    def on_waiting(self, wait: Wait) -> None:
        self._follower.tell(runs.Waiting(ev.error_type(wait.status), wait.message))

    def on_going_on(self) -> None:
        self._follower.tell(runs.GoingOn())


def caller_of(session: SessionRow, epoch: int) -> Caller:
    """Whose requests the session's are."""
    return Caller(
        session.id,
        session.workspace_id,
        session.environment_id,
        session.agent_id,
        session.agent_version,
        session.agent["model"]["id"],
        session.metadata,
        session.agent,
        epoch,
    )


def without(secrets: Replacer, decide: Decide) -> Decide:
    """The same decision, with events that repeat no secret. What the road did not see may have brought one."""

    def decided(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
        step = decide(before, at, totals, row)
        return replace(step, events=tuple(map(secrets.event, step.events)))

    return decided
