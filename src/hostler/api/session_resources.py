"""The endpoints of a session's resources."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import number_cursor, parse_number_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.errors import InvalidRequest
from hostler.domain.resources import FileResource, UpdateResource
from hostler.domain.values import parse

router = ContractRouter()


@router.serves("sessions.resources.list")
async def list_resources(request: Request) -> Response:
    query = Query(request)
    limit = query.integer("limit", least=1, most=1000)
    session_id = path_value(request, "session_id")
    kind = f"resources:{session_id}"
    start = parse_number_cursor(query.text("page"), kind, "asc") or 0
    query.finish()
    rows = await services_of(request).session_resources.list(caller_of(request).workspace, session_id)
    end = len(rows) if limit is None else start + limit
    return page(rows[start:end], number_cursor(kind, "asc", end) if end < len(rows) else None)


@router.serves("sessions.resources.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    return json_response(await services_of(request).session_resources.retrieve(*_place(request)))


@router.serves("sessions.resources.add")
async def add(request: Request) -> Response:
    body = await json_object(request)
    if body.get("type") in ("github_repository", "memory_store"):
        raise InvalidRequest(f"type: a {body['type']} can only be attached when the session is created; add files")
    session_id = path_value(request, "session_id")
    resource = parse(FileResource, body)
    added = await services_of(request).session_resources.add(caller_of(request).workspace, session_id, resource)
    return json_response(added)


@router.serves("sessions.resources.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateResource, await json_object(request))
    return json_response(await services_of(request).session_resources.update(*_place(request), patch))


@router.serves("sessions.resources.delete")
async def delete(request: Request) -> Response:
    workspace, session_id, resource_id = _place(request)
    await services_of(request).session_resources.delete(workspace, session_id, resource_id)
    return json_response({"id": resource_id, "type": "session_resource_deleted"})


def _place(request: Request) -> tuple[str, str, str]:
    return caller_of(request).workspace, path_value(request, "session_id"), path_value(request, "resource_id")
