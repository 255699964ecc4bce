"""Do commits go to the disk before what sandboxes write, and nothing else of this process?"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest

from hostler.store.database import Database

REAL_TIME = 1


def disk_class() -> int:
    """Of the calling thread: `ioprio_get(IOPRIO_WHO_PROCESS, 0)`."""
    return int(ctypes.CDLL(None).syscall(252, 1, 0)) >> 13


@pytest.mark.needs_root
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call is another one elsewhere")
async def test_only_the_thread_that_commits_goes_first(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite:///{tmp_path / 'hostler.db'}")
    try:
        assert await database.write(lambda _: disk_class()) == REAL_TIME
        assert await database.read(lambda _: disk_class()) != REAL_TIME
        assert disk_class() != REAL_TIME
    finally:
        await database.close()
