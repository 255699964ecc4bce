"""What is a snapshot of a session's files, and what can be done with one?

A snapshot is the state of the folders of a session's home that outlive its processes, at one moment, kept where every
worker can read it: a row, a manifest and packs of compressed pieces, each under the SHA-256 of what it holds. Pieces
that a workspace has already are not kept twice. Nothing of a host is in it: no owner, no absolute path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

PARTS: Final = ("workspace", "outputs", "repositories")
"""Folders of a home that are kept. The harness's state comes from the transcript; files, skills and memory are laid out
anew from what the database knows."""

Reason = Literal["turn", "checkpoint", "hibernation", "fork", "import"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of one."""

    id: str
    """`snap_…`"""
    session_id: str
    number: int
    """1 for a session's first; later ones are higher."""
    parent_id: str | None
    """The one before, that restoring falls back to."""
    reason: Reason
    taken_at: str
    entries: int
    """Files, folders and links."""
    logical_bytes: int
    """Sum of the sizes of the files."""
    stored_bytes: int
    """What it added to what was kept before, compressed."""


@dataclass(frozen=True, slots=True)
class Change:
    """How one path differs between two snapshots."""

    path: str
    """Relative to the home, such as `workspace/src/a.py`."""
    how: Literal["added", "removed", "changed", "mode"]
    before_bytes: int | None
    after_bytes: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What a home was filled with."""

    snapshot: Snapshot | None
    """None: there is none; the parts are empty."""
    damaged: tuple[str, ...] = ()
    """Ids of later snapshots that could not be read whole, the newest first. Not empty: work was lost, say so."""


class SnapshotDamaged(Exception):
    """A named snapshot can't be read whole. The message says what is missing or wrong."""


class SnapshotTooLarge(Exception):
    """What the session keeps is more than a snapshot may hold. The message names the limit."""


class Snapshots(Protocol):
    """The snapshots of all sessions."""

    async def take(self, session: SessionRow, home: Path, reason: Reason, lease: Lease | None = None) -> Snapshot:
        """Keeps what is in the parts of `home` now. Nothing must change there meanwhile: the caller suspends what runs.

        Only what changed since the session's latest snapshot is read and kept. When nothing has changed, the latest is
        given again. With a `lease`, the row is written in a transaction that finds the lease holding; LeaseLost
        otherwise. Devices, sockets and pipes are left out, no link is followed. Raises SnapshotTooLarge,
        ObjectsUnavailable.
        """
        ...

    async def latest(self, session_id: str) -> Snapshot | None: ...

    async def restore(self, session_id: str, home: Path, snapshot_id: str | None = None) -> Restored:
        """Makes the parts of `home` what the snapshot holds, whatever was there before, with the worker as the owner.

        None: the latest; when that is damaged, the one before, and so on (`Restored.damaged`). Every piece is verified.
        A named one raises NotFound, SnapshotDamaged. Leaves no half-made part: they are made beside and renamed.
        """
        ...

    async def changes(self, before_id: str, after_id: str) -> Sequence[Change]:
        """Sorted by path. Both are of the same workspace. Raises NotFound, SnapshotDamaged."""
        ...

    async def share(self, snapshot_id: str, session: SessionRow) -> Snapshot:
        """A snapshot of another session of the same workspace with the same content, without a copy of any piece."""
        ...
