"""How does an uploaded file come into a session? As a copy of its own, laid out on the host and mounted read-only."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound, StoreDamaged
from hostler.domain.ids import new_id
from hostler.domain.resources import MAX_FILES, UPLOADS, FileResource
from hostler.engine.attachments import Attachment
from hostler.engine.files import check_not_expired
from hostler.engine.homes import remove_tree
from hostler.engine.mountpoints import MountPoints, surfaces
from hostler.engine.resources import Resource, check_free
from hostler.engine.sandbox_port import Mount
from hostler.store import files as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import FileRow, NewFile
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.mounted_files")


class FileKind:
    """Resources of type `file`. Implements `ResourceKind`."""

    def attach(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        request: FileResource,
        taken: Sequence[Resource],
    ) -> Resource:
        """The session gets a file of its own with the same bytes, which goes with the session and never expires."""
        if sum(resource["type"] == "file" for resource in taken) >= MAX_FILES:
            raise InvalidRequest(f"a session has at most {MAX_FILES} files; delete one first")
        source = rows.get_file(connection, workspace, request.file_id, keep=True)
        check_not_expired(source, now)
        copy = _twin(source, session_id)
        path = request.mount_path or f"{UPLOADS}/{copy.id}"
        check_free(path, "file", taken)
        rows.create_file(connection, now, copy)
        return {
            "id": new_id("sesrsc"),
            "type": "file",
            "file_id": copy.id,
            "mount_path": path,
            "created_at": moment(now),
            "updated_at": moment(now),
        }

    def copy(
        self, connection: Connection, now: float, workspace: str, session_id: str, resource: Resource, copy_id: str
    ) -> Resource | None:
        """A file of the other session's own at the same path. None: a client has deleted it."""
        try:
            source = rows.get_file(connection, workspace, resource["file_id"], keep=True)
        except NotFound:
            return None
        twin = _twin(source, copy_id)
        rows.create_file(connection, now, twin)
        return {**resource, "file_id": twin.id}

    def detach(self, connection: Connection, workspace: str, session_id: str, resource: Resource) -> None:
        """The session's copy goes; the file that it was made of stays."""
        rows.drop_file(connection, workspace, resource["file_id"])


class MountedFiles(Attachment):
    """Lays the session's files out: `uploads/` as one tree, the others one by one.

    They are not in the session's home: what a client has attached is not what the session keeps, and its volume is
    another file system. A file is a second name for its blob where nobody in the sandbox could write to the blob even
    if its mount were writable (the worker is root, so the blob is root's); elsewhere it is a copy.
    """

    def __init__(self, database: Database, blobs: Blobs, place: Path) -> None:
        """`place`: a folder of ours on the file system of the blobs."""
        self._database = database
        self._blobs = blobs
        self._laid_out = place

    def forget(self, session_id: str) -> None:
        """Removes what was laid out for a session that is gone. Blocks."""
        remove_tree(self._laid_out / session_id)

    async def lay_out(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        """Raises StoreDamaged when a blob is missing. A file that a client has deleted meanwhile is left out."""
        wanted = {r["file_id"]: r["mount_path"] for r in session.resources if r["type"] == "file"}
        if not wanted and not (self._laid_out / session.id).exists():
            return ()
        found = await self._database.read(lambda c: rows.find_files(c, session.workspace_id, wanted))
        if len(found) < len(wanted):
            log.warning("files_not_mounted", extra={"session": session.id, "deleted": len(wanted) - len(found)})
        for row in found:
            await self._blobs.here(Blob(row.sha256, row.size_bytes))
        return await asyncio.to_thread(self._lay_out, session, home, wanted, found)

    def _lay_out(
        self, session: SessionRow, home: Path, wanted: Mapping[str, str], found: Sequence[FileRow]
    ) -> list[Mount]:
        folder = self._laid_out / session.id
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name in ("uploads", "single"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(mode=0o755)
        mounts = [Mount(folder / "uploads", UPLOADS)] if found else []
        for row in found:
            path = wanted[row.id]
            if path.startswith(UPLOADS + "/"):
                target = folder / "uploads" / path[len(UPLOADS) + 1 :]
                _make_parents(folder / "uploads", target.parent)
                self._place(row, target)
            else:
                self._place(row, folder / "single" / row.id)
                mounts.append(Mount(folder / "single" / row.id, path))
        points = MountPoints(folder / "mount-points.json")
        points.prepare(surfaces(session, home), [mount.inside for mount in mounts], folders=False)
        return mounts

    def _place(self, row: FileRow, target: Path) -> None:
        blob = self._blobs.path(row.sha256)
        try:
            if os.geteuid() == 0 and blob.stat().st_uid == 0:
                try:
                    os.link(blob, target)
                    return
                except OSError as error:
                    if isinstance(error, FileNotFoundError):
                        raise
            shutil.copyfile(blob, target)
        except FileNotFoundError:
            raise StoreDamaged(f"the bytes of file {row.id} are missing; restore blob {row.sha256}") from None
        target.chmod(0o644)  # a copy that the agent makes of it should be writable


def _twin(source: FileRow, session_id: str) -> NewFile:
    """A file of the session's own with the same bytes."""
    return NewFile(
        id=new_id("file"),
        workspace_id=source.workspace_id,
        filename=source.filename,
        mime_type=source.mime_type,
        size_bytes=source.size_bytes,
        sha256=source.sha256,
        downloadable=source.downloadable,
        session_id=session_id,
    )


def _make_parents(top: Path, folder: Path) -> None:
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(top):
            part.mkdir(mode=0o755, exist_ok=True)
            part.chmod(0o755)  # whatever the umask
