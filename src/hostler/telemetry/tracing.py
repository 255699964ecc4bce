"""Which spans does a server make of its requests, turns, tool calls and egress decisions?

`Tracer` implements the port. It also knows which turn a session is in, and was in a moment ago: the gateway's requests
and what the harness says from inside its sandbox are put under that.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hostler.domain.clock import unix_ns
from hostler.domain.events import to_text
from hostler.domain.ids import new_span_id
from hostler.engine import runs
from hostler.engine.about import About
from hostler.engine.egress_port import EgressDecision
from hostler.engine.runs import RunEvent, ToolCall
from hostler.engine.trace_port import RequestEnd, TurnBegun
from hostler.telemetry import protobuf
from hostler.telemetry.pipeline import Exportable
from hostler.telemetry.spans import (
    CLIENT,
    SERVER,
    Context,
    Span,
    Value,
    clean,
    new_context,
    placed,
    read_traceparent,
)

_SESSIONS: Final = 4096
_TURNS: Final = 4
"""Of one session that are remembered: what the harness says of a turn comes after its end."""
_MILLISECOND: Final = 1_000_000
_CONTENT: Final = 16_384
"""Characters of one text."""

PROVIDER: Final = "anthropic"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is traced."""

    ratio: float = 1.0
    """Of the traces that begin here: how many are kept."""
    trust_callers: bool = True
    """Whether the sampling flag of a client's `traceparent` counts."""
    content: bool = False
    """Whether prompts, inputs and results are shown."""


class Tracer:
    """Implements `Tracing`."""

    def __init__(self, put: Callable[[Exportable], None], terms: Terms) -> None:
        self.put = put
        self.terms = terms
        self.running: dict[str, RunningTurn] = {}
        """The turns that go on and are to be exported, by session."""
        self._turns: OrderedDict[str, deque[RunningTurn]] = OrderedDict()

    # ------------------------------------------------------------------------------------------------- the port

    def request(self, about: About, method: str, traceparent: str) -> RunningRequest:
        parent = read_traceparent(traceparent) if traceparent else None
        context = new_context(parent, self.terms.ratio, trust=self.terms.trust_callers)
        about.trace_id, about.span_id, about.sampled = context.trace_id, context.span_id, context.sampled
        return RunningRequest(self, about, context, parent, method)

    def turn(self, about: About, begun: TurnBegun) -> RunningTurn:
        turn = RunningTurn(self, about, begun)
        known = self._turns.setdefault(begun.session_id, deque(maxlen=_TURNS))
        self._turns.move_to_end(begun.session_id)
        known.append(turn)
        while len(self._turns) > _SESSIONS:
            self._turns.popitem(last=False)
        self.running.pop(begun.session_id, None)
        if turn.context.sampled:
            self.running[begun.session_id] = turn
        return turn

    def decided(self, decision: EgressDecision, seconds: float) -> None:
        turn = self.running.get(decision.session_id)
        if turn is None:
            return
        end = unix_ns()
        attributes: dict[str, Value] = {
            "server.address": clean(decision.host, 255),
            "server.port": decision.port,
            "http.request.method": clean(decision.method, 32),
            "hostler.egress.allowed": decision.allowed,
            "hostler.egress.reason": decision.reason,
            "gen_ai.conversation.id": decision.session_id,
            "anthropic.session.id": decision.session_id,
            "anthropic.workspace.id": turn.begun.workspace_id,
        }
        if self.terms.content and decision.path:
            attributes["url.path"] = clean(turn.redact(decision.path), _CONTENT)
        what = "allowed" if decision.allowed else "denied"
        start = end - int(seconds * 1e9)
        self.put(turn.child(f"egress {what}", start, end, attributes, parent=turn.running_call))

    # --------------------------------------------------------------------------------- for the rest of the room

    def turn_at(self, session_id: str, at: int) -> RunningTurn | None:
        """The turn that the session was in at a moment; None: nothing is known of one."""
        known = self._turns.get(session_id)
        if not known:
            return None
        if at % _MILLISECOND == 0:  # The harness cuts off what is beyond whole milliseconds.
            at += _MILLISECOND - 1
        # Clocks of machines differ: what seems to be older than everything belongs to the oldest.
        return next((turn for turn in reversed(known) if turn.start <= at), known[0])


