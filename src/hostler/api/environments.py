"""The environment endpoints."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.environments import CreateEnvironment, UpdateEnvironment
from hostler.domain.values import parse

router = ContractRouter()


def _shown(request: Request, environment: dict[str, Any]) -> dict[str, Any]:
    # The old generation's type has `description: str`.
    if environment["description"] is None and caller_of(request).old_generation:
        return {**environment, "description": ""}
    return environment


@router.serves("environments.create")
async def create(request: Request) -> Response:
    params = parse(CreateEnvironment, await json_object(request))
    made = await services_of(request).environments.create(caller_of(request).workspace, params)
    return json_response(_shown(request, made))


@router.serves("environments.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    environment_id = path_value(request, "environment_id")
    found = await services_of(request).environments.retrieve(caller_of(request).workspace, environment_id)
    return json_response(_shown(request, found))


@router.serves("environments.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateEnvironment, await json_object(request))
    environment_id = path_value(request, "environment_id")
    changed = await services_of(request).environments.update(caller_of(request).workspace, environment_id, patch)
    return json_response(_shown(request, changed))


@router.serves("environments.list")
async def list_environments(request: Request) -> Response:
    query = Query(request)
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "environments")
    query.finish()
    rows, more = await services_of(request).environments.list(
        caller_of(request).workspace,
        limit=limit,
        after=after,
        include_archived=include_archived,
    )
    return page_of_rows("environments", [_shown(request, row) for row in rows], more)


@router.serves("environments.delete")
async def delete(request: Request) -> Response:
    environment_id = path_value(request, "environment_id")
    await services_of(request).environments.delete(caller_of(request).workspace, environment_id)
    return json_response({"id": environment_id, "type": "environment_deleted"})


@router.serves("environments.archive")
async def archive(request: Request) -> Response:
    await no_fields(request)
    environment_id = path_value(request, "environment_id")
    archived = await services_of(request).environments.archive(caller_of(request).workspace, environment_id)
    return json_response(_shown(request, archived))
