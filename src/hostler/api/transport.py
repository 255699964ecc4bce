"""What holds for every request, before any route is looked at?

Pure ASGI, outermost first: `Transport` (request id, response headers, size limit, errors to envelopes), `Guard` (no web
page may use this server: E3), `Authentication`. None of them buffers a response.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hostler.api.body import BodyTimeout
from hostler.api.context import Caller
from hostler.api.descriptions import DOCUMENTS
from hostler.api.errors import Answer, answer, plain_answer, stopped
from hostler.api.throttle import Throttle
from hostler.domain.errors import HostlerError, InvalidRequest, PermissionDenied, TooLarge, Unauthenticated
from hostler.domain.ids import new_id
from hostler.domain.principals import Principal
from hostler.engine.about import about
from hostler.engine.keys import Keys

log = logging.getLogger("hostler.api")

MAX_BODY_BYTES: Final = 32 << 20
DRAIN_BYTES: Final = 64 << 20
"""How much of a refused body is still read, so that the client sees the answer instead of a reset connection."""
DRAIN_SECONDS: Final = 10.0
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", *DOCUMENTS})
"""Paths that need no key. They tell that the server runs, and what the documentation says."""


RequestWatch = Callable[[str | None, int, float | None], None]
"""Told of each request that was answered: what it came to (None: to nothing), the status, and the seconds that it took
(None: it was a stream)."""


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


class Transport:
    """Gives every request an id and every failure an envelope. Sees every exception; nothing passes it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        organization_id: str,
        larger_bodies: Mapping[tuple[str, re.Pattern[str]], int],
        watch: RequestWatch | None = None,
    ) -> None:
        """`larger_bodies`: how many bytes the body may have where it may have more than others, by verb and path."""
        self._app = app
        self._watch = watch
        self._organization = organization_id.encode()
        self._larger = dict(larger_bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._watch is None:
            await self._serve(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._serve(scope, receive, noted_send)
        finally:
            if status:  # else the client has gone
                endpoint = scope["hostler.caller"].endpoint
                streams = endpoint is not None and endpoint.endswith(".stream")
                self._watch(endpoint, status, None if streams else time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = _headers(scope, b"anthropic-version")
        caller = Caller(request_id=new_id("req"), old_generation=version == ["2023-06-01"])
        about().request_id = caller.request_id
        scope["hostler.caller"] = caller
        started = False
        received = 0
        most = self._most(scope)

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > most:
                    raise _too_large(most)
            return message

        async def marked_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = [
                    (b"request-id", caller.request_id.encode()),
                    (b"anthropic-organization-id", self._organization),
                ]
                if caller.known is not None:
                    extra.append((b"anthropic-workspace-id", caller.known.workspace.encode()))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            for length in _headers(scope, b"content-length"):
                if not length.isdigit() or len(length) > 12 or int(length) > most:
                    raise _too_large(most)
            await self._app(scope, limited_receive, marked_send)
            return
        except HostlerError as error:
            result = answer(error, caller.request_id)
            if isinstance(error, TooLarge):
                await _drain(receive)
            if result.status == 500:
                self._report(scope, caller)
        except HTTPException as error:
            result = _routing_answer(error, scope, caller)
        except BodyTimeout:
            result = plain_answer(
                408, "timeout_error", "The request body did not arrive in time.", caller.request_id,
                headers=((b"connection", b"close"),),
            )  # fmt: skip
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops, and has waited for as long as it may
            if not started:
                await _answer(marked_send, stopped(scope["method"], caller.request_id))
            raise
        except Exception:
            self._report(scope, caller)
            result = plain_answer(500, "api_error", "Internal server error.", caller.request_id)
        if not started:
            await _answer(marked_send, result)

    def _most(self, scope: Scope) -> int:
        for (verb, path), most in self._larger.items():
            if scope["method"] == verb and path.fullmatch(scope["path"]):
                return most
        return MAX_BODY_BYTES

    @staticmethod
    def _report(scope: Scope, caller: Caller) -> None:
        # The path holds ids, never secrets; query and body are left out.
        log.exception(
            "request_failed",
            extra={"request_id": caller.request_id, "method": scope["method"], "path": scope["path"]},
        )


class Guard:
    """Refuses what a web page could have caused (E3). There are no CORS headers anywhere."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: frozenset[str] | None) -> None:
        self._app = app
        self._allowed = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = _headers(scope, b"host")
            if len(hosts) != 1:
                raise InvalidRequest("send exactly one Host header")
            host = hosts[0]
            # DNS rebinding: a foreign name that resolves to this machine still shows in the Host header.
            if self._allowed is not None and not _answers_to(self._allowed, host):
                raise PermissionDenied(
                    f"this server does not answer to the host {host[:100]!r}; call it by its own name or allow this one"
                )
            for origin in _headers(scope, b"origin"):
                if _place(origin) != host.lower():
                    raise PermissionDenied("requests from web pages of other origins are refused")
            if any(site.lower() in ("cross-site", "same-site") for site in _headers(scope, b"sec-fetch-site")):
                raise PermissionDenied("requests from web pages of other origins are refused")
        await self._app(scope, receive, send)


class Authentication:
    """Finds whose secret it is, from `Authorization: Bearer` or `x-api-key`. Raises Unauthenticated.

    How often it may call is decided here, what it may call at its route (`api.access`). Known keys are remembered for a
    second: a revocation and an expiry are felt within that time. Unknown ones are asked for every time, so that a new
    key works at once.
    """

    REMEMBER_SECONDS: Final = 1.0
    REMEMBER_KEYS: Final = 10_000

    def __init__(self, app: ASGIApp, *, keys: Keys, throttle: Throttle) -> None:
        self._app = app
        self._keys = keys
        self._throttle = throttle
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            caller: Caller = scope["hostler.caller"]
            caller.known = await self._principal(_secret(scope))
            about().workspace_id = caller.workspace
            asked = _headers(scope, b"anthropic-workspace-id")
            if any(name != caller.workspace for name in asked):
                raise PermissionDenied("this key belongs to another workspace than anthropic-workspace-id names")
            await self._throttle.admit(caller.principal, scope["method"])
        await self._app(scope, receive, send)

    async def _principal(self, secret: str) -> Principal:
        digest = hashlib.sha256(secret.encode("latin-1", "replace")).digest()
        now = time.monotonic()
        known = self._known.get(digest)
        if known is not None and known[1] > now:
            return known[0]
        self._known.pop(digest, None)
        principal = await self._keys.principal_of(secret)
        if principal is None:
            raise Unauthenticated("nobody knows this API key; make one with `hostler key create`")
        self._known[digest] = (principal, now + self.REMEMBER_SECONDS)
        while len(self._known) > self.REMEMBER_KEYS:
            self._known.popitem(last=False)
        return principal


def _secret(scope: Scope) -> str:
    found = [name.strip() for name in _headers(scope, b"x-api-key")]
    for value in _headers(scope, b"authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("send the API key as `Authorization: Bearer <key>` or `x-api-key: <key>`")
        found.append(token.strip())
    secrets = {secret for secret in found if secret}
    if not secrets:
        raise Unauthenticated("an API key is needed: send `Authorization: Bearer <key>` or `x-api-key: <key>`")
    if len(secrets) > 1:
        raise Unauthenticated("two different API keys were sent; send one")
    return secrets.pop()


def _place(origin: str) -> str | None:
    """Host and port; None: it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _answers_to(allowed: frozenset[str], host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname if "@" not in host and "/" not in host else None
    except ValueError:
        return False
    if name is None:
        return False
    if name in allowed:
        return True
    try:
        return "127.0.0.1" in allowed and ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the request body is larger than {most >> 20} MiB")


def _routing_answer(error: HTTPException, scope: Scope, caller: Caller) -> Answer:
    shown = f"{scope['method']} {scope['path'][:200]}"
    extra = tuple((key.lower().encode(), value.encode()) for key, value in (error.headers or {}).items())
    match error.status_code:
        case 404:
            return plain_answer(404, "not_found_error", f"{shown} is not an endpoint of this API.", caller.request_id)
        case 405:
            message = f"{shown} is not allowed; see the Allow header."
            return plain_answer(405, "invalid_request_error", message, caller.request_id, headers=extra)
        case status:
            return plain_answer(status, "invalid_request_error", "The request can't be read.", caller.request_id)


async def _answer(send: Send, result: Answer) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(result.body)).encode()),
        *result.headers,
    ]
    await send({"type": "http.response.start", "status": result.status, "headers": headers})
    await send({"type": "http.response.body", "body": result.body})


async def _drain(receive: Receive) -> None:
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return
