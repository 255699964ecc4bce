"""What may be done with files from outside, and what becomes of old ones? Upload, look, list, download, delete, expire.

Bytes first, then the row that refers to them: a crash in between leaves a blob that the next sweep removes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, InvalidRequest, NotFound
from hostler.domain.files import SNIFFED, mime_type, safe_name
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.engine.loose_bytes import LooseBytes
from hostler.store import files as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import FileRow, NewFile
from hostler.store.pages import Position as StorePosition

log = logging.getLogger("hostler.files")

_LOOK_BYTES: Final = 16 << 20
"""After so many more of an upload it is asked again whether there is room for it."""

View = dict[str, Any]
"""A file as the wire shows it."""

Admit = Callable[[Connection, str, int], None]
"""Within the transaction that adds a file: may this workspace keep so many bytes more? Raises when it may not."""


BlobUser = Callable[[Connection, Sequence[str]], Collection[str]]
"""Those of these digests to which rows of some kind refer."""


@dataclass(frozen=True, slots=True)
class FileTerms:
    """What files may cost."""

    most_bytes: int = 500 << 20
    """Of one file."""
    uploads_downloadable: bool = False
    """The contract's service never gives an upload back; only what sessions made."""
    expired_kept_seconds: float = 30 * 86_400.0
    """How long an expired file, whose bytes are gone, is still known."""
    sweep_seconds: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that `Files.receive` has kept, and to which nothing refers yet."""

    workspace: str
    blob: Blob
    beginning: bytes
    """The first few."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be sent: what it is, and its bytes."""

    row: FileRow
    pieces: AsyncGenerator[bytes, None]
    """Close it when it was not read to its end."""


def admit_all(connection: Connection, workspace: str, more_bytes: int) -> None:
    """No limit."""


