"""Our own endpoints about places: which sessions are live, and which wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import page
from hostler.api.routing import OwnRouter
from hostler.domain.sessions import Position
from hostler.engine.places import View

router = OwnRouter()


@router.serves("live_sessions.list")
async def list_live(request: Request) -> Response:
    return await _listed(request, "live_sessions", services_of(request).places.live)


@router.serves("waiting_sessions.list")
async def list_waiting(request: Request) -> Response:
    return await _listed(request, "waiting_sessions", services_of(request).places.waiting)


async def _listed(request: Request, kind: str, rows_of: Callable[..., Awaitable[tuple[list[View], bool]]]) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    cursor = parse_row_cursor(query.text("page"), kind, "asc")
    query.finish()
    rows, more = await rows_of(caller_of(request).workspace, limit=limit, after=cursor.position if cursor else None)
    last = Position(rows[-1]["since"], rows[-1]["session_id"]) if more else None
    return page(rows, row_cursor(kind, "asc", last) if last else None)
