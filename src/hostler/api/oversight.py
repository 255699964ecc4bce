"""Our own endpoints for those who look after sessions: what waits for people, egress, health."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.paging import page_of_session
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter
from hostler.domain.sessions import Position

router = OwnRouter()


@router.serves("approvals.list")
async def list_approvals(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    cursor = parse_row_cursor(query.text("page"), "approvals", "asc")
    query.finish()
    rows, more = await services_of(request).oversight.approvals(
        caller_of(request).workspace, limit=limit, after=cursor.position if cursor else None
    )
    last = Position(rows[-1]["waiting_since"], rows[-1]["event_id"]) if more else None
    return page(rows, row_cursor("approvals", "asc", last) if last else None)


@router.serves("sessions.egress.list")
async def list_egress(request: Request) -> Response:
    query = Query(request)
    allowed = query.one_of("allowed", ("true", "false"), "")
    rows_of = partial(services_of(request).oversight.egress, allowed=None if not allowed else allowed == "true")
    return await page_of_session(request, query, "egress", rows_of, most=1_000)


@router.serves("sessions.credential_uses.list")
async def list_credential_uses(request: Request) -> Response:
    rows_of = services_of(request).oversight.credential_uses
    return await page_of_session(request, Query(request), "credential_uses", rows_of, most=1_000)


@router.serves("health.retrieve")
async def health(request: Request) -> Response:
    Query(request).finish()
    return json_response(await services_of(request).oversight.health())
