"""How fast may one volume write to the host's disk?

A program that writes without end fills the queue of the host's disk and keeps the kernel's threads for it busy, which
every other session feels (`bench/neighbours.py`, the flood of the disk: with the rate 1.0 of a quiet turn, without it
1.3 to 1.9). The kernel bounds what goes through one block device; a volume is one, its loop device. What is written
from a cache goes to the disk in the name of the kernel's own threads, which are in the topmost group: so under version
1 of control groups the rate is set there and in the worker's group. Under version 2 the worker's group counts for
every group below it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hostler.sandbox.cgroup_detection import own_groups


class WriteRate:
    """Sets the rate of volumes as they are mounted. Where the host lets us set none, nothing is bounded."""

    def __init__(self, bytes_per_second: int | None, files: Sequence[Path] | None = None) -> None:
        """`bytes_per_second` None: no limit. `files`: those that take a rate; None: found now."""
        self._rate = bytes_per_second
        self._files = rate_files() if files is None else list(files)

    def bound(self, number: int) -> None:
        """From now on the device `number` (`st_rdev`, `st_dev`) writes this fast at most."""
        if self._rate is not None:
            self._set(number, self._rate)

    def free(self, number: int) -> None:
        """The device is no volume any more, and the next who uses it is not to be slowed down."""
        if self._rate is not None:
            self._set(number, None)

    def _set(self, number: int, rate: int | None) -> None:
        for file in self._files:
            line = f"wbps={rate or 'max'}" if file.name == "io.max" else f"{rate or 0}"
            with suppress(OSError):  # a container may show the file and not let us write it
                file.write_text(f"{os.major(number)}:{os.minor(number)} {line}\n")


def rate_files() -> list[Path]:
    """Where this host takes a rate: none, when nobody lets us."""
    try:
        groups = own_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    except (OSError, ValueError):
        return []
    found: list[Path] = []
    for group in groups:
        if "blkio" in group.controllers:
            name, folders = "blkio.throttle.write_bps_device", [group.own, _top(group.own, "blkio.throttle")]
        elif not group.controllers:
            # The worker may stand in a group beside those of its sandboxes, and not above them.
            name, folders = "io.max", [group.own, group.own.parent]
        else:
            continue
        found += [folder / name for folder in dict.fromkeys(folders) if os.access(folder / name, os.W_OK)]
    return found


def _top(folder: Path, prefix: str) -> Path:
    """The topmost group above (or at) `folder` that is still of its hierarchy."""
    while any(entry.startswith(prefix) for entry in _names(folder.parent)):
        folder = folder.parent
    return folder


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
