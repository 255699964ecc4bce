"""How is the body of an answer read, so that a secret in it is found?

It was asked for uncompressed. What is compressed nevertheless is inflated, within bounds, and passed on as it then is;
what can't be read is not passed on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from hostler.egress.redact import Forms, Redactor
from hostler.engine.egress_port import Filter, SecretRefused

Header = tuple[bytes, bytes]

MOST_INFLATED: Final = 4 << 20
"""Bytes that one piece from the network may become (A11). A piece of 64 KiB can hold 64 MiB of zeros, and several
copies of what it becomes are in memory for a moment."""

_STALE: Final = frozenset({b"content-length", b"content-md5", b"digest", b"repr-digest", b"content-digest"})
"""What is no longer true of a body that was changed."""


def has_body(method: str, status: int) -> bool:
    return method.upper() != "HEAD" and status >= 200 and status not in (204, 304)


def answer_filter(headers: Sequence[Header], forms: Forms) -> tuple[Filter, list[Header]]:
    """What the body goes through, and the headers that are true of what comes out. Raises SecretRefused."""
    codings, framing = _codings(headers, b"content-encoding"), _codings(headers, b"transfer-encoding") - {b"chunked"}
    kept = [(name, value) for name, value in headers if name.lower() not in _STALE]
    if not codings and not framing:
        return Redactor(forms), kept
    coding = next(iter(codings), b"")
    if framing or len(codings) > 1 or coding not in (b"gzip", b"x-gzip", b"deflate"):
        shown = b", ".join(sorted(codings | framing)).decode("ascii", "replace")[:60]
        message = f"The host sent an answer in a coding ({shown}) that can't be searched for secrets."
        raise SecretRefused("answer_unreadable", message)
    plain = [(name, value) for name, value in kept if name.lower() != b"content-encoding"]
    return _Inflated(Redactor(forms), coding), plain


def _codings(headers: Sequence[Header], name: bytes) -> set[bytes]:
    """What a header of this name lists. A coding that is listed twice was applied twice: it comes with its number."""
    found: set[bytes] = set()
    for field, value in headers:
        if field.lower() == name:
            for coding in (part.strip().lower() for part in value.split(b",")):
                found.add(coding if coding not in found else coding + b" again")
    return found - {b"", b"identity", b" again", b"identity again"}


class _Inflated:
    """A compressed body, inflated and redacted."""

    def __init__(self, redactor: Redactor, coding: bytes) -> None:
        self._redactor = redactor
        self._gzip = coding != b"deflate"
        self._inflater: zlib._Decompress | None = None
        self._begun = False
        self._start = b""

    def feed(self, piece: bytes) -> bytes:
        return self._redactor.feed(self._inflated(piece))

    def end(self) -> bytes:
        if self._start or self._inflater is not None:
            raise SecretRefused("answer_unreadable", "The host sent a compressed answer that is cut off.")
        return self._redactor.end()

    def _inflated(self, piece: bytes) -> bytes:
        data, out, size = self._start + piece, [], 0
        self._start = b""
        while data:
            if self._inflater is None:
                if self._begun and not (self._gzip and data.startswith(b"\x1f\x8b"[: len(data)])):
                    break  # Padding behind the end: readers ignore it, and so do we.
                if len(data) < 2:
                    self._start = data
                    break
                self._inflater = zlib.decompressobj(self._window(data))
            try:
                part = self._inflater.decompress(data, MOST_INFLATED - size + 1)
            except zlib.error:
                raise SecretRefused("answer_unreadable", "The host sent a damaged compressed answer.") from None
            size += len(part)
            if size > MOST_INFLATED:
                raise SecretRefused("answer_unreadable", "The host sent an answer that grows too much when unpacked.")
            out.append(part)
            data = self._inflater.unused_data
            if self._inflater.eof:
                self._inflater, self._begun = None, True
        return b"".join(out)

    def _window(self, data: bytes) -> int:
        if self._gzip:
            return 16 + zlib.MAX_WBITS
        # Half of the world means a bare stream by `deflate`; a zlib stream is known by its first two bytes.
        is_zlib = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
