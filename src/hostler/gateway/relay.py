"""How does an answer cross from the upstream to the harness while it is still being made?

Everything of a stream that is complete goes on at once, in one write for each piece that the network gave. Only its two
ends are kept back. The start (the head, and what comes before `message_start`), since until then another attempt can
still take the place of this one: an `error` that comes first is the error answer that it should have been. And the end
(`message_stop`, and `message_delta` too when calls are held): what must happen before the harness may act on the answer
happens in between. An answer that isn't a stream is collected.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from hostler.gateway.client import ClientConnection
from hostler.gateway.http1 import Headers, response_headers
from hostler.gateway.response import Splitter
from hostler.gateway.sse import SseFramer, event_data, event_type
from hostler.gateway.upstream import UpstreamLimits
from hostler.gateway.usage import UsageTap

_STATUS_OF: Final = {
    b"invalid_request_error": 400,
    b"authentication_error": 401,
    b"billing_error": 402,
    b"permission_error": 403,
    b"not_found_error": 404,
    b"request_too_large": 413,
    b"rate_limit_error": 429,
    b"timeout_error": 504,
    b"overloaded_error": 529,
}
"""What an error would have had for a status, had it come before the stream. Any other: 500."""
_BLOCKS: Final = (b"content_block_start", b"content_block_delta", b"content_block_stop")
_NOT_FIRST: Final = (*_BLOCKS, b"message_delta", b"message_stop")


def _nobody() -> None:
    pass


class Relay:
    """The AnswerSink of one request.

    within    seconds until the harness must have seen something. None: as the limits say.
    on_begun  called when the harness sees the first of it.
    """

    def __init__(
        self,
        client: ClientConnection,
        limits: UpstreamLimits,
        splitter: Splitter | None,
        *,
        within: float | None = None,
        on_begun: Callable[[], None] = _nobody,
    ) -> None:
        self._client = client
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._framer = SseFramer(limits.answer_bytes)
        self._head = b""
        self._out: list[bytes] = []
        self._kept: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._keeping = False
        self._blocked = False
        self._stopped = False
        self._on_begun = on_begun
        self._started = False
        """Whether the message has."""
        self._heard_at = self._loop.time()
        first = limits.first_byte_seconds if within is None else min(within, limits.first_byte_seconds)
        self._first_by = self._heard_at + first
        self._timer = self._loop.call_at(self._first_by, self._check_silence)
        self.splitter = splitter
        self.tap = UsageTap()
        self.status = 0
        self.headers: Headers = []
        """What of the answer's headers the harness gets."""
        self.received: Headers = []
        """All of them, names in lower case."""
        self.first_byte_at: float | None = None
        self.streaming = False
        self.begun = False
        """Whether the harness has seen anything of the answer."""
        self.complete = False
        """Whether all of the answer came."""
        self.failure = ""
        """Why not, for a person."""
        self.message: dict[str, Any] | None = None
        """The answer with status 200 that wasn't a stream, decoded."""
        self.silent = False
        """Whether it was given up for having said nothing for too long."""
        self.lost_unseen = False
        """Whether the connection broke before the upstream said a word."""

    async def wait(self) -> None:
        """Until nothing more comes: the end, a loss, silence, or the client's hang-up."""
        await self._done

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the upstream wants to be asked again; None: it says nothing, or a date."""
        fields = dict(self.received)
        for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
            try:
                seconds = float(fields[name]) * unit
            except (KeyError, ValueError):
                continue
            if 0 <= seconds < 1e9:
                return seconds
        return None

    @property
    def counted(self) -> bool:
        """Whether the answer has said all that it has used. One without its last event may have used more."""
        said = self._stopped if self.streaming else self.tap.counted
        return self.complete and said and not self.tap.doubtful

    @property
    def should_retry(self) -> bool | None:
        """What the upstream says of asking again. None: nothing."""
        return {b"true": True, b"false": False}.get(dict(self.received).get(b"x-should-retry", b"").strip().lower())

    def say_no_retry(self) -> None:
        """The harness is told not to ask again by itself: whatever could be tried has been."""
        self.headers = [field for field in self.headers if field[0] != b"x-should-retry"]
        self.headers.append((b"x-should-retry", b"false"))

    def body(self) -> bytes:
        """The whole answer, when it wasn't a stream."""
        return b"".join(self._parts)

    def held_back(self) -> bytes:
        """What of the stream the harness hasn't seen yet."""
        return b"".join(self._kept)

    def unreachable(self, reason: str) -> None:
        self.failure = reason
        self._finish()

    def client_gone(self) -> None:
        self._finish()

    def client_blocked(self, blocked: bool) -> None:
        """Nothing is read meanwhile, so whether the upstream is silent can't be known."""
        self._blocked = blocked
        self._heard_at = self._loop.time()

    def dropped(self) -> None:
        """Nobody waits for it any more: also when it was never asked. Idempotent."""
        self._finish()

    # --------------------------------------------------------------------------------------------------- AnswerSink

    def answer_head(self, status: int, headers: Headers) -> None:
        self.first_byte_at = self._loop.time()
        self.status = status
        self.received = headers
        self.headers = response_headers(headers)
        fields = dict(headers)
        if fields.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            self._fail("The model's API answered in an encoding that wasn't asked for.")
        elif status == 200 and fields.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            self.streaming = True
            self._head = self._client.send_head(status, [*self.headers, (b"cache-control", b"no-cache")])

    def answer_body(self, data: bytes) -> None:
        if self._done.done():
            return
        if not self.streaming:
            self._size += len(data)
            if self._size > self._limits.answer_bytes:
                self._fail("The model's API sent too large an answer.")
            else:
                self._parts.append(data)
            return
        try:
            for event in self._framer.feed(data):
                self._take_event(event)
                if self._done.done():
                    return
        except (ValueError, RecursionError, KeyError):
            self._fail("The model's API sent a stream that can't be understood.")

    def answer_flush(self) -> None:
        self._heard_at = self._loop.time()
        if self._done.done():
            return
        if self._started and (self._head or self._out):
            if not self.begun:
                self.begun = True
                self._on_begun()
            self._client.send_chunk(self._head, b"".join(self._out))
            self._head = b""
            self._out.clear()
        if self._stopped:
            self._end_well()

    def answer_end(self) -> None:
        if self._done.done():
            return
        if self.streaming:
            rest = self._framer.rest()
            if rest:
                self._kept.append(rest)
            if not self._started:
                self._fail("The model's API ended a stream before its beginning.")
                return
            if not self._stopped and self.splitter is not None and len(self.splitter.calls) > 1:
                self._fail("The model's API ended a stream before its end.")
                return
        elif self.status == 200 and not self._is_message():
            return
        self._end_well()

    def answer_lost(self) -> None:
        if not self._done.done():
            self.lost_unseen = self.status == 0
            self._fail("The connection to the model's API broke.")

    # ----------------------------------------------------------------------------------------------------- internal

    def _take_event(self, event: bytes) -> None:
        name, size = event_type(event), len(event)
        if not self._started:
            if name == b"error":
                self._refused(event_data(event))
                return
            if name in _NOT_FIRST:
                raise ValueError("a stream without its beginning")
            self._started = name == b"message_start"
        if name in (b"message_start", b"message_delta"):
            self.tap.observe_event(name, event_data(event))
        if self.splitter is not None:
            event = self.splitter.feed(name, event)
            if name == b"message_delta" and len(self.splitter.calls) > 1:
                self._keeping = True
        if name == b"message_stop":
            self._keeping = self._stopped = True
        if self._keeping or not self._started or not event:
            self._size += size
            if self._size > self._limits.answer_bytes:
                raise ValueError("too much that is to be kept back")
        (self._kept if self._keeping else self._out).append(event)

    def _refused(self, envelope: bytes) -> None:
        """An error came in place of an answer, although the status said that there would be one."""
        try:
            value = json.loads(envelope)
            kind = str(value["error"]["type"]).encode()
        except (ValueError, RecursionError, KeyError, TypeError):
            kind = b""
        self.status = _STATUS_OF.get(kind, 500)
        self.streaming = False
        self._head = b""
        self._out.clear()
        self._parts = [envelope]
        self.headers = [field for field in self.headers if field[0] != b"content-type"]
        self.headers.append((b"content-type", b"application/json"))
        self._end_well()

    def _is_message(self) -> bool:
        """False: it can't be, and how this attempt ended is settled."""
        raw = self.body()
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("content") or [], list):
            self._fail("The model's API sent an answer that can't be understood.")
            return False
        if value.get("type") == "error":
            self._refused(raw)
            return False
        self.message = value
        return True

    def _end_well(self) -> None:
        self.complete = True
        self._finish()

    def _fail(self, why: str) -> None:
        self.failure = why
        self._kept.clear()
        self._finish()

    def _finish(self) -> None:
        self._timer.cancel()
        self._on_begun = _nobody  # Whoever it was refers to this relay, and to the body.
        if not self._done.done():
            self._done.set_result(None)

    def _check_silence(self) -> None:
        """One timer for the whole answer, set again only when it fires: nothing is paid for each piece."""
        by = self._first_by
        if self.begun:
            by = self._heard_at + self._limits.silence_seconds
        elif self.first_byte_at is not None and not self.streaming:
            by = min(by, self._heard_at + self._limits.silence_seconds)
        if by - self._loop.time() > 0.001:
            self._timer = self._loop.call_at(by, self._check_silence)
        elif self._blocked:
            self._client.abort()  # It reads nothing: that is its own doing, and says nothing of the upstream.
        else:
            self.silent = True
            self._fail("The model's API fell silent.")
