"""Our own endpoints for the points of a session: checkpoints, going back, forks, differences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.checkpoints import NOW, CreateCheckpoint, DiffQuery, ForkSession, Rewind
from hostler.domain.sessions import Position
from hostler.domain.values import parse
from hostler.engine.checkpoints import View

router = OwnRouter()


@router.serves("sessions.checkpoints.create")
async def create(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(CreateCheckpoint, await json_object(request))
    made = await services_of(request).checkpoints.create(
        caller_of(request).workspace, path_value(request, "session_id"), wanted
    )
    return json_response(made)


@router.serves("sessions.checkpoints.list")
async def list_checkpoints(request: Request) -> Response:
    return await _listed(request, "checkpoints", services_of(request).checkpoints.listed)


@router.serves("sessions.checkpoints.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    found = await services_of(request).checkpoints.retrieve(caller_of(request).workspace, *_path(request))
    return json_response(found)


@router.serves("sessions.checkpoints.delete")
async def delete(request: Request) -> Response:
    Query(request).finish()
    gone = await services_of(request).checkpoints.delete(caller_of(request).workspace, *_path(request))
    return json_response(gone)


@router.serves("sessions.rewind")
async def rewind(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(Rewind, await json_object(request))
    done = await services_of(request).checkpoints.rewind(
        caller_of(request).workspace, path_value(request, "session_id"), wanted
    )
    return json_response(done)


@router.serves("sessions.rewinds.list")
async def list_rewinds(request: Request) -> Response:
    return await _listed(request, "rewinds", services_of(request).checkpoints.rewinds)


@router.serves("sessions.fork")
async def fork(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(ForkSession, await json_object(request))
    made = await services_of(request).forks.fork(
        caller_of(request).workspace, path_value(request, "session_id"), wanted
    )
    return json_response(made)


@router.serves("sessions.diff")
async def diff(request: Request) -> Response:
    query = Query(request)
    before, after = query.text("from", longest=128), query.text("to", longest=128)
    path = query.text("path", longest=4096)
    query.finish()
    wanted = DiffQuery(before, after or NOW, path)
    found = await services_of(request).diffs.diff(
        caller_of(request).workspace, path_value(request, "session_id"), wanted
    )
    return json_response(found)


def _path(request: Request) -> tuple[str, str]:
    return path_value(request, "session_id"), path_value(request, "checkpoint_id")


async def _listed(request: Request, topic: str, rows_of: Callable[..., Awaitable[tuple[list[View], bool]]]) -> Response:
    """A page of what is known of one session, newest first."""
    query = Query(request)
    session_id = path_value(request, "session_id")
    kind = f"{topic}:{session_id}"
    limit = query.limit(default=20, most=100)
    cursor = parse_row_cursor(query.text("page"), kind, "desc")
    query.finish()
    position = cursor.position if cursor else None
    rows, more = await rows_of(caller_of(request).workspace, session_id, limit=limit, after=position)
    after = row_cursor(kind, "desc", Position(rows[-1]["created_at"], rows[-1]["id"])) if more else None
    return page(rows, after)
