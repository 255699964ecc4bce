"""How is one session served by the worker that owns it?

A `SessionRunner` holds the lease of one session. It asks the state machine what to do, runs a turn through the harness,
records what happens, and keeps the process for the next message until the session has been idle for too long. While a
turn waits for a person or a client there is no process, and no runner either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from hostler.domain import events as ev
from hostler.domain.errors import HostlerError, LeaseLost, NotFound
from hostler.domain.ids import derived_uuid
from hostler.domain.packages import PackageLists
from hostler.engine import labels, runs, state, turns
from hostler.engine.attachments import Attachments
from hostler.engine.budget import used_up
from hostler.engine.composer import Composer, Op, Preview, composer_of, joined
from hostler.engine.content import ContentSource
from hostler.engine.denials import Denials, TurnDenials
from hostler.engine.egress_port import EgressDecision, McpAccess, McpFailure
from hostler.engine.homes import Stay
from hostler.engine.hub import Hub
from hostler.engine.layers import HeldLayer, LayerFailed, until_installed
from hostler.engine.mcp import PermittedCalls
from hostler.engine.memory import Ledger, Memory
from hostler.engine.permissions import Permissions
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.engine.process import LiveProcess, Surroundings, open_process
from hostler.engine.profile import Profile
from hostler.engine.records import Applied, Records
from hostler.engine.redaction import Replacer
from hostler.engine.runs import Allow, Defer, Deny, ToolOutcome, Verdict
from hostler.engine.state import Moment, SessionState, Step, Totals, Turn, is_paused
from hostler.engine.turns import Plan, RunEnd
from hostler.engine.variables import BrokeredVariables, VariableBroker
from hostler.store.sessions import SessionRow, SessionUpdate
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

ANNOUNCE_SECONDS = 20.0
"""How long a call may wait for its own announcement before it is refused."""


Decide = Callable[[SessionState, Moment, Totals, SessionRow], Step]


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How a lease is kept."""

    seconds: float = 15.0
    """Time to live."""
    margin_seconds: float = 3.0
    """A worker that could not extend stops its sandbox this long before the lease can have run out."""


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """What every runner of a worker shares."""

    records: Records
    hub: Hub
    ledger: Ledger
    around: Surroundings
    profile_of: Callable[[SessionRow], Profile]
    attachments: Attachments = field(default_factory=Attachments)
    content: ContentSource = field(default_factory=ContentSource)
    denials: Denials = field(default_factory=Denials)
    variables: VariableBroker | None = None
    """Who knows the variables of sessions; None: they have none."""
    terms: LeaseTerms = LeaseTerms()
    interrupt_grace_seconds: float = 10.0
    """A harness that has not stopped by then is killed."""


