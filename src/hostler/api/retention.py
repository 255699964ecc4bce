"""Our own endpoints for what is kept: policies of retention, their runs, and how much there is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.retention import RunRetention, SetRetention
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("storage.retrieve")
async def retrieve_storage(request: Request) -> Response:
    query = Query(request)
    workspace_id, fresh = query.text("workspace_id"), query.boolean("fresh")
    query.finish()
    shown = await services_of(request).measures.show(caller_of(request).principal, workspace_id, fresh=fresh)
    return json_response(shown)


@router.serves("retention.retrieve")
async def retrieve_retention(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    query.finish()
    return json_response(await services_of(request).retention.show(caller_of(request).principal, workspace_id))


@router.serves("retention.update")
async def update_retention(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(SetRetention, await json_object(request))
    return json_response(await services_of(request).retention.set(caller_of(request).principal, wanted))


@router.serves("retention.runs.create")
async def create_run(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(RunRetention, await json_object(request))
    return json_response(await services_of(request).retention.ask(caller_of(request).principal, wanted))


@router.serves("retention.runs.list")
async def list_runs(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "retention_runs")
    query.finish()
    rows, more = await services_of(request).retention.list_runs(
        caller_of(request).principal, workspace_id, limit=limit, after=after
    )
    return page_of_rows("retention_runs", rows, more)


@router.serves("retention.runs.retrieve")
async def retrieve_run(request: Request) -> Response:
    Query(request).finish()
    run_id = path_value(request, "run_id")
    return json_response(await services_of(request).retention.get_run(caller_of(request).principal, run_id))
