"""What happens to one request of the harness, from its last byte to the last byte of its answer?

Checked, maybe answered from the held calls, sent upstream, relayed as it comes. The order at the end is the point:
usage is recorded first, held calls are saved and announced next, and only then does the harness see the end of the
answer. When one of these fails the answer breaks off: a response whose cost nobody wrote down, or whose calls nobody
knows, must not be acted on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from hostler.domain.ids import new_id
from hostler.engine.model_port import (
    Asked,
    BudgetReached,
    Caller,
    Choice,
    Grant,
    NotBounded,
    Purpose,
    Shortage,
    Throttled,
    Wait,
)
from hostler.engine.ports import ModelRequestRecord
from hostler.gateway.attempts import Attempts
from hostler.gateway.body import MessagesBody, dump, parse, reaches_outside
from hostler.gateway.client import ClientConnection
from hostler.gateway.counting import TokenCount
from hostler.gateway.desk import Desk
from hostler.gateway.errors import Refusal, error_event, unavailable
from hostler.gateway.http1 import COUNT_TOKENS, Headers, Request
from hostler.gateway.relay import Relay
from hostler.gateway.response import render_held, split_message
from hostler.gateway.results import results_of
from hostler.gateway.sequence import Call, Forward, Plan

_log = logging.getLogger("hostler.gateway")
_JSON: Headers = [(b"content-type", b"application/json")]
_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Session(Protocol):
    """What a request needs of the session's road."""

    session_id: str
    allowed_models: frozenset[str] | None
    one_call_at_a_time: bool

    @property
    def caller(self) -> Caller:
        """Whose request it is, as things are now."""
        ...

    async def plan(self, messages: list[object]) -> tuple[Plan, int]:
        """The plan, with its state saved when it must be, and the number of synthetic responses so far."""
        ...

    async def hold(self, calls: list[Call], after: str | None) -> None:
        """Saves and announces a new group. An exception means that it isn't announced."""
        ...

    async def record(self, record: ModelRequestRecord) -> None: ...

    async def budget_reached(self, why: str, short: Shortage) -> None:
        """This request must not go upstream, and the run that makes it is to be stopped."""
        ...

    def waiting(self, wait: Wait) -> None:
        """A request waits before it is asked again."""
        ...

    def going_on(self, request_id: str, *, quiet: bool) -> None:
        """It does not wait any more. `quiet`: nobody need be told, since what follows says so."""
        ...

    async def settle_records(self) -> None:
        """Records what an earlier request could not. Raises when that fails again."""
        ...