class SessionRunner:
    """Serves one session under one lease. `serve` once; `wake` and `retire` any time, from the same loop."""

    def __init__(self, lease: Lease, parts: RunnerParts, on_idle: Callable[[], None]) -> None:
        """`on_idle` is called when the process begins to wait for input: from then on it can make room for others."""
        self.lease = lease
        self._on_idle = on_idle
        self.idle_since: float | None = None
        """Monotonic time since when the process waits for input; None while it works."""
        self._parts = parts
        self._wake = asyncio.Event()
        self._retired = False
        self._house = AsyncExitStack()
        self._stay: Stay | None = None
        """The session's files, from the first need of them to the end of `serve`."""
        self._told: tuple[str, set[str]] = ("", set())
        """A turn, and the limits that its user was told of."""
        self._process: LiveProcess | None = None
        self._process_profile: Profile | None = None
        self._process_variables: BrokeredVariables | None = None
        self._more = False
        """True when the state as last seen has something to do."""
        self._busy = False
        """True while the process works on a prompt."""
        self._composer = Composer(Permissions(), ())
        self._calls: dict[str, state.OpenCall] = {}
        self._announced = asyncio.Condition()
        self._mcp_calls = PermittedCalls()
        self._mcp_failures: list[runs.McpFailed] = []
        self._notices: list[runs.Notice] = []
        """What the user is to be told with the next records."""
        self._arrived: asyncio.Queue[runs.RunEvent | None] | None = None
        """What the run under way says; None in it: look at the notices."""
        self._denials = TurnDenials()
        self._stopping: RunEnd | None = None
        self._profile: Profile | None = None
        self._session: SessionRow | None = None
        self._memory = Memory(lease, parts.ledger, parts.around.harness, self._apply, parts.profile_of)

    # -- from the worker

    def wake(self) -> None:
        """Something happened to the session: look again."""
        self._wake.set()

    def retire(self) -> None:
        """Give the session back at the next idle moment."""
        self._retired = True
        self._wake.set()

    async def serve(self) -> None:
        """Until the session needs nobody, or the lease is lost. Afterwards there is no process."""
        try:
            with self._parts.denials.heard_by(self.lease.session_id, self._on_denied):
                async with asyncio.TaskGroup() as tasks:
                    keeper = tasks.create_task(self._keep_lease())
                    try:
                        await self._work()
                    finally:
                        keeper.cancel()
        except* (LeaseLost, NotFound) as lost:
            log.warning("lease_lost", extra={"session": self.lease.session_id, "reason": str(lost.exceptions[0])})
        finally:
            try:
                await self._close()
            finally:
                await self._house.aclose()

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
                self.idle_since = None
                await self._turn(plan)
                await self._collect()
                if self._more or self._wake.is_set():
                    continue
            if self._process is None or self._retired or self._profile is None:
                return
            self.idle_since = monotonic()
            self._on_idle()
            try:
                async with asyncio.timeout(self._profile.idle_timeout_seconds):
                    while not self._retired and not await self._is_wanted():
                        await self._wake.wait()
                        self._wake.clear()
            except TimeoutError:
                return

    async def _is_wanted(self) -> bool:
        row = await self._parts.ledger.read_state(self.lease.session_id)
        held = SessionState.model_validate_json(row.state)
        return held.status != "idle" or held.interrupt is not None

    async def _take_up(self) -> Plan:
        plan = await self._ask_for_plan(caught_up=False)
        if plan is None:
            await self._close()
            await self._memory.catch_up()
            plan = await self._ask_for_plan(caught_up=True)
        assert plan is not None, "there is a plan after catching up"
        return plan

    async def _ask_for_plan(self, *, caught_up: bool) -> Plan | None:
        """None: the turn was begun before, and the log must first learn what its process left in the transcript."""
        plans: list[Plan | None] = []

        def decide(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            if before.turn is not None and before.turn.phase == "handed" and not caught_up and not is_paused(before):
                plans[:] = [None]
                return Step(before)
            step, plan = turns.take_up(before, at, totals)
            plans[:] = [plan]
            return step

        applied = await self._apply(decide)
        if applied.state.status == "terminated":
            await self._close()
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
                await self._close()
            if plan.do == "resume" and not await self._memory.ready_to_resume():
                end = RunEnd("lost", message="The waiting tool call could not be resumed.")
                await self._apply(lambda s, at, totals, _: turns.resume_failed(s, at, totals, end))
                return
            if plan.do != "resume" and plan.unclosed:
                await self._memory.close(plan.unclosed)
            prompt = await self._prompt(plan, turn)
            process = await self._ensure_process()
            if process is None:
                await self._end(runs.Ended("interrupted", alive=False))
                return
            if prompt is not None:
                await process.run.prompt(*prompt)
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
        await self._close()
        if await self._memory.has(key):
            return derived_uuid("continue", turn.id, str(turn.recoveries)), [ev.text_block(CONTINUE)]
        begun = ", ".join(call.name for call in plan.lost if call.started)
        return key, [*content, ev.text_block(BEGUN_BEFORE.format(calls=begun))] if begun else content

    async def _ensure_process(self) -> LiveProcess | None:
        """None: a person interrupted the turn while packages were being installed."""
        assert self._profile is not None
        assert self._session is not None
        variables = await self._variables(self._session, self._profile)
        if self._process_profile != self._profile or not _same(self._process_variables, variables):
            await self._close()
        if self._process is None:
            homes, session_id = self._parts.around.homes, self.lease.session_id
            if self._stay is None:
                entered = homes.entered(session_id, self._profile.sandbox_limits.disk_bytes)
                self._stay = await self._house.enter_async_context(entered)
            self._stay.looked_through = False
            await asyncio.to_thread(homes.make, session_id)
            mounts = []
            if not self._profile.self_hosted:  # there the worker lays out what the agent works with
                mounts = await self._parts.attachments.lay_out(self._session, self._stay.home)
            complaints = self._parts.attachments.complaints(session_id)
            if complaints:
                await self._apply(lambda s, at, totals, _: Step(s, tuple(c(at.text) for c in complaints)))
            self._process_profile, self._process_variables = self._profile, variables
            self._mcp_calls, self._mcp_failures = PermittedCalls(), []
            self._composer = composer_of(self._profile)
            resume = await self._memory.exists()
            layer: HeldLayer | None = None
            if not self._profile.packages.empty:
                layer = await self._layer(self._profile.packages)
                if layer is None:
                    return None
            self._process = await open_process(
                self._parts.around,
                self.lease.session_id,
                self._profile,
                resume=resume,
                transcripts=self._memory.transcripts,
                gatekeeper=self,
                listener=self,
                sequence=self._parts.ledger.sequence(self.lease),
                mounts=mounts,
                mcp=McpAccess(
                    self._profile.mcp_routes, self._session.workspace_id, tuple(self._session.vault_ids), self
                ),
                variables=variables,
                layer=layer,
            )
            await self._label(self._process)
        elif not self._profile.self_hosted:
            assert self._stay is not None
            self._stay.looked_through = False
            await self._parts.attachments.refresh(self._session, self._stay.home)
        return self._process

    async def _label(self, process: LiveProcess) -> None:
        """The session says what it runs in, before anything is asked of what runs there."""
        assert self._session is not None
        before = self._session.isolation
        after = labels.running(before, process.label, process.cli_version)
        if after != before:
            applied = await self._parts.records.apply(
                self.lease.session_id,
                lambda s, *_: Step(s),
                lease=self.lease,
                update=SessionUpdate(isolation=after),
            )
            self._session = applied.session

    async def _variables(self, session: SessionRow, profile: Profile) -> BrokeredVariables | None:
        """What the process gets. A live one has the same already, or it has to go."""
        broker = self._parts.variables
        if broker is None or profile.self_hosted:
            return None
        found = await broker.of(session, profile.egress)
        if found is None:
            return None
        if told := found.unreachable:

            def tell(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
                errors = (
                    ev.credential_host_error(at.text, one.vault_id, one.credential_id, one.message) for one in told
                )
                return Step(state, tuple(errors))

            await self._apply(tell)
        if self._process_variables is not None:
            self._process_variables.follow(found)
        return found

    async def _layer(self, packages: PackageLists) -> HeldLayer | None:
        layers = self._parts.around.layers
        if layers is None:
            raise LayerFailed("This server can't install packages; take them out of the environment.")
        return await until_installed(layers, packages, self._wake, self._interrupt_waits)

    async def _collect(self) -> None:
        assert self._session is not None
        if self._stay is not None:
            hosted_elsewhere = self._profile is not None and self._profile.self_hosted
            self._stay.looked_through = hosted_elsewhere or await self._parts.attachments.collect(
                self._session, self._stay.home
            )

    async def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close(kill=self._busy)

    # -- one turn

    async def _follow(self, process: LiveProcess, turn: Turn) -> None:
        """Record what the run does until it ends. Watches for an interrupt and for the turn's limits meanwhile."""
        assert self._profile is not None
        arrived: asyncio.Queue[runs.RunEvent | None] = asyncio.Queue(maxsize=4096)

        async def read() -> None:
            async for event in process.run.events():
                await arrived.put(event)

        self._busy, self._arrived = True, arrived
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(read())
            watcher = tasks.create_task(self._watch(process))
            try:
                ended, pending = await self._consume(arrived, process, turn.id)
            finally:
                self._arrived = None
                reader.cancel()
                watcher.cancel()
        self._busy = ended.how in ("failed", "lost")
        await self._tell_limits(process, turn.id, pending)
        await self._end(ended, pending)

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
        failures, self._mcp_failures = self._mcp_failures, []
        notices, self._notices = self._notices, []
        for event in (*failures, *notices, *batch):
            if event is None:
                continue
            if isinstance(event, runs.Ended):
                if (rest := self._denials.rest()) is not None:
                    pending += [op for op in self._composer.compose(rest) if not isinstance(op, Preview)]
                if not event.alive:  # much is done before that is written
                    await self._flush(pending)
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
        return None

    async def _flush(self, pending: list[Op]) -> None:
        if not pending:
            return
        step = joined(pending)
        pending.clear()
        applied = await self._apply(lambda s, at, totals, _: step(s, at, totals))
        turn = applied.state.turn
        if turn is not None and self._profile is not None and turn.requests > self._profile.turn_limits.max_requests:
            most = self._profile.turn_limits.max_requests
            text = f"The turn was stopped after {most} model requests (max_turns)."
            limit = ev.Limit("max_turns_reached", "config.limits.max_turns", most)
            self._stop(RunEnd("failed", "tool_use_limit_reached_error", text, limit=limit))

    async def _end(self, ended: runs.Ended, pending: Sequence[Op] = ()) -> None:
        """The run has stopped working. What that means was decided by whoever stopped it, or else by the run.

        `pending` is what it did before that and is not written yet.
        """
        if not ended.alive and ended.how != "deferred":
            await self._close()
        by_harness = ended.alive and ended.how == "interrupted"
        end = RunEnd(ended.how, ended.error, ended.message, ended.details, closed_by_harness=by_harness)
        if self._stopping is not None:
            stop = self._stopping
            end = RunEnd(stop.how, stop.error, stop.message, limit=stop.limit, closed_by_harness=by_harness)
        self._stopping = None
        self._composer.dropping_errors = False
        step = joined([*pending, lambda s, at, totals: turns.run_ended(s, at, totals, end)])
        await self._apply(lambda s, at, totals, _: step(s, at, totals))
        if not ended.alive:
            await self._close()

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
        variables = self._process_variables
        if variables is not None and variables.placeholders:
            decide = without(await variables.replacer(), decide)
        applied = await self._parts.records.apply(self.lease.session_id, decide, lease=self.lease)
        turn = applied.state.turn
        self._more = applied.state.interrupt is not None or (turn is not None and applied.state.status != "idle")
        async with self._announced:
            self._calls = {call.tool_use_id: call for call in applied.state.calls}
            self._announced.notify_all()
        return applied

    # -- asked by the run (Gatekeeper)

    async def permit(self, call: runs.ToolCall) -> Verdict:
        """May this call run now? It is announced first, and marked as begun before it begins.

        Whatever isn't known to be allowed is refused: the question comes from inside the sandbox.
        """
        profile, tool_use_id = self._process_profile, call.tool_use_id
        hosted = profile is not None and call.custom and call.name in profile.hosted_names
        if profile is None or (call.custom and not hosted and call.name not in profile.custom_names):
            return Deny(f"This agent has no tool {call.name}.")
        if not call.custom and call.server is None and call.name in profile.hosted_names:
            return Deny(f"This agent has no tool {call.name} here.")  # its own sandbox is not where tools run
        judged = None if call.custom and not hosted else profile.permissions.evaluate(call.name, call.server)
        if judged is not None and judged.permission == "deny":
            return Deny(judged.message)
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS), self._announced:
                await self._announced.wait_for(lambda: tool_use_id in self._calls or self._stopping is not None)
        except TimeoutError:
            return Deny("This call was not announced in time.")
        if self._stopping is not None:
            return Deny(ev.INTERRUPTED)
        verdicts: list[Verdict] = []

        def is_same(known: state.OpenCall) -> bool:
            kind = "custom" if call.custom else "builtin" if call.server is None else "mcp"
            kind = "hosted" if hosted else kind
            return (known.name, known.kind, known.server) == (call.name, kind, call.server)

        def decide(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            known = next((c for c in before.calls if c.tool_use_id == tool_use_id), None)
            if known is None or before.interrupt is not None:
                verdicts[:] = [Deny(ev.INTERRUPTED)]
            elif not is_same(known):
                verdicts[:] = [Deny("This call is not the one that was announced under its id.")]
            elif known.denied:
                said = known.verdict or known.answer
                verdicts[:] = [Deny((said and said.message) or "The user denied this tool call.")]
            elif known.gated and known.answer is None:
                verdicts[:] = [Defer()]
            elif judged is not None and judged.permission == "ask" and known.answer is None:
                # The rules have become stricter since it was announced, and nobody was asked.
                verdicts[:] = [Deny("The rules of this agent have changed; make the call again.")]
            else:
                verdicts[:] = [Allow()]
                # A custom tool ran elsewhere: handing its result over once more does no harm, losing it would.
                return Step(before) if call.custom else turns.call_started(before, tool_use_id)
            return Step(before)

        known = self._calls[tool_use_id]
        if known.started and not known.gated and is_same(known) and (judged is None or judged.permission == "allow"):
            self._mcp_calls.permit(known)
            return Allow()
        await self._apply(decide)
        if isinstance(verdicts[0], Allow):
            self._mcp_calls.permit(known)
        return verdicts[0]

    async def result(self, tool_use_id: str) -> ToolOutcome:
        call = self._calls.get(tool_use_id)
        if call is None or call.answer is None:
            return ToolOutcome([ev.text_block(ev.INTERRUPTED)], True)
        assert self._session is not None
        content = await self._parts.content.resolve(self._session.workspace_id, call.answer.content)
        return ToolOutcome(content, call.answer.is_error)

    # -- told by the egress road (McpGate)

    def offers(self, alias: str, tool: str) -> bool:
        return self._process_profile is not None and self._process_profile.permissions.offers(tool, alias)

    def begin_call(self, alias: str, tool: str, arguments: Mapping[str, object]) -> bool:
        return self._mcp_calls.begin(alias, tool, arguments)

    def not_begun(self, alias: str, tool: str, arguments: Mapping[str, object]) -> None:
        self._mcp_calls.not_begun(alias, tool, arguments)

    def failed(self, alias: str, failure: McpFailure, message: str) -> None:
        self._mcp_failures.append(runs.McpFailed(alias, failure, message))

    # -- told by the gateway (ModelRoadListener)

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        translate = self._parts.around.harness.call
        self._composer.hold(shown, [translate(call.tool_use_id, call.name, call.input) for call in calls])

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        await self._parts.ledger.record_request(record)

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


def _same(held: BrokeredVariables | None, wanted: BrokeredVariables | None) -> bool:
    """Whether a process that was started with the one serves for the other."""
    return (held.placeholders if held else {}) == (wanted.placeholders if wanted else {})
