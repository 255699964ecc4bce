"""Our own endpoints for the points of a session: checkpoints, going back, forks, differences."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.paging import page_of_session
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.checkpoints import NOW, CreateCheckpoint, DiffQuery, ForkSession, Rewind
from hostler.domain.values import parse

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
    return await page_of_session(request, Query(request), "checkpoints", services_of(request).checkpoints.listed)


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
    return await page_of_session(request, Query(request), "rewinds", services_of(request).checkpoints.rewinds)


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
