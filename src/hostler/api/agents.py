"""The agent endpoints."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import number_cursor, parse_number_cursor
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.agents import CreateAgent, UpdateAgent
from hostler.domain.values import parse

router = ContractRouter()


@router.serves("agents.create")
async def create(request: Request) -> Response:
    params = parse(CreateAgent, await json_object(request))
    return json_response(await services_of(request).agents.create(caller_of(request).workspace, params))


@router.serves("agents.retrieve")
async def retrieve(request: Request) -> Response:
    query = Query(request)
    version = query.integer("version", least=1, most=2**31 - 1)
    query.finish()
    agent_id = path_value(request, "agent_id")
    return json_response(await services_of(request).agents.retrieve(caller_of(request).workspace, agent_id, version))


@router.serves("agents.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateAgent, await json_object(request))
    agent_id = path_value(request, "agent_id")
    return json_response(await services_of(request).agents.update(caller_of(request).workspace, agent_id, patch))


@router.serves("agents.list")
async def list_agents(request: Request) -> Response:
    query = Query(request)
    created_at = query.times("created_at", ("gte", "lte"))
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "agents", created_at=created_at)
    query.finish()
    rows, more = await services_of(request).agents.list(
        caller_of(request).workspace,
        limit=limit,
        after=after,
        created_at=created_at,
        include_archived=include_archived,
    )
    return page_of_rows("agents", rows, more)


@router.serves("agents.archive")
async def archive(request: Request) -> Response:
    await no_fields(request)
    agent_id = path_value(request, "agent_id")
    return json_response(await services_of(request).agents.archive(caller_of(request).workspace, agent_id))


@router.serves("agents.versions.list")
async def list_versions(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    agent_id = path_value(request, "agent_id")
    # The place in the list holds the agent: a token of another agent's versions is refused.
    kind = f"versions:{agent_id}"
    after_version = parse_number_cursor(query.text("page"), kind, "desc")
    query.finish()
    rows, more = await services_of(request).agents.versions(
        caller_of(request).workspace, agent_id, limit=limit, after_version=after_version
    )
    return page(rows, number_cursor(kind, "desc", rows[-1]["version"]) if more else None)
