"""How does a webhook reach its endpoint, and no other place?

The URL comes from a customer, so it may point at this host, its network or a metadata service. The name is resolved
once, every address is judged, and the connection goes to an address that was judged: a name that changes in between
changes nothing. Redirects are an answer like any other, and of the answer only the status is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.engine.ports import WebhookTargetRefused, WebhookUnanswered

MAX_HEAD = 16 << 10
"""Bytes of an answer's head that are looked at for its status."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\r\n]*)?")


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """Where webhooks may go."""

    allow_http: bool = False
    ports: frozenset[int] = frozenset({443})
    """Ports of public addresses. At a private address that is allowed, every port is."""
    private_allowed: Sequence[str] = ()
    """Addresses, or networks such as `10.1.0.0/16`, that are not public and may be reached all the same."""
    deadline_seconds: float = 15.0
    """From the look-up of the name to the status of the answer."""


class HttpWebhookSender:
    """Implements `WebhookSender` with one connection for each request."""

    def __init__(self, rules: WebhookRules | None = None, *, resolver: Resolver | None = None) -> None:
        self._rules = rules or WebhookRules()
        self._private = [ipaddress.ip_network(text, strict=False) for text in self._rules.private_allowed]
        self._own_resolver = SystemResolver() if resolver is None else None
        self._resolver: Resolver = resolver or self._own_resolver  # type: ignore[assignment]
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        if self._own_resolver is not None:
            self._own_resolver.close()

    def check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._rules.allow_http):
            raise WebhookTargetRefused("must begin with https://")
        host = parts.hostname or ""
        if _is_address(host):
            self._judge(host, _port(parts))
        elif not self._private and _port(parts) not in self._rules.ports:
            raise WebhookTargetRefused(_refused_port(_port(parts), self._rules.ports))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.check(url)
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(self._rules.deadline_seconds):
                return await self._exchange(parts, _request(parts, headers, body))
        except TimeoutError:
            raise WebhookUnanswered(f"no answer within {self._rules.deadline_seconds:g} seconds") from None
        except ssl.SSLError as error:
            raise WebhookUnanswered(f"TLS failed: {error.reason or error}") from None
        except (OSError, UnicodeError) as error:
            raise WebhookUnanswered(f"can't be reached: {error}") from None

    async def _exchange(self, parts: SplitResult, request: bytes) -> int:
        host, port = parts.hostname or "", _port(parts)
        addresses = [host] if _is_address(host) else await self._resolver.resolve(host, port)
        for address in addresses:
            self._judge(address, port)
        reader, writer = await self._connect(addresses, port, host if parts.scheme == "https" else None)
        try:
            writer.write(request)
            await writer.drain()
            return await _status(reader)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def _connect(
        self, addresses: Sequence[str], port: int, tls_name: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError = OSError("the name has no address")
        context = None if tls_name is None else self._context()
        for address in addresses:
            try:
                return await asyncio.open_connection(
                    address, port, ssl=context, server_hostname=tls_name, limit=MAX_HEAD
                )
            except TimeoutError:
                raise
            except OSError as error:
                failure = error
        raise failure

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _judge(self, address: str, port: int) -> None:
        value = ipaddress.ip_address(address.partition("%")[0])
        if any(value in network for network in self._private):
            return
        if not is_public(address) or is_this_host(address):
            raise WebhookTargetRefused(
                f"{address} is not a public address; the operator can allow it with webhooks.private_allowed"
            )
        if port not in self._rules.ports:
            raise WebhookTargetRefused(_refused_port(port, self._rules.ports))


def _refused_port(port: int, allowed: frozenset[int]) -> str:
    return f"port {port} is not allowed; use {', '.join(map(str, sorted(allowed)))}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _port(parts: SplitResult) -> int:
    return parts.port if parts.port is not None else {"https": 443, "http": 80}[parts.scheme]


def _request(parts: SplitResult, headers: Mapping[str, str], body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"POST {target} HTTP/1.1",
        f"host: {parts.netloc}",
        "user-agent: hostler-webhooks",
        "accept: */*",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the final answer. Interim ones (1xx) are passed over."""
    read = 0
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise WebhookUnanswered("the connection ended before an answer came") from None
        found = _STATUS_LINE.fullmatch(line[:-2])
        if found is None:
            raise WebhookUnanswered("what came back is no HTTP/1.1 answer")
        status = int(found[1])
        if status >= 200:
            return status
        while line != b"\r\n":
            read += len(line)
            if read > MAX_HEAD:
                raise WebhookUnanswered("what came back is no HTTP/1.1 answer")
            try:
                line = await reader.readuntil(b"\r\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                raise WebhookUnanswered("the connection ended before an answer came") from None


__all__ = ["HttpWebhookSender", "WebhookRules"]
