"""Where do empty file systems come from, when making one must not take longer than opening a file?

One is made for each size, with `mkfs.ext4`, and every new volume is a copy of the few blocks in it that aren't empty.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hostler.sandbox import loops

RESERVE_BYTES = 32 << 20
"""Set aside in every volume for the server: transcripts and memories are written into volumes that are full, too."""
RESERVE_FILES = 64
RESERVE_FOLDER = ".reserve"
_JOURNAL_MB = 8
_BYTES_PER_FILE = 16_384
_FEWEST_FILES = 16_384
_KEPT = 8
"""Sizes that are remembered."""
_RELEASE_SECONDS = 2.0
_TRIES = 3
OPTIONS = "noinit_itable,errors=remount-ro"
"""Without the first one the kernel would write all tables of a new volume full of zeros in the background."""
FLAGS = loops.MS_NOSUID | loops.MS_NODEV | loops.MS_NOATIME


@dataclass(frozen=True, slots=True)
class Template:
    """An empty file system with its reserve: what has to be written into an empty file of `size` bytes."""

    size: int
    extents: tuple[tuple[int, bytes], ...]

    def write(self, image: Path) -> None:
        """Makes the image, whole or not at all."""
        new = image.with_name(f".new-{image.name}")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            for offset, content in self.extents:
                os.pwrite(descriptor, content, offset)
        finally:
            os.close(descriptor)
        new.replace(image)


def image_bytes(disk_bytes: int) -> int:
    """Size of an image in which a session can keep `disk_bytes`: tables, journal and reserve come on top."""
    files = max(disk_bytes // _BYTES_PER_FILE, _FEWEST_FILES)
    size = disk_bytes + disk_bytes // 64 + files * 256 + (_JOURNAL_MB << 20) + RESERVE_BYTES + (2 << 20)
    return -(-size // loops.BLOCK) * loops.BLOCK


_made: OrderedDict[tuple[str, int], Template] = OrderedDict()
_making = threading.Lock()


class Templates:
    """Each size is made once in the life of the process: an empty file system is alike everywhere. Thread-safe."""

    def __init__(self, scratch: Path, mkfs: str) -> None:
        """`scratch`: an existing folder of ours for the time of making one."""
        self._scratch = scratch
        self._mkfs = mkfs

    def of(self, disk_bytes: int) -> Template:
        """Raises OSError, and CalledProcessError when `mkfs.ext4` fails."""
        key = (self._mkfs, disk_bytes)
        with _making:
            if key not in _made:
                _made[key] = self.fresh(disk_bytes)
            _made.move_to_end(key)
            while len(_made) > _KEPT:
                _made.popitem(last=False)
            return _made[key]

    def fresh(self, disk_bytes: int) -> Template:
        """Made now, whatever is remembered. Raises what `of` does."""
        for _ in range(_TRIES - 1):  # a mount that somebody has copied and keeps: the next one is there too briefly
            try:
                return self._make(disk_bytes)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
        return self._make(disk_bytes)

    def _make(self, disk_bytes: int) -> Template:
        size = image_bytes(disk_bytes)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix=".template-") as name:
            image, point = Path(name, "image"), Path(name, "point")
            with image.open("xb") as file:
                file.truncate(size)
            point.mkdir()
            files = max(disk_bytes // _BYTES_PER_FILE, _FEWEST_FILES)
            options = [
                *("-b", str(loops.BLOCK), "-I", "256", "-N", str(files), "-m", "0", "-J", f"size={_JOURNAL_MB}"),
                *("-O", "has_journal,extent,64bit,metadata_csum,^resize_inode"),
                *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
            ]
            subprocess.run(
                [self._mkfs, "-q", "-F", *options, str(image)],
                check=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
            loop = loops.attach(image, maybe_bound=False)
            try:
                loops.mount(loop.path, str(point), "ext4", FLAGS, OPTIONS)
            finally:
                loop.close()
            try:
                with suppress(OSError):
                    (point / "lost+found").rmdir()
                point.chmod(0o711)
                keep_reserve(point)
            finally:
                _unmount(point)
            _until_written(image)
            return Template(size, tuple(_extents(image)))


def _unmount(point: Path) -> None:
    """A program that another thread is just starting may hold our files open for a moment, until it is itself."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while True:
        try:
            loops.unmount(str(point), 0 if time.monotonic() < deadline else loops.MNT_DETACH)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.002)


def _until_written(image: Path) -> None:
    """A process that got a mount namespace of its own in between has copied the mount, and what was changed is written
    into the image only when it has let go of it: that is the moment at which the loop device is gone. Most do so at
    once; OSError (EBUSY) when this one doesn't."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while (device := loops.device_of(image)) is not None:
        if time.monotonic() >= deadline:
            raise OSError(errno.EBUSY, f"another process keeps {device} in use, which was mounted for a moment")
        time.sleep(0.002)


def keep_reserve(top: Path) -> None:
    """Takes what is missing from the reserve, as far as there is any: bytes that are allotted and never written."""
    folder = top / RESERVE_FOLDER
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    there = len(os.listdir(folder))
    for number in range(RESERVE_FILES if there < RESERVE_FILES else 0):
        try:
            os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        except OSError:  # full already
            return
    descriptor = os.open(folder / "0", os.O_WRONLY | os.O_CLOEXEC)
    try:
        wanted = RESERVE_BYTES
        while os.fstat(descriptor).st_size < wanted and wanted >= loops.BLOCK:
            try:
                os.posix_fallocate(descriptor, 0, wanted)
            except OSError:
                wanted //= 2
    finally:
        os.close(descriptor)


def give_up_reserve(top: Path) -> None:
    with suppress(FileNotFoundError):
        for name in os.listdir(top / RESERVE_FOLDER):
            os.unlink(top / RESERVE_FOLDER / name)


def _extents(image: Path) -> list[tuple[int, bytes]]:
    """What in the file isn't zero, in blocks that follow each other."""
    found: list[tuple[int, bytearray]] = []
    with image.open("rb") as file:
        end, offset = file.seek(0, os.SEEK_END), 0
        while offset < end:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # nothing but a hole
                break
            offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for at in range(start, offset, loops.BLOCK):
                block = os.pread(file.fileno(), loops.BLOCK, at)
                if not block.strip(b"\0"):
                    continue
                if found and found[-1][0] + len(found[-1][1]) == at:
                    found[-1][1].extend(block)
                else:
                    found.append((at, bytearray(block)))
    return [(start, bytes(content)) for start, content in found]
