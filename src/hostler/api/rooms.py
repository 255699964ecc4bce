"""Our own endpoints for rooms: several sessions in one sandbox and one file system."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.sessions import Position

router = OwnRouter()


@router.serves("rooms.list")
async def list_rooms(request: Request) -> Response:
    limit, after = _paging(request, "rooms")
    rows, more = await services_of(request).rooms.listed(caller_of(request).workspace, limit, after)
    return page_of_rows("rooms", rows, more)


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
    return page_of_rows(kind, rows, more)


def _paging(request: Request, kind: str) -> tuple[int, Position | None]:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    after = begins_after(query, kind)
    query.finish()
    return limit, after
