"""How is what is kept of a session bounded on a host without quotas? It is on a file system of its own, in a file.

One sparse image for each session, mounted at the session's folder while somebody needs it. Every technology is given
folders of it, so the limit is the same on every rung: bytes, and the number of files. What a session removes goes back
to the host when its volume is left.

The folder that holds the mount points is itself a shared mount. A launcher's mount namespace copies all mounts, those
of other sessions too, and would keep them in use: sharing takes them away there when they are taken away here.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import IsolationLabel
from hostler.engine.volume_port import UNLIMITED, PlainFolders, Room, Volumes, VolumeUnavailable, image_of, tree_bytes
from hostler.sandbox import loops
from hostler.sandbox.templates import (
    FLAGS,
    OPTIONS,
    RESERVE_BYTES,
    RESERVE_FILES,
    Templates,
    give_up_reserve,
    image_bytes,
    keep_reserve,
)
from hostler.sandbox.write_rate import WriteRate

log = logging.getLogger("hostler.volumes")

TRIAL_BYTES: Final = 1 << 20
BUSY_SECONDS: Final = 2.0
"""How long a volume may stay in use after its session's last process: by a thread that still reads in it."""
WORTH_TRIMMING: Final = 8 << 20
HOST_RESERVE_BYTES: Final = 256 << 20
"""No new volume is made when the host's own file system has less than this."""
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class _Use:
    """Who is in one home."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    entered: int = 0
    asked: int = 0
    """Calls that hold the lock or wait for it."""


class LoopVolumes:
    """Volumes as ext4 images on loop devices. Implements `Volumes`. One process at a time uses the folders."""

    missing: tuple[str, ...] = ()

    def __init__(self, images: Path, kept: Path, mkfs: str, rate: WriteRate) -> None:
        """`images`: an existing folder for the images. `kept`: the folder of the homes."""
        self._rate = rate
        self._images = images
        self._kept = kept
        self._templates = Templates(images, mkfs)
        self._uses: dict[str, _Use] = {}
        self._guard = threading.Lock()

    # ------------------------------------------------------------------------------------------------------ life

    def open(self) -> list[str]:
        """Ends what an earlier process has left mounted; says what it was, one sentence each."""
        said = []
        for mounted in loops.mounts_at_or_below(self._kept):
            if mounted.point == str(self._kept):
                if mounted.root != "/":  # else it is the operator's own file system
                    _unmount(mounted.point)
            else:
                self._take_away(mounted.point)
                said.append(f"volume of session {Path(mounted.point).name}: unmounted")
        for mounted in loops.mounts_at_or_below(self._images):
            _unmount(mounted.point)
        for half in self._images.glob(".*"):
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        self._kept.mkdir(mode=0o711, parents=True, exist_ok=True)
        loops.mount(str(self._kept), str(self._kept), None, loops.MS_BIND)
        loops.mount("none", str(self._kept), None, loops.MS_PRIVATE)
        loops.mount("none", str(self._kept), None, loops.MS_SHARED)
        return said

    def close(self) -> None:
        """Unmounts everything. End the sandboxes first. Idempotent."""
        for mounted in loops.mounts_at_or_below(self._kept):
            if mounted.point != str(self._kept) or mounted.root != "/":
                self._take_away(mounted.point)

    def _take_away(self, point: str, *, patience: float = BUSY_SECONDS) -> None:
        with suppress(OSError):
            self._rate.free(os.stat(point).st_dev)
        _unmount(point, patience=patience)

    # ------------------------------------------------------------------------------------------------------ the port

    def enter(self, home: Path, disk_bytes: int | None) -> None:
        with self._use(home) as use:
            if use.entered == 0:
                self._mount(home, disk_bytes)
            use.entered += 1

    def leave(self, home: Path, *, looked_through: bool) -> None:
        with self._use(home) as use:
            if use.entered == 0:
                return  # removed meanwhile
            use.entered -= 1
            if use.entered == 0 and os.path.ismount(home):
                if looked_through:
                    self._mark(home).unlink(missing_ok=True)
                self._trim(home)
                self._take_away(str(home))

    def rename(self, home: Path, to: Path) -> None:
        with self._use(home) as old, self._use(to) as new:
            if os.path.lexists(to) or image_of(self._images, to).exists():
                raise FileExistsError(errno.EEXIST, "there are files of it already", str(to))
            if os.path.ismount(home):
                self._rename_mounted(home, to)
            else:
                home.rename(to)
            old.entered, new.entered = 0, old.entered

    def _rename_mounted(self, home: Path, to: Path) -> None:
        """A mount point can't be renamed, nor moved below a shared mount: the file system is mounted there, too."""
        to.mkdir(mode=0o711)
        try:
            loops.mount(str(home), str(to), None, loops.MS_BIND)
            try:
                # The mark first: an image without one would count as looked through.
                self._mark(to).touch()
                image_of(self._images, home).rename(image_of(self._images, to))
            except BaseException:
                loops.unmount(str(to), loops.MNT_DETACH)
                raise
        except BaseException:
            self._mark(to).unlink(missing_ok=True)
            to.rmdir()
            raise
        self._mark(home).unlink(missing_ok=True)
        loops.unmount(str(home), loops.MNT_DETACH)  # the sandbox has mounts of its own
        home.rmdir()

    def remove(self, home: Path) -> None:
        with self._use(home) as use:
            use.entered = 0
            if os.path.ismount(home):
                self._take_away(str(home), patience=0)
            image_of(self._images, home).unlink(missing_ok=True)
            self._mark(home).unlink(missing_ok=True)

    def give_up_reserve(self, home: Path) -> None:
        room = self.room(home)
        if room is not None and (room.free_bytes < RESERVE_BYTES or room.free_files < RESERVE_FILES):
            give_up_reserve(home)

    def keep_reserve(self, home: Path) -> None:
        if os.path.ismount(home):
            keep_reserve(home)

    def flush(self, home: Path) -> bool:
        if not os.path.ismount(home):
            return False
        loops.flush(str(home))
        return True

    def room(self, home: Path) -> Room | None:
        if not os.path.ismount(home):
            return None
        found = os.statvfs(home)
        return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_files, found.f_favail)

    def taken(self, home: Path) -> int:
        try:
            return image_of(self._images, home).stat().st_blocks * 512
        except FileNotFoundError:
            return tree_bytes(home)

    def homes(self) -> Sequence[str]:
        images = (path.name.removesuffix(".img") for path in self._images.glob("[!.]*.img"))
        return sorted({*images, *os.listdir(self._kept)})

    def unfinished(self) -> Sequence[str]:
        marked = {path.name.removesuffix(".open") for path in self._images.glob("*.open")}
        homes = set(os.listdir(self._kept))
        plain = {name for name in homes if not image_of(self._images, self._kept / name).exists()}
        return sorted(marked & homes | plain)

    # ------------------------------------------------------------------------------------------------------ inside

    @contextmanager
    def _use(self, home: Path) -> Iterator[_Use]:
        """One at a time in each home."""
        with self._guard:
            use = self._uses.setdefault(home.name, _Use())
            use.asked += 1
        try:
            with use.lock:
                yield use
        finally:
            with self._guard:
                use.asked -= 1
                if not use.asked and not use.entered:
                    del self._uses[home.name]

    def _mark(self, home: Path) -> Path:
        return self._images / f"{home.name}.open"

    def _mount(self, home: Path, disk_bytes: int | None) -> None:
        image = image_of(self._images, home)
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
        existed = image.exists()
        try:
            if not existed:
                if disk_bytes is None or any(home.iterdir()):
                    return  # no limit, or a session of a time without volumes
                self._make(image, disk_bytes)
            elif disk_bytes is not None and image_bytes(disk_bytes) > image.stat().st_size:
                _grow(image, image_bytes(disk_bytes))
            self._mark(home).touch()
            self._attach(image, home, existed=existed)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("volume_unavailable", extra={"image": str(image), "reason": str(error)})
            raise VolumeUnavailable(f"the volume of this session can't be used: {_words(error)}") from error

    def _make(self, image: Path, disk_bytes: int) -> None:
        host = os.statvfs(self._images)
        if host.f_bavail * host.f_frsize < HOST_RESERVE_BYTES:
            raise OSError(errno.ENOSPC, "the server's own disk is almost full; make room on it", str(self._images))
        self._templates.of(disk_bytes).write(image)

    def _attach(self, image: Path, home: Path, *, existed: bool) -> None:
        """Mounts; when the file system isn't sound, once more after a repair."""
        for repaired in (False, True):
            loop = loops.attach(image, maybe_bound=existed)
            try:
                try:
                    loops.mount(loop.path, str(home), "ext4", FLAGS, OPTIONS)  # replays the journal after a crash
                    sound = _errors(loop.path) == 0
                except OSError as error:
                    if repaired or error.errno not in (errno.EUCLEAN, errno.EIO, errno.EINVAL, errno.EBADMSG):
                        raise
                    sound = False
            finally:
                loop.close()
            if sound:
                self._rate.bound(os.stat(home).st_dev)
                return
            if os.path.ismount(home):
                _unmount(str(home))
            if repaired:
                raise _damaged(image)
            _repair(image)

    def _trim(self, home: Path) -> None:
        image = image_of(self._images, home)
        found = os.statvfs(home)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        with suppress(OSError):  # a host file system that can't punch holes, or a volume with errors
            if image.stat().st_blocks * 512 > used - RESERVE_BYTES + WORTH_TRIMMING:
                loops.trim(home)


