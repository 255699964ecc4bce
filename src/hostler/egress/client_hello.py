"""With whom does a TLS client say that it wants to speak?

Pure: reads the ClientHello out of the first bytes of a connection. It is strict, because the server behind reads the
same bytes and must not read another name: every length has to add up, an extension comes once, there is one name.
"""

from __future__ import annotations

from dataclasses import dataclass

HANDSHAKE_RECORD = 22
_CHANGE_CIPHER_SPEC = 20
_CLIENT_HELLO = 1
_SERVER_HELLO = 2
_SERVER_NAME = 0
_ENCRYPTED_HELLO = 0xFE0D
_MOST_RECORD = (1 << 14) + 256
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""By which a server says that its hello is a request for another one (RFC 8446, 4.1.3)."""
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
"""The fatal alert `access_denied`, before encryption."""


class NotTls(ValueError):
    """The bytes are not the beginning of a TLS connection, or not one that every reader reads the same way."""


@dataclass(frozen=True, slots=True)
class Hello:
    server_name: str | None
    """As it was sent."""
    encrypted: bool
    """There is a second, encrypted hello inside, or something that looks like one; its name may be another."""
    size: int = 0
    """Bytes that it takes, with its records."""


def looks_like_tls(data: bytes) -> bool:
    return data[:1] == b"\x16"


def read_hello(data: bytes) -> Hello | None:
    """The hello at the beginning of `data`; None when more bytes are needed. Raises NotTls."""
    found = _handshake(data)
    if found is None:
        return None
    message, size = found
    name, encrypted = _read(message)
    return Hello(name, encrypted, size)


def is_retry_request(data: bytes) -> bool | None:
    """Whether a server's first bytes ask for a second ClientHello. None: more bytes are needed to tell."""
    if data[:1] != b"\x16":
        return False if data else None
    if len(data) < 43:
        return None
    return data[5] == _SERVER_HELLO and data[11:43] == _RETRY_RANDOM


def _handshake(data: bytes) -> tuple[bytes, int] | None:
    """The body of the first handshake message, and where it ends. It may be spread over records."""
    collected, at = b"", 0
    while True:
        if len(data) < at + 5:
            if data[at : at + 1] not in (b"", b"\x16", b"\x14"):
                raise NotTls("it does not begin with a TLS handshake")
            return None
        kind, major, length = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5])
        if kind == _CHANGE_CIPHER_SPEC and not collected and length == 1 and at == 0:
            at += 6  # For old middle boxes, before a second hello.
            continue
        if kind != HANDSHAKE_RECORD or major != 3 or not 0 < length <= _MOST_RECORD:
            raise NotTls("it does not begin with a TLS handshake")
        piece = data[at + 5 : at + 5 + length]
        collected += piece
        if collected[:1] not in (b"", bytes((_CLIENT_HELLO,))):
            raise NotTls("the first message is not a ClientHello")
        if len(collected) >= 4:
            whole = 4 + int.from_bytes(collected[1:4])
            if len(collected) > whole:
                raise NotTls("something follows the ClientHello in its record")
            if len(collected) == whole:
                return collected[4:], at + 5 + length
        if len(piece) < length:
            return None
        at += 5 + length


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise NotTls("a length in the ClientHello is wrong")
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, size: int) -> bytes:
        return self.take(self.number(size))


def _read(message: bytes) -> tuple[str | None, bool]:
    reader = _Reader(message)
    if reader.take(1) != b"\x03":
        raise NotTls("the version is not one of TLS")
    reader.take(1 + 32)
    reader.block(1)  # session id
    reader.block(2)  # cipher suites
    reader.block(1)  # compression methods
    if reader.done:
        return None, False
    extensions = _Reader(reader.block(2))
    if not reader.done:
        raise NotTls("something follows the extensions of the ClientHello")
    name: str | None = None
    seen: set[int] = set()
    while not extensions.done:
        kind, content = extensions.number(2), extensions.block(2)
        if kind in seen:
            raise NotTls("an extension of the ClientHello comes twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _name(content)
    return name, _ENCRYPTED_HELLO in seen


def _name(content: bytes) -> str:
    names = _Reader(content)
    entry = _Reader(names.block(2))
    kind, name = entry.number(1), entry.block(2)
    if not names.done or not entry.done or kind != 0 or not name:
        raise NotTls("the server name of the ClientHello is not one host name")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError as error:
        raise NotTls("the server name of the ClientHello is not ASCII") from error
