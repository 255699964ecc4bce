"""Our own endpoints about models and rules: what each request was, what one would be, what other rules would cost."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.routing import CompareRouting, ExplainRouting
from hostler.domain.sessions import Position
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("sessions.requests.list")
async def list_requests(request: Request) -> Response:
    query = Query(request)
    session_id = path_value(request, "session_id")
    kind = f"requests:{session_id}"
    limit = query.limit(default=20, most=1_000)
    cursor = parse_row_cursor(query.text("page"), kind, "desc")
    query.finish()
    rows, more = await services_of(request).routing.requests(
        caller_of(request).workspace, session_id, limit=limit, after=cursor.position if cursor else None
    )
    after = row_cursor(kind, "desc", Position(rows[-1]["created_at"], rows[-1]["id"])) if more else None
    return page(rows, after)


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
