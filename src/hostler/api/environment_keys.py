"""Our own endpoints for environment keys: the official service has them in its web console only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.environment_keys import CreateEnvironmentKey
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("environments.keys.create")
async def create(request: Request) -> Response:
    Query(request).finish()
    params = parse(CreateEnvironmentKey, await json_object(request))
    made = await services_of(request).environment_keys.create(
        caller_of(request).principal, path_value(request, "environment_id"), params.name
    )
    return json_response(made)


@router.serves("environments.keys.list")
async def list_keys(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    environment_id = path_value(request, "environment_id")
    kind = f"environment_keys:{environment_id}"
    after = begins_after(query, kind)
    query.finish()
    rows, more = await services_of(request).environment_keys.list(
        caller_of(request).workspace, environment_id, limit=limit, after=after
    )
    return page_of_rows(kind, rows, more)


@router.serves("environments.keys.revoke")
async def revoke(request: Request) -> Response:
    Query(request).finish()
    await no_fields(request)
    revoked = await services_of(request).environment_keys.revoke(
        caller_of(request).principal, path_value(request, "environment_id"), path_value(request, "key_id")
    )
    return json_response(revoked)
