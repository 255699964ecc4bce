"""Our own endpoints for those who look after sessions: what waits for people, egress, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.sessions import Position
from hostler.engine.oversight import View

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
    return await _of_session(request, query, "egress", rows_of)


@router.serves("sessions.credential_uses.list")
async def list_credential_uses(request: Request) -> Response:
    return await _of_session(request, Query(request), "credential_uses", services_of(request).oversight.credential_uses)


async def _of_session(
    request: Request, query: Query, topic: str, rows_of: Callable[..., Awaitable[tuple[list[View], bool]]]
) -> Response:
    """A page of what was recorded about one session, newest first. `query`: what is left of it is read here."""
    session_id = path_value(request, "session_id")
    kind = f"{topic}:{session_id}"
    limit = query.limit(default=20, most=1_000)
    cursor = parse_row_cursor(query.text("page"), kind, "desc")
    query.finish()
    position = cursor.position if cursor else None
    rows, more = await rows_of(caller_of(request).workspace, session_id, limit=limit, after=position)
    after = row_cursor(kind, "desc", Position(rows[-1]["created_at"], rows[-1]["id"])) if more else None
    return page(rows, after)


@router.serves("health.retrieve")
async def health(request: Request) -> Response:
    Query(request).finish()
    return json_response(await services_of(request).oversight.health())
