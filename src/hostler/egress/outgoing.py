"""How does the server itself call an address that a client named, without being sent where it must not go?

Implements `engine.ports.Outgoing`. As on a session's egress road: the name is resolved once, every address is judged,
and the connection goes to an address that was judged. TLS is checked against the name. Plain http is for addresses
that the operator listed, and for no others. Redirects are answers, never followed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import httptools

from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.policy import BadTarget, Target, parse_authority
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.engine.ports import OutgoingAnswer, OutgoingFailed, OutgoingRequest

MAX_HEAD_BYTES: Final = 64 << 10
_PIECE: Final = 64 << 10


class OutgoingClient:
    """Keeps nothing between requests. `close` ends the threads of its own resolver."""

    def __init__(
        self,
        *,
        private_allowed: frozenset[str] = frozenset(),
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._private_allowed = private_allowed
        self._own_resolver: SystemResolver | None = None
        if resolver is None:
            resolver = self._own_resolver = SystemResolver()
        self._resolver = resolver
        self._tls = tls

    def close(self) -> None:
        if self._own_resolver is not None:
            self._own_resolver.close()

    async def send(
        self,
        request: OutgoingRequest,
        *,
        seconds: float,
        limit_bytes: int,
        enough: Callable[[bytes], bool] | None = None,
    ) -> OutgoingAnswer:
        try:
            async with asyncio.timeout(seconds):
                return await self._send(request, limit_bytes, enough)
        except TimeoutError:
            raise OutgoingFailed("timeout", f"no answer within {seconds:g} seconds") from None

    async def _send(
        self, request: OutgoingRequest, limit: int, enough: Callable[[bytes], bool] | None
    ) -> OutgoingAnswer:
        parts = urlsplit(request.url)
        secure = parts.scheme.lower() == "https"
        try:
            target = parse_authority(parts.netloc, default_port=443 if secure else 80)
        except BadTarget as bad:
            raise OutgoingFailed("bad_url", f"{bad}") from None
        addresses = await self._judged(target, secure)
        reader, writer = await self._connected(target, addresses, secure)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            writer.write(_head(request, path, parts.netloc) + request.body)
            await writer.drain()
            return await _answer(reader, limit, enough)
        except (ConnectionError, ssl.SSLError, EOFError) as error:
            raise OutgoingFailed("broken", f"the connection broke ({type(error).__name__})") from None
        finally:
            writer.transport.abort()

    async def _judged(self, target: Target, secure: bool) -> Sequence[str]:
        addresses: Sequence[str] = (target.host,)
        if not target.is_address or target.host not in self._private_allowed:
            try:
                addresses = await self._resolver.resolve(target.host, target.port)
            except (OSError, UnicodeError):
                addresses = ()
        if not addresses:
            raise OutgoingFailed("unresolvable", f"the name {target.host} has no address")
        for address in addresses:
            if address in self._private_allowed:
                continue
            if not is_public(address) or is_this_host(address):
                raise OutgoingFailed("private_address", f"{target.host} is not a public address")
            if not secure:
                raise OutgoingFailed("plain_http", f"{target.host} can only be called with https")
        return addresses

    async def _connected(
        self, target: Target, addresses: Sequence[str], secure: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure = OutgoingFailed("unreachable", f"{target.host} port {target.port} doesn't answer")
        for address in addresses:
            try:
                if secure:
                    return await asyncio.open_connection(
                        address, target.port, ssl=self._trust(), server_hostname=target.host
                    )
                return await asyncio.open_connection(address, target.port)
            except ssl.SSLError:
                failure = OutgoingFailed("tls", f"{target.host} has no certificate that this server trusts")
            except OSError:
                continue
        raise failure

    def _trust(self) -> ssl.SSLContext:
        """Read at the first need: that takes longer than anything else here, and a server may never call out."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


def _head(request: OutgoingRequest, path: str, authority: str) -> bytes:
    """The request's head. What could begin a line of its own is refused, whoever let it come this far."""
    headers = {
        "Host": authority,
        "User-Agent": "hostler",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    if request.body or request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(not line.isprintable() or not line.isascii() for line in lines):
        raise OutgoingFailed("bad_request", "the request holds characters that can't be sent in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class _Parsed:
    """What the parser has found so far."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.head_done = False
        self.done = False
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @property
    def ends_with_connection(self) -> bool:
        return self.head_done and "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.done:  # What follows a whole answer is nobody's.
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # Only a promise of an answer.
            self.headers = {}
        else:
            self.head_done = True

    def on_body(self, data: bytes) -> None:
        if not self.done:
            self.body += data

    def on_message_complete(self) -> None:
        self.done = self.done or self.head_done


async def _answer(reader: asyncio.StreamReader, limit: int, enough: Callable[[bytes], bool] | None) -> OutgoingAnswer:
    parsed, received = _Parsed(), 0
    while not parsed.done:
        data = await reader.read(_PIECE)
        if not data:
            if parsed.ends_with_connection:
                break
            raise EOFError
        received += len(data)
        try:
            parsed.feed(data)
        except httptools.HttpParserError:
            if not parsed.done:
                raise OutgoingFailed("bad_answer", "the answer is not HTTP") from None
        if not parsed.head_done and received > MAX_HEAD_BYTES:
            raise OutgoingFailed("bad_answer", "the head of the answer is too long")
        if len(parsed.body) > limit or (
            not parsed.done and enough is not None and parsed.head_done and enough(bytes(parsed.body))
        ):
            return OutgoingAnswer(parsed.status, parsed.headers, bytes(parsed.body[:limit]), truncated=True)
    return OutgoingAnswer(parsed.status, parsed.headers, bytes(parsed.body), truncated=False)
