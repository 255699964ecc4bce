"""How many tokens does a prompt have? The upstream is asked, over the same channel as for a message.

Counting costs nothing, so nobody writes it down; it must be quick, so there is one attempt with a short deadline.
Whoever can't be connected to leaves it to the next: a budget would be taken for reached only because nobody counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from hostler.engine.model_port import Asked, Choice, Ended, Next, Target
from hostler.gateway.body import MessagesBody, dump
from hostler.gateway.desk import Desk
from hostler.gateway.errors import Refusal
from hostler.gateway.http1 import COUNT_TOKENS, Headers, Request, request_headers
from hostler.gateway.upstream import UpstreamUnreachable

_log = logging.getLogger("hostler.gateway")

SECONDS: Final = 5.0
_MOST_BYTES: Final = 64 << 10
"""Of an answer, which is one number."""
_FIELDS: Final = (
    "cache_control",
    "context_management",
    "messages",
    "output_config",
    "system",
    "thinking",
    "tool_choice",
    "tools",
)
"""What belongs to the prompt. The endpoint takes nothing else."""


class _Sink:
    """The AnswerSink of one count."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.status = 0
        self.whole = False
        self.parts: list[bytes] = []
        self._size = 0

    def answer_head(self, status: int, headers: Headers) -> None:
        self.status = status

    def answer_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _MOST_BYTES:
            self.done.set()
        else:
            self.parts.append(data)

    def answer_flush(self) -> None:
        pass

    def answer_end(self) -> None:
        self.whole = True
        self.done.set()

    def answer_lost(self) -> None:
        self.done.set()


class TokenCount:
    """Counts the prompt of one request."""

    def __init__(
        self, desk: Desk, asked: Asked, request: Request, body: MessagesBody, changes: Mapping[str, Any]
    ) -> None:
        self._desk = desk
        self._asked = asked
        self._request = request
        self._fields = {**body.fields, **changes}

    async def count(self, model: str) -> int | None:
        """Tokens, as the model's own upstream says. None: it does not say, or not in time."""
        course = self._desk.upstreams.persist(self._asked, Choice((model,)))
        try:
            step, tried = course.first(), set[str]()
            async with asyncio.timeout(SECONDS):
                while step is not None and step.after == 0 and step.target.upstream not in tried:
                    try:
                        return await self._ask(step)
                    except UpstreamUnreachable:
                        tried.add(step.target.upstream)
                        step = course.after(_unreachable(step, len(tried)))
            if not tried:
                return None
        except (TimeoutError, OSError, Refusal):  # Of the last: there is no counting for how the model is spelled.
            pass
        finally:
            course.over()
        _log.info("gateway.not_counted", extra={"session_id": self._asked.caller.session_id})
        return None

    async def _ask(self, step: Next) -> int | None:
        target: Target = step.target
        channel = self._desk.channels[target.upstream]
        fields: dict[str, Any] = {
            "model": target.spelled,
            **{name: self._fields[name] for name in _FIELDS if name in self._fields},
        }
        query = self._request.target.partition(b"?")[2]
        path = COUNT_TOKENS + (b"?" + query if query else b"")
        head, payload = await channel.prepare(
            target, path, request_headers(self._request.headers), dump(fields), fields
        )
        for fresh in (False, True):
            sink = _Sink()
            connection = await channel.take(fresh=fresh)
            try:
                connection.ask(head, payload, channel.reading(sink, stream=False))
                await sink.done.wait()
            except BaseException:
                connection.abort()
                raise
            if sink.whole:
                connection.settle()
                return _tokens(sink)
            connection.abort()
            if sink.status:
                return None
        return None


def _unreachable(step: Next, number: int) -> Ended:
    return Ended(step.target, number, 0, "no answer", retry_after=None, begun=False, since=0.0)


def _tokens(sink: _Sink) -> int | None:
    if sink.status != 200:
        return None
    try:
        found = json.loads(b"".join(sink.parts))["input_tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