class Files:
    """Files of all workspaces. Every method raises NotFound for a file of another workspace."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        terms: FileTerms | None = None,
        admit: Admit = admit_all,
        also_used: Sequence[BlobUser] = (),
    ) -> None:
        """`also_used`: what else keeps its bytes in `blobs`; the sweep asks each."""
        self._database = database
        self._blobs = blobs
        self._admit = admit
        self._also_used = tuple(also_used)
        self.terms = terms or FileTerms()
        self._loose = LooseBytes(Blobs.YOUNG_SECONDS + self.terms.sweep_seconds)

    async def expect(self, workspace: str, size: int) -> None:
        """Before about `size` bytes are taken in: raises InvalidRequest when there is no room for them."""
        await self._database.write(lambda connection: self._room_for(connection, workspace, size))

    async def receive(self, workspace: str, chunks: AsyncIterator[bytes]) -> Received:
        """The bytes of an upload, kept. Raises TooLarge; InvalidRequest as soon as there is no room for them."""
        beginning = bytearray()

        async def watched() -> AsyncIterator[bytes]:
            came, looked = 0, 0
            async for chunk in chunks:
                if len(beginning) < SNIFFED:
                    beginning.extend(chunk[: SNIFFED - len(beginning)])
                came += len(chunk)
                if came - looked > _LOOK_BYTES:
                    looked = came
                    await self.expect(workspace, came)
                yield chunk

        blob = await self._blobs.put(watched(), most=self.terms.most_bytes)
        self._loose.add(workspace, blob.sha256, blob.size)
        return Received(workspace, blob, bytes(beginning))

    def _room_for(self, connection: Connection, workspace: str, size: int, of_digest: str = "") -> None:
        loose = self._loose.of(workspace, but=of_digest)
        try:
            self._admit(connection, workspace, size + loose)
        except InvalidRequest as error:
            if not loose:
                raise
            raise InvalidRequest(
                f"{error.message} (of this, {loose} bytes are uploads that are under way, or were refused and are "
                "removed within hours)",
                code=error.code,
            ) from None

    async def add(
        self,
        received: Received,
        *,
        filename: str | None,
        content_type: str | None,
        expires_in_seconds: int | None,
    ) -> View:
        """Make a file of what `receive` kept. `filename` and `content_type` as they were sent."""
        workspace, blob, beginning = received.workspace, received.blob, received.beginning
        kind = mime_type(content_type, filename or "", beginning)
        new = NewFile(
            id=new_id("file"),
            workspace_id=workspace,
            filename=safe_name(filename, kind),
            mime_type=kind,
            size_bytes=blob.size,
            sha256=blob.sha256,
            downloadable=self.terms.uploads_downloadable,
            expires_in_seconds=expires_in_seconds,
        )

        def unit(connection: Connection) -> FileRow:
            self._room_for(connection, workspace, blob.size, blob.sha256)
            return rows.create_file(connection, self._database.now(connection), new)

        made = view(await self._database.write(unit))
        self._loose.referred_to(workspace, blob.sha256)
        return made

    async def retrieve(self, workspace: str, file_id: str) -> View:
        """Also of a file that has expired."""
        return view(await self._database.read(lambda c: rows.get_file(c, workspace, file_id)))

    async def list(
        self,
        workspace: str,
        *,
        limit: int,
        scope_id: str | None = None,
        after: Position | None = None,
        before: Position | None = None,
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow in the direction that was asked for."""
        found = await self._database.read(
            lambda c: rows.list_files(
                c,
                workspace,
                limit=limit,
                session_id=scope_id,
                after=StorePosition(*after) if after else None,
                before=StorePosition(*before) if before else None,
            )
        )
        return [view(row) for row in found.rows], found.has_next if before is None else found.has_prev

    async def find(self, workspace: str, ids: Collection[str], *, scope_id: str | None = None) -> Sequence[View]:
        """Those that exist, newest first."""
        found = await self._database.read(lambda c: rows.find_files(c, workspace, ids))
        return [view(row) for row in found if scope_id is None or row.session_id == scope_id]

    async def position(self, workspace: str, file_id: str) -> Position:
        """Where a file stands in the list."""
        row = await self._database.read(lambda c: rows.get_file(c, workspace, file_id))
        return Position(row.created_at, row.id)

    async def download(self, workspace: str, file_id: str) -> Content:
        """Raises NotFound (`file_expired`), InvalidRequest (`file_not_downloadable`); while reading, StoreDamaged."""

        def unit(connection: Connection) -> FileRow:
            row = rows.get_file(connection, workspace, file_id)
            check_not_expired(row, self._database.now(connection))
            return row

        row = await self._database.read(unit)
        if not row.downloadable:
            raise InvalidRequest(
                f"file {file_id} was uploaded, and uploads can't be downloaded again; only what a session has put "
                "into /mnt/session/outputs can",
                code="file_not_downloadable",
            )
        return Content(row, self._blobs.read(Blob(row.sha256, row.size_bytes)))

    async def delete(self, workspace: str, file_id: str) -> None:
        """Sessions that mount it keep their copies."""
        await self._database.write(lambda c: rows.delete_file(c, workspace, file_id))

    async def sweep(self) -> int:
        """Forget what expired long ago, and remove bytes to which nothing refers. How many blobs went."""

        async def used(asked: Sequence[str]) -> Collection[str]:
            def unit(connection: Connection) -> Collection[str]:
                found = rows.used_blobs(connection, self._database.now(connection), asked)
                return found.union(*(also(connection, asked) for also in self._also_used))

            return await self._database.read(unit)

        while await self._database.write(
            lambda c: rows.drop_expired(c, self._database.now(c), kept_seconds=self.terms.expired_kept_seconds)
        ):
            continue
        return await self._blobs.sweep(used)

    async def keep_swept(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                removed = await self.sweep()
                if removed:
                    log.info("blobs_removed", extra={"count": removed})
            except (HostlerError, OSError):
                log.exception("files_not_swept")
            await asyncio.sleep(self.terms.sweep_seconds)


def check_not_expired(row: FileRow, now: float) -> None:
    """Raises NotFound when the bytes of a file are gone."""
    if row.expired(now):
        raise NotFound(f"file {row.id} expired at {row.expires_at}; upload it again", code="file_expired")


def view(row: FileRow) -> View:
    """The file as the wire shows it, every key present."""
    return {
        "id": row.id,
        "type": "file",
        "filename": row.filename,
        "mime_type": row.mime_type,
        "size_bytes": row.size_bytes,
        "created_at": row.created_at,
        "downloadable": row.downloadable,
        "expires_at": row.expires_at,
        "scope": None if row.session_id is None else {"type": "session", "id": row.session_id},
    }