class VolumeTrial:
    """Whether this host gives volumes: found out once, by making and mounting one. Thread-safe."""

    def __init__(self, state_dir: Path, *, wanted: bool = True) -> None:
        """Touches nothing. A server that uses the folder is not disturbed. `wanted`: false when it is switched off."""
        self._state_dir = state_dir
        self._wanted = wanted
        self._lock = threading.Lock()
        self._looked = False
        self._why: str | None = None

    def hindrance(self) -> str | None:
        """None: it does. Else a sentence that says why not, and what to do. Takes some milliseconds at first."""
        with self._lock:
            if not self._looked:
                self._why = self._look()
                self._looked = True
            return self._why

    def amend(self, label: IsolationLabel) -> IsolationLabel:
        """The label of a technology of this host, with what new sessions get."""
        why = self.hindrance()
        if why is None:
            return replace(label, disk_by="volume")
        return replace(label, disk_by="none", missing=(*label.missing, why))

    def _look(self) -> str | None:
        why = _lacking() if self._wanted else "volumes are switched off (sandbox.volumes)."
        if why is None:
            place = self._state_dir if self._state_dir.is_dir() else None
            try:
                with tempfile.TemporaryDirectory(prefix=".volume-trial-", dir=place) as name:
                    Templates(Path(name), _mkfs() or "").fresh(TRIAL_BYTES)
                return None
            except (OSError, subprocess.SubprocessError) as error:
                said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else ""
                why = f"{_words(error)}. {said}Give the server loop devices and the right to mount (CAP_SYS_ADMIN)."
        return f"{UNLIMITED} {why}"


