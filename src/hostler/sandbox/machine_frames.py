"""How do many streams share the one serial line into a machine?

Frames: number of the stream, kind, length, bytes. Whoever sends bytes of a stream needs credit for them, which the
other side gives back as it passes them on: a stream that nobody reads from holds up itself and nobody else. Runs on the
host and inside a machine; imports nothing but the standard library.
"""

import contextlib
import os
import select
import struct
from collections.abc import Callable

HEADER = struct.Struct(">IBI")
CREDIT_BYTES = 256 << 10
PIECE = 32 << 10
LONGEST = 1 << 20
"""More than that in one frame is not sent, and not taken."""

HELLO, RUN, DATA, ERRORS, EOF, SIGNAL, GONE, EXIT, OPEN, CREDIT, ASK, ANSWER = range(1, 13)

Frame = tuple[int, int, bytes]


class Broken(Exception):
    """What came is no frame, or the line has ended."""


class Loop:
    """Waits for descriptors. A callback may change what is waited for."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}

    def watch(
        self, fd: int, *, read: Callable[[], None] | None = None, write: Callable[[], None] | None = None
    ) -> None:
        """From now on these, and only these."""
        for callbacks, callback in ((self._readers, read), (self._writers, write)):
            if callback is None:
                callbacks.pop(fd, None)
            else:
                callbacks[fd] = callback
        wanted = (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        if wanted:
            self._poll.register(fd, wanted)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def once(self, milliseconds: int | None = None) -> None:
        for fd, events in self._poll.poll(milliseconds):
            if events & select.POLLNVAL:
                self.watch(fd)
                continue
            ended = events & (select.POLLHUP | select.POLLERR)
            if (events & select.POLLIN or ended) and fd in self._readers:
                self._readers[fd]()
            if (events & select.POLLOUT or ended) and fd in self._writers:
                self._writers[fd]()


class Line:
    """Frames on a descriptor that doesn't block."""

    def __init__(self, loop: Loop, fd: int, take: Callable[[Frame], None], broken: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._loop, self.fd, self._take, self._broken = loop, fd, take, broken
        self._in = bytearray()
        self._out = bytearray()
        self.open = True
        loop.watch(fd, read=self._read)

    def send(self, stream: int, kind: int, payload: bytes = b"") -> None:
        if self.open:
            self._out += HEADER.pack(stream, kind, len(payload)) + payload
            self._write()

    @property
    def sent(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._out or not self.open

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.watch(self.fd)
            os.close(self.fd)

    def _read(self) -> None:
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._broken()
            return
        self._in += data
        while self.open and len(self._in) >= HEADER.size:
            stream, kind, length = HEADER.unpack_from(self._in)
            if length > LONGEST:
                self._broken()
                return
            if len(self._in) < HEADER.size + length:
                return
            payload = bytes(self._in[HEADER.size : HEADER.size + length])
            del self._in[: HEADER.size + length]
            self._take((stream, kind, payload))

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: os.write(self.fd, self._out[: 1 << 16])]
        except BlockingIOError:
            pass
        except OSError:
            self._broken()
            return
        if self.open:
            self._loop.watch(self.fd, read=self._read, write=self._write if self._out else None)


class Inlet:
    """What is read from a descriptor goes out as a stream, as far as there is credit."""

    def __init__(self, loop: Loop, fd: int, stream: int, kind: int, send: Callable[[int, int, bytes], None]) -> None:
        self._loop, self.fd, self._stream, self._kind, self._send = loop, fd, stream, kind, send
        self._credit = CREDIT_BYTES
        self.open = True
        self.ended: Callable[[], None] = lambda: None
        self._watch()

    def credit(self, count: int) -> None:
        self._credit += count
        if self.open:
            self._watch()

    def read(self) -> bool:
        """Takes one piece. False: there is none now."""
        try:
            data = os.read(self.fd, min(PIECE, self._credit))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            self._send(self._stream, EOF, bytes([self._kind]))
            self.ended()
            return False
        self._credit -= len(data)
        self._send(self._stream, self._kind, data)
        self._watch()
        return True

    @property
    def starving(self) -> bool:
        return self.open and self._credit <= 0

    def close(self) -> None:
        """Reads no more. The descriptor stays open."""
        if self.open:
            self.open = False
            self._loop.watch(self.fd)

    def _watch(self) -> None:
        if self._credit > 0:
            self._loop.watch(self.fd, read=self._take)
        else:
            self._loop.watch(self.fd)

    def _take(self) -> None:
        self.read()


class Outlet:
    """What comes in a stream is written to a descriptor, and its credit given back."""

    def __init__(self, loop: Loop, fd: int, written: Callable[[int], None], *, most: int = 1 << 16) -> None:
        """`most`: bytes that one write may have, at which a descriptor that can be written to never blocks."""
        self._loop, self.fd, self._written, self._most = loop, fd, written, most
        self._out = bytearray()
        self._ending: Callable[[], None] | None = None
        self.open = True

    def put(self, data: bytes) -> None:
        if not self.open:
            self._written(len(data))  # nobody wants it: who sends it must not wait
            return
        if len(self._out) + len(data) > 2 * CREDIT_BYTES:
            raise Broken("more than there was credit for")
        self._out += data
        self._loop.watch(self.fd, write=self._write)

    def end(self, then: Callable[[], None]) -> None:
        """Calls `then` when everything is written."""
        self._ending = then
        self._settle()

    def _write(self) -> None:
        try:
            count = os.write(self.fd, self._out[: self._most])
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            count = len(self._out)
            self.open = False
        del self._out[:count]
        self._written(count)
        self._settle()

    def _settle(self) -> None:
        if not self._out:
            self._loop.watch(self.fd)
            if self._ending is not None:
                then, self._ending = self._ending, None
                self.open = False
                then()
