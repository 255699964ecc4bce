"""Is a trial that was killed cleared away by the next one, and one that is under way left alone?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.sandbox.trials import stale_trials, trial_folder

HOLDS = """
import sys
from hostler.sandbox.trials import trial_folder
with trial_folder("test", lambda place: None) as place:
    (place / "state").mkdir()
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A process with a trial under way."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_trial_has_left_is_ended_and_removed(trial: subprocess.Popen[str]) -> None:
    swept: list[Path] = []
    with trial:
        assert trial.stdout is not None
        left = Path(trial.stdout.readline().strip())
        with trial_folder("test", swept.append):
            assert swept == []
            assert left.is_dir()
        trial.kill()
        trial.wait()
    with trial_folder("other", swept.append):
        assert swept == []
    with trial_folder("test", swept.append) as place:
        assert swept == [left]
        assert not left.exists()
        assert place.is_dir()
    assert not place.exists()


def test_what_can_not_be_ended_stays_for_the_next_try(trial: subprocess.Popen[str]) -> None:
    def fail(place: Path) -> None:
        raise OSError("not now")

    with trial:
        assert trial.stdout is not None
        left = Path(trial.stdout.readline().strip())
        trial.kill()
        trial.wait()
    with trial_folder("test", fail):
        assert left.is_dir()
    with trial_folder("test", lambda place: None):
        assert not left.exists()


def test_a_trial_that_tidies_up_is_not_taken_for_one_that_was_killed(tmp_path: Path) -> None:
    """Servers and commands that start at the same time look for stale trials while others end theirs."""
    over, found = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            found.extend(stale.place for stale in stale_trials("test", tmp_path))

    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look)
        for _ in range(100):
            with trial_folder("test", near=tmp_path) as place:
                for number in range(20):
                    (place / f"state {number}").mkdir()
        over.set()
        looking.result()
    assert found == []
