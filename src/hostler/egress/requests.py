"""How does a request that the proxy can read get its answer?

Judged by host, port, method and path; recorded; then made anew for the server, with secrets in the place of
placeholders. The body of a small request that has secrets in it is read first, so that its length can be said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hostler.domain.values import sentence
from hostler.egress import http1
from hostler.egress.connection import ClientSide
from hostler.egress.deciding import UNRECORDED, Decider, denial
from hostler.egress.exchange import Exchange
from hostler.egress.heads import BodyTooLarge, Head
from hostler.egress.metering import Traffic
from hostler.egress.policy import BadTarget, Target, Verdict, parse_authority
from hostler.egress.tunnel import ClientEnd, End
from hostler.egress.upstream import Origin, Unreachable, UpstreamConnection, UpstreamPool
from hostler.egress.websocket import FrameFilter
from hostler.engine.egress_port import RequestHead, RoadSecrets, SecretExchange, SecretRefused

_log = logging.getLogger("hostler.egress")

_SMALL_BODY = 256 << 10
"""Bytes of a body that is read before it is sent, when a filter may change its length."""
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


@dataclass(slots=True, eq=False)
class Subject:
    """What a request is about. One for all requests inside of a tunnel: `path` is None there, since the request's own
    target is the path, and `addresses` are those that were judged when the tunnel was."""

    origin: Origin
    target: Target
    path: str | None
    addresses: Sequence[str] | None
    authority: bytes = field(init=False)
    """For its Host header."""

    def __post_init__(self) -> None:
        self.authority = self.origin.authority


@dataclass(slots=True)
class _Outgoing:
    method: bytes
    target: bytes
    headers: http1.Headers
    secret: SecretExchange | None = None


class _Denied(Exception):
    def __init__(self, verdict: Verdict, status: int = 403) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict
        self.status = status


class RequestMaker:
    """Makes the requests of one session."""

    def __init__(
        self,
        decider: Decider,
        pool: UpstreamPool,
        secrets: RoadSecrets | None,
        traffic: Traffic,
        adopt: Callable[[asyncio.Transport], ClientEnd],
    ) -> None:
        self._decider = decider
        self._pool = pool
        self._secrets = secrets
        self._traffic = traffic
        self._adopt = adopt

    async def serve(self, subject: Subject, head: Head, side: ClientSide) -> None:
        origin, method = subject.origin, head.method.decode("ascii", "replace")
        path = subject.path or ""
        try:
            if subject.path is None:
                path = _path_inside(head, subject)
            verdict, addresses = await self._judge(subject, head, method, path)
            going = await self._with_secrets(subject, head, method, path, addresses)
            outgoing, body, chunked = await self._outgoing(subject.authority, head, going, side)
            if not await self._decider.record(method, origin.host, origin.port, verdict, path):
                side.answer(UNRECORDED)
                return
        except _Denied as denied:
            verdict = denied.verdict
            if not await self._decider.record(method, origin.host, origin.port, verdict, path):
                side.answer(UNRECORDED)
                return
            side.answer(denial(f"{origin.host}:{origin.port}", verdict, denied.status))
            return
        except ConnectionResetError:
            side.transport.abort()
            return
        await self._forward(origin, addresses, head, going, outgoing, body, chunked, side, path)

    # ------------------------------------------------------------------------------------------------------ decisions

    async def _judge(self, subject: Subject, head: Head, method: str, path: str) -> tuple[Verdict, Sequence[str]]:
        if self._traffic.exhausted is not None:
            raise _Denied(self._traffic.exhausted)
        target = subject.target
        verdict = self._decider.policy.judge_request(target, method, path)
        if verdict.inside and any(name in http1.OVERRIDES for name, _ in head.headers):
            names = sorted(name.decode() for name, _ in head.headers if name in http1.OVERRIDES)
            hint = f"Leave out {', '.join(names)}: a rule with methods or paths is for what the first line says."
            raise _Denied(Verdict(False, "override_header", hint))
        addresses = subject.addresses
        if verdict.allowed and addresses is None:
            verdict, addresses = await self._decider.judge_addresses(
                verdict, target.host, target.port, is_address=target.is_address
            )
        if not verdict.allowed:
            raise _Denied(verdict, 502 if verdict.reason == "unresolvable" else 403)
        return verdict, addresses or ()

    async def _with_secrets(
        self, subject: Subject, head: Head, method: str, path: str, addresses: Sequence[str]
    ) -> _Outgoing:
        going = _Outgoing(head.method, path.encode("ascii"), head.headers)
        if self._secrets is None:
            return going
        origin = subject.origin
        own = self._decider.own_network(addresses)
        asked = RequestHead(method, origin.scheme, origin.host, origin.port, going.target, tuple(head.headers), own)
        try:
            going.secret = await self._secrets.begin(asked)
        except SecretRefused as refused:
            raise _Denied(Verdict(False, refused.reason, str(refused))) from refused
        except Exception as error:
            _log.exception("egress.secret_unavailable", extra={"session_id": self._decider.session_id})
            hint = "A secret that may belong into this request can't be used now; the server's log says why."
            raise _Denied(Verdict(False, "secret_unavailable", hint)) from error
        if going.secret is None:
            return going
        changed = going.secret.head
        going.target, going.headers = changed.target, list(changed.headers)
        if head.upgrade:  # A compressed frame of the answer couldn't be read.
            going.headers = [field for field in going.headers if field[0] != b"sec-websocket-extensions"]
        if changed.target != asked.target:
            text = changed.target.decode("latin-1")
            again = self._decider.policy.judge_request(subject.target, method, text)
            if not again.allowed:
                raise _Denied(Verdict(False, again.reason, "With its secret the path leaves what the rule allows."))
        return going

    async def _outgoing(
        self, authority: bytes, head: Head, going: _Outgoing, side: ClientSide
    ) -> tuple[bytes, bytes | None, bool]:
        """Head, the body if it was read already, and whether it is to be chunked otherwise."""
        chunked, body, length = http1.is_chunked(head.headers), None, None
        body_filter = None if going.secret is None else going.secret.body
        if body_filter is not None:
            announced = int(http1.value_of(head.headers, b"content-length") or 0)
            length = -1 if chunked or announced else None
            if 0 < announced <= _SMALL_BODY:
                try:
                    whole = await side.collect(_SMALL_BODY)
                except BodyTooLarge as error:  # Can't be: the length was announced.
                    raise ConnectionResetError from error
                body = body_filter.feed(whole) + body_filter.end()
                length = len(body)
        try:
            outgoing = http1.request_head(
                going.method, authority, going.target, going.headers, length=length, upgrade=head.upgrade
            )
        except ValueError as error:
            hint = f"With its secret put in, {error}." if going.secret is not None else f"{error}."
            raise _Denied(Verdict(False, "unsafe_request", hint), 403) from error
        return outgoing, body, chunked or length == -1

    # ------------------------------------------------------------------------------------------------------- the way

    async def _forward(
        self,
        origin: Origin,
        addresses: Sequence[str],
        head: Head,
        going: _Outgoing,
        outgoing: bytes,
        body: bytes | None,
        chunked: bool,
        side: ClientSide,
        path: str,
    ) -> None:
        fresh = head.upgrade
        while True:
            try:
                connection = await self._pool.take(origin, addresses, fresh=fresh)
            except Unreachable as problem:
                side.answer(http1.own_answer(502, "failed", "unreachable", f"Hostler: {problem}\n"))
                return
            exchange = Exchange(
                side, head, connection, secret=going.secret, chunked=chunked, body=body, switch=self._switch
            )
            reused = connection.reused
            try:
                outcome = await exchange.run(outgoing)
            except BaseException:
                connection.abort()
                raise
            if exchange.refusal is not None:
                await self._refused(origin, head, exchange.refusal, side, path)
                return
            if outcome != "lost":
                return
            if not (reused and _is_repeatable(head)):
                break
            fresh = True  # The server had closed a connection that it kept; nothing was answered.
        text = f"Hostler: {origin.host}:{origin.port} ended the connection, or did not answer in HTTP.\n"
        side.answer(http1.own_answer(502, "failed", "bad_answer", text))

    async def _refused(self, origin: Origin, head: Head, refusal: SecretRefused, side: ClientSide, path: str) -> None:
        """Request or answer were broken off on the way."""
        verdict = Verdict(False, refusal.reason, str(refusal))
        method = head.method.decode("ascii", "replace")
        recorded = await self._decider.record(method, origin.host, origin.port, verdict, path)
        if not side.transport.is_closing():
            side.answer(denial(f"{origin.host}:{origin.port}", verdict, 403) if recorded else UNRECORDED)

    def _switch(self, exchange: Exchange, headers: http1.Headers, rest: bytes) -> None:
        """The server has agreed to a WebSocket: from here on bytes are passed on as they are."""
        side, secret = exchange.side, exchange.secret
        target = End()
        if secret is not None:
            shown, filtered = secret.answer(101, headers)
            headers = list(shown)
            if filtered is not None:
                target.change = FrameFilter(lambda: secret.answer(101, headers)[1])
        client = self._adopt(side.transport)
        side.write(http1.switching_head(headers))
        early = side.hand_over(client)
        connection: UpstreamConnection = exchange.connection
        target.transport = connection.hand_over(target)
        client.join(target)
        if rest:
            target.data_received(rest)
        if early:
            client.data_received(early)
        for end in (client, target):
            if not end.transport.is_closing():
                end.transport.resume_reading()


def _is_repeatable(head: Head) -> bool:
    names = {name for name, _ in head.headers}
    return head.method in _REPEATABLE and not names & {b"content-length", b"transfer-encoding"}


def _path_inside(head: Head, subject: Subject) -> str:
    """The path of a request to a server, once it is clear that it is for this one."""
    problem = head.problem
    host = http1.value_of(head.headers, b"host")
    if problem is None and head.is_connect:
        problem = "there are no tunnels inside of a tunnel"
    elif problem is None and not head.target.startswith(b"/") and head.target != b"*":
        problem = "inside of a tunnel a request names its path only"
    elif problem is None and host is None:
        problem = "there is no Host header"
    if problem is not None or host is None:
        raise _Denied(Verdict(False, "bad_request", f"{sentence(str(problem))}."), 400)
    if host == subject.authority:  # To the letter, as it would be sent: nothing to be read in it.
        return head.target.decode("latin-1")
    origin = subject.origin
    try:
        named = parse_authority(
            host.decode("ascii", "replace").strip(), default_port=443 if origin.scheme == "https" else 80
        )
    except BadTarget as bad:
        raise _Denied(Verdict(False, "bad_request", f"In the Host header, {bad}."), 400) from bad
    if (named.host, named.port) != (origin.host, origin.port):
        hint = f'The tunnel was asked for "{origin.host}", the request in it is for "{named.host}".'
        raise _Denied(Verdict(False, "host_header_mismatch", f"{hint} Ask for a tunnel to that host."))
    return head.target.decode("latin-1")
