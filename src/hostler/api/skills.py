"""The skill endpoints, for both generations of clients: they call the same things by different names.

New: `display_name`, `latest_version_id`, versions by id. Old: `display_title`, `latest_version`, versions by number.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import number_cursor, parse_number_cursor, parse_row_cursor, row_cursor
from hostler.api.multipart import parts
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import ContractRouter, path_value
from hostler.api.sending import send_pieces
from hostler.domain.errors import InvalidRequest
from hostler.domain.sessions import Position
from hostler.domain.skills import MAX_BYTES, MAX_FILES, checked_display_name
from hostler.engine.skills import Archive
from hostler.store.skills import SkillRow, VersionRow

router = ContractRouter()

SOURCES = ("custom", "anthropic", "anthropic_example", "plugin")


@router.serves("skills.create")
async def create(request: Request) -> Response:
    caller = caller_of(request)
    label = "display_title" if caller.old_generation else "display_name"
    uploads, texts = await _form(request, label)
    display_name = checked_display_name(label, texts.get(label))
    made = await services_of(request).skills.create(caller.workspace, uploads, display_name)
    return json_response(skill_wire(made, old=caller.old_generation))


@router.serves("skills.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    caller = caller_of(request)
    row = await services_of(request).skills.retrieve(
        caller.workspace, path_value(request, "skill_id"), with_empty=caller.old_generation
    )
    return json_response(skill_wire(row, old=caller.old_generation))


@router.serves("skills.list")
async def list_skills(request: Request) -> Response:
    caller, query = caller_of(request), Query(request)
    source = query.one_of("source", SOURCES, "custom")
    limit = query.limit(default=20, most=1000)
    cursor = parse_row_cursor(query.text("page"), "skills", "desc")
    query.finish()
    if source != "custom":  # this server has those of its users, and no others
        return page([], None)
    rows, more = await services_of(request).skills.list(
        caller.workspace,
        limit=limit,
        after=cursor.position if cursor else None,
        with_empty=caller.old_generation,
    )
    following = row_cursor("skills", "desc", Position(rows[-1].created_at, rows[-1].id)) if more else None
    return _page([skill_wire(row, old=caller.old_generation) for row in rows], following, old=caller.old_generation)


@router.serves("skills.delete")
async def delete(request: Request) -> Response:
    caller, skill_id = caller_of(request), path_value(request, "skill_id")
    await services_of(request).skills.delete(caller.workspace, skill_id, only_empty=caller.old_generation)
    return json_response({"id": skill_id, "type": "skill_deleted"})


@router.serves("skills.versions.create")
async def create_version(request: Request) -> Response:
    caller, skill_id = caller_of(request), path_value(request, "skill_id")
    uploads, _ = await _form(request)
    made = await services_of(request).skills.add_version(caller.workspace, skill_id, uploads)
    return json_response(version_wire(made, old=caller.old_generation))


@router.serves("skills.versions.retrieve")
async def retrieve_version(request: Request) -> Response:
    Query(request).finish()
    caller = caller_of(request)
    row = await services_of(request).skills.version(
        caller.workspace, path_value(request, "skill_id"), path_value(request, "version")
    )
    return json_response(version_wire(row, old=caller.old_generation))


@router.serves("skills.versions.list")
async def list_versions(request: Request) -> Response:
    caller, query = caller_of(request), Query(request)
    limit = query.limit(default=20, most=1000)
    before = parse_number_cursor(query.text("page"), "skill_versions", "desc")
    query.finish()
    rows, more = await services_of(request).skills.versions(
        caller.workspace, path_value(request, "skill_id"), limit=limit, before_number=before
    )
    following = number_cursor("skill_versions", "desc", rows[-1].number) if more else None
    return _page([version_wire(row, old=caller.old_generation) for row in rows], following, old=caller.old_generation)


@router.serves("skills.versions.delete")
async def delete_version(request: Request) -> Response:
    caller = caller_of(request)
    row = await services_of(request).skills.delete_version(
        caller.workspace,
        path_value(request, "skill_id"),
        path_value(request, "version"),
        may_be_last=caller.old_generation,
    )
    gone = str(row.number) if caller.old_generation else row.id
    return json_response({"id": gone, "type": "skill_version_deleted"})


@router.serves("skills.versions.download")
async def download(request: Request) -> Response:
    Query(request).finish()
    services = services_of(request)
    archive = await services.skills.download(
        caller_of(request).workspace, path_value(request, "skill_id"), path_value(request, "version")
    )
    return SkillArchive(archive, services.slow_reader_seconds)


class SkillArchive(Response):
    """The bytes of a version's archive, as they are read. A reader that stands still is dropped."""

    def __init__(self, archive: Archive, slow_reader_seconds: float) -> None:
        self._archive = archive
        self._patience = slow_reader_seconds
        super().__init__(
            headers={
                "content-type": "application/zip",
                "content-length": str(archive.row.size_bytes),
                "content-disposition": f'attachment; filename="{archive.row.name}.zip"',
                "x-content-type-options": "nosniff",
                "cache-control": "private, no-store",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._archive.pieces) as pieces:
            await send_pieces(send, self.raw_headers, pieces, self._patience)


async def _form(request: Request, *labels: str) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """The files of the form, with their names, and its plain fields. Raises InvalidRequest for any other field."""
    uploads: list[tuple[str, bytes]] = []
    texts: dict[str, str] = {}
    size = 0
    async for part in parts(request):
        if part.name in ("files[]", "files"):
            if not part.filename:
                raise InvalidRequest("files: a part has no filename; send one like my-skill/SKILL.md")
            if len(uploads) >= MAX_FILES:
                raise InvalidRequest(f"files: the skill has more than {MAX_FILES} files; leave some out")
            content = bytearray()
            async for chunk in part.chunks():
                content += chunk
                size += len(chunk)
                if size > MAX_BYTES:
                    raise InvalidRequest(f"files: the skill is larger than {MAX_BYTES >> 20} MiB; make it smaller")
            uploads.append((part.filename, bytes(content)))
        elif part.name in labels:
            if part.name in texts:
                raise InvalidRequest(f"{part.name}: was sent twice; send it once")
            texts[part.name] = await part.text()
        else:
            raise InvalidRequest(f"{part.name[:100]}: is not a field of this request; remove it")
    return uploads, texts


# ------------------------------------------------------------------------------------------------------- rendering


def skill_wire(row: SkillRow, *, old: bool) -> dict[str, Any]:
    named: dict[str, Any]
    if old:
        latest = None if row.latest_number is None else str(row.latest_number)
        named = {"display_title": row.display_name, "latest_version": latest, "source": "custom"}
    else:
        named = {
            "display_name": row.display_name,
            "latest_version_id": row.latest_version_id,
            "source": {"type": "custom"},
        }
    return {"id": row.id, "type": "skill", **named, "created_at": row.created_at, "updated_at": row.updated_at}


def version_wire(row: VersionRow, *, old: bool) -> dict[str, Any]:
    shown = {
        "id": row.id,
        "type": "skill_version",
        "skill_id": row.skill_id,
        "name": row.name,
        "description": row.description,
        "created_at": row.created_at,
    }
    return {**shown, "directory": row.name, "version": str(row.number)} if old else shown


def _page(rows: list[dict[str, Any]], following: str | None, *, old: bool) -> Response:
    if not old:
        return page(rows, following)
    return json_response({"data": rows, "has_more": following is not None, "next_page": following})
