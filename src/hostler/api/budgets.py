"""Our own endpoints for the budgets of agents and of a workspace."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.budgets import CreateBudget, UpdateBudget
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("budgets.create")
async def create(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(CreateBudget, await json_object(request))
    return json_response(await services_of(request).budgets.create(caller_of(request).principal, wanted))


@router.serves("budgets.list")
async def list_budgets(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    agent_id = query.text("agent_id")
    kind = f"budgets:{agent_id or ''}"
    after = begins_after(query, kind)
    query.finish()
    rows, more = await services_of(request).budgets.listed(
        caller_of(request).workspace, limit=limit, after=after, agent_id=agent_id
    )
    return page_of_rows(kind, rows, more)


@router.serves("budgets.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    budget_id = path_value(request, "budget_id")
    return json_response(await services_of(request).budgets.retrieve(caller_of(request).workspace, budget_id))


@router.serves("budgets.update")
async def update(request: Request) -> Response:
    Query(request).finish()
    patch = parse(UpdateBudget, await json_object(request))
    budget_id = path_value(request, "budget_id")
    return json_response(await services_of(request).budgets.update(caller_of(request).principal, budget_id, patch))


@router.serves("budgets.delete")
async def delete(request: Request) -> Response:
    Query(request).finish()
    budget_id = path_value(request, "budget_id")
    return json_response(await services_of(request).budgets.delete(caller_of(request).principal, budget_id))
