"""Our own endpoints for rate limits on the road to the model."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter
from hostler.domain.rates import SetRateLimits
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("rate_limits.retrieve")
async def retrieve_rate_limits(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    query.finish()
    return json_response(await services_of(request).rate_limits.show(caller_of(request).principal, workspace_id))


@router.serves("rate_limits.update")
async def update_rate_limits(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(SetRateLimits, await json_object(request))
    return json_response(await services_of(request).rate_limits.set(caller_of(request).principal, wanted))
