"""Which snapshots are there, of which session, and which objects does each need?

The bytes are objects of the object store; here is what refers to them. An object that no snapshot uses is removed by a
sweep. That a snapshot begins to use one while it is being removed is excluded by the database: the row of an object
can't go while a row of `snapshot_uses` needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.errors import NotFound
from hostler.store.moments import moment
from hostler.store.tables_snapshots import snapshot_objects, snapshot_pieces, snapshot_uses, snapshots

T = TypeVar("T")
Kind = Literal["pack", "manifest"]


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    id: str
    workspace_id: str
    session_id: str
    number: int
    parent_id: str | None
    reason: str
    taken_at: str
    entries: int
    logical_bytes: int
    stored_bytes: int
    manifest: str
    """SHA-256 of the object that describes it."""
    content: str
    """The same for two snapshots that hold the same."""


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot to be recorded. Its objects are kept already."""

    id: str
    workspace_id: str
    session_id: str
    parent_id: str | None
    reason: str
    entries: int
    logical_bytes: int
    stored_bytes: int
    manifest: str
    content: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    sha256: str
    kind: Kind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PiecePlace:
    """Where a workspace has a piece."""

    sha256: str
    pack: str
    start: int
    """Of its compressed bytes in the pack."""
    stored: int
    """How many those are."""


class ObjectsGone(Exception):
    """A snapshot was to use objects that a sweep has removed meanwhile. They have to be kept anew."""


_COLUMNS = tuple(snapshots.c[name] for name in SnapshotRow.__slots__)
_BATCH = 500


def latest_snapshot(conn: Connection, session_id: str) -> SnapshotRow | None:
    query = sa.select(*_COLUMNS).where(snapshots.c.session_id == session_id)
    row = conn.execute(query.order_by(snapshots.c.number.desc()).limit(1)).first()
    return None if row is None else SnapshotRow(*row)


def find_snapshot(conn: Connection, snapshot_id: str) -> SnapshotRow | None:
    row = conn.execute(sa.select(*_COLUMNS).where(snapshots.c.id == snapshot_id)).first()
    return None if row is None else SnapshotRow(*row)


def get_snapshot(conn: Connection, snapshot_id: str, *, workspace_id: str | None = None) -> SnapshotRow:
    """Raises NotFound, also when it is another workspace's."""
    row = find_snapshot(conn, snapshot_id)
    if row is None or workspace_id not in (None, row.workspace_id):
        raise NotFound(f"snapshot {snapshot_id} does not exist")
    return row


def list_snapshots(conn: Connection, session_id: str) -> list[SnapshotRow]:
    """Newest first."""
    query = sa.select(*_COLUMNS).where(snapshots.c.session_id == session_id)
    return [SnapshotRow(*row) for row in conn.execute(query.order_by(snapshots.c.number.desc()))]


def with_snapshots(conn: Connection, session_ids: Collection[str]) -> set[str]:
    """Those of the sessions that have any."""
    found: set[str] = set()
    for some in _batches(sorted(session_ids)):
        query = sa.select(snapshots.c.session_id).where(snapshots.c.session_id.in_(some)).distinct()
        found.update(conn.execute(query).scalars())
    return found


def create_snapshot(conn: Connection, now: float, new: NewSnapshot, objects: Collection[str]) -> SnapshotRow:
    """The next of its session, which uses `objects` from now on. Raises ObjectsGone, IntegrityError.

    IntegrityError: somebody else has recorded a snapshot of the session at the same time.
    """
    last = sa.select(sa.func.coalesce(sa.func.max(snapshots.c.number), 0)).where(
        snapshots.c.session_id == new.session_id
    )
    values: dict[str, Any] = {name: getattr(new, name) for name in NewSnapshot.__slots__}
    values |= {"number": int(conn.execute(last).scalar_one()) + 1, "taken_at": moment(now)}
    _lock_objects(conn, new.workspace_id, objects)
    conn.execute(snapshots.insert().values(**values))
    uses = [{"snapshot_id": new.id, "workspace_id": new.workspace_id, "sha256": sha} for sha in sorted(objects)]
    if uses:
        conn.execute(snapshot_uses.insert(), uses)
    return SnapshotRow(**values)