def open_volumes(
    images: Path, kept: Path, trial: VolumeTrial, *, bytes_per_second: int | None = None
) -> tuple[Volumes, list[str]]:
    """The best that this host gives, and what was left of an earlier life, in sentences.

    `bytes_per_second`: how fast each volume writes to the disk at most, where that can be bounded. None: no limit.

    Raises OSError when the folders can't be used.
    """
    why = trial.hindrance()
    if why is not None:
        return PlainFolders(kept, why, images), []
    images.mkdir(mode=0o700, parents=True, exist_ok=True)
    volumes = LoopVolumes(images, kept, _mkfs() or "", WriteRate(bytes_per_second))
    return volumes, volumes.open()


def _lacking() -> str | None:
    """What can be said without trying."""
    if os.geteuid() != 0:
        return "only root can mount volumes. Run the server as root."
    if _mkfs() is None:
        return "mkfs.ext4 is missing: apt-get install e2fsprogs"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices (/dev/loop-control). Load the module `loop`, or give them to the container."
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join(filter(None, [os.environ.get("PATH"), _PLACES])))


def _mkfs() -> str | None:
    return _program("mkfs.ext4")


def _words(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} failed ({error.returncode})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _errors(device: str) -> int:
    """How many errors the file system on it has ever found in itself since its last repair."""
    try:
        return int(Path("/sys/fs/ext4", Path(device).name, "errors_count").read_text())
    except (OSError, ValueError):
        return 0


def _repair(image: Path) -> None:
    """Repairs everything that needs no decision. OSError: it needs a decision, or e2fsck is missing."""
    fsck = _program("e2fsck")
    if fsck is None:
        raise OSError(errno.ENOENT, "it needs a repair and e2fsck is missing: apt-get install e2fsprogs")
    done = subprocess.run([fsck, "-f", "-p", str(image)], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    log.warning("volume_checked", extra={"image": image.name, "said": done.stdout[-500:].decode(errors="replace")})
    if done.returncode > 2:
        raise _damaged(image)


def _damaged(image: Path) -> OSError:
    return OSError(errno.EUCLEAN, f"it is damaged; an operator can repair {image.name} with e2fsck -fy")


def _grow(image: Path, size: int) -> None:
    """A larger limit than it was made for. Not while it is mounted."""
    resize = _program("resize2fs")
    if resize is None or loops.device_of(image) is not None:
        return  # it stays as it is until the next time
    _repair(image)
    os.truncate(image, size)
    subprocess.run([resize, "-f", str(image)], capture_output=True, stdin=subprocess.DEVNULL, check=True)


def _unmount(point: str, *, patience: float = BUSY_SECONDS) -> None:
    """Waits while somebody is in it; takes it away under them after that, which the kernel ends when they have gone."""
    deadline = time.monotonic() + patience
    while True:
        try:
            loops.unmount(point)
            return
        except OSError as error:
            if error.errno == errno.EINVAL:  # it is none (any more)
                return
            if error.errno != errno.EBUSY:
                raise
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    if patience:
        log.warning("volume_still_in_use", extra={"point": point})
    loops.unmount(point, loops.MNT_DETACH)
