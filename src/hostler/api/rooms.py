"""Our own endpoints for rooms: several sessions in one sandbox and one file system."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.sessions import Position
from hostler.engine.room_list import View

router = OwnRouter()


@router.serves("rooms.list")
async def list_rooms(request: Request) -> Response:
    limit, after = _paging(request, "rooms")
    rows, more = await services_of(request).rooms.listed(caller_of(request).workspace, limit, after)
    return page(rows, _next("rooms", rows) if more else None)


@router.serves("rooms.retrieve")
async def retrieve_room(request: Request) -> Response:
    Query(request).finish()
    room_id = path_value(request, "room_id")
    return json_response(await services_of(request).rooms.retrieve(caller_of(request).workspace, room_id))


@router.serves("rooms.conflicts.list")
async def list_conflicts(request: Request) -> Response:
    room_id = path_value(request, "room_id")
    kind = f"room_conflicts:{room_id}"
    limit, after = _paging(request, kind)
    rows, more = await services_of(request).rooms.conflicts(caller_of(request).workspace, room_id, limit, after)
    return page(rows, _next(kind, rows) if more else None)


def _paging(request: Request, kind: str) -> tuple[int, Position | None]:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    cursor = parse_row_cursor(query.text("page"), kind, "desc")
    query.finish()
    return limit, cursor.position if cursor else None


def _next(kind: str, rows: list[View]) -> str:
    return row_cursor(kind, "desc", Position(rows[-1]["created_at"], rows[-1]["id"]))
