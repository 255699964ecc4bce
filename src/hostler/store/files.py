"""Which files are there, and whose are they? Rows that refer to blobs, and what sessions have put out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import NotFound
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables_files import files, resource_secrets, session_outputs


@dataclass(frozen=True, slots=True)
class FileRow:
    id: str
    workspace_id: str
    session_id: str | None
    """The session that it belongs to and goes with: its copy of an upload, or something that it put out."""
    filename: str
    mime_type: str
    size_bytes: int
    sha256: str
    downloadable: bool
    created_at: str
    expires_at: str | None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= moment(now)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be made. Its blob is kept already."""

    id: str
    workspace_id: str
    filename: str
    mime_type: str
    size_bytes: int
    sha256: str
    downloadable: bool
    session_id: str | None = None
    expires_in_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class OutputRow:
    """What was last seen under one path of a session's outputs."""

    path: str
    signature: str
    sha256: str
    file_id: str


_COLUMNS = tuple(files.c[name] for name in FileRow.__slots__)
_KEYS = (files.c.created_at, files.c.id)
_BATCH = 500
EXPIRED_BLOB_SECONDS = 600.0
"""How long the bytes of an expired file stay: a session that took a copy just before may not be committed yet."""


def create_file(conn: Connection, now: float, new: NewFile) -> FileRow:
    values = {
        "id": new.id,
        "workspace_id": new.workspace_id,
        "session_id": new.session_id,
        "filename": new.filename,
        "mime_type": new.mime_type,
        "size_bytes": new.size_bytes,
        "sha256": new.sha256,
        "downloadable": new.downloadable,
        "created_at": moment(now),
        "expires_at": None if new.expires_in_seconds is None else moment(now + new.expires_in_seconds),
    }
    conn.execute(files.insert().values(**values))
    return FileRow(**values)  # type: ignore[arg-type]


def get_file(conn: Connection, workspace_id: str, file_id: str, *, keep: bool = False) -> FileRow:
    """Raises NotFound. `keep`: nobody deletes it before the end of this transaction."""
    query = sa.select(*_COLUMNS).where(files.c.workspace_id == workspace_id, files.c.id == file_id)
    row = conn.execute(query.with_for_update(read=True) if keep else query).first()
    if row is None:
        raise missing(file_id)
    return FileRow(*row)


def find_files(conn: Connection, workspace_id: str, ids: Collection[str]) -> list[FileRow]:
    """Those of `ids` that exist, newest first."""
    query = sa.select(*_COLUMNS).where(files.c.workspace_id == workspace_id, files.c.id.in_(sorted(ids)))
    return [FileRow(*row) for row in conn.execute(query.order_by(*(key.desc() for key in _KEYS)))]


def list_files(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    session_id: str | None = None,
    after: Position | None = None,
    before: Position | None = None,
) -> Page[FileRow]:
    """Newest first."""
    conditions = [files.c.workspace_id == workspace_id]
    if session_id is not None:
        conditions.append(files.c.session_id == session_id)
    return page(
        conn, files, _COLUMNS, conditions, FileRow, keys=_KEYS, order="desc", limit=limit, after=after, before=before
    )


def delete_file(conn: Connection, workspace_id: str, file_id: str) -> None:
    """Raises NotFound. The blob goes with the next sweep, unless another file holds the same bytes."""
    gone = conn.execute(files.delete().where(files.c.workspace_id == workspace_id, files.c.id == file_id))
    if not gone.rowcount:
        raise missing(file_id)


def drop_file(conn: Connection, workspace_id: str, file_id: str) -> None:
    """The same, and nothing when it is gone already."""
    conn.execute(files.delete().where(files.c.workspace_id == workspace_id, files.c.id == file_id))


def files_bytes(conn: Connection, workspace_id: str, now: float) -> int:
    """The room that a workspace's files take, in bytes: the same bytes once, what has expired not at all."""
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > moment(now))
    each = sa.select(files.c.sha256, files.c.size_bytes).distinct().where(files.c.workspace_id == workspace_id, alive)
    query = sa.select(sa.func.coalesce(sa.func.sum(each.subquery().c.size_bytes), 0))
    return int(conn.execute(query).scalar_one())


