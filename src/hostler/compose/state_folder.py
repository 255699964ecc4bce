"""Whose is the state folder? One server's at a time, and its worker has the same name in each of its lives."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Two servers must not share a state folder: they would take each other's sandboxes for left-overs."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    with (settings.state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidRequest(
                f"another Hostler uses {settings.state_dir}; stop it, or choose another folder with --state-dir"
            ) from None
        yield


def worker_name(settings: Settings) -> str:
    """The name under which this state folder's worker holds leases: the same in its next life, and nobody else's."""
    if settings.worker.name:
        return settings.worker.name
    file = settings.state_dir / "worker-name"
    if not file.exists():
        file.write_text(new_id("worker"))
    return file.read_text().strip()
