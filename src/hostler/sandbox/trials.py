"""Where does an adapter try whether it works on this host, and who ends what a killed trial has left?

A trial has a state directory of its own below a folder of this host's temporary directory, since it must not disturb a
worker that uses the real one. The folder is locked for as long as its process lives. The next trial of the same kind
finds those that nobody locks any more, and ends what they still have running.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.homes import remove_tree

log = logging.getLogger("hostler.sandbox")

_LOCK = "trial.lock"


@dataclass(slots=True)
class Stale:
    """What a trial has left whose process is gone."""

    place: Path
    ended: bool = False
    """Set it when nothing of it runs any more: then its folder is removed."""


def stale_trials(kind: str, near: Path | None = None) -> Iterator[Stale]:
    """Each is locked while it is looked at. Those that are not ours, or in use, are passed over."""
    for place in sorted(_parent(near).glob(f"{_prefix(kind)}*")):
        lock = _locked(place)
        if lock is None:
            continue
        try:
            stale = Stale(place)
            yield stale
            if stale.ended:
                remove_tree(place)
        finally:
            os.close(lock)


@contextmanager
def trial_folder(kind: str, end: Callable[[Path], object] | None = None, near: Path | None = None) -> Iterator[Path]:
    """A folder for one trial, gone afterwards. Blocks.

    kind  what is tried: a word.
    end   ends what a killed trial has left in the folder that it is given. What it raises is reported in the log. None:
          the caller has seen to the stale ones.
    near  where the folders of this kind are. None: the host's temporary directory.
    """
    if end is not None:
        for stale in stale_trials(kind, near):
            try:
                end(stale.place)
                stale.ended = True
            except Exception:
                log.exception("trial_not_ended", extra={"folder": str(stale.place)})
    folder = tempfile.TemporaryDirectory(prefix=_prefix(kind), dir=_parent(near))
    place = Path(folder.name)
    held = os.open(place / "lock-to-be", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with folder:
            fcntl.flock(held, fcntl.LOCK_EX)
            (place / "lock-to-be").rename(place / _LOCK)  # from now on it can be found, and it is locked
            yield place
    finally:
        os.close(held)  # not before the folder is gone: it would be taken for one of a process that was killed


def _parent(near: Path | None) -> Path:
    return Path(tempfile.gettempdir()) if near is None else near


def _prefix(kind: str) -> str:
    return f"hostler-probe-{kind}-"


def _locked(place: Path) -> int | None:
    """The lock of a trial that nobody else holds."""
    with suppress(OSError):
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), (place / _LOCK).lstat()):  # its owner may just have removed it
                    return lock
                raise FileNotFoundError(place)
            except OSError:
                os.close(lock)
    return None
