"""Which events does a run make? Run events in; events for the log and previews for the streams out, in their order.

Holds what is being written at this moment: the id under which a text was announced, and the pieces that are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hostler.domain import events as ev
from hostler.domain.ids import new_id
from hostler.domain.sessions import Frame
from hostler.engine import runs, turns
from hostler.engine.mcp import input_digest
from hostler.engine.permissions import Evaluation, Permissions
from hostler.engine.profile import Profile
from hostler.engine.state import Moment, OpenCall, SessionState, Step, Totals

Op = Callable[[SessionState, Moment, Totals], Step]
"""Something to record."""


@dataclass(frozen=True, slots=True)
class Preview:
    """Something to show, to the readers who asked for previews of `type`."""

    type: Literal["agent.message", "agent.thinking"]
    frame: Frame


def joined(ops: Sequence[Op]) -> Op:
    """One step that does what the steps do one after the other."""
    ops = tuple(ops)

    def run(before: SessionState, at: Moment, totals: Totals) -> Step:
        step = Step(before)
        for op in ops:
            following = op(step.state, at, totals)
            wanted = step.wanted if following.wanted is None else following.wanted
            step = Step(following.state, (*step.events, *following.events), wanted)
        return step

    return run


class Composer:
    """For one run. `permissions`: of built-in tools and of MCP servers. `custom`: names of the tools of the client.
    `hosted`: those built-in tools that a worker of a self-hosted environment runs; the harness knows them as custom.

    A call of anything else is recorded as refused: the model asked for what its agent doesn't have.
    """

    def __init__(self, permissions: Permissions, custom: Collection[str], hosted: Collection[str] = ()) -> None:
        self._permissions = permissions
        self._custom = custom
        self._hosted = hosted
        self._message_id: str | None = None
        self._thinking_id: str | None = None
        self._texts: list[str] = []
        self._request_id = ""
        self._held: dict[str, tuple[runs.ToolCall, ...]] = {}
        self._failed: set[str] = set()
        self._shown: list[str] = []
        """Calls of the response under way."""
        self.dropping_errors = False
        """True while the run is being stopped: error results of its calls are only the harness's way to end them."""

    def hold(self, shown: str, calls: Sequence[runs.ToolCall]) -> None:
        """Calls that the gateway keeps back, of the response whose first call is `shown`: announced at its end.

        The gateway is ahead of the run, so this can come before the run has told of the response at all.
        """
        self._held[shown] = tuple(calls)

    def compose(self, event: runs.RunEvent) -> list[Op | Preview]:
        """What `event` makes. Not for `Ended`."""
        match event:
            case runs.RequestStarted():
                self._discard()
                self._request_id = new_id("sevt")
                id_ = self._request_id
                return [lambda s, at, _: turns.request_started(s, at, ev.request_start(at.text, id_))]
            case runs.TextStarted():
                if self._message_id is not None:
                    return []
                return [self._begin_message()]
            case runs.TextDelta(text=text):
                begun: list[Op | Preview] = [] if self._message_id is not None else [self._begin_message()]
                id_ = str(self._message_id)
                data = ev.preview_delta(id_, len(self._texts), text)
                return [*begun, Preview("agent.message", Frame("event_delta", data, preview_of=id_))]
            case runs.TextBlock(text=text):
                self._texts.append(text)
                return []
            case runs.ThinkingStarted():
                flushed = self._flush()
                id_ = self._thinking_id = new_id("sevt")
                data = ev.preview_start("agent.thinking", id_)
                return [*flushed, Preview("agent.thinking", Frame("event_start", data, preview_of=id_))]
            case runs.ThinkingBlock():
                id_, self._thinking_id = self._thinking_id or new_id("sevt"), None
                return [*self._flush(), _append(lambda at: ev.agent_thinking(at.text, id_))]
            case runs.ToolCall():
                self._shown.append(event.tool_use_id)
                return [*self._flush(), self.announce(event, held=False)]
            case runs.RequestEnded():
                return self._end_request(event)
            case runs.ToolResult():
                if self.dropping_errors and event.is_error:
                    return []
                finished = event
                return [
                    lambda s, at, _: turns.call_finished(
                        s, at, finished.tool_use_id, finished.content, finished.is_error
                    )
                ]
            case runs.Compacted(boundary=boundary):
                return [lambda s, at, _: turns.compacted(s, at, boundary)]
            case runs.CompactionFailed():
                return []  # whoever keeps the context says what follows from it
            case runs.McpFailed():
                return self._mcp_failed(event)
            case runs.Notice(kind=kind, message=message, details=details):
                told = (kind, message, details)
                return [_append(lambda at: ev.notice(at.text, *told))]
            case runs.Retrying(error=kind, message=message):
                self._discard()
                return [
                    lambda s, at, _: turns.rescheduled(s, at, ev.error(at.text, kind, message, "retrying")),
                ]
            case runs.Waiting(error=failure, message=words):
                # Not `_discard`: what is being answered now is another request.
                return [lambda s, at, _: turns.waits_for_model(s, at, ev.error(at.text, failure, words, "retrying"))]
            case runs.GoingOn():
                return [lambda s, at, _: turns.goes_on(s, at)]
            case runs.Ended():
                return []

    def _mcp_failed(self, event: runs.McpFailed) -> list[Op | Preview]:
        """Said once of each server in each run: it is tried again and again."""
        server = self._permissions.servers.get(event.server)
        if server is None or event.server in self._failed:
            return []
        self._failed.add(event.server)
        name, message = server.name, event.message
        kind: ev.ErrorType = (
            "mcp_connection_failed_error" if event.failure == "connection" else "mcp_authentication_failed_error"
        )
        return [_append(lambda at: ev.mcp_error(at.text, kind, name, message))]

    def _begin_message(self) -> Preview:
        id_ = self._message_id = new_id("sevt")
        return Preview("agent.message", Frame("event_start", ev.preview_start("agent.message", id_), preview_of=id_))

    def _flush(self) -> list[Op | Preview]:
        """The text so far as one message."""
        if not self._texts:
            return []
        texts, id_ = self._texts, self._message_id or new_id("sevt")
        self._texts, self._message_id = [], None
        return [_append(lambda at: ev.agent_message(at.text, id_, texts))]

    def _discard(self) -> None:
        """The response broke off: what was previewed never becomes an event."""
        self._texts, self._message_id, self._thinking_id = [], None, None
        self._shown = []

    def _end_request(self, event: runs.RequestEnded) -> list[Op | Preview]:
        out: list[Op | Preview] = []
        if not event.is_error:
            out += self._flush()
            held = [call for shown in self._shown for call in self._held.pop(shown, ())]
            out += [self.announce(call, held=True) for call in held]
        self._discard()
        start = self._request_id
        out.append(lambda s, at, _: turns.request_ended(s, ev.request_end(at.text, start, event.usage, event.is_error)))
        return out

    def announce(self, call: runs.ToolCall, *, held: bool) -> Op:
        """A call becomes visible. `held`: it can't have begun to run."""
        id_ = new_id("sevt")
        hosted = call.custom and call.name in self._hosted
        custom = call.custom and call.name in self._custom
        # A name of the harness for what a worker runs: nobody offered it, and a worker must not take it for a call.
        misnamed = not call.custom and call.server is None and call.name in self._hosted
        refused = misnamed or (call.custom and not hosted)
        judged = Evaluation("deny", None) if refused else self._permissions.evaluate(call.name, call.server)
        asks = not custom and judged.permission == "ask"
        gated = custom or asks or (hosted and judged.permission == "allow")
        server = self._permissions.servers.get(call.server or "")
        kind: Literal["builtin", "custom", "hosted", "mcp"] = "builtin" if server is None else "mcp"
        if call.custom and (custom or hosted):
            kind = "custom" if custom else "hosted"
        open_call = OpenCall(
            event_id=id_,
            tool_use_id=call.tool_use_id,
            kind=kind,
            name=call.name,
            server=None if server is None else call.server,
            input_digest="" if server is None else input_digest(call.input),
            gated=gated,
            started=not gated and judged.permission == "allow" and not held,
            asks=hosted and asks,
        )

        def announce(before: SessionState, at: Moment, _: Totals) -> Step:
            if custom:
                event = ev.agent_custom_tool_use(at.text, id_, call.name, call.input)
            elif server is None:
                event = ev.agent_tool_use(at.text, id_, call.name, call.input, judged.permission, judged.body)
            else:
                shown = server.tool_name(call.name)
                event = ev.agent_mcp_tool_use(
                    at.text, id_, server.name, shown, call.input, judged.permission, judged.body
                )
            return turns.call_announced(before, event, open_call)

        return announce


def composer_of(profile: Profile) -> Composer:
    """For a run of an agent."""
    return Composer(profile.permissions, profile.custom_names, profile.hosted_names)


def _append(make: Callable[[Moment], ev.Event]) -> Op:
    return lambda s, at, _: Step(s, (make(at),))