class RunningRequest:
    """Implements `RequestTrace`."""

    __slots__ = ("_about", "_context", "_method", "_parent", "_start", "_tracer")

    def __init__(self, tracer: Tracer, about: About, context: Context, parent: Context | None, method: str) -> None:
        self._tracer = tracer
        self._about = about
        self._context = context
        self._parent = parent
        self._method = method
        self._start = unix_ns()

    def ended(self, end: RequestEnd) -> None:
        context, parent, about = self._context, self._parent, self._about
        if not end.known and parent is not None:
            # Nobody who has no key puts anything into a trace of somebody else's, or has it kept.
            parent, context = None, new_context(None, self._tracer.terms.ratio, trust=False)
        if not context.sampled:
            return
        attributes: dict[str, Value] = {
            "http.request.method": self._method,
            "http.response.status_code": end.status,
            "hostler.request.id": about.request_id,
        }
        if end.route:
            attributes["http.route"] = end.route
        if about.workspace_id:
            attributes["anthropic.workspace.id"] = about.workspace_id
        if end.session_id and end.known:
            attributes["anthropic.session.id"] = attributes["gen_ai.conversation.id"] = end.session_id
        failed = end.status >= 500 or end.status == 0
        if failed:
            attributes["error.type"] = str(end.status) if end.status else "no_answer"
        self._tracer.put(
            Span(
                f"{self._method} {end.route}" if end.route else self._method,
                context.trace_id,
                context.span_id,
                parent.span_id if parent is not None else "",
                self._start,
                unix_ns(),
                attributes,
                SERVER,
                failed=failed,
            )
        )


@dataclass(slots=True)
class _Call:
    span_id: str
    name: str
    kind: str
    start: int
    input: str = ""


