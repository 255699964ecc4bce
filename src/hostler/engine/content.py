"""What does a prompt hold where its sender named a file? The file's bytes, put in when the prompt is handed over.

The log keeps the name only. What is checked when it is sent (`check`) can be gone when it is handed over: then the
model is told so.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.events import Body, text_block
from hostler.domain.inputs import IMAGE_TYPES
from hostler.engine.files import check_not_expired
from hostler.store import files as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import FileRow

MAX_FILE_BLOCKS: Final = 100
MAX_BLOCK_BYTES: Final = 20 << 20
"""Of all files named by one request: what fits, as base64, into one request to a model."""


class ContentSource:
    """Content without files. `FileContent` is the one that knows them."""

    async def resolve(self, workspace: str, blocks: Sequence[Body]) -> list[Body]:
        return list(blocks)


class FileContent(ContentSource):
    """Puts files in."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def resolve(self, workspace: str, blocks: Sequence[Body]) -> list[Body]:
        """The blocks with bytes in place of file sources. Raises StoreDamaged."""
        resolved, left = [], MAX_BLOCK_BYTES
        for block in blocks:
            file_id = _file_id(block)
            if file_id is not None:
                block, size = await self._resolve(workspace, block, file_id, left)
                left -= size
            resolved.append(block)
        return resolved

    async def _resolve(self, workspace: str, block: Body, file_id: str, left: int) -> tuple[Body, int]:

        def unit(connection: Connection) -> FileRow:
            row = rows.get_file(connection, workspace, file_id)
            check_not_expired(row, self._database.now(connection))
            return row

        try:
            row = await self._database.read(unit)
        except NotFound:
            return text_block(f"[The file {file_id} was attached here. It is not available any more.]"), 0
        if row.size_bytes > left:  # messages that waited are handed over together
            return text_block(f"[The file {file_id} was attached here. It was left out: there are too many.]"), 0
        content = await self._blobs.read_all(Blob(row.sha256, row.size_bytes))
        if row.mime_type == "text/plain":
            source = {"type": "text", "media_type": "text/plain", "data": content.decode("utf-8", "replace")}
        else:
            source = {"type": "base64", "media_type": row.mime_type, "data": base64.b64encode(content).decode()}
        named = {"title": row.filename[:500]} if block["type"] == "document" and not block.get("title") else {}
        return {**block, **named, "source": source}, row.size_bytes


def check(connection: Connection, now: float, workspace: str, events: Iterable[Mapping[str, Any]], at: str) -> None:
    """Raises InvalidRequest unless every file that the events name can be shown to a model. `at`: their place."""
    count = size = 0
    for index, event in enumerate(events):
        for place, block in enumerate(event.get("content") or ()):
            file_id = _file_id(block)
            if file_id is None:
                continue
            where = f"{at}[{index}].content[{place}].source.file_id"
            try:
                row = rows.get_file(connection, workspace, file_id)
                check_not_expired(row, now)
            except NotFound as error:
                raise InvalidRequest(f"{where}: {error.message}", code=error.code) from None
            _check_kind(row, str(block["type"]), where)
            count, size = count + 1, size + row.size_bytes
    if count > MAX_FILE_BLOCKS:
        raise InvalidRequest(f"{at}: name {count} files; at most {MAX_FILE_BLOCKS} fit in one request")
    if size > MAX_BLOCK_BYTES:
        raise InvalidRequest(
            f"{at}: name files of {size} bytes together; at most {MAX_BLOCK_BYTES} fit in one request. "
            "Mount large files as resources of the session instead"
        )


def _check_kind(row: FileRow, block: str, where: str) -> None:
    if block == "image" and row.mime_type not in IMAGE_TYPES:
        raise InvalidRequest(f"{where}: {row.id} is {row.mime_type}; an image must be {', '.join(IMAGE_TYPES)}")
    if block == "document" and row.mime_type not in ("application/pdf", "text/plain"):
        raise InvalidRequest(
            f"{where}: {row.id} is {row.mime_type}; a document must be application/pdf or text/plain. "
            "Mount other files as resources of the session instead"
        )
    if row.size_bytes == 0:
        raise InvalidRequest(f"{where}: {row.id} is empty")


def _file_id(block: Mapping[str, Any]) -> str | None:
    source = block.get("source")
    if block.get("type") in ("image", "document") and isinstance(source, Mapping) and source.get("type") == "file":
        return str(source["file_id"])
    return None
