"""How does a session speak with its remote MCP servers?

`claude` sends plain requests to `http://mcp.hostler.internal/<alias>` through its egress proxy. They end here: the road
reads the message, asks the gate about calls, judges the server's address like any other, and makes a request of its own
to the server, over TLS, with the credential from the vault. The answer is passed on as it comes, by a list of headers,
with the credential cut out. Redirects are not followed; a second attempt is made only when the server said 401 and the
vault has something newer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from hostler.domain.values import sentence
from hostler.egress import http1, jsonrpc
from hostler.egress.connection import ClientSide
from hostler.egress.heads import BodyTooLarge, Head
from hostler.egress.limits import EgressLimits
from hostler.egress.policy import BadTarget, McpTarget, Verdict, parse_server
from hostler.egress.redact import REDACTED, Forms, Redactor, stand_ins
from hostler.engine.egress_port import Bearer, McpAccess, McpCredentials, McpFailure, McpRoute

_log = logging.getLogger("hostler.egress")

Judge = Callable[[McpTarget, str], Awaitable[tuple[Verdict, Sequence[str]]]]
"""Target and method in; the recorded verdict, and the addresses when it is yes, out."""

_UP = frozenset({b"accept", b"content-type", b"last-event-id"})
_DOWN = frozenset({b"content-type", b"cache-control", b"mcp-session-id", b"mcp-protocol-version"})
_JSON = "application/json"
_PIECES = 64
"""After so many pieces of an answer somebody else has a turn."""


class McpClient:
    """Makes the requests to the servers of all sessions.

    No connection is used twice: the pool knows connections by address, and two servers may share one.
    """

    def __init__(self, limits: EgressLimits, tls: ssl.SSLContext | None = None) -> None:
        waits = httpx2.Timeout(limits.idle_seconds, connect=limits.connect_seconds, pool=None)
        self._http = httpx2.AsyncClient(
            verify=tls or ssl.create_default_context(),
            trust_env=False,
            timeout=waits,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    @asynccontextmanager
    async def send(
        self, method: str, target: McpTarget, address: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> AsyncIterator[httpx2.Response]:
        where = f"[{address}]" if ":" in address else address
        request = httpx2.Request(
            method,
            f"{target.scheme}://{where}:{target.port}{target.path}",
            headers=[(b"host", target.authority.encode()), *headers],
            content=body,
            extensions={"sni_hostname": target.host},
        )
        response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._http.aclose()


class _Failed(Exception):
    """The server can't be used for this request."""

    def __init__(self, failure: McpFailure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(slots=True)
class _Exchange:
    """One request of the sandbox to one server."""

    route: McpRoute
    method: str
    headers: http1.Headers
    body: bytes
    message: jsonrpc.Message
    taken: bool = False
    """The server may have acted on it: nobody sends it twice."""
    answered: bool = False
    """The sandbox has the head of an answer."""


class McpRelay:
    """The MCP servers of one session's road."""

    def __init__(
        self,
        access: McpAccess,
        client: McpClient,
        credentials: McpCredentials,
        judge: Judge,
        limits: EgressLimits,
    ) -> None:
        self._access = access
        self._routes = {f"/{route.alias}": route for route in access.routes}
        self._client = client
        self._credentials = credentials
        self._judge = judge
        self._limits = limits

    async def serve(self, head: Head, path: str, side: ClientSide) -> None:
        """Answers one request; ends when the sandbox hangs up."""
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._serve(head, path, side))

            async def watch() -> None:
                await side.lost.wait()
                work.cancel()

            watching = tasks.create_task(watch())
            work.add_done_callback(lambda _: watching.cancel())

    async def _serve(self, head: Head, path: str, side: ClientSide) -> None:
        route, method = self._routes.get(path), head.method.decode("ascii", "replace")
        if route is None:
            side.answer(http1.own_answer(404, "failed", "no_such_mcp_server", "This session has no such MCP server.\n"))
            return
        if method not in ("POST", "GET", "DELETE"):
            side.answer(http1.own_answer(405, "denied", "bad_request", "MCP takes POST, GET and DELETE.\n"))
            return
        message, body = jsonrpc.Message(None, None), b""
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                body = await side.collect(self._limits.mcp_request_bytes)
            if method == "POST":
                message = jsonrpc.read(body)
                _check_mirrored(head.headers, message)
            elif body:
                raise jsonrpc.BadMessage(f"a {method} has no body here")
        except (jsonrpc.BadMessage, TimeoutError, BodyTooLarge) as bad:
            text = f"{sentence(str(bad)) or 'The body did not come in time'}.\n"
            side.answer(http1.own_answer(400, "denied", "bad_request", text))
            return
        if not message.may_pass:
            await _say(side, jsonrpc.error(message.id, jsonrpc.NOT_FOUND, f"{message.method} is not available here."))
            return
        if message.tool is not None and not self._access.gate.begin_call(route.alias, message.tool, message.arguments):
            text = f"The tool {message.tool} was not permitted: calls of MCP tools are made through the agent."
            await _say(side, jsonrpc.error(message.id, jsonrpc.REFUSED, text))
            return
        await self._exchange(_Exchange(route, method, head.headers, body, message), side)

    async def _exchange(self, it: _Exchange, side: ClientSide) -> None:
        try:
            await self._ask(it, side)
        except _Failed as failed:
            self._access.gate.failed(it.route.alias, failed.failure, str(failed))
            if it.answered:
                side.transport.abort()  # what was passed on must not look whole
            else:
                await _say(side, jsonrpc.error(it.message.id, jsonrpc.REFUSED, str(failed)), status=_status(it))
        finally:
            if it.message.tool is not None and not it.taken:
                self._access.gate.not_begun(it.route.alias, it.message.tool, it.message.arguments)

    async def _ask(self, it: _Exchange, side: ClientSide) -> None:
        target = _target(it.route)
        verdict, addresses = await self._judge(target, it.method)
        if not verdict.allowed:
            raise _Failed("connection", f"{target.host}: {verdict.hint} ({verdict.reason})")
        bearer = await self._bearer(it.route)
        for address in addresses:
            retried = False
            while True:
                try:
                    async with self._client.send(it.method, target, address, _headers(it, bearer), it.body) as response:
                        if response.status_code == 401 and bearer is not None and not retried:
                            newer = await self._newer(bearer)
                            if newer is not None:
                                bearer, retried = newer, True
                                continue
                        await self._pass_on(it, response, bearer, side)
                        return
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    break  # nothing was sent: the next address may do better
                except httpx2.HTTPError as error:
                    it.taken = True
                    raise _Failed("connection", f"{target.host} broke off: {type(error).__name__}.") from error
        raise _Failed("connection", f"{target.host} can't be reached, or its certificate is not valid.")

    async def _bearer(self, route: McpRoute) -> Bearer | None:
        try:
            return await self._credentials.bearer_for(self._access.workspace, self._access.vault_ids, route.url)
        except Exception as error:
            _log.exception("egress.credential_unavailable", extra={"server": route.alias})
            raise _Failed("authentication", "The credential for this server can't be used; renew it.") from error

    async def _newer(self, bearer: Bearer) -> Bearer | None:
        try:
            return await self._credentials.rejected(bearer)
        except Exception as error:
            _log.exception("egress.credential_not_renewed", extra={"credential": bearer.credential_id})
            raise _Failed("authentication", "The credential for this server can't be renewed.") from error

    # ---------------------------------------------------------------------------------------------------- the answer

    async def _pass_on(self, it: _Exchange, response: httpx2.Response, bearer: Bearer | None, side: ClientSide) -> None:
        status, kind = response.status_code, response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if status in (401, 403):
            what = "refused the credential" if bearer is not None else "wants a credential, and no vault has one"
            raise _Failed("authentication", f"The server {what} (HTTP {status}).")
        if 300 <= status < 400:
            raise _Failed("connection", f"The server answered with a redirect (HTTP {status}); name its final address.")
        if status >= 500 or (status >= 400 and it.message.method == "initialize"):
            raise _Failed("connection", f"The server answered HTTP {status}.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Failed("connection", "The server compressed its answer, which was not asked for.")
        it.taken = status < 300  # a 4xx says that the call was not
        redactor = _redactor(bearer)
        headers = [
            (name.lower(), _whole(value, bearer)) for name, value in response.headers.raw if name.lower() in _DOWN
        ]
        if it.message.method == "tools/list" and status == 200:
            await self._list(it, kind, response, redactor, headers, side)
            return
        it.answered = True
        await side.say(http1.response_head(status, headers, chunked=True))
        size = 0
        async for data in _breathing(response.aiter_raw()):
            size += len(data)
            if size > self._limits.mcp_answer_bytes:
                raise _Failed("connection", f"An answer was larger than {self._limits.mcp_answer_bytes} bytes.")
            if clean := redactor.feed(data):
                await side.say(http1.chunk(clean))
        if rest := redactor.end():
            await side.say(http1.chunk(rest))
        await side.say(http1.LAST_CHUNK)
        side.finish()

    async def _list(
        self,
        it: _Exchange,
        kind: str,
        response: httpx2.Response,
        redactor: Redactor,
        headers: http1.Headers,
        side: ClientSide,
    ) -> None:
        """The list of tools, without those that the model must not see: read whole, since a part of it says nothing."""
        id_, whole, events, size = it.message.id, bytearray(), jsonrpc.Events(), 0
        answer: dict[str, Any] | None = None

        def look(texts: Sequence[bytes]) -> dict[str, Any] | None:
            return next((found for text in texts if (found := jsonrpc.answer_to(id_, text)) is not None), None)

        async for data in _breathing(response.aiter_raw()):
            size += len(data)
            if size > self._limits.mcp_answer_bytes:
                raise _Failed("connection", f"The list of tools is larger than {self._limits.mcp_answer_bytes} bytes.")
            if kind == _JSON:
                whole += redactor.feed(data)
            elif (answer := look(events.feed(redactor.feed(data)))) is not None:
                break  # the stream may stay open behind its answer
        if answer is None:
            rest = redactor.end()
            answer = look([bytes(whole) + rest] if kind == _JSON else [*events.feed(rest), *events.end()])
        if answer is None:
            raise _Failed("connection", "The server did not answer with a list of tools.")
        offered = jsonrpc.only_offered(answer, lambda tool: self._access.gate.offers(it.route.alias, tool))
        kept = [(name, value) for name, value in headers if name != b"content-type"]
        await _say(side, json.dumps(offered).encode(), kept)


async def _breathing(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces. A server can make so many small ones of what was read at once that nobody else would have a turn."""
    number = 0
    async for piece in pieces:
        yield piece
        number += 1
        if number % _PIECES == 0:
            await asyncio.sleep(0)


def _target(route: McpRoute) -> McpTarget:
    try:
        return parse_server(route.url)
    except BadTarget as bad:
        raise _Failed("connection", f"The address of the server can't be used: {bad}.") from bad


def _headers(it: _Exchange, bearer: Bearer | None) -> list[tuple[bytes, bytes]]:
    own = [(b"accept-encoding", b"identity"), (b"user-agent", b"hostler")]
    passed = [(name, value) for name, value in http1.end_to_end(it.headers) if name in _UP or name.startswith(b"mcp-")]
    secret = [] if bearer is None else [(b"authorization", f"Bearer {bearer.token}".encode())]
    return [*own, *passed, *secret]


def _check_mirrored(headers: http1.Headers, message: jsonrpc.Message) -> None:
    """Newer clients repeat method and tool in headers, for proxies on the way: the two must say the same."""
    said = {b"mcp-method": message.method, b"mcp-name": message.tool}
    for name, value in headers:
        if name in said and value.decode("latin-1") != (said[name] or "") and not value.startswith(b"=?base64?"):
            raise jsonrpc.BadMessage(f"the header {name.decode()} contradicts the body")


def _redactor(bearer: Bearer | None) -> Redactor:
    return Redactor(_forms(bearer))


def _forms(bearer: Bearer | None) -> Forms:
    return Forms({} if bearer is None else stand_ins(bearer.token, REDACTED))


def _whole(value: bytes, bearer: Bearer | None) -> bytes:
    return _forms(bearer).whole(value)


def _status(it: _Exchange) -> int:
    """An error is the answer to a request; to anything else only the status can say it."""
    return 200 if it.message.id is not None else 502


async def _say(side: ClientSide, body: bytes, headers: http1.Headers | None = None, *, status: int = 200) -> None:
    fields = [*(headers or []), (b"content-type", _JSON.encode()), (b"content-length", b"%d" % len(body))]
    await side.say(http1.response_head(status, fields, chunked=False) + body)
    side.finish()
