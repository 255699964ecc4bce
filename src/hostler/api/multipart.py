"""How is a form with files read, without ever holding a file in memory? Part by part, as the bytes arrive.

`parts` gives one part after the other; the bytes of a part are read from it before the next part is asked for. What a
slow client may cost is bounded: it must send at least a few kilobytes a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from hostler.api.body import READ_SECONDS, BodyTimeout
from hostler.domain.errors import InvalidRequest

LEAST_BYTES_PER_SECOND: Final = 8 << 10
"""What is slower than this, after the first minute, holds a connection for nothing."""
MAX_FIELD_BYTES: Final = 64 << 10
"""Of a part that is not a file."""


class Part:
    """One part of the form."""

    def __init__(self, reader: _Reader, headers: dict[bytes, bytes]) -> None:
        self._reader = reader
        kind, options = parse_options_header(headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest("a part of the form has no name; send Content-Disposition: form-data; name=…")
        self.name = options[b"name"].decode("utf-8", "replace")
        file = options.get(b"filename")
        self.filename = None if file is None else file.decode("utf-8", "replace")
        """As it was sent; None for a plain field."""
        sent = headers.get(b"content-type")
        self.content_type = None if sent is None else sent.decode("latin-1")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, as they arrive. Raises what reading the request raises."""
        while True:
            event = await self._reader.next()
            if not isinstance(event, bytes):
                assert event == "part_end", "a part ends before the next begins"
                return
            yield event

    async def text(self) -> str:
        """The value of a plain field. Raises InvalidRequest when it is long, or not UTF-8."""
        value = bytearray()
        async for chunk in self.chunks():
            value += chunk
            if len(value) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"{self.name[:100]}: is longer than {MAX_FIELD_BYTES} bytes")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name[:100]}: is not UTF-8") from None


async def parts(request: Request) -> AsyncIterator[Part]:
    """The parts of a multipart/form-data request, in order. Read each to its end, then ask for the next.

    Raises InvalidRequest for what is no such form, TooLarge (by the transport), BodyTimeout, ClientDisconnect.
    """
    reader = _Reader(request)
    while True:
        event = await reader.next()
        if event == "end":
            return
        assert isinstance(event, dict), "the part before was not read to its end"
        yield Part(reader, event)


class _Reader:
    """What the parser found, one event after the other: headers, bytes, `part_end`, `end`."""

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            shown = kind.decode("latin-1")[:100] or "missing"
            raise InvalidRequest(f"content-type is {shown!r}; send multipart/form-data with a boundary")
        self._stream = request.stream()
        self._events: deque[dict[bytes, bytes] | bytes | str] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = b"", b""
        self._ended = False
        self._received = 0
        self._began = asyncio.get_running_loop().time()
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._headers.clear,
                    "on_part_data": lambda data, start, end: self._events.append(bytes(data[start:end])),
                    "on_part_end": lambda: self._events.append("part_end"),
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": lambda: self._events.append(dict(self._headers)),
                    "on_end": self._on_end,
                },
                max_header_count=16,
                max_header_size=8_192,
            )
        except FormParserError:
            raise InvalidRequest("the boundary of the form is longer than 256 characters") from None

    async def next(self) -> dict[bytes, bytes] | bytes | str:
        while not self._events:
            chunk = await self._read()
            if chunk is None:
                if self._ended:
                    self._events.append("end")
                    break
                raise InvalidRequest("the form ends in the middle; send its closing boundary")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidRequest(f"the body is not a multipart form: {error}") from None
        return self._events.popleft()

    async def _read(self) -> bytes | None:
        deadline = self._began + READ_SECONDS + self._received / LEAST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + READ_SECONDS)):
                chunk = await anext(self._stream, None)
        except TimeoutError:
            raise BodyTimeout from None
        self._received += len(chunk or b"")
        return chunk

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field, self._value = b"", b""

    def _on_end(self) -> None:
        self._ended = True
