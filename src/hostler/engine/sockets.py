"""How is a place for a unix socket made free, and how is it taken before anybody answers there?"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path


def remove_stale_socket(path: Path) -> None:
    """Removes a socket file that an earlier process left. Anything else at that place is not ours: FileExistsError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is not a socket is in the way", str(path))
    path.unlink()


def closed_door(path: Path) -> socket.socket:
    """A socket at `path` that refuses whoever connects, until somebody listens on it."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(str(path))
    except BaseException:
        door.close()
        raise
    return door
