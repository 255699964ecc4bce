"""Who is asked, and who next, until one answer is the harness's?

All attempts of one request. Nothing is tried again once the harness has seen a byte of an answer. Each attempt that is
not the last is recorded here, as it ends; the last one is its caller's, who does it before the end of the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from hostler.engine.model_port import Asked, Choice, Ended, Grant, Next, Persistence, Target, Throttled, Wait
from hostler.engine.ports import ModelRequestRecord
from hostler.gateway.backoff import is_final
from hostler.gateway.body import MessagesBody
from hostler.gateway.client import ClientConnection
from hostler.gateway.desk import Desk
from hostler.gateway.errors import Refusal, unavailable
from hostler.gateway.http1 import Request, request_headers
from hostler.gateway.relay import Relay
from hostler.gateway.response import Splitter
from hostler.gateway.upstream import UpstreamConnection, UpstreamLimits, UpstreamUnreachable
from hostler.store.sessions import Usage

Again = Callable[[], Awaitable[Grant]]


class Told(Protocol):
    """Who hears of what happens before there is an answer."""

    async def record(self, record: ModelRequestRecord) -> None: ...

    def waiting(self, wait: Wait) -> None: ...

    def going_on(self, request_id: str, *, quiet: bool) -> None: ...


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
        self._over: float | None = None
        self._waited = 0.0
        self._waits = 0.0
        """Seconds since the last attempt, or since the request came."""
        self._why = ""
        self._told_of = -1
        """After which attempt a pause was told of last."""
        self._session: Told | None = None
        self._course: Persistence | None = None
        self._gone = asyncio.Event()
        self._relay: Relay | None = None
        self._connection: UpstreamConnection | None = None
        self._target = Target("", asked.model, asked.model)
        self._number = 0
        self._sent = False
        self._owes = False
        self._stale = False
        self._again: Again | None = None

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

    @property
    def so_far(self) -> str:
        """What was tried, for whoever gets the failure."""
        times = "once" if self._number == 1 else f"{self._number} times"
        return f"It was asked {times} in {self._loop.time() - self._started:.0f} s."

    # --------------------------------------------------------------------------------------------- while it goes on

    def client_gone(self) -> None:
        self._gone.set()
        if self._connection is None or self._over is not None:  # It may wait for room, also between two attempts.
            self._desk.throttle.left(self._asked)
        if self._relay is not None:
            self._relay.client_gone()
        if self._connection is not None:
            self._connection.abort()

    def client_blocked(self, blocked: bool) -> None:
        if self._relay is not None:
            self._relay.client_blocked(blocked)
        if self._connection is not None:
            self._connection.pause(blocked)

    def give_back(self) -> None:
        """The connection of an answer that ended well may serve the next request."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.settle()

    def abort(self) -> None:
        """Whatever still runs is not wanted any more. Idempotent."""
        self._desk.throttle.left(self._asked)
        self._drop()

    def _drop(self) -> None:
        if self._relay is not None:
            self._relay.dropped()
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
        session: Told | None,
        again: Again | None = None,
    ) -> Relay | None:
        """The attempt whose answer counts; None: the client is gone and nothing was asked.

        changes  fields of the body that are not sent as they came.
        split    answers are to have one call each; the others are held.
        session  takes each attempt that another one follows, and is told of pauses; None: it only counts a prompt.
                 Nothing is written down, nothing is worth a pause, and how it ends says nothing of messages: neither of
                 their limits nor of who answers them. Another upstream is asked only where nobody answers.
        again    sets money aside for one more attempt, after one that may have cost what was set aside.

        Raises Refusal when nobody could be asked, and what `again` raises.
        """
        self._session = session
        self._again = again
        course = self._course = self._desk.upstreams.persist(self._asked, self._choice)
        relay: Relay | None = None
        try:
            step = course.first()
            while True:
                while step is not None and step.after > 0:
                    if session is None:
                        step = None
                    elif await self._pause(step, session):
                        step = course.waited()
                    else:
                        return relay
                if step is None:
                    return self._given_up(relay)
                if not await self._has_room(step, relay):
                    return relay
                if relay is not None:
                    await self._follow_up(relay, session)
                relay = await self._attempt(step, request, body, changes, split=split)
                ended = self._ended(relay)
                if self._gone.is_set():
                    self._watch(ended, self._settle(relay))
                    return relay
                self._tell(ended, relay)
                if self._stale:
                    step = replace(step, after=0.0)
                else:
                    step = course.after(ended) if session is not None or relay.status == 0 else None
                if step is None and (ended.begun or not ended.failure):
                    return relay
        finally:
            self._again = None  # It refers back to here: without it the body goes with the last who needs it.
            course.over()
            if session is not None:
                failed = relay is None or self._gone.is_set() or self._ended(relay).failure != ""
                session.going_on(self._asked.id, quiet=failed and not self._asked.thread)

    def _given_up(self, relay: Relay | None) -> Relay:
        """The last answer, with the word that all has been tried that could be."""
        if relay is None:
            raise Refusal(
                503,
                "api_error",
                f"No upstream of the gateway has the model {self._choice.models[0]}, or can be asked for it now.",
            )
        if relay.complete and is_final(relay.status):
            relay.say_no_retry()
        return relay

    async def _pause(self, step: Next, session: Told) -> bool:
        """Waits until it is time. False: the client has gone meanwhile."""
        since = self._loop.time()
        for watcher in self._desk.watchers:
            watcher.waits(self._asked, step.why, step.after)
        # What is only a look at how things are now was told before.
        if self._told_of != self._number:
            self._told_of = self._number
            session.waiting(self._wait(step))
        with suppress(TimeoutError):
            async with asyncio.timeout(step.after):
                await self._gone.wait()
        self._waits += self._loop.time() - since
        return not self._gone.is_set()

    def _wait(self, step: Next) -> Wait:
        status = 0 if self._relay is None else self._relay.status
        what = f"HTTP {status}" if status > 200 else "no connection" if status == 0 else "no answer"
        if self._number == 0:
            what = "it failed for others just now"
        text = f"The model did not answer ({what}); asking again in {step.after:.1f} s (attempt {self._number + 1})."
        return Wait(self._asked.id, status, text, step.after)

    async def _has_room(self, step: Next, before: Relay | None) -> bool:
        """Waits for room in the limits. False: the client has gone, or there is an answer instead."""
        since = self._loop.time()
        try:
            if self._session is not None and not self._gone.is_set():
                await self._desk.throttle.wait(self._asked, step.target, self._waits_for_room)
        except Exception as error:
            if before is not None:  # what was set aside is settled with it
                self._given_up(before)
                return False
            if isinstance(error, Throttled):
                raise Refusal(429, "rate_limit_error", str(error), retry=True, after=error.retry_after) from error
            raise unavailable("Whether a rate limit has room for this request can't be found out.") from error
        self._waits += self._loop.time() - since
        return not self._gone.is_set()

    def _waits_for_room(self, why: str, seconds: float) -> None:
        for watcher in self._desk.watchers:
            watcher.waits(self._asked, why, seconds)
        if self._session is not None:
            text = f"The model is not asked yet: the request {why}, for about {seconds:.0f} s more."
            self._session.waiting(Wait(self._asked.id, 429, text, seconds))

    async def _follow_up(self, relay: Relay, session: Told | None) -> None:
        """Another attempt follows this one: what it was is written down."""
        if relay.complete:
            self.give_back()
        else:
            self._drop()  # the room that there is in the limits is the next one's by now
        if session is not None:
            # What can't be written down now is kept, and comes before the last attempt's record: that one decides.
            written = self.record(relay, last=False)
            with suppress(Exception):
                await session.record(written)
            self._owes = False
            if self._again is not None and self._grant.id and written.may_have_cost:
                self._grant = Grant()
                self._grant = await self._again()

    async def _attempt(
        self, step: Next, request: Request, body: MessagesBody, changes: Mapping[str, Any], *, split: bool
    ) -> Relay:
        target, channel = step.target, self._desk.channels[step.target.upstream]
        changes = dict(changes)
        if target.spelled != body.model:
            changes["model"] = target.spelled
        changes.update(self._grant.changes)
        if self._grant.max_tokens is not None:
            changes["max_tokens"] = self._grant.max_tokens
        if target.model != body.model:
            changes |= self._desk.fitter.changes(target.model, {**body.fields, **changes})
        outgoing = body.rewritten(changes) if changes else request.body
        fields = {**body.fields, **changes}
        # It is an attempt from here on: what fails before costs nothing, and nobody writes it down.
        self._target = target
        self._why = step.why
        self._number += 1
        self._began, self._over = self._loop.time(), None
        self._waited, self._waits = self._waits, 0.0
        self._sent = False
        self._owes = True
        fresh, self._stale = self._stale, False
        while True:
            splitter = Splitter() if split else None
            relay = self._relay = self._relay_with(channel.limits, splitter, step.within)
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
            if self._client.blocked:  # with the answer before this one, which nobody has read yet
                self.client_blocked(True)
            self._sent = True
            stale = connection.reused
            connection.ask(head, payload, channel.reading(relay, stream=body.stream))
            await relay.wait()
            self._over = self._loop.time()
            if relay.lost_unseen and stale:
                # An idle connection that the upstream had closed meanwhile. Most likely nothing was asked yet; where a
                # budget counts that is not enough, and what was asked now counts as an attempt of its own.
                if self._grant.id:
                    self._stale = True
                    return relay
                fresh, self._over = True, None
                continue
            return relay

    def _relay_with(self, limits: UpstreamLimits, splitter: Splitter | None, within: float | None) -> Relay:
        return Relay(self._client, limits, splitter, within=within, on_begun=self._has_begun)

    def _has_begun(self) -> None:
        if self._session is None:
            return
        if self._course is not None:
            self._course.began()
        self._session.going_on(self._asked.id, quiet=False)

    def _ended(self, relay: Relay) -> Ended:
        failure = relay.failure if not relay.complete else f"status {relay.status}" if relay.status >= 300 else ""
        return Ended(
            self._target,
            self._number,
            relay.status,
            failure,
            relay.retry_after,
            relay.begun,
            self._loop.time() - self._started,
            self._loop.time() - self._began,
            relay.should_retry,
            not relay.complete and (relay.status == 200 or relay.silent),
            first_byte=None if relay.first_byte_at is None else relay.first_byte_at - self._began,
            stop_reason=relay.tap.stop_reason if relay.complete else None,
            upstream_request_id=dict(relay.received).get(b"request-id", b"").decode("latin-1"),
            gone=self._gone.is_set() and not relay.complete and not relay.failure,
        )

    def _tell(self, ended: Ended, relay: Relay) -> None:
        self._watch(ended, self._settle(relay))

    def _watch(self, ended: Ended, usage: Usage) -> None:
        for watcher in self._desk.watchers:
            watcher.ended(self._asked, ended, usage)

    def _settle(self, relay: Relay) -> Usage:
        """Tells the rate limits what the attempt used, and says it."""
        if relay.message is not None:
            relay.tap.observe_message(relay.message)
        usage = relay.tap.usage if relay.status == 200 else Usage()
        throttle = self._desk.throttle
        if self._session is None:
            return usage
        if self._sent:
            headers = dict(relay.received)
            # A stream may also end in good order before it says what it used.
            whole = relay.complete and (relay.status != 200 or relay.tap.stop_reason is not None)
            throttle.answered(self._asked, self._target, relay.status, headers, usage, complete=whole)
        else:
            throttle.left(self._asked)
        return usage

    # --------------------------------------------------------------------------------------------------- the record

    def record(self, relay: Relay, *, last: bool = True) -> ModelRequestRecord:
        """What is written down of the attempt that `relay` was."""
        asked, caller, first = self._asked, self._asked.caller, relay.first_byte_at
        gone = self._gone.is_set() and not relay.complete and not relay.failure
        over = self._loop.time() if self._over is None else self._over
        return ModelRequestRecord(
            session_id=caller.session_id,
            model=self._target.model,
            status=499 if gone else relay.status,
            usage=relay.tap.usage if relay.status == 200 else Usage(),
            stop_reason=relay.tap.stop_reason if relay.complete else None,
            duration_ms=(over - self._began) * 1000,
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
            why=self._why or self._choice.why,
            waited_ms=self._waited * 1000,
            complete=relay.counted or relay.status not in (0, 200) or not self._sent,
            request_bytes=asked.size,
            grant=self._grant,
            last=last,
            delivered=not self._gone.is_set(),
            results=asked.results,
        )
