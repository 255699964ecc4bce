"""What is a snapshot of a session's files, and what can be done with one?

A snapshot is the state of the folders of a session's home that outlive its processes, at one moment, kept where every
worker can read it: a row, a manifest and packs of compressed pieces, each under the SHA-256 of what it holds. Pieces
that a workspace has already are not kept twice. Nothing of a host is in it: no owner, no absolute path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from sqlalchemy import Connection

from hostler.store.rooms import RoomLease
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

PARTS: Final = ("workspace", "outputs", "repositories")
"""Folders of a home that are kept. The harness's state comes from the transcript; files, skills and memory are laid out
anew from what the database knows."""

ALWAYS: Final = ("workspace", "outputs")
"""Those of them that are there even when nothing is in them."""

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


Shown = Callable[[], Awaitable[int | None]]
"""Says that a home's folders are shown to a sandbox: these stay, and what is in them is exchanged. Gives the user whose
files they have become, once they have; None: the worker's own."""


@dataclass(frozen=True, slots=True)
class Change:
    """How one path differs between two snapshots."""

    path: str
    """Relative to the home, such as `workspace/src/a.py`. Bytes that are no UTF-8 are shown as `\\xff`."""
    how: Literal["added", "removed", "changed", "mode"]
    before_bytes: int | None
    after_bytes: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What a home was filled with."""

    snapshot: Snapshot | None
    """None: there is none; the parts are empty folders."""
    damaged: tuple[str, ...] = ()
    """Ids of later snapshots that could not be read whole, the newest first. Not empty: work was lost, say so."""


class SnapshotDamaged(Exception):
    """A named snapshot can't be read whole. The message says what is missing or wrong."""


class SnapshotTooLarge(Exception):
    """What the session keeps is more than a snapshot may hold. The message names the limit."""


class Holder(Protocol):
    """Whose files are kept: a session, or a room."""

    @property
    def id(self) -> str: ...

    @property
    def workspace_id(self) -> str: ...


class Snapshots(Protocol):
    """The snapshots of all sessions and rooms. A room's id stands wherever a session's does."""

    async def take(
        self, session: Holder, home: Path, reason: Reason, lease: Lease | RoomLease | None = None
    ) -> Snapshot:
        """Keeps what is in the parts of `home` now. Nothing must change there meanwhile: the caller suspends what runs.

        Only what changed since the session's latest snapshot is read and kept. When nothing has changed, the latest is
        given again. With a `lease`, the row is written in a transaction that finds the lease holding; LeaseLost
        otherwise. Devices, sockets and pipes are left out, no link is followed. Raises SnapshotTooLarge,
        ObjectsUnavailable.
        """
        ...

    async def latest(self, session_id: str) -> Snapshot | None: ...

    async def restore(
        self, session_id: str, home: Path, snapshot_id: str | None = None, shown: Shown | None = None
    ) -> Restored:
        """Makes the parts of `home` what the snapshot holds, whatever was there before, with the worker as the owner,
        or as `shown` says.

        None: the latest; when that is damaged, the one before, and so on (`Restored.damaged`). Every piece is verified.
        A named one raises NotFound, SnapshotDamaged. Leaves no half-made part: they are made beside and renamed.
        """
        ...

    async def changes(self, before_id: str, after_id: str) -> Sequence[Change]:
        """Sorted by path. Both are of the same workspace. Raises NotFound, SnapshotDamaged."""
        ...

    async def share(self, snapshot_id: str, session: SessionRow) -> Snapshot:
        """A snapshot of `session` with the content of one of the same workspace, without a copy of any piece.

        For a fork; or, with a snapshot of the same session, to make an earlier state its latest. What it falls back to
        is what that one would. Raises NotFound.
        """
        ...

    async def trim(self, session_id: str, keep_ids: Collection[str]) -> None:
        """Removes the session's snapshots but the latest few and those named. Room is made by the next sweep."""
        ...

    async def forget(self, session_id: str) -> None:
        """Removes all of them, and what this host remembers of the session's files. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One name in a snapshot."""

    path: str
    """Relative to the home; `os.fsencode` gives its bytes."""
    kind: Literal["file", "folder", "symlink", "hardlink"]
    mode: int
    mtime_ns: int
    size: int
    """Bytes of a file with its holes; else 0."""
    target: str | None
    """Where a symlink points, as it stands there; or the path of the file that a hard link is another name of."""


class OpenSnapshot(Protocol):
    """A snapshot that is being read. One task."""

    @property
    def entries(self) -> Sequence[SnapshotEntry]:
        """Each folder before what is in it."""
        ...

    def content(self, path: str) -> AsyncIterator[bytes]:
        """Of a file, or of a hard link to one, with zeros for holes; verified piece by piece, at most 4 MiB each.

        In the order of `entries` little is fetched twice. Raises NotFound, SnapshotDamaged, ObjectsUnavailable.
        """
        ...


class SnapshotReading(Protocol):
    """What is in snapshots, for those who want it without a home."""

    def opened(self, snapshot_id: str) -> AbstractAsyncContextManager[OpenSnapshot]:
        """Raises NotFound, SnapshotDamaged, ObjectsUnavailable."""
        ...


class SnapshotMaking(Protocol):
    """A snapshot that is being made of what is not in a home. One task.

    What was kept for one that is never recorded goes with a later sweep.
    """

    async def add(self, entry: SnapshotEntry, content: AsyncIterator[bytes]) -> None:
        """The next name, behind the folder that it is in. `content` of a file has `entry.size` bytes.

        Raises SnapshotTooLarge, ObjectsUnavailable.
        """
        ...

    async def finish(self) -> None:
        """There are no more: all is kept but the row. Raises SnapshotDamaged when names and kinds don't fit together;
        SnapshotTooLarge, ObjectsUnavailable."""
        ...

    def record_in(self, conn: Connection, now: float, session: SessionRow, reason: Reason) -> str:
        """After `finish`, in a transaction of the caller's: it is the latest of `session`, which is of the same
        workspace. Its id. Raises Conflict when all of it took so long that some of it was swept away."""
        ...


class SnapshotMakers(Protocol):
    """Where snapshots can be made of what is not in a home."""

    def making(self, workspace_id: str) -> SnapshotMaking: ...


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has removed, or would."""

    objects: int
    """Of the object store."""
    object_bytes: int
    nameless: int
    """How many of them no row had named: left by a crash."""
