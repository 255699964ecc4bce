"""What happens to one request of the harness, from its last byte to the last byte of its answer?

Checked, maybe answered from the held calls, sent upstream, relayed as it comes. The order at the end is the point:
usage is recorded first, held calls are saved and announced next, and only then does the harness see the end of the
answer. When one of these fails the answer breaks off: a response whose cost nobody wrote down, or whose calls nobody
knows, must not be acted on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Protocol

from hostler.engine.ports import ModelRequestRecord
from hostler.gateway.body import MessagesBody, dump, parse, reaches_outside
from hostler.gateway.client import ClientConnection
from hostler.gateway.errors import Refusal, error_event, unavailable
from hostler.gateway.http1 import COUNT_TOKENS, Headers, Request, request_headers
from hostler.gateway.relay import Relay
from hostler.gateway.response import Splitter, render_held, split_message
from hostler.gateway.sequence import Call, Forward, Plan
from hostler.gateway.upstream import UpstreamConnection, UpstreamPool, UpstreamUnreachable
from hostler.store.sessions import Usage

_log = logging.getLogger("hostler.gateway")
_JSON: Headers = [(b"content-type", b"application/json")]
_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Session(Protocol):
    """What a request needs of the session's road."""

    session_id: str
    allowed_models: frozenset[str] | None
    one_call_at_a_time: bool

    async def plan(self, messages: list[object]) -> tuple[Plan, int]:
        """The plan, with its state saved when it must be, and the number of synthetic responses so far."""
        ...

    async def hold(self, calls: list[Call], after: str | None) -> None:
        """Saves and announces a new group. An exception means that it isn't announced."""
        ...

    async def record(self, record: ModelRequestRecord) -> None: ...

    async def may_request(self) -> bool:
        """False: this request must not go upstream, and the run that makes it is being stopped."""
        ...

    async def settle_records(self) -> None:
        """Records what an earlier request could not. Raises when that fails again."""
        ...


