"""How is a secret kept out of what a server says over a WebSocket? Frame by frame, with a filter for each message."""

from __future__ import annotations

from collections.abc import Callable

from hostler.engine.egress_port import Filter

_MOST_FRAME = 16 << 20
_MOST_CONTROL = 125


class FrameFilter:
    """Bytes of the server in, bytes for the sandbox out. Raises ValueError for what are no frames.

    Extensions must not have been agreed on: a compressed frame couldn't be read. A frame is passed on when it is whole.
    """

    def __init__(self, new_filter: Callable[[], Filter | None]) -> None:
        self._new = new_filter
        self._held = bytearray()
        self._at = 0
        """Where in it the next frame begins."""
        self._message: Filter | None = None

    def __call__(self, data: bytes) -> bytes:
        self._held += data
        out: list[bytes] = []
        while (frame := self._next()) is not None:
            out.append(self._filtered(*frame))
        del self._held[: self._at]  # once, however many frames there were
        self._at = 0
        return b"".join(out)

    def _next(self) -> tuple[int, bytes] | None:
        held, begin = self._held, self._at
        if len(held) < begin + 2:
            return None
        first, length, at = held[begin], held[begin + 1], begin + 2
        if length & 0x80 or first & 0x70:
            raise ValueError("a masked frame, or one of an extension that was not agreed on")
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(held) < at + size:
                return None
            length, at = int.from_bytes(held[at : at + size]), at + size
        if length > _MOST_FRAME:
            raise ValueError("the frame is too large")
        if len(held) < at + length:
            return None
        self._at = at + length
        return first, bytes(held[at : at + length])

    def _filtered(self, first: int, payload: bytes) -> bytes:
        kind, last = first & 0x0F, bool(first & 0x80)
        if kind >= 8:
            new = self._new() if payload else None
            payload = payload if new is None else (new.feed(payload) + new.end())[:_MOST_CONTROL]
            return _frame(first, payload)
        if kind:
            self._message = self._new()
        if self._message is not None:
            payload = self._message.feed(payload) + (self._message.end() if last else b"")
        return _frame(first, payload)


def _frame(first: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2) + payload
    return bytes((first, 127)) + length.to_bytes(8) + payload
