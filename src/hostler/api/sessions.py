"""The session endpoints."""

from __future__ import annotations

from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page_of_texts
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.errors import InvalidRequest
from hostler.domain.sessions import (
    Order,
    SessionQuery,
    SessionStatus,
    UpdateSession,
    parse_create_session,
)
from hostler.domain.values import parse

router = ContractRouter()

_STATUSES: tuple[SessionStatus, ...] = get_args(SessionStatus)
_ORDERS: tuple[Order, ...] = get_args(Order)


@router.serves("sessions.create")
async def create(request: Request) -> Response:
    params = parse_create_session(await json_object(request))
    return json_response(await services_of(request).sessions.create(caller_of(request).workspace, params))


@router.serves("sessions.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    session_id = path_value(request, "session_id")
    return json_response(await services_of(request).sessions.retrieve(caller_of(request).workspace, session_id))


@router.serves("sessions.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateSession, await json_object(request))
    session_id = path_value(request, "session_id")
    return json_response(await services_of(request).sessions.update(caller_of(request).workspace, session_id, patch))


@router.serves("sessions.list")
async def list_sessions(request: Request) -> Response:
    query = Query(request)
    order = query.one_of("order", _ORDERS, "desc")
    created_at = query.times("created_at")
    cursor = parse_row_cursor(query.text("page"), "sessions", order, created_at=created_at, backwards=True)
    forwards = cursor is None or cursor.direction == "next"
    position = cursor.position if cursor else None
    wanted = SessionQuery(
        limit=query.limit(default=20, most=100),
        order=order,
        after=position if forwards else None,
        before=None if forwards else position,
        agent_id=query.text("agent_id"),
        agent_version=query.integer("agent_version", least=1, most=2**31 - 1),
        deployment_id=query.text("deployment_id"),
        memory_store_id=query.text("memory_store_id"),
        statuses=query.some_of("statuses", _STATUSES),
        created_at=created_at,
        include_archived=query.boolean("include_archived"),
    )
    query.finish()
    if wanted.agent_version is not None and wanted.agent_id is None:
        raise InvalidRequest("agent_version: needs agent_id; send both or neither")
    rows, more_after, more_before = await services_of(request).sessions.list(caller_of(request).workspace, wanted)
    return page_of_texts(
        (row.text for row in rows),
        row_cursor("sessions", order, rows[-1].position) if rows and more_after else None,
        prev_page=row_cursor("sessions", order, rows[0].position, "prev") if rows and more_before else None,
    )


@router.serves("sessions.archive")
async def archive(request: Request) -> Response:
    await no_fields(request)
    session_id = path_value(request, "session_id")
    return json_response(await services_of(request).sessions.archive(caller_of(request).workspace, session_id))


@router.serves("sessions.delete")
async def delete(request: Request) -> Response:
    session_id = path_value(request, "session_id")
    await services_of(request).sessions.delete(caller_of(request).workspace, session_id)
    return json_response({"id": session_id, "type": "session_deleted"})