def _lock_objects(conn: Connection, workspace_id: str, wanted: Collection[str]) -> None:
    """They stay until the transaction ends. Raises ObjectsGone."""
    for some in _batches(sorted(wanted)):
        query = sa.select(snapshot_objects.c.sha256).where(
            snapshot_objects.c.workspace_id == workspace_id, snapshot_objects.c.sha256.in_(some)
        )
        found = conn.execute(query.order_by(snapshot_objects.c.sha256).with_for_update(read=True, key_share=True))
        if len(found.all()) != len(some):
            raise ObjectsGone


def change_reason(conn: Connection, snapshot_id: str, reason: str) -> None:
    conn.execute(snapshots.update().where(snapshots.c.id == snapshot_id).values(reason=reason))


def used_objects(conn: Connection, snapshot_id: str) -> list[str]:
    query = sa.select(snapshot_uses.c.sha256).where(snapshot_uses.c.snapshot_id == snapshot_id)
    return list(conn.execute(query.order_by(snapshot_uses.c.sha256)).scalars())


def remove_snapshots(conn: Connection, rows: Collection[SnapshotRow]) -> None:
    """They are gone; what went back to one of them goes back to the one before it."""
    before = {row.id: row.parent_id for row in rows}
    for row in rows:
        parent = row.parent_id
        while parent in before:
            parent = before[parent]
        conn.execute(snapshots.update().where(snapshots.c.parent_id == row.id).values(parent_id=parent))
    for some in _batches(sorted(before)):
        conn.execute(snapshots.delete().where(snapshots.c.id.in_(some)))


# -- objects


def keep_objects(
    conn: Connection, now: float, workspace_id: str, objects: Sequence[StoredObject], pieces: Sequence[PiecePlace]
) -> None:
    """They are there, and hold these pieces. A piece that is elsewhere already is looked for here from now on."""
    if objects:
        rows = [
            {
                "workspace_id": workspace_id,
                "sha256": each.sha256,
                "kind": each.kind,
                "size_bytes": each.size_bytes,
                "kept_at": now,
                "damaged": False,
            }
            for each in objects
        ]
        conn.execute(_dialect(conn).insert(snapshot_objects).on_conflict_do_nothing(), rows)
    if pieces:
        row = _dialect(conn).insert(snapshot_pieces)
        moved = {name: row.excluded[name] for name in ("pack", "start", "stored")}
        upsert = row.on_conflict_do_update(index_elements=["workspace_id", "sha256"], set_=moved)
        values = [
            {
                "workspace_id": workspace_id,
                "sha256": piece.sha256,
                "pack": piece.pack,
                "start": piece.start,
                "stored": piece.stored,
            }
            for piece in sorted(pieces, key=lambda piece: piece.sha256)  # two that do this don't wait for each other
        ]
        conn.execute(upsert, values)


def find_pieces(conn: Connection, workspace_id: str, asked: Collection[str]) -> dict[str, tuple[PiecePlace, int]]:
    """Those of the digests that the workspace has, each under its digest, with the size of the pack that it is in."""
    found = {}
    packs = snapshot_objects
    for some in _batches(sorted(asked)):
        query = (
            sa.select(*(snapshot_pieces.c[name] for name in PiecePlace.__slots__), packs.c.size_bytes)
            .join(packs, sa.and_(packs.c.workspace_id == workspace_id, packs.c.sha256 == snapshot_pieces.c.pack))
            .where(snapshot_pieces.c.workspace_id == workspace_id, snapshot_pieces.c.sha256.in_(some))
        )
        for *place, pack_bytes in conn.execute(query):
            found[place[0]] = (PiecePlace(*place), pack_bytes)
    return found


def sound_objects(conn: Connection, workspace_id: str, asked: Collection[str]) -> set[str]:
    """Those of the digests that are there, and that nobody has found to be damaged or missing."""
    return _which(conn, workspace_id, asked, sa.not_(snapshot_objects.c.damaged))


def has_damage(conn: Connection, snapshot_id: str) -> bool:
    """Whether somebody has found one of its objects to be damaged or missing."""
    of = sa.and_(
        snapshot_objects.c.workspace_id == snapshot_uses.c.workspace_id,
        snapshot_objects.c.sha256 == snapshot_uses.c.sha256,
    )
    found = sa.select(snapshot_uses.c.sha256).join(snapshot_objects, of)
    return (
        conn.execute(found.where(snapshot_uses.c.snapshot_id == snapshot_id, snapshot_objects.c.damaged)).first()
        is not None
    )


