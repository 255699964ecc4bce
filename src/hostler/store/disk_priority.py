"""How does a thread get its writes onto the disk before those of the sandboxes?

Every step of a session waits for a commit, and what a session floods its volume with goes to the same disk. Schedulers
of disks that know classes (mq-deadline, bfq) let the class *real time* go first: a commit is small, so nobody starves.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from typing import Final

log = logging.getLogger("hostler.store")

_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS: Final = 1
_REAL_TIME: Final = 1 << 13
_LEVEL: Final = 4


def write_first() -> None:
    """Of the calling thread, for its life. Does nothing where that takes rights that this process lacks."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, 0, _REAL_TIME | _LEVEL) != 0:
        log.debug("no_disk_priority", extra={"errno": ctypes.get_errno()})