def drop_expired(conn: Connection, now: float, *, kept_seconds: float, limit: int = 1000) -> int:
    """Remove files that expired longer than `kept_seconds` ago; how many."""
    old = sa.select(files.c.id).where(files.c.expires_at < moment(now - kept_seconds)).limit(limit)
    ids = [row.id for row in conn.execute(old)]
    conn.execute(files.delete().where(files.c.id.in_(ids)))
    return len(ids)


def used_blobs(conn: Connection, now: float, asked: Sequence[str]) -> set[str]:
    """Those of the digests that a file which hasn't expired refers to."""
    found: set[str] = set()
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > moment(now - EXPIRED_BLOB_SECONDS))
    for start in range(0, len(asked), _BATCH):
        query = sa.select(files.c.sha256).distinct()
        query = query.where(files.c.sha256.in_(asked[start : start + _BATCH]), alive)
        found.update(row.sha256 for row in conn.execute(query))
    return found


# ------------------------------------------------------------------------------------------------------- outputs


def session_outputs_of(conn: Connection, session_id: str) -> dict[str, OutputRow]:
    """By path."""
    columns = tuple(session_outputs.c[name] for name in OutputRow.__slots__)
    query = sa.select(*columns).where(session_outputs.c.session_id == session_id)
    return {row.path: OutputRow(*row) for row in conn.execute(query)}


def output_sizes(conn: Connection, session_id: str) -> dict[str, int]:
    """What a session has put out and nobody has deleted: sizes in bytes, by id of the file."""
    query = sa.select(files.c.id, files.c.size_bytes).select_from(
        session_outputs.join(files, files.c.id == session_outputs.c.file_id)
    )
    return {row.id: row.size_bytes for row in conn.execute(query.where(session_outputs.c.session_id == session_id))}


def drop_outputs(conn: Connection, session_id: str, paths: Sequence[str]) -> None:
    """Forget what was seen under these paths."""
    for start in range(0, len(paths), _BATCH):
        some = session_outputs.c.path.in_(paths[start : start + _BATCH])
        conn.execute(session_outputs.delete().where(session_outputs.c.session_id == session_id, some))


def put_output(conn: Connection, session_id: str, row: OutputRow) -> None:
    """Remember what was seen, in place of what was seen before under this path."""
    values: dict[str, Any] = {"signature": row.signature, "sha256": row.sha256, "file_id": row.file_id}
    here = (session_outputs.c.session_id == session_id) & (session_outputs.c.path == row.path)
    if not conn.execute(session_outputs.update().where(here).values(**values)).rowcount:
        conn.execute(session_outputs.insert().values(session_id=session_id, path=row.path, **values))


# ------------------------------------------------------------------------------------------------------- secrets


def put_secret(conn: Connection, session_id: str, resource_id: str, sealed: str) -> None:
    """Keep what belongs to a resource and must not be seen, sealed already; in place of what was there."""
    here = _secret(session_id, resource_id)
    if not conn.execute(resource_secrets.update().where(here).values(sealed=sealed)).rowcount:
        conn.execute(resource_secrets.insert().values(resource_id=resource_id, session_id=session_id, sealed=sealed))


def get_secret(conn: Connection, session_id: str, resource_id: str) -> str | None:
    query = sa.select(resource_secrets.c.sealed).where(_secret(session_id, resource_id))
    row = conn.execute(query).first()
    return None if row is None else str(row.sealed)


def drop_secret(conn: Connection, session_id: str, resource_id: str) -> None:
    conn.execute(resource_secrets.delete().where(_secret(session_id, resource_id)))


def copy_secret(conn: Connection, session_id: str, resource_id: str, copy_id: str) -> None:
    """Another session has the same resource, with what belongs to it."""
    sealed = get_secret(conn, session_id, resource_id)
    if sealed is not None:
        put_secret(conn, copy_id, resource_id, sealed)


def _secret(session_id: str, resource_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(resource_secrets.c.session_id == session_id, resource_secrets.c.resource_id == resource_id)


def missing(file_id: str) -> NotFound:
    return NotFound(f"file {file_id} does not exist")
