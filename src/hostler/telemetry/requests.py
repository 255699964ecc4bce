"""Which spans does a server make of its model requests? One for each attempt.

It stands under the harness's own span of the request, where the harness has named it: `traceparent`, in the trace that
its sandbox was given. Whoever says another trace stands under the turn.
"""

from __future__ import annotations

from hostler.domain.clock import unix_ns
from hostler.engine.model_port import Asked, Choice, Ended, Grant
from hostler.store.sessions import Usage
from hostler.telemetry.spans import CLIENT, Value, clean, read_traceparent
from hostler.telemetry.tracing import Tracer


class TracedRequests:
    """Implements `Watcher`."""

    def __init__(self, tracer: Tracer, inside_trace: str) -> None:
        """`inside_trace`: id of the trace that sandboxes believe to be in."""
        self._tracer = tracer
        self._inside = f"00-{inside_trace}-"

    def asked(self, asked: Asked, choice: Choice, grant: Grant) -> None:
        pass

    def waits(self, asked: Asked, why: str, seconds: float) -> None:
        pass

    def ended(self, asked: Asked, ended: Ended, usage: Usage) -> None:
        turn = self._tracer.turn_of(asked.caller.session_id)
        if turn is None or not turn.context.sampled:
            return
        end = unix_ns()
        parent = ""
        if asked.trace.startswith(self._inside) and (said := read_traceparent(asked.trace)) is not None:
            parent = said.span_id
        model = ended.target.model
        read = usage.cache_read_input_tokens
        made = usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens
        # Every attribute costs as much to encode as to measure what it says: what says nothing is left out.
        attributes: dict[str, Value] = {
            **turn.brief,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": clean(model),
            "gen_ai.usage.input_tokens": usage.input_tokens + read + made,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "http.response.status_code": ended.status,
            "hostler.model_request.id": asked.id,
            "hostler.model_request.attempt": ended.number,
            "hostler.upstream": ended.target.upstream,
        }
        if read:
            attributes["gen_ai.usage.cache_read.input_tokens"] = read
        if made:
            attributes["gen_ai.usage.cache_creation.input_tokens"] = made
        if asked.purpose != "turn":
            attributes["hostler.model_request.purpose"] = asked.purpose
        if asked.model != model:
            attributes["hostler.requested_model"] = clean(asked.model)
        if ended.upstream_request_id:
            attributes["anthropic.request.id"] = clean(ended.upstream_request_id)
        if ended.first_byte is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = ended.first_byte
        if ended.stop_reason:
            attributes["gen_ai.response.finish_reasons"] = (ended.stop_reason,)
        if ended.gone:
            attributes["error.type"] = "cancelled"
        elif ended.failure:
            attributes["error.type"] = str(ended.status) if ended.status >= 400 else "no_answer"
        span = turn.child(
            f"chat {clean(model)}", end - int(ended.seconds * 1e9), end, attributes, parent=parent, kind=CLIENT
        )
        span.failed = bool(ended.failure)
        self._tracer.put(span)
