"""Who is let through to a port of a session, and what passes?

A door listens for HTTP on an address of its own. The first word of the host name says which preview is meant; a secret,
in the link, a cookie or a header, says that the sender may. Each preview is thereby an origin of its own in a browser:
what one session serves can't read what another does, nor the API. The secret never goes into the sandbox.
"""

from __future__ import annotations

import asyncio
import html
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

import h11

from hostler.domain.errors import HostlerError
from hostler.engine.preview_port import PreviewRefused, PreviewTarget, PreviewTargets
from hostler.previews.inside import Inside, NotInside, connect

log = logging.getLogger("hostler.previews")

SECRET: Final = "hostler-preview"
"""Name of the query parameter and of the cookie."""
SECRET_HEADER: Final = b"x-hostler-preview"
HEAD_BYTES = 64 << 10
HEAD_SECONDS = 20.0
IDLE_SECONDS = 3600.0
CONNECTIONS = 256
"""Open ones of this server, all previews together."""
UNHEARD = 64
"""As many more are told that there are too many. What is beyond is dropped before it has said anything."""
CLOSE_SECONDS = 5.0
"""What was sent last may take so long to leave."""
PIECE = 64 << 10
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"upgrade"}
)
Headers = Sequence[tuple[bytes, bytes]]


class _Refusal(Exception):
    """What the sender is told instead of an answer from inside."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(title)
        self.status, self.title, self.text = status, title, text


class PreviewDoor:
    """`open` once, `close` once."""

    def __init__(self, targets: PreviewTargets) -> None:
        self._targets = targets
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=PIECE)

    async def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._serving) <= CONNECTIONS + UNHEARD:
                await self._serve(reader, writer)
            else:
                writer.transport.abort()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # whoever was there has gone, or speaks something else
        except Exception:
            log.exception("preview_broke")
        finally:
            writer.close()
            try:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await writer.wait_closed()
            finally:
                writer.transport.abort()  # for whoever does not read it
                self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        while True:
            async with asyncio.timeout(HEAD_SECONDS):
                request = await _next(wire, reader)
            if not isinstance(request, h11.Request):
                return
            try:
                if len(self._serving) > CONNECTIONS:
                    raise _Refusal(503, "Too many connections", "Close some of those that are open, and try again.")
                await self._pass(wire, request, reader, writer)
            except _Refusal as refusal:
                async with asyncio.timeout(HEAD_SECONDS):
                    await _say(wire, writer, refusal)
                return
            if wire.our_state is not h11.DONE or wire.their_state is not h11.DONE:
                return
            wire.start_next_cycle()

    async def _pass(
        self, wire: h11.Connection, request: h11.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        headers = dict(request.headers)
        target = await self._admitted(wire, request, headers, writer)
        if target is None:
            return
        entrance = self._targets.entrance(target.session_id)
        if entrance is None:
            raise _Refusal(
                503,
                "The session sleeps",
                "Its programs have ended with its process. Send it a message, let it start them again, and reload.",
            )
        with self._targets.visit(target.session_id):
            try:
                inside = await connect(entrance, target.port)
            except NotInside as nobody:
                raise _Refusal(
                    502, "Nobody answers", f"{nobody}. Let the session start its server, and reload."
                ) from nobody
            try:
                async with asyncio.timeout(target.seconds_left):
                    await _Exchange(wire, reader, writer, inside).run(request, target.port)
            finally:
                await inside.close()

    async def _admitted(
        self, wire: h11.Connection, request: h11.Request, headers: dict[bytes, bytes], writer: asyncio.StreamWriter
    ) -> PreviewTarget | None:
        """The target. None: the sender was told to come again, with a cookie."""
        label = headers.get(b"host", b"").decode("latin-1").partition(".")[0].lower()
        path, _, query = request.target.decode("latin-1").partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        in_link = next((value for name, value in pairs if name == SECRET), None)
        secret = in_link or headers.get(SECRET_HEADER, b"").decode("latin-1") or _cookie(headers)
        try:
            target = await self._targets.target(label, secret)
        except PreviewRefused as refused:
            raise {
                "unknown": _Refusal(404, "No such preview", "Ask for a new link."),
                "secret": _Refusal(401, "This preview needs its link", "Open the whole link that you were given."),
                "over": _Refusal(410, "This preview is over", "It has expired or was revoked. Ask for a new link."),
            }[refused.why] from None
        except HostlerError as error:
            raise _Refusal(503, "Not now", error.message) from error
        if in_link is None or request.method not in (b"GET", b"HEAD"):
            return target
        # So that the secret is in no address that the pages inside can see, or tell somebody as a referrer.
        rest = urlencode([(name, value) for name, value in pairs if name != SECRET])
        cookie = f"{SECRET}={in_link}; Path=/; HttpOnly; SameSite=Lax; Max-Age={int(target.seconds_left)}"
        if headers.get(b"x-forwarded-proto") == b"https":
            cookie += "; Secure"
        location = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")
        found: Headers = [
            (b"location", location.encode("latin-1")),
            (b"set-cookie", cookie.encode("latin-1")),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"0"),
        ]
        async with asyncio.timeout(HEAD_SECONDS):
            await _send(wire, writer, h11.Response(status_code=302, headers=list(found)), h11.EndOfMessage())
        return None


class _Exchange:
    """One request and its answer, or what a connection becomes when both sides agree on another protocol."""

    def __init__(
        self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inside: Inside
    ) -> None:
        self._wire, self._reader, self._writer, self._inside = wire, reader, writer, inside
        self._there = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)

    async def run(self, request: h11.Request, port: int) -> None:
        switching = _upgrade(request.headers)
        sent = h11.Request(
            method=request.method, target=_target(request.target), headers=_inwards(request.headers, port, switching)
        )
        await _send(self._there, self._inside.writer, sent)
        sending = asyncio.create_task(self._send_body())
        try:
            await self._answer(switching)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if self._wire.our_state is h11.SWITCHED_PROTOCOL:
            await self._relay()

    async def _send_body(self) -> None:
        with suppress(OSError):  # whoever is inside may have answered and gone before it has heard all
            while True:
                event = await _next(self._wire, self._reader)
                if isinstance(event, h11.Data):
                    await _send(self._there, self._inside.writer, event)
                elif isinstance(event, h11.EndOfMessage):
                    await _send(self._there, self._inside.writer, h11.EndOfMessage())
                    return
                else:
                    return

    async def _answer(self, switching: bytes | None) -> None:
        begun = False
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    event = await _next(self._there, self._inside.reader)
            except h11.RemoteProtocolError as error:
                if begun:
                    raise
                raise _Refusal(502, "No HTTP", f"What listens there does not speak HTTP: {error}.") from error
            match event:
                case h11.InformationalResponse(status_code=101) if switching is not None:
                    headers = [*_outwards(event.headers), (b"connection", b"upgrade"), (b"upgrade", switching)]
                    await _send(self._wire, self._writer, h11.InformationalResponse(status_code=101, headers=headers))
                    return
                case h11.InformationalResponse():
                    if event.status_code != 101:
                        await _send(self._wire, self._writer, event)
                case h11.Response():
                    begun = True
                    answer = h11.Response(
                        status_code=event.status_code, reason=event.reason, headers=_outwards(event.headers)
                    )
                    await _send(self._wire, self._writer, answer)
                case h11.Data():
                    await _send(self._wire, self._writer, h11.Data(data=event.data))
                case h11.EndOfMessage():
                    await _send(self._wire, self._writer, h11.EndOfMessage(headers=_outwards(event.headers)))
                    return
                case _:
                    if not begun:
                        raise _Refusal(502, "No answer", "What listens there closed the connection without an answer.")
                    return

    async def _relay(self) -> None:
        """Bytes both ways, until one side is at its end."""
        for first, writer in ((self._wire, self._inside.writer), (self._there, self._writer)):
            data, _ = first.trailing_data
            writer.write(data)
            await writer.drain()
        async with asyncio.TaskGroup() as tasks:
            ways = [
                tasks.create_task(_copy(self._reader, self._inside.writer)),
                tasks.create_task(_copy(self._inside.reader, self._writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()


# ------------------------------------------------------------------------------------------------------------- helpers


async def _next(wire: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    """None: the other side waits for our part, or has another protocol to speak."""
    while True:
        event = wire.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            return None
        wire.receive_data(await reader.read(PIECE))


async def _send(wire: h11.Connection, writer: asyncio.StreamWriter, *events: h11.Event) -> None:
    for event in events:
        data = wire.send(event)
        if data:
            writer.write(data)
    await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


async def _say(wire: h11.Connection, writer: asyncio.StreamWriter, refusal: _Refusal) -> None:
    if wire.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    title, text = html.escape(refusal.title), html.escape(refusal.text)
    body = f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1><p>{text}</p>\n".encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"content-security-policy", b"default-src 'none'"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    response = h11.Response(status_code=refusal.status, headers=headers)
    await _send(wire, writer, response, h11.Data(data=body), h11.EndOfMessage())


def _cookie(headers: dict[bytes, bytes]) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(SECRET)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _upgrade(headers: Headers) -> bytes | None:
    """The protocol that the sender wants to go on with."""
    asked = dict(headers)
    tokens = [token.strip().lower() for token in asked.get(b"connection", b"").split(b",")]
    return asked.get(b"upgrade") if b"upgrade" in tokens else None


def _target(target: bytes) -> bytes:
    """Without the secret, which a program may send in the address as well."""
    path, mark, query = target.partition(b"?")
    if SECRET.encode() not in query:
        return target
    kept = [part for part in query.split(b"&") if part.partition(b"=")[0] != SECRET.encode()]
    return path + (mark + b"&".join(kept) if kept else b"")


def _inwards(headers: Headers, port: int, switching: bytes | None) -> list[tuple[bytes, bytes]]:
    """As if the sender had asked the port directly: development servers refuse names that they don't know."""
    asked = dict(headers)
    host = asked.get(b"host", b"")
    ours = f"localhost:{port}".encode()
    sent: list[tuple[bytes, bytes]] = [(b"host", ours), (b"x-forwarded-host", host)]
    for name, value in headers:
        if name in _HOP_BY_HOP or name in (b"host", b"x-forwarded-host", SECRET_HEADER):
            continue
        if name == b"cookie":
            pieces = [piece.strip() for piece in value.split(b";")]
            value = b"; ".join(piece for piece in pieces if piece.partition(b"=")[0] != SECRET.encode())
            if not value:
                continue
        if name in (b"origin", b"referer"):
            for scheme in (b"http://", b"https://"):
                if value == scheme + host or value.startswith(scheme + host + b"/"):
                    value = b"http://" + ours + value[len(scheme + host) :]
        sent.append((name, value))
    if switching is not None:
        return [*sent, (b"connection", b"upgrade"), (b"upgrade", switching)]
    return [*sent, (b"connection", b"close")]


def _outwards(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP]
