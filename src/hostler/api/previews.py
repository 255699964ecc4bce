"""Our own endpoints for previews: links to ports that a session's programs have opened."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.previews import CreatePreview
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("sessions.previews.create")
async def create_preview(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(CreatePreview, await json_object(request))
    session_id = path_value(request, "session_id")
    return json_response(await services_of(request).previews.create(caller_of(request).workspace, session_id, wanted))


@router.serves("sessions.previews.list")
async def list_previews(request: Request) -> Response:
    Query(request).finish()
    session_id = path_value(request, "session_id")
    return page(await services_of(request).previews.list(caller_of(request).workspace, session_id), None)


@router.serves("sessions.previews.revoke")
async def revoke_preview(request: Request) -> Response:
    Query(request).finish()
    await no_fields(request)
    session_id, preview_id = path_value(request, "session_id"), path_value(request, "preview_id")
    return json_response(
        await services_of(request).previews.revoke(caller_of(request).workspace, session_id, preview_id)
    )
