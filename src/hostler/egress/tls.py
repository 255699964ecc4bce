"""How is TLS ended inside a tunnel whose first bytes were read already?

`TlsSide` stands between the sandbox's socket and a `ClientSide`: a protocol for the one, a transport for the other. The
library's own TLS transports want to read the first byte themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

_READ = 16 << 10
"""What one record of TLS holds at most; more is never read at once."""


class TlsSide(asyncio.Transport, asyncio.Protocol):
    """The server's end of a TLS connection over `raw`, for the protocol `app`.

    Make it the protocol of `raw`, then `begin` with what was read so far. `app` gets `connection_made` before the
    handshake, so that its deadlines count that, too.
    """

    def __init__(self, raw: asyncio.Transport, context: ssl.SSLContext, app: asyncio.Protocol) -> None:
        super().__init__()
        self._raw = raw
        self._app: Any = app
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._open = False
        self._ended = False
        self._closing = False

    def begin(self, data: bytes) -> None:
        self._app.connection_made(self)
        self.data_received(data)

    # -------------------------------------------------------------------------------------- protocol of the raw side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        return

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        if not self._open and not self._handshake():
            return
        while not self._ended:
            try:
                plain = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                plain = b""
            except ssl.SSLError:
                self._flush()
                self._raw.abort()
                return
            if not plain:
                self._end()
                break
            self._app.data_received(plain)
            if not self._in.pending and not self._tls.pending():
                break  # Asking would say the same by an exception, for every request.
        self._flush()

    def eof_received(self) -> bool:
        """Without a word of TLS this is a cut, not an end."""
        self._raw.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._app.connection_lost(exc)

    def pause_writing(self) -> None:
        self._app.pause_writing()

    def resume_writing(self) -> None:
        self._app.resume_writing()

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            self._flush()  # The alert that says why.
            self._raw.close()
            return False
        self._open = True
        return True

    def _end(self) -> None:
        self._ended = True
        if not self._app.eof_received():
            self.close()

    def _flush(self) -> None:
        if self._out.pending and not self._raw.is_closing():
            self._raw.write(self._out.read())

    # ------------------------------------------------------------------------------------------ transport of the app

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or not data:
            return
        self._tls.write(data)
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._open and not self._closing:
            with contextlib.suppress(ssl.SSLError):  # It would wait for the other side's word, which isn't needed.
                self._tls.unwrap()
            self._flush()
            self._closing = True
            if not self._raw.is_closing():
                self._raw.write_eof()

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
        self._closing = True
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        if not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._raw.is_closing():
            self._raw.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._app = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._app  # type: ignore[no-any-return]