def mark_damaged(conn: Connection, workspace_id: str, sha256: str) -> None:
    """Nothing that is kept from now on relies on it."""
    which = (snapshot_objects.c.workspace_id == workspace_id, snapshot_objects.c.sha256 == sha256)
    conn.execute(snapshot_objects.update().where(*which).values(damaged=True))
    pieces = (snapshot_pieces.c.workspace_id == workspace_id, snapshot_pieces.c.pack == sha256)
    conn.execute(snapshot_pieces.delete().where(*pieces))


# -- the sweep


_UNUSED = sa.not_(
    sa.exists().where(
        snapshot_uses.c.workspace_id == snapshot_objects.c.workspace_id,
        snapshot_uses.c.sha256 == snapshot_objects.c.sha256,
    )
)


def unused_figures(conn: Connection, kept_before: float) -> tuple[int, int]:
    """How many objects no snapshot uses that were kept before that moment, and how many bytes they are."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(snapshot_objects.c.size_bytes), 0))
    count, size = conn.execute(query.where(snapshot_objects.c.kept_at < kept_before, _UNUSED)).one()
    return int(count), int(size)


def drop_unused(conn: Connection, kept_before: float, limit: int) -> list[tuple[str, StoredObject]]:
    """Forgets up to `limit` objects that no snapshot uses; gives their workspaces and what they were.

    One that another transaction begins to use at this moment is passed over, and one that was begun to be used before
    the lock was had is not unused any more: the second look is another statement.
    """
    columns = (snapshot_objects.c.workspace_id, snapshot_objects.c.sha256)
    old = sa.select(*columns).where(snapshot_objects.c.kept_at < kept_before, _UNUSED).limit(limit)
    locked = conn.execute(old.with_for_update(skip_locked=True, of=snapshot_objects)).all()
    dropped = []
    for workspace_id, some in _by_workspace(locked):
        gone = (
            snapshot_objects.delete()
            .where(snapshot_objects.c.workspace_id == workspace_id, snapshot_objects.c.sha256.in_(some), _UNUSED)
            .returning(snapshot_objects.c.sha256, snapshot_objects.c.kind, snapshot_objects.c.size_bytes)
        )
        dropped += [(workspace_id, StoredObject(*row)) for row in conn.execute(gone)]
    return dropped


def known_objects(conn: Connection, workspace_id: str, asked: Collection[str]) -> set[str]:
    """Those of the digests that a row is there for."""
    return _which(conn, workspace_id, asked, sa.true())


def _which(conn: Connection, workspace_id: str, asked: Collection[str], condition: sa.ColumnElement[bool]) -> set[str]:
    found: set[str] = set()
    for some in _batches(sorted(asked)):
        query = sa.select(snapshot_objects.c.sha256).where(
            snapshot_objects.c.workspace_id == workspace_id, snapshot_objects.c.sha256.in_(some), condition
        )
        found.update(conn.execute(query).scalars())
    return found


def snapshot_bytes(conn: Connection, workspace_id: str) -> int:
    """The room that a workspace's snapshots take, in bytes, with what the next sweep removes."""
    query = sa.select(sa.func.coalesce(sa.func.sum(snapshot_objects.c.size_bytes), 0))
    return int(conn.execute(query.where(snapshot_objects.c.workspace_id == workspace_id)).scalar_one())


def _by_workspace(rows: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for workspace_id, sha256 in rows:
        found.setdefault(workspace_id, []).append(sha256)
    for workspace_id, all_of_it in found.items():
        for some in _batches(sorted(all_of_it)):
            yield workspace_id, some


def _batches(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _dialect(conn: Connection) -> Any:
    return sqlite if conn.dialect.name == "sqlite" else postgresql


__all__: Sequence[str] = [
    "NewSnapshot",
    "ObjectsGone",
    "PiecePlace",
    "SnapshotRow",
    "StoredObject",
    "change_reason",
    "create_snapshot",
    "drop_unused",
    "find_pieces",
    "find_snapshot",
    "get_snapshot",
    "has_damage",
    "keep_objects",
    "known_objects",
    "latest_snapshot",
    "list_snapshots",
    "mark_damaged",
    "remove_snapshots",
    "snapshot_bytes",
    "sound_objects",
    "unused_figures",
    "used_objects",
    "with_snapshots",
]
