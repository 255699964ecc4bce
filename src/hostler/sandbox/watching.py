"""Who reads and writes the common folder of a room? Implements `Watcher`, by the kernel's own word (fanotify).

Each sandbox has a mount of its own of the folder, and each of these mounts is marked: an event names the file, as a
descriptor, and the descriptor names the mount that it was touched through. That tells who, even when the process that
did it has ended since.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import os
import stat
import struct
from time import monotonic
from typing import Final

from hostler.engine.room_port import Listener

log = logging.getLogger("hostler.watching")

MOST_DIGESTED: Final = 256 << 10
"""Bytes of a file that are looked at."""
BATCH_SECONDS: Final = 0.005
PAUSE_SECONDS: Final = 0.05
"""So long are events read at most, and so long not: a session that touches files without end costs the server no more
than a tenth of a processor. The kernel keeps 16,384 events meanwhile; what comes then is lost, and the log says so."""
MOST_AT_ONCE: Final = 4_096
"""Events that `look` waits for."""

_FAN_CLOEXEC, _FAN_NONBLOCK = 0x1, 0x2
_FAN_ACCESS, _FAN_CLOSE_WRITE, _FAN_CLOSE_NOWRITE, _FAN_Q_OVERFLOW = 0x1, 0x8, 0x10, 0x4000
_FAN_MARK_ADD, _FAN_MARK_MOUNT = 0x1, 0x10
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_BYTES = 64 * _EVENT.size
"""Of one reading: it opens a descriptor for each event."""

_libc = ctypes.CDLL(None, use_errno=True)


class _File:
    """Implements `Opened` over an event's descriptor."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def digest(self, count: int) -> bytes | None:
        if count > min(self.size, MOST_DIGESTED):
            return None
        return hashlib.sha256(os.pread(self._descriptor, count, 0)).digest()


class Fanotify:
    """One room's events. Needs a worker that is root. Use from one event loop."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no such thing, or doesn't let us."""
        opened = os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE | os.O_NOATIME | os.O_NONBLOCK
        self._descriptor = _checked(_libc.fanotify_init(_FAN_CLOEXEC | _FAN_NONBLOCK, opened))
        self._listeners: dict[int, tuple[str, Listener]] = {}
        """By the number of the mount."""
        self._pause: asyncio.TimerHandle | None = None
        self._reading = False

    def begin(self, who: str, folder: int, listener: Listener) -> None:
        self.end(who)
        self._listeners[_mount_of(folder)] = (who, listener)
        mask = ctypes.c_uint64(_FAN_ACCESS | _FAN_CLOSE_WRITE | _FAN_CLOSE_NOWRITE)
        path = f"/proc/self/fd/{folder}".encode()
        _checked(_libc.fanotify_mark(self._descriptor, _FAN_MARK_ADD | _FAN_MARK_MOUNT, mask, _AT_FDCWD, path))
        if not self._reading and self._pause is None:
            self._read_on()

    def end(self, who: str) -> None:
        self._listeners = {number: one for number, one in self._listeners.items() if one[0] != who}

    def look(self) -> None:
        for _ in range(MOST_AT_ONCE * _EVENT.size // _BYTES):
            if self._descriptor < 0 or not self._read():
                return

    def _read_on(self) -> None:
        self._pause, self._reading = None, True
        asyncio.get_running_loop().add_reader(self._descriptor, self._ready)

    def _ready(self) -> None:
        until = monotonic() + BATCH_SECONDS
        while self._read():
            if monotonic() > until:
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._descriptor)
                self._reading = False
                self._pause = loop.call_later(PAUSE_SECONDS, self._read_on)
                return

    def _read(self) -> bool:
        """Tells what one reading gives. False: there was nothing."""
        try:
            data = os.read(self._descriptor, _BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        start = 0
        while start < len(data):
            length, _, _, _, mask, descriptor, _ = _EVENT.unpack_from(data, start)
            start += length
            if descriptor < 0:
                if mask & _FAN_Q_OVERFLOW:
                    log.warning("room_events_lost")
                continue
            try:
                self._tell(descriptor, mask)
            except OSError:  # the file is gone, or its file system is
                continue
            finally:
                os.close(descriptor)
        return True

    def _tell(self, descriptor: int, mask: int) -> None:
        found = os.fstat(descriptor)
        known = self._listeners.get(_mount_of(descriptor))
        if known is None or not stat.S_ISREG(found.st_mode):
            return
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(" (deleted)") or not path.startswith("/"):
            return
        who, listener = known
        file = _File(descriptor, found.st_size)
        # In this order when the kernel has put the two together: most who do both read first.
        for wrote, bits in ((False, _FAN_ACCESS | _FAN_CLOSE_NOWRITE), (True, _FAN_CLOSE_WRITE)):
            if mask & bits:
                listener(who, path[1:], found.st_ino, wrote, file)

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            if self._pause is not None:
                self._pause.cancel()
            if self._reading:
                asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def hindrance() -> str:
    """Why this host can't watch, for a person. Empty: it can."""
    try:
        Fanotify().close()
    except OSError as error:
        return (
            f"the kernel doesn't tell who writes which file (fanotify: {error.strerror}), so conflicts would go unseen"
        )
    return ""


def _mount_of(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(f"the kernel doesn't say which mount descriptor {descriptor} was opened through")


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
