"""May this call run? The questions that come from inside a sandbox, and what is remembered to answer them.

`CallGate` is asked by the harness before each tool call (`Gatekeeper`), and by the egress road before each call of an
MCP server (`McpGate`). Whatever isn't known to be allowed is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from hostler.domain import events as ev
from hostler.engine import runs, state, turns
from hostler.engine.content import ContentSource
from hostler.engine.egress_port import McpFailure
from hostler.engine.mcp import PermittedCalls
from hostler.engine.profile import Profile
from hostler.engine.runner_parts import Apply
from hostler.engine.runs import Allow, Defer, Deny, ToolOutcome, Verdict
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.engine")

ANNOUNCE_SECONDS = 20.0
"""How long a call may wait for its own announcement before it is refused."""


class CallGate:
    """For one session. Closed until `open` is called for a process; what that asks waits until `begin`."""

    def __init__(self, content: ContentSource, apply: Apply, is_stopping: Callable[[], bool]) -> None:
        """`is_stopping`: whether the turn under way is being ended."""
        self._content = content
        self._apply = apply
        self._is_stopping = is_stopping
        self._profile: Profile | None = None
        self._workspace_id = ""
        self._calls: dict[str, state.OpenCall] = {}
        self._announced = asyncio.Condition()
        self._begun = asyncio.Event()
        self._mcp_calls = PermittedCalls()
        self._failures: list[runs.McpFailed] = []
        self.objects: Callable[[runs.ToolCall], str | None] | None = None
        """Who else may refuse a call that is about to run, with the reason for the model."""
        self.permitted: Callable[[runs.ToolCall], None] = lambda call: None
        """Who hears of calls that begin to run."""
        self.touched = 0
        """How many calls that can change the session's files were allowed to run."""

    def open(self, profile: Profile, workspace_id: str) -> None:
        """A new process asks from now on, and may do what `profile` says, once `begin` was called.

        One that is started to take up a call asks at once: before anybody could tell what the call has changed.
        """
        self._begun.clear()
        self._profile, self._workspace_id = profile, workspace_id
        self._mcp_calls, self._failures = PermittedCalls(), []

    def begin(self) -> None:
        """All that the process stands on is settled: the files that it finds are those that count."""
        self._begun.set()

    async def announce(self, calls: Iterable[state.OpenCall]) -> None:
        """These are the calls that are open, as they are recorded."""
        async with self._announced:
            self._calls = {call.tool_use_id: call for call in calls}
            self._announced.notify_all()

    def failures(self) -> list[runs.McpFailed]:
        """What MCP servers failed at since this was asked last."""
        failures, self._failures = self._failures, []
        return failures

    # -- Gatekeeper

    async def permit(self, call: runs.ToolCall) -> Verdict:
        """May this call run now? It is announced first, and marked as begun before it begins.

        Whatever isn't known to be allowed is refused: the question comes from inside the sandbox.
        """
        profile, tool_use_id = self._profile, call.tool_use_id
        hosted = profile is not None and call.custom and call.name in profile.hosted_names
        if profile is None or (call.custom and not hosted and call.name not in profile.custom_names):
            return Deny(f"This agent has no tool {call.name}.")
        if not call.custom and call.server is None and call.name in profile.hosted_names:
            return Deny(f"This agent has no tool {call.name} here.")  # its own sandbox is not where tools run
        judged = None if call.custom and not hosted else profile.permissions.evaluate(call.name, call.server)
        if judged is not None and judged.permission == "deny":
            return Deny(judged.message)
        await self._begun.wait()
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS), self._announced:
                await self._announced.wait_for(lambda: tool_use_id in self._calls or self._is_stopping())
        except TimeoutError:
            return Deny("This call was not announced in time.")
        if self._is_stopping():
            return Deny(ev.INTERRUPTED)
        if self.objects is not None and (objection := self.objects(call)) is not None:
            return Deny(objection)
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
            self.touched += not call.custom
            self.permitted(call)
            return Allow()
        try:
            await self._apply(decide)
        except Exception:
            log.exception("call_not_recorded", extra={"tool_use_id": tool_use_id})
            return Deny(ev.NOT_RECORDED)
        if isinstance(verdicts[0], Allow):
            self._mcp_calls.permit(known)
            self.touched += not call.custom
            self.permitted(call)
        return verdicts[0]

    async def result(self, tool_use_id: str) -> ToolOutcome:
        call = self._calls.get(tool_use_id)
        if call is None or call.answer is None:
            return ToolOutcome([ev.text_block(ev.INTERRUPTED)], True)
        content = await self._content.resolve(self._workspace_id, call.answer.content)
        return ToolOutcome(content, call.answer.is_error)

    # -- McpGate

    def offers(self, alias: str, tool: str) -> bool:
        return self._profile is not None and self._profile.permissions.offers(tool, alias)

    def begin_call(self, alias: str, tool: str, arguments: Mapping[str, object]) -> bool:
        return self._mcp_calls.begin(alias, tool, arguments)

    def not_begun(self, alias: str, tool: str, arguments: Mapping[str, object]) -> None:
        self._mcp_calls.not_begun(alias, tool, arguments)

    def failed(self, alias: str, failure: McpFailure, message: str) -> None:
        self._failures.append(runs.McpFailed(alias, failure, message))
