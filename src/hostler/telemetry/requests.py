"""Which spans does a server make of its model requests? One for each attempt.

It stands under the harness's own span of the request, where the harness has named it: `traceparent`, in the trace that
its sandbox was given. Whoever says another trace stands under the turn.

There are more of these than of all others, and whoever serves requests has no time: what is known is kept, and written
as a span where spans are exported. What many of them say alike is written once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Final

from hostler.domain.clock import unix_ns
from hostler.domain.ids import new_span_number
from hostler.engine.model_port import Asked, Choice, Ended, Grant, Purpose
from hostler.store.sessions import Usage
from hostler.telemetry.protobuf import (
    attribute,
    attributes,
    field,
    real,
    real_head,
    text,
    text_heads,
    varint,
    whole_heads,
)
from hostler.telemetry.spans import CLIENT, Value, clean, failure, stamped_child
from hostler.telemetry.tracing import RunningTurn, Tracer

_TRACEPARENT_SIZE: Final = 55
"""Characters of one that the harness makes."""
_SPAN: Final = slice(36, 52)
"""Where it names the span."""
_NOBODY: Final = bytes(8)
_REQUEST: Final = text_heads("hostler.model_request.id")
_THEIR_KEY: Final = "anthropic.request.id"
_THEIRS: Final = text_heads(_THEIR_KEY)
_INPUT: Final = whole_heads("gen_ai.usage.input_tokens")
_OUTPUT: Final = whole_heads("gen_ai.usage.output_tokens")
_READ: Final = whole_heads("gen_ai.usage.cache_read.input_tokens")
_MADE: Final = whole_heads("gen_ai.usage.cache_creation.input_tokens")
_FIRST_CHUNK: Final = real_head("gen_ai.response.time_to_first_chunk")


class TracedRequests:
    """Implements `Watcher`."""

    def __init__(self, tracer: Tracer, inside_trace: str) -> None:
        """`inside_trace`: id of the trace that sandboxes believe to be in."""
        self._running = tracer.running
        self._put = tracer.put
        self._inside = f"00-{inside_trace}-"

    def asked(self, asked: Asked, choice: Choice, grant: Grant) -> None:
        pass

    def waits(self, asked: Asked, why: str, seconds: float) -> None:
        pass

    def ended(self, asked: Asked, ended: Ended, usage: Usage) -> None:
        turn = self._running.get(asked.caller.session_id)
        if turn is not None:
            # `asked` is not kept: it holds the whole body.
            known = turn, asked.id, asked.model, asked.purpose, asked.trace, ended, usage, unix_ns(), self._inside
            self._put(Attempt(known))


class Attempt(tuple[RunningTurn, str, str, Purpose, str, Ended, Usage, int, str]):
    """What is known of one. Implements `Exportable`.

    A tuple, since nothing is made faster: its turn, the request's id, the model as the harness names it, its purpose,
    the `traceparent` that came with it, how it ended, what it used, when that was, and how a `traceparent` in the
    sandbox's trace begins.
    """

    __slots__ = ()
    inside: ClassVar[bool] = False

    def written(self) -> bytes:
        """See the port."""
        turn, request, asked_for, purpose, trace, ended, usage, end, expected = self
        target = ended.target
        read = usage.cache_read_input_tokens
        made = usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens
        taken, given = varint(usage.input_tokens + read + made), varint(usage.output_tokens)
        parts = [
            turn.brief,
            _alike(
                asked_for,
                purpose,
                target.model,
                target.upstream,
                ended.number,
                ended.status,
                ended.stop_reason,
                ended.gone,
                bool(ended.failure),
            ),
            stamped_child(
                new_span_number(), _parent(trace, expected) or turn.span, end - int(ended.seconds * 1e9), end
            ),
            _REQUEST[len(request)],
            request.encode(),
            _INPUT[len(taken)],
            taken,
            _OUTPUT[len(given)],
            given,
        ]
        # Every attribute costs as much to write as to measure what it says: what says nothing is left out.
        if read:
            number = varint(read)
            parts += _READ[len(number)], number
        if made:
            number = varint(made)
            parts += _MADE[len(number)], number
        theirs = ended.upstream_request_id
        if theirs:
            if theirs.isascii() and len(theirs) < len(_THEIRS):
                parts += _THEIRS[len(theirs)], theirs.encode()
            else:
                parts.append(attribute(_THEIR_KEY, clean(theirs)))
        if ended.first_byte is not None:
            parts += _FIRST_CHUNK, real(ended.first_byte)
        return b"".join(parts)


def _parent(trace: str, expected: str) -> bytes | None:
    """The span that a `traceparent` names, if it begins as `expected` and is one."""
    if len(trace) != _TRACEPARENT_SIZE or not trace.startswith(expected):
        return None
    try:
        parent = bytes.fromhex(trace[_SPAN])
    except ValueError:
        return None
    return parent if len(parent) == len(_NOBODY) and parent != _NOBODY else None


@lru_cache(1024)
def _alike(
    asked_for: str,
    purpose: Purpose,
    model: str,
    upstream: str,
    number: int,
    status: int,
    stop_reason: str | None,
    gone: bool,
    failed: bool,
) -> bytes:
    """What an attempt says that many others say, too."""
    said: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": clean(model),
        "http.response.status_code": status,
        "hostler.model_request.attempt": number,
        "hostler.upstream": upstream,
    }
    if purpose != "turn":
        said["hostler.model_request.purpose"] = purpose
    if asked_for != model:
        said["hostler.requested_model"] = clean(asked_for)
    if stop_reason:
        said["gen_ai.response.finish_reasons"] = (stop_reason,)
    if gone:
        said["error.type"] = "cancelled"
    elif failed:
        said["error.type"] = str(status) if status >= 400 else "no_answer"
    name = field(5, text(f"chat {clean(model)}"))
    return name + bytes((0x30, CLIENT)) + attributes(said) + (failure() if failed else b"")