class Exchange:
    """One request and its answer."""

    def __init__(self, session: Session, pool: UpstreamPool, request: Request, client: ClientConnection) -> None:
        self._session = session
        self._pool = pool
        self._request = request
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._gone = asyncio.Event()
        self._relay: Relay | None = None
        self._connection: UpstreamConnection | None = None

    # --------------------------------------------------------------------------------- called by the client connection

    def client_gone(self) -> None:
        """The harness hung up: the upstream stops working for nobody, at once."""
        self._gone.set()
        if self._relay is not None:
            self._relay.client_gone()
        if self._connection is not None:
            self._connection.abort()

    def client_blocked(self, blocked: bool) -> None:
        if self._connection is not None:
            self._connection.pause(blocked)

    # ------------------------------------------------------------------------------------------------------ the course

    async def run(self) -> None:
        try:
            await self._run()
        except Refusal as refusal:
            self._say(refusal)
        except Exception:
            _log.exception("gateway.request_failed", extra={"session_id": self._session.session_id})
            self._say(Refusal(500, "api_error", "The gateway failed.", retry=True))
        finally:
            if self._connection is not None:
                self._connection.abort()

    async def _run(self) -> None:
        body = parse(self._request.body)
        allowed = self._session.allowed_models
        if allowed is not None and body.model not in allowed:
            raise Refusal(403, "permission_error", f"This session may not use the model {body.model}.")
        outside = reaches_outside(body)
        if outside is not None:
            raise Refusal(403, "permission_error", f"{outside} would reach hosts past the session's egress rules.")
        try:
            await self._session.settle_records()
        except Exception as error:
            raise unavailable("The usage of an earlier request is not recorded yet.") from error
        counting = self._request.path == COUNT_TOKENS
        outgoing, after = self._request.body, None
        if self._session.one_call_at_a_time and not counting:
            plan, number = await self._session.plan(body.messages)
            after = plan.newest
            if not isinstance(plan.action, Forward):
                self._answer_held(plan.action.call, body, number)
                return
            if plan.action.messages is not None:
                outgoing = body.with_messages(plan.action.messages)
        if not counting and not await self._may_ask():
            await self._gone.wait()  # any answer would become part of the conversation
            return
        splitter = Splitter() if self._session.one_call_at_a_time and not counting else None
        relay = await self._ask(outgoing, splitter)
        await self._conclude(relay, body, after, counting=counting)

    async def _may_ask(self) -> bool:
        try:
            return await self._session.may_request()
        except Exception as error:
            raise unavailable("Whether the session may make this request can't be found out.") from error

    def _answer_held(self, call: Call, body: MessagesBody, number: int) -> None:
        if not self._gone.is_set():
            rendered = render_held(call, body.model, number, stream=body.stream)
            self._client.send_whole(200, _STREAM if body.stream else _JSON, rendered)

    async def _ask(self, outgoing: bytes, splitter: Splitter | None) -> Relay:
        """Sends the request and relays the answer; returns when no more of it will come."""
        head = self._pool.request_head(self._request.target, request_headers(self._request.headers), len(outgoing))
        fresh = False
        while True:
            relay = self._relay = Relay(self._client, self._pool.limits, splitter)
            try:
                connection = await self._pool.take(fresh=fresh)
            except UpstreamUnreachable as error:
                relay.unreachable(str(error))
                return relay
            if self._gone.is_set():
                relay.client_gone()
                connection.abort()
                return relay
            self._connection = connection
            stale = connection.reused
            connection.ask(head, outgoing, relay)
            await relay.wait()
            if relay.lost_unseen and stale:
                fresh = True  # An idle connection that the upstream had closed meanwhile: nothing was asked yet.
                continue
            return relay

    async def _conclude(self, relay: Relay, body: MessagesBody, after: str | None, *, counting: bool) -> None:
        calls: list[Call] = []
        whole = b""
        if relay.complete and not relay.streaming:
            whole, calls = self._whole_answer(relay)
        elif relay.complete and relay.splitter is not None:
            calls = relay.splitter.calls
        if not counting:
            await self._record(relay, body)
        if self._gone.is_set():
            return
        if len(calls) > 1:
            try:
                await self._session.hold(calls, after)
            except Exception as error:
                _log.exception("gateway.calls_not_announced", extra={"session_id": self._session.session_id})
                raise unavailable("The calls of this response could not be announced.") from error
        if self._gone.is_set():
            return
        if not relay.complete:
            self._tell_failure(relay)
        elif relay.streaming:
            self._give_back()
            self._client.send_end(relay.held_back())
        else:
            self._give_back()
            self._client.send_whole(relay.status, relay.headers, whole)

    def _whole_answer(self, relay: Relay) -> tuple[bytes, list[Call]]:
        raw = relay.body()
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            return raw, []
        if relay.status != 200 or not isinstance(message, dict):
            return raw, []
        relay.tap.observe_message(message)
        if relay.splitter is None:
            return raw, []
        shown, calls = split_message(message)
        return (raw if shown is message else dump(shown)), calls

    async def _record(self, relay: Relay, body: MessagesBody) -> None:
        first = relay.first_byte_at
        record = ModelRequestRecord(
            session_id=self._session.session_id,
            model=body.model,
            status=499 if self._gone.is_set() and not relay.complete else relay.status,
            usage=relay.tap.usage if relay.status == 200 else Usage(),
            stop_reason=relay.tap.stop_reason if relay.complete else None,
            duration_ms=(self._loop.time() - self._started) * 1000,
            first_byte_ms=None if first is None else (first - self._started) * 1000,
        )
        try:
            await self._session.record(record)
        except Exception as error:
            _log.exception("gateway.usage_not_recorded", extra={"session_id": self._session.session_id})
            raise unavailable("The usage of this request could not be recorded.") from error

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.settle()

    def _tell_failure(self, relay: Relay) -> None:
        if relay.begun:
            self._client.break_off(relay.held_back())
        else:
            raise unavailable(relay.failure)

    def _say(self, refusal: Refusal) -> None:
        if self._gone.is_set():
            return
        if self._relay is not None and self._relay.begun:
            self._client.break_off(error_event(refusal.kind, refusal.message))
        else:
            self._client.send_whole(*refusal.render())
