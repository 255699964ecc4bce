"""Our own endpoints for administrators: keys, workspaces and quotas."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.administration import CreateKey, NameWorkspace
from hostler.domain.quotas import SetQuotas
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("keys.create")
async def create_key(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(CreateKey, await json_object(request))
    return json_response(await services_of(request).administration.create_key(caller_of(request).principal, wanted))


@router.serves("keys.list")
async def list_keys(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "keys")
    query.finish()
    rows, more = await services_of(request).administration.list_keys(
        caller_of(request).principal, workspace_id, limit=limit, after=after
    )
    return page_of_rows("keys", rows, more)


@router.serves("keys.retrieve")
async def retrieve_key(request: Request) -> Response:
    Query(request).finish()
    key_id = path_value(request, "key_id")
    return json_response(await services_of(request).administration.get_key(caller_of(request).principal, key_id))


@router.serves("keys.revoke")
async def revoke_key(request: Request) -> Response:
    Query(request).finish()
    await no_fields(request)
    key_id = path_value(request, "key_id")
    return json_response(await services_of(request).administration.revoke_key(caller_of(request).principal, key_id))


@router.serves("workspaces.create")
async def create_workspace(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(NameWorkspace, await json_object(request))
    principal = caller_of(request).principal
    return json_response(await services_of(request).administration.create_workspace(principal, wanted))


@router.serves("workspaces.list")
async def list_workspaces(request: Request) -> Response:
    query = Query(request)
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "workspaces")
    query.finish()
    rows, more = await services_of(request).administration.list_workspaces(
        caller_of(request).principal,
        limit=limit,
        after=after,
        include_archived=include_archived,
    )
    return page_of_rows("workspaces", rows, more)


@router.serves("workspaces.retrieve")
async def retrieve_workspace(request: Request) -> Response:
    Query(request).finish()
    principal, workspace_id = caller_of(request).principal, path_value(request, "workspace_id")
    return json_response(await services_of(request).administration.get_workspace(principal, workspace_id))


@router.serves("workspaces.update")
async def rename_workspace(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(NameWorkspace, await json_object(request))
    principal, workspace_id = caller_of(request).principal, path_value(request, "workspace_id")
    return json_response(await services_of(request).administration.rename_workspace(principal, workspace_id, wanted))


@router.serves("workspaces.archive")
async def archive_workspace(request: Request) -> Response:
    Query(request).finish()
    await no_fields(request)
    principal, workspace_id = caller_of(request).principal, path_value(request, "workspace_id")
    return json_response(await services_of(request).administration.archive_workspace(principal, workspace_id))


@router.serves("workspaces.quotas.retrieve")
async def retrieve_quotas(request: Request) -> Response:
    Query(request).finish()
    principal, workspace_id = caller_of(request).principal, path_value(request, "workspace_id")
    return json_response(await services_of(request).administration.quotas(principal, workspace_id))


@router.serves("workspaces.quotas.update")
async def set_quotas(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(SetQuotas, await json_object(request))
    principal, workspace_id = caller_of(request).principal, path_value(request, "workspace_id")
    return json_response(await services_of(request).administration.set_quotas(principal, workspace_id, wanted))
