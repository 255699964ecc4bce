"""The file endpoints, for both generations of clients: they list in different ways."""

from __future__ import annotations

import re
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.multipart import Part, parts
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import ContractRouter, path_value
from hostler.api.sending import send_pieces
from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.files import MAX_EXPIRES_SECONDS, MAX_IDS, MIN_EXPIRES_SECONDS
from hostler.domain.sessions import Position
from hostler.engine.files import Content, Received

router = ContractRouter()

FORM_BYTES = 1 << 20
"""What a form may hold besides the bytes of its file."""
_PREFIX = "page_"
"""Page tokens of files begin with it, as those of the contract do."""


@router.serves("files.upload")
async def upload(request: Request) -> Response:
    files = services_of(request).files
    taken: tuple[Received, Part] | None = None
    expires: int | None = None
    seen: set[str] = set()
    length = request.headers.get("content-length", "0")
    if int(length) > FORM_BYTES:
        # What is over the quota anyway isn't kept first: the bytes would lie there until the next sweep.
        await files.expect(caller_of(request).workspace, int(length) - FORM_BYTES)
    async for part in parts(request):
        if part.name in seen:
            raise InvalidRequest(f"{part.name}: was sent twice; one upload is one file")
        seen.add(part.name)
        match part.name:
            case "file":
                taken = (await files.receive(caller_of(request).workspace, part.chunks()), part)
            case "expires_in_seconds":
                expires = _expires(await part.text())
            case other:
                raise InvalidRequest(f"{other[:100]}: is not a field of this request; remove it")
    if taken is None:
        raise InvalidRequest("file: is required; send a part of this name with the bytes")
    received, part = taken
    made = await files.add(
        received,
        filename=part.filename,
        content_type=part.content_type,
        expires_in_seconds=expires,
    )
    return json_response(made)


@router.serves("files.retrieve_metadata")
async def retrieve_metadata(request: Request) -> Response:
    Query(request).finish()
    file_id = path_value(request, "file_id")
    return json_response(await services_of(request).files.retrieve(caller_of(request).workspace, file_id))


@router.serves("files.list")
async def list_files(request: Request) -> Response:
    if caller_of(request).old_generation:
        return await _list_old(request)
    files, workspace = services_of(request).files, caller_of(request).workspace
    query = Query(request)
    ids = query.texts("ids", most=10 * MAX_IDS)
    scope_id = query.text("scope_id")
    token = query.text("page")
    given_limit = query.text("limit") is not None
    limit = query.limit(default=20, most=1000)
    query.finish()
    if ids is not None:
        if token is not None or given_limit:
            raise InvalidRequest("ids: can't be combined with page or limit; leave those out")
        if len(ids) > MAX_IDS:
            raise InvalidRequest(f"ids: names {len(ids)} files; at most {MAX_IDS} are allowed")
        return page(await files.find(workspace, ids, scope_id=scope_id), None)
    cursor = None
    if token is not None:
        cursor = parse_row_cursor(token.removeprefix(_PREFIX), "files", "desc")
    rows, more = await files.list(workspace, limit=limit, scope_id=scope_id, after=cursor.position if cursor else None)
    following = None
    if more:
        following = _PREFIX + row_cursor("files", "desc", Position(rows[-1]["created_at"], rows[-1]["id"]))
    return page(rows, following)


async def _list_old(request: Request) -> Response:
    """As clients of the old generation page: by the ids of the files themselves."""
    files, workspace = services_of(request).files, caller_of(request).workspace
    query = Query(request)
    scope_id = query.text("scope_id")
    limit = query.limit(default=20, most=1000)
    after_id, before_id = query.text("after_id"), query.text("before_id")
    query.finish()
    if after_id is not None and before_id is not None:
        raise InvalidRequest("after_id: can't be combined with before_id; send one of them")

    async def place(name: str, file_id: str | None) -> Position | None:
        try:
            return None if file_id is None else await files.position(workspace, file_id)
        except NotFound:
            raise InvalidRequest(f"{name}: there is no file {file_id[:128] if file_id else ''} to go on from") from None

    rows, more = await files.list(
        workspace,
        limit=limit,
        scope_id=scope_id,
        after=await place("after_id", after_id),
        before=await place("before_id", before_id),
    )
    return json_response(
        {
            "data": rows,
            "has_more": more,
            "first_id": rows[0]["id"] if rows else None,
            "last_id": rows[-1]["id"] if rows else None,
        }
    )


@router.serves("files.download")
async def download(request: Request) -> Response:
    Query(request).finish()
    file_id = path_value(request, "file_id")
    services = services_of(request)
    content = await services.files.download(caller_of(request).workspace, file_id)
    return FileContent(content, services.slow_reader_seconds)


@router.serves("files.delete")
async def delete(request: Request) -> Response:
    file_id = path_value(request, "file_id")
    await services_of(request).files.delete(caller_of(request).workspace, file_id)
    return json_response({"id": file_id, "type": "file_deleted"})


class FileContent(Response):
    """The bytes of a file, as they are read. A reader that stands still is dropped."""

    def __init__(self, content: Content, slow_reader_seconds: float) -> None:
        self._content = content
        self._patience = slow_reader_seconds
        row = content.row
        name = row.filename.rpartition("/")[2]
        super().__init__(
            headers={
                "content-type": row.mime_type,
                "content-length": str(row.size_bytes),
                # Whoever opens it in a browser gets a file, never a page of this server.
                "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
                "x-content-type-options": "nosniff",
                "content-security-policy": "sandbox; default-src 'none'",
                "cache-control": "private, no-store",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._content.pieces) as pieces:
            await send_pieces(send, self.raw_headers, pieces, self._patience)


def _expires(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not MIN_EXPIRES_SECONDS <= int(text) <= MAX_EXPIRES_SECONDS:
        raise InvalidRequest(
            f"expires_in_seconds: must be an integer from {MIN_EXPIRES_SECONDS} to {MAX_EXPIRES_SECONDS}"
        )
    return int(text)
