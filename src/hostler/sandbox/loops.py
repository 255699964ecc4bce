"""How is a file made a file system that is mounted, by asking the kernel directly?

Through system calls and not through programs: `mount` and `losetup` cost a process each, several milliseconds, on every
first message of a session. Needs root and loop devices; every error is an OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOATIME: Final = 0x400
MS_BIND: Final = 0x1000
MS_PRIVATE: Final = 0x40000
MS_SHARED: Final = 0x100000
MNT_DETACH: Final = 0x2

BLOCK: Final = 4096

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
"""`struct loop_info64`."""
_FITRIM = 0xC0185879
_TRIES = 32

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2)."""
    given = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None)
    if _libc.mount(*given, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def flush(inside: str) -> None:
    """syncfs(2) of the file system that `inside` is in."""
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), inside)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device that is bound to an image, held open. Once nothing holds or mounts it, it is free by itself."""

    path: str
    descriptor: int

    def close(self) -> None:
        os.close(self.descriptor)


def attach(image: Path, *, maybe_bound: bool) -> Loop:
    """A device for the image. `maybe_bound`: look first for one that has it already.

    Two devices over one image would be two file systems that destroy each other, so an image that somebody still
    holds (in a mount namespace that outlives our unmounting, say) has to be found under the device that it has.
    """
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if maybe_bound:
            for number in _bound_to(image):
                loop = _existing(number, file)
                if loop is not None:
                    return loop
        return _bind(image, file)
    finally:
        os.close(file)


def _bind(image: Path, file: int) -> Loop:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            loop = _open_device(number)
            flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
            name = os.fsencode(image)[:63]
            info = _INFO.pack(0, 0, 0, 0, 0, number, 0, 0, flags, name, b"", b"", 0, 0)
            try:
                fcntl.ioctl(loop.descriptor, _LOOP_CONFIGURE, struct.pack("=II", file, BLOCK) + info + bytes(64))
            except OSError as error:
                loop.close()
                if error.errno != errno.EBUSY:  # somebody else was faster
                    raise
            else:
                return loop
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free", str(image))


def _open_device(number: int) -> Loop:
    path = f"/dev/loop{number}"
    with suppress(FileExistsError):
        if not os.path.exists(path):  # in a container nobody makes the nodes of new devices
            os.mknod(path, 0o600 | 0o060000, os.makedev(7, number))
    return Loop(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))


def _bound_to(image: Path) -> Iterator[int]:
    wanted = os.fsencode(image)
    with os.scandir("/sys/block") as entries:
        names = [entry.name for entry in entries if entry.name.startswith("loop")]
    for name in names:
        with suppress(OSError):
            with open(f"/sys/block/{name}/loop/backing_file", "rb") as file:
                if file.read().rstrip(b"\n") == wanted:
                    yield int(name.removeprefix("loop"))


def _existing(number: int, file: int) -> Loop | None:
    """The device, if it is still bound to this very file now that it is held."""
    loop = _open_device(number)
    try:
        status = bytearray(_INFO.size)
        fcntl.ioctl(loop.descriptor, _LOOP_GET_STATUS64, status)
        device, inode, *_ = _INFO.unpack(status)
        found = os.fstat(file)
        # The kernel gives the device number in its own encoding; the inode and the name that was asked for suffice.
        if inode == found.st_ino and device != 0:
            return loop
    except OSError:
        pass
    loop.close()
    return None


def device_of(image: Path) -> str | None:
    """Path of the loop device that is bound to the image now."""
    for number in _bound_to(image):
        return f"/dev/loop{number}"
    return None


def trim(folder: Path) -> None:
    """Gives what is free in the file system of `folder` back to whoever holds its image."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc.syncfs(descriptor)  # what was removed a moment ago is free only then
        fcntl.ioctl(descriptor, _FITRIM, struct.pack("=QQQ", 0, 2**64 - 1, 16 * BLOCK))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of this process's table of mounts."""

    root: str
    """Path inside the file system that is shown at `point`."""
    point: str
    source: str


def mounts_at_or_below(folder: Path) -> list[Mounted]:
    """The last one mounted comes first: that is the order in which they can be taken away."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            root, point = (_plain(word) for word in left.split(" ")[3:5])
            if point == str(folder) or point.startswith(f"{folder}/"):
                found.append(Mounted(root, point, _plain(right.split(" ")[1])))
    return found[::-1]


def _plain(word: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word