class Exchange:
    """One request and its answer."""

    def __init__(self, session: Session, desk: Desk, request: Request, client: ClientConnection) -> None:
        self._session = session
        self._desk = desk
        self._request = request
        self._client = client
        self._gone = asyncio.Event()
        self._attempts: Attempts | None = None

    # --------------------------------------------------------------------------------- called by the client connection

    def client_gone(self) -> None:
        """The harness hung up: the upstream stops working for nobody, at once."""
        self._gone.set()
        if self._attempts is not None:
            self._attempts.client_gone()

    def client_blocked(self, blocked: bool) -> None:
        if self._attempts is not None:
            self._attempts.client_blocked(blocked)

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
            if self._attempts is not None:
                self._attempts.abort()

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
        if self._request.path == COUNT_TOKENS:
            await self._count(body)
            return
        changes: dict[str, Any] = {}
        after = None
        if self._session.one_call_at_a_time:
            plan, number = await self._session.plan(body.messages)
            after = plan.newest
            if not isinstance(plan.action, Forward):
                self._answer_held(plan.action.call, body, number)
                return
            if plan.action.messages is not None:
                changes["messages"] = plan.action.messages
        await self._ask(body, changes, after)

    async def _count(self, body: MessagesBody) -> None:
        """Asks how many tokens a prompt has: costs nothing, and nobody writes it down."""
        asked = asked_of(self._session.caller, self._request, body)
        attempts = self._attempts = Attempts(self._desk, asked, Choice((body.model,)), Grant(), self._client)
        relay = await attempts.run(self._request, body, {}, split=False, session=None)
        if relay is not None:
            await self._conclude(attempts, relay, None)

    async def _ask(self, body: MessagesBody, changes: Mapping[str, Any], after: str | None) -> None:
        asked = asked_of(self._session.caller, self._request, body, changes)
        asked = replace(asked, results=results_of(changes.get("messages", body.messages)))
        desk = self._desk
        choice = await desk.router.choose(asked)
        asking = TokenCount(desk, asked, self._request, body, changes)

        async def reserve() -> Grant:
            return await desk.purse.reserve(asked, choice.models, asking.count, self._gone)

        try:
            grant = await self._granted(reserve)
            for watcher in desk.watchers:
                watcher.asked(asked, choice, grant)
            attempts = self._attempts = Attempts(desk, asked, choice, grant, self._client)
            if self._gone.is_set():
                attempts.client_gone()
            try:
                relay = await attempts.run(
                    self._request,
                    body,
                    changes,
                    split=self._session.one_call_at_a_time,
                    session=self._session,
                    again=lambda: self._granted(reserve),
                )
            except Exception:
                if attempts.owes and attempts.relay is not None:  # what was set aside is settled with its record
                    await self._record(attempts.record(attempts.relay))
                raise
            finally:
                if not attempts.owes:
                    await desk.purse.release(attempts.grant)
        except BudgetReached as error:
            await self._session.budget_reached(str(error), error.short)
            await self._gone.wait()  # any answer would become part of the conversation
            return
        if relay is not None:
            await self._conclude(attempts, relay, after, recorded=True)

    async def _granted(self, reserve: Callable[[], Awaitable[Grant]]) -> Grant:
        """Raises BudgetReached; Refusal."""
        try:
            return await reserve()
        except BudgetReached:
            raise
        except NotBounded as error:
            raise Refusal(400, "invalid_request_error", str(error)) from error
        except Throttled as error:
            raise Refusal(429, "rate_limit_error", str(error), retry=True) from error
        except Exception as error:
            _log.exception("gateway.not_reserved", extra={"session_id": self._session.session_id})
            raise unavailable("Whether a budget has room for this request can't be found out.") from error

    def _answer_held(self, call: Call, body: MessagesBody, number: int) -> None:
        if not self._gone.is_set():
            rendered = render_held(call, body.model, number, stream=body.stream)
            self._client.send_whole(200, _STREAM if body.stream else _JSON, rendered)

    async def _conclude(self, attempts: Attempts, relay: Relay, after: str | None, *, recorded: bool = False) -> None:
        calls: list[Call] = []
        whole = b""
        if relay.complete and not relay.streaming:
            whole, calls = self._whole_answer(relay)
        elif relay.complete and relay.splitter is not None:
            calls = relay.splitter.calls
        if recorded:
            await self._record(attempts.record(relay))
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
            self._tell_failure(attempts, relay)
        elif relay.streaming:
            attempts.give_back()
            self._client.send_end(relay.held_back())
        else:
            attempts.give_back()
            self._client.send_whole(relay.status, relay.headers, whole)

    def _whole_answer(self, relay: Relay) -> tuple[bytes, list[Call]]:
        raw, message = relay.body(), relay.message
        if message is None:
            return raw, []
        relay.tap.observe_message(message)
        if relay.splitter is None:
            return raw, []
        shown, calls = split_message(message)
        return (raw if shown is message else dump(shown)), calls

    async def _record(self, record: ModelRequestRecord) -> None:
        try:
            await self._session.record(record)
        except Exception as error:
            _log.exception("gateway.usage_not_recorded", extra={"session_id": self._session.session_id})
            raise unavailable("The usage of this request could not be recorded.") from error

    def _tell_failure(self, attempts: Attempts, relay: Relay) -> None:
        if relay.begun:
            self._client.break_off(relay.held_back())
        else:
            raise Refusal(502, "api_error", f"{relay.failure} {attempts.so_far}")

    def _say(self, refusal: Refusal) -> None:
        if self._gone.is_set():
            return
        relay = None if self._attempts is None else self._attempts.relay
        if relay is not None and relay.begun:
            self._client.break_off(error_event(refusal.kind, refusal.message))
        else:
            self._client.send_whole(*refusal.render())


def asked_of(caller: Caller, request: Request, body: MessagesBody, changes: Mapping[str, Any] | None = None) -> Asked:
    """The request as those understand it who are asked about it. What the harness says of itself may be untrue.

    changes  fields that are not sent as they came.
    """
    headers = dict(request.headers)

    def said(name: bytes) -> str:
        return headers.get(name, b"").decode("latin-1")[:128]

    # Of `CLAUDE_CODE_GATEWAY_HINT_HEADERS`: main, subagent, workflow, compaction, auxiliary or side_reply.
    kind = said(b"x-claude-code-request-class")
    purpose: Purpose = "turn"
    if kind == "compaction" or said(b"x-claude-code-compaction"):
        purpose = "compaction"
    elif kind in ("auxiliary", "side_reply") or said(b"x-claude-code-auxiliary-type"):
        purpose = "auxiliary"
    return Asked(
        new_id("mreq"),
        caller,
        body.model,
        {**body.fields, **changes} if changes else body.fields,
        len(request.body) + (len(dump(changes)) if changes else 0),
        body.stream,
        thread=said(b"x-claude-code-agent-id") or (kind if kind in ("subagent", "workflow") else ""),
        agent_type=said(b"x-claude-code-agent-type"),
        purpose=purpose,
        trace=said(b"traceparent"),
    )
