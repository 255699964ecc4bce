"""How is a place for a unix socket made free?"""

from __future__ import annotations

import errno
import os
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
