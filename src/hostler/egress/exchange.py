"""What happens between a request of the sandbox and the server's answer to it?

Both are passed on as they come, with back-pressure in both directions. Where secrets take the place of placeholders,
the request's body and the answer go through the filters of the `SecretExchange`. An answer that is cut is cut for the
client, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from hostler.egress.connection import ClientSide
from hostler.egress.heads import Head
from hostler.egress.http1 import LAST_CHUNK, Headers, chunk, names_in, response_head, value_of
from hostler.egress.upstream import UpstreamConnection
from hostler.engine.egress_port import Filter, SecretExchange, SecretRefused

Outcome = Literal["ended", "lost", "switched", "refused"]
"""`lost`: the server went before anything of its answer was passed on. `refused`: see `Exchange.refusal`."""
Switch = Callable[["Exchange", Headers, bytes], None]


class Exchange:
    """One request and its answer. Implements `BodySink` and `AnswerSink`."""

    def __init__(
        self,
        side: ClientSide,
        head: Head,
        connection: UpstreamConnection,
        *,
        secret: SecretExchange | None,
        chunked: bool,
        body: bytes | None,
        switch: Switch,
    ) -> None:
        """`body` when it was read already; else `chunked` says how it is to be framed for the server."""
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.side = side
        self.connection = connection
        self.secret = secret
        self._head = head
        self._chunked_up = chunked
        self._body = body
        self._body_filter = secret.body if secret is not None and body is None else None
        self._switch = switch
        self._up: list[bytes] | None = []
        """What goes to the server together with the head."""
        self._sent = False
        self._down: list[bytes] = []
        self.refusal: SecretRefused | None = None
        """Why it was broken off, when its request or its answer can't be shown to the other side."""
        self._begun = False
        self._over = False
        self._filter: Filter | None = None
        self._chunked_down = False
        self._keep = False

    async def run(self, outgoing: bytes) -> Outcome:
        """Sends the head `outgoing` and the body, and returns when the answer is through, or won't be."""
        assert self._up is not None
        self._up.append(outgoing)
        if self._body is not None:
            self._up.append(self._body)
            self._sent = True
        self.side.stream(self)
        if not self._over:
            up, self._up = self._up, None
            self.connection.ask(b"".join(up), self, head_only=self._head.method == b"HEAD", upgrade=self._head.upgrade)
        return await self.outcome

    @property
    def begun(self) -> bool:
        """Whether the client has some of the answer."""
        return self._begun

    def _refuse(self, refusal: SecretRefused) -> None:
        if self._over:
            return
        self.refusal = refusal
        self.connection.abort()
        if self._begun:
            self.side.transport.abort()
        self._end("refused")

    def _end(self, outcome: Outcome) -> None:
        self._over = True
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    # ----------------------------------------------------------------------------------------- BodySink: the sandbox

    def body(self, data: bytes) -> None:
        if self._body_filter is not None:
            try:
                data = self._body_filter.feed(data)
            except SecretRefused as refusal:
                self._refuse(refusal)
        if self._over:
            return
        if data and self._body is None:
            self._send(chunk(data) if self._chunked_up else data)

    def body_end(self) -> None:
        if self._sent:
            return
        if self._body_filter is not None and not self._over:
            try:
                rest = self._body_filter.end()
            except SecretRefused as refusal:
                self._refuse(refusal)
                return
            if rest:
                self._send(chunk(rest))
        self._sent = True
        if self._chunked_up:
            self._send(LAST_CHUNK)

    def client_lost(self) -> None:
        self.connection.abort()
        self._end("ended")

    def client_blocked(self, blocked: bool) -> None:
        self.connection.pause(blocked)

    def _send(self, data: bytes) -> None:
        if self._up is not None:
            self._up.append(data)
        else:
            self.connection.send(data)

    # --------------------------------------------------------------------------------------- AnswerSink: the server

    def answer_head(self, status: int, headers: Headers) -> None:
        bodyless = self._head.method == b"HEAD" or status in (204, 304)
        if self.secret is not None:
            try:
                shown, self._filter = self.secret.answer(status, headers)
            except SecretRefused as refusal:
                self._refuse(refusal)
                return
            headers = list(shown)
            if bodyless:
                self._filter = None
        sized = self._filter is None and value_of(headers, b"content-length") is not None
        newest = self._head.version == "1.1"
        self._chunked_down = not bodyless and not sized and newest
        self._keep = self._head.keep and (bodyless or sized or newest)
        self._begun = True
        if not bodyless and not sized:
            headers = [field for field in headers if field[0] != b"content-length"]
        self._down.append(response_head(status, headers, chunked=self._chunked_down, keep=self._keep))

    def answer_body(self, data: bytes) -> None:
        if self._filter is not None:
            try:
                data = self._filter.feed(data)
            except SecretRefused as refusal:
                self._refuse(refusal)
        if data and not self._over:
            self._down.append(chunk(data) if self._chunked_down else data)

    def answer_flush(self) -> None:
        if self._down and not self._over:
            data, self._down = b"".join(self._down), []
            self.side.write(data)

    def answer_end(self) -> None:
        if self._over:
            return
        if self._filter is not None:
            try:
                rest = self._filter.end()
            except SecretRefused as refusal:
                self._refuse(refusal)
                return
            if rest:
                self._down.append(chunk(rest) if self._chunked_down else rest)
        if self._chunked_down:
            self._down.append(LAST_CHUNK)
        self.answer_flush()
        self.connection.settle(reusable=self._sent)
        self._end("ended")
        self.side.done(keep=self._keep and self._sent)

    def answer_lost(self) -> None:
        if self._begun:
            self.side.transport.abort()
        self._end("ended" if self._begun else "lost")

    def answer_switched(self, headers: Headers, rest: bytes) -> None:
        if names_in(headers, b"upgrade") != {b"websocket"}:
            self.connection.abort()
            self._end("lost")
            return
        self._end("switched")
        self._switch(self, headers, rest)

    def server_blocked(self, blocked: bool) -> None:
        if self.side.transport.is_closing():
            return
        if blocked:
            self.side.transport.pause_reading()
        else:
            self.side.read_on()
