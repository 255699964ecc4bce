"""Can a launcher be executed as soon as it is written, whatever other threads start meanwhile?"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.sandbox import programs


def test_a_program_is_not_ready_while_somebody_could_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "program"
    programs.write(path, "#!/bin/sh\necho on\n")
    with ThreadPoolExecutor() as threads:
        # As a process that was forked a moment ago and has not come to its exec.
        with path.open("a"):
            waiting = threads.submit(programs.settle, path)
            with pytest.raises(OSError, match="busy"):
                subprocess.run([path], check=False)
            assert not waiting.done()
        waiting.result(timeout=60)
    assert subprocess.run([path], capture_output=True, check=True).stdout == b"on\n"


def test_programs_can_be_executed_while_other_threads_start_processes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(lambda: [subprocess.run(["true"], check=True) for _ in range(60)]) for _ in range(3)]
        for number in range(60):
            path = tmp_path / str(number)
            programs.write(path, "#!/bin/sh\nexit 7\n")
            assert subprocess.run([path], check=False).returncode == 7
        for other in others:
            other.result()
