"""Who is asked, and who next, until one answer is the harness's?

All attempts of one request. Nothing is tried again once the harness has seen a byte of an answer. Each attempt that is
not the last is recorded here, as it ends; the last one is its caller's, who does it before the end of the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from hostler.engine.model_port import Asked, Choice, Ended, Grant, Next, Target, Throttled
from hostler.engine.ports import ModelRequestRecord
from hostler.gateway.body import MessagesBody
from hostler.gateway.client import ClientConnection
from hostler.gateway.desk import Desk
from hostler.gateway.errors import Refusal, unavailable
from hostler.gateway.http1 import Request, request_headers
from hostler.gateway.relay import Relay
from hostler.gateway.response import Splitter
from hostler.gateway.upstream import UpstreamConnection, UpstreamLimits, UpstreamUnreachable
from hostler.store.sessions import Usage

Record = Callable[[ModelRequestRecord], Awaitable[None]]
Again = Callable[[], Awaitable[Grant]]


class Attempts:
    """Those of one request. `run` once; the rest may be called at any time."""

    def __init__(self, desk: Desk, asked: Asked, choice: Choice, grant: Grant, client: ClientConnection) -> None:
        self._desk = desk
        self._asked = asked
        self._choice = choice
        self._grant = grant
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._began = self._started
        self._waited = 0.0
        self._gone = asyncio.Event()
        self._relay: Relay | None = None
        self._connection: UpstreamConnection | None = None
        self._target = Target("", asked.model, asked.model)
        self._number = 0
        self._sent = False
        self._owes = False
        self._stale = False

    @property
    def relay(self) -> Relay | None:
        """The attempt that runs, or ran last."""
        return self._relay

    @property
    def grant(self) -> Grant:
        """What is set aside for the attempt that runs, or would be next."""
        return self._grant

    @property
    def owes(self) -> bool:
        """Whether an attempt was begun that is not recorded yet."""
        return self._owes

    # --------------------------------------------------------------------------------------------- while it goes on

    def client_gone(self) -> None:
        self._gone.set()
        if self._relay is not None:
            self._relay.client_gone()
        if self._connection is not None:
            self._connection.abort()

    def client_blocked(self, blocked: bool) -> None:
        if self._connection is not None:
            self._connection.pause(blocked)

    def give_back(self) -> None:
        """The connection of an answer that ended well may serve the next request."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.settle()

    def abort(self) -> None:
        """Whatever still runs is not wanted any more. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # --------------------------------------------------------------------------------------------------- the course

    async def run(
        self,
        request: Request,
        body: MessagesBody,
        changes: Mapping[str, Any],
        *,
        split: bool,
        record: Record | None,
        again: Again | None = None,
    ) -> Relay | None:
        """The attempt whose answer counts; None: the client is gone and nothing was asked.

        changes  fields of the body that are not sent as they came.
        split    answers are to have one call each; the others are held.
        record   takes each attempt that another one follows; None: they are not written down.
        again    sets money aside for one more attempt, after one that may have cost what was set aside.

        Raises Refusal when nobody could be asked, and what `again` raises.
        """
        course = self._desk.upstreams.persist(self._asked, self._choice)
        step = course.first()
        while True:
            if step is None:
                raise unavailable("No upstream of the gateway can be asked for this model now.")
            if not await self._ready_for(step):
                return None
            relay = await self._attempt(step.target, request, body, changes, split=split)
            if self._gone.is_set():
                return relay
            ended = self._ended(relay)
            if self._stale:
                step = Next(step.target)
            else:
                step = course.after(ended) if ended.failure and not ended.begun else None
            self._tell(ended, relay)
            if step is None:
                return relay
            if relay.complete:
                self.give_back()
            else:
                self.abort()
            if record is not None:
                written = self.record(relay, last=False)
                await record(written)
                self._owes = False
                if again is not None and self._grant.id and written.may_have_cost:
                    self._grant = Grant()
                    self._grant = await again()

    async def _ready_for(self, step: Next) -> bool:
        """Waits until it is time and there is room. False: the client has gone meanwhile."""
        waiting_since = self._loop.time()
        if step.after > 0:
            for watcher in self._desk.watchers:
                watcher.waits(self._asked, "an attempt failed", step.after)
            with suppress(TimeoutError):
                async with asyncio.timeout(step.after):
                    await self._gone.wait()
        try:
            await self._desk.throttle.wait(self._asked, step.target)
        except Throttled as error:
            raise Refusal(429, "rate_limit_error", str(error), retry=True) from error
        self._began = self._loop.time()
        self._waited = self._began - waiting_since
        return not self._gone.is_set()

    async def _attempt(
        self, target: Target, request: Request, body: MessagesBody, changes: Mapping[str, Any], *, split: bool
    ) -> Relay:
        self._target = target
        self._number += 1
        self._sent = False
        self._owes = True
        channel = self._desk.channels[target.upstream]
        changes = dict(changes)
        if target.spelled != body.model:
            changes["model"] = target.spelled
        changes.update(self._grant.changes)
        if self._grant.max_tokens is not None:
            changes["max_tokens"] = self._grant.max_tokens
        outgoing = body.rewritten(changes) if changes else request.body
        fields = {**body.fields, **changes}
        fresh, self._stale = self._stale, False
        while True:
            splitter = Splitter() if split else None
            relay = self._relay = self._relay_with(channel.limits, splitter)
            try:
                head, payload = await channel.prepare(
                    target, request.target, request_headers(request.headers), outgoing, fields
                )
                connection = await channel.take(fresh=fresh)
            except UpstreamUnreachable as error:
                relay.unreachable(str(error))
                return relay
            if self._gone.is_set():
                relay.client_gone()
                connection.abort()
                return relay
            self._connection = connection
            self._sent = True
            stale = connection.reused
            connection.ask(head, payload, channel.reading(relay, stream=body.stream))
            await relay.wait()
            if relay.lost_unseen and stale:
                # An idle connection that the upstream had closed meanwhile. Most likely nothing was asked yet; where a
                # budget counts that is not enough, and what was asked now counts as an attempt of its own.
                if self._grant.id:
                    self._stale = True
                    return relay
                fresh = True
                continue
            return relay

    def _relay_with(self, limits: UpstreamLimits, splitter: Splitter | None) -> Relay:
        return Relay(self._client, limits, splitter)

    def _ended(self, relay: Relay) -> Ended:
        failure = relay.failure if not relay.complete else f"status {relay.status}" if relay.status >= 400 else ""
        return Ended(
            self._target,
            self._number,
            relay.status,
            failure,
            relay.retry_after,
            relay.begun,
            self._loop.time() - self._started,
            self._loop.time() - self._began,
        )

    def _tell(self, ended: Ended, relay: Relay) -> None:
        usage = relay.tap.usage if relay.status == 200 else Usage()
        self._desk.throttle.answered(self._asked, ended.target, ended.status, dict(relay.received), usage)
        for watcher in self._desk.watchers:
            watcher.ended(self._asked, ended, usage)

    # --------------------------------------------------------------------------------------------------- the record

    def record(self, relay: Relay, *, last: bool = True) -> ModelRequestRecord:
        """What is written down of the attempt that `relay` was."""
        asked, caller, first = self._asked, self._asked.caller, relay.first_byte_at
        gone = self._gone.is_set() and not relay.complete
        return ModelRequestRecord(
            session_id=caller.session_id,
            model=self._target.model,
            status=499 if gone else relay.status,
            usage=relay.tap.usage if relay.status == 200 else Usage(),
            stop_reason=relay.tap.stop_reason if relay.complete else None,
            duration_ms=(self._loop.time() - self._began) * 1000,
            first_byte_ms=None if first is None else (first - self._began) * 1000,
            request_id=asked.id,
            attempt=self._number,
            requested_model=asked.model,
            upstream=self._target.upstream,
            upstream_request_id=dict(relay.received).get(b"request-id", b"").decode("latin-1"),
            thread=asked.thread,
            agent_type=asked.agent_type,
            purpose=asked.purpose,
            agent_id=caller.agent_id,
            agent_version=caller.agent_version,
            environment_id=caller.environment_id,
            rule=self._choice.rule,
            why=self._choice.why,
            waited_ms=self._waited * 1000,
            complete=relay.counted or relay.status not in (0, 200) or not self._sent,
            grant=self._grant,
            last=last,
        )
