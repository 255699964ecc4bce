"""Is what a test run left that was killed taken away by the next one, and what others have not?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from engines import OWNER, sweep

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


def test_only_what_dead_test_runs_left_is_taken_away(tmp_path: Path) -> None:
    dead, living, foreign = (tmp_path / name for name in ("hd-dead", "hd-living", "hd-foreign"))
    for home in (dead, living, foreign):
        (home / "data").mkdir(parents=True)
    (dead / OWNER).write_text(f"{os.getpid()} 1")  # another process had this id before
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (living / OWNER).write_text(f"{os.getpid()} {started}")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(dead / "data")], check=True, timeout=60)
    command = ["sh", "-c", "echo runs; read wait", f"{dead}/engine"]
    engine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"runs\n"  # until then its arguments may not be seen
        assert sweep("hd-", tmp_path) == [dead]
        assert engine.wait(20) < 0
    finally:
        engine.kill()
        engine.communicate()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hd-foreign", "hd-living"]
    assert str(dead) not in Path("/proc/self/mountinfo").read_text()
