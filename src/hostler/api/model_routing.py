"""Our own endpoints about models and rules: what each request was, what one would be, what other rules would cost."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.paging import page_of_session
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter
from hostler.domain.routing import CompareRouting, ExplainRouting
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("sessions.requests.list")
async def list_requests(request: Request) -> Response:
    return await page_of_session(request, Query(request), "requests", services_of(request).routing.requests, most=1_000)


@router.serves("routing.explain")
async def explain(request: Request) -> Response:
    Query(request).finish()
    asked = parse(ExplainRouting, await json_object(request))
    return json_response(await services_of(request).routing.explain(caller_of(request).workspace, asked))


@router.serves("routing.compare")
async def compare(request: Request) -> Response:
    Query(request).finish()
    asked = parse(CompareRouting, await json_object(request))
    return json_response(await services_of(request).routing.compare(caller_of(request).workspace, asked))