class RunningTurn:
    """Implements `TurnTrace`."""

    def __init__(self, tracer: Tracer, about: About, begun: TurnBegun) -> None:
        parent = read_traceparent(begun.parent) if begun.parent else None
        self.context = new_context(parent, tracer.terms.ratio, trust=True)  # ours: it was decided when it began
        self.begun = begun
        self.start = unix_ns()
        self.end = 0
        """0: it goes on."""
        self.redact: Callable[[str], str] = str
        self._tracer = tracer
        self._about = about
        self._parent = parent
        self._calls: dict[str, _Call] = {}
        """Those that run."""
        self._inputs: dict[str, str] = {}
        self._how, self._error = "", ""
        self._labels: dict[str, Value] = {
            "gen_ai.conversation.id": begun.session_id,
            "gen_ai.agent.id": begun.agent_id,
            "gen_ai.agent.name": clean(begun.agent_name),
            "anthropic.session.id": begun.session_id,
            "anthropic.workspace.id": begun.workspace_id,
        }
        self.span = bytes.fromhex(self.context.span_id)
        self.brief = self._written_brief() if self.context.sampled else b""
        """What all its model requests say, written: there are many of them."""
        about.trace_id, about.span_id, about.sampled = (
            self.context.trace_id,
            self.context.span_id,
            self.context.sampled,
        )
        if begun.waited > 0 and parent is not None and parent.sampled:
            start = self.start - int(begun.waited * 1e9)
            self._tracer.put(self.child("wait for a worker", start, self.start, self.labels(), parent=parent.span_id))

    # ------------------------------------------------------------------------------------------------- the port

    @property
    def wants_content(self) -> bool:
        return self._tracer.terms.content

    def process_started(self, seconds: float) -> None:
        if self.context.sampled:
            end = unix_ns()
            self._tracer.put(self.child("start claude", end - int(seconds * 1e9), end, self.labels()))

    def told(self, event: RunEvent) -> None:
        if not self.context.sampled:
            return
        match event:
            case runs.ToolCall() if self.wants_content:
                self._inputs[event.tool_use_id] = to_text(dict(event.input))
            case runs.ToolResult():
                self._call_ended(event)
            case _:
                pass

    def permitted(self, call: ToolCall) -> None:
        if self.context.sampled:
            kind = "function" if call.custom else "extension"
            given = self._inputs.pop(call.tool_use_id, "")
            self._calls[call.tool_use_id] = _Call(new_span_id(), call.name, kind, unix_ns(), given)

    def ending(self, how: str, error: str) -> None:
        if not self._how:
            self._how, self._error = how, error

    def ended(self) -> None:
        if self.end:
            return
        self.end = unix_ns()
        running = self._tracer.running
        if running.get(self.begun.session_id) is self:
            del running[self.begun.session_id]
        about = self._about
        about.trace_id, about.span_id, about.sampled = "", "", False
        if not self.context.sampled:
            return
        for tool_use_id in list(self._calls):
            self._put_call(tool_use_id, self._calls.pop(tool_use_id), "no_result", "")
        begun = self.begun
        attributes = self.labels() | {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": begun.model,
            "gen_ai.agent.version": str(begun.agent_version),
            "anthropic.environment.id": begun.environment_id,
            "hostler.turn.id": begun.turn_id,
            "hostler.run.began_as": begun.how,
            "hostler.run.ended_as": self._how or "unknown",
        }
        if self._error:
            attributes["error.type"] = self._error
        if self.wants_content and begun.prompts:
            attributes["gen_ai.input.messages"] = self._shown(to_text({"role": "user", "parts": list(begun.prompts)}))
        links = [context for link in begun.links if (context := read_traceparent(link)) is not None]
        name = f"invoke_agent {clean(begun.agent_name)}"
        parent_id = self._parent.span_id if self._parent is not None else ""
        context = self.context
        self._tracer.put(
            Span(
                name, context.trace_id, context.span_id, parent_id, self.start, self.end, attributes,
                failed=bool(self._error), links=tuple(links),
            )
        )  # fmt: skip

    # --------------------------------------------------------------------------------- for the rest of the room

    @property
    def running_call(self) -> str:
        """The span of the one tool call that runs. Empty: there is none, or it can't be told which one it was."""
        return next(iter(self._calls.values())).span_id if len(self._calls) == 1 else ""

    def child(
        self, name: str, start: int, end: int, attributes: dict[str, Value], *, parent: str = "", kind: int = 0
    ) -> Span:
        """A span in this turn's trace, under the turn unless `parent` is another of its spans."""
        under = parent or self.context.span_id
        span = Span(name, self.context.trace_id, new_span_id(), under, start, max(start, end), attributes)
        if kind == CLIENT:
            span.kind = CLIENT
        return span

    def labels(self) -> dict[str, Value]:
        """What every span of a turn says."""
        return dict(self._labels)

    def _written_brief(self) -> bytes:
        begun = self.begun
        said: dict[str, Value] = {
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.conversation.id": begun.session_id,
            "gen_ai.agent.id": begun.agent_id,
            "anthropic.workspace.id": begun.workspace_id,
        }
        return placed(self.context.trace_id, True) + protobuf.attributes(said)

    # ------------------------------------------------------------------------------------------------- tool calls

    def _call_ended(self, result: runs.ToolResult) -> None:
        call = self._calls.pop(result.tool_use_id, None)
        if call is not None:
            content = to_text({"content": list(result.content)}) if self.wants_content else ""
            self._put_call(result.tool_use_id, call, "tool_error" if result.is_error else "", content)

    def _put_call(self, tool_use_id: str, call: _Call, error: str, content: str) -> None:
        attributes = self.labels() | {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.tool.name": clean(call.name),
            "gen_ai.tool.type": call.kind,
            "gen_ai.tool.call.id": clean(tool_use_id),
        }
        if error:
            attributes["error.type"] = error
        if call.input:
            attributes["gen_ai.tool.call.arguments"] = self._shown(call.input)
        if content:
            attributes["anthropic.tool_result.content"] = self._shown(content)
        span = self.child(f"execute_tool {clean(call.name)}", call.start, unix_ns(), attributes)
        span.span_id, span.failed = call.span_id, bool(error)
        self._tracer.put(span)

    def _shown(self, text: str) -> str:
        return clean(self.redact(text), _CONTENT)
