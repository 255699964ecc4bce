"""The event endpoints of a session, and those of its threads, which show the same log for the primary thread."""

from __future__ import annotations

from typing import Any, Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import number_cursor, parse_number_cursor
from hostler.api.query import Query
from hostler.api.rendering import json_response, page, page_of_texts
from hostler.api.routing import ContractRouter, path_value
from hostler.api.sse import EventStreamResponse, last_event_id
from hostler.domain.errors import InvalidRequest, NotFound, PermissionDenied
from hostler.domain.inputs import parse_client_events
from hostler.domain.sessions import EVENT_TYPES, EventQuery, Order, SessionStatus

router = ContractRouter()

DELTA_TYPES: Final = ("agent.message", "agent.thinking")
DEFAULT_EVENTS: Final = 100
MOST_EVENTS: Final = 1_000
DEFAULT_THREADS: Final = 1_000

_ORDERS: tuple[Order, ...] = get_args(Order)
WORKERS_SEND: Final = frozenset({"user.tool_result", "user.custom_tool_result", "user.interrupt"})
"""What a worker may send. Its secret lies where the agent's commands run, so whoever has it must not be able to speak
for the user, nor to allow what waits for a person."""

_STATUSES: tuple[SessionStatus, ...] = get_args(SessionStatus)


@router.serves("sessions.events.list")
async def list_events(request: Request) -> Response:
    query = Query(request)
    order = query.one_of("order", _ORDERS, "asc")
    created_at = query.times("created_at")
    types = query.some_of("types", EVENT_TYPES)
    session_id = path_value(request, "session_id")
    return await _event_page(request, query, session_id, order=order, types=types, created_at=created_at)


@router.serves("sessions.events.send")
async def send(request: Request) -> Response:
    body = await json_object(request)
    unknown = [name for name in body if name != "events"]
    if unknown:
        raise InvalidRequest(f"{unknown[0][:100]}: is not a field of this request; remove it")
    if "events" not in body:
        raise InvalidRequest("events: is required")
    events = parse_client_events(body["events"])
    if caller_of(request).principal.kind != "api_key":
        for index, event in enumerate(events):
            if event.type not in WORKERS_SEND:
                raise PermissionDenied(
                    f"events[{index}]: a worker may send results and interrupts; {event.type} needs an API key"
                )
    stored = await services_of(request).sessions.send(
        caller_of(request).workspace,
        path_value(request, "session_id"),
        events,
        token_id=caller_of(request).principal.token_id,
    )
    text = f'{{"data":[{",".join(stored)}]}}'
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json")


@router.serves("sessions.events.stream")
async def stream(request: Request) -> Response:
    return await _open_stream(request, path_value(request, "session_id"))


# ----------------------------------------------------------------------------------------------------- threads


@router.serves("sessions.threads.list")
async def list_threads(request: Request) -> Response:
    query = Query(request)
    query.limit(default=DEFAULT_THREADS, most=DEFAULT_THREADS)
    statuses = query.some_of("statuses", _STATUSES)
    if query.text("page") is not None:
        raise InvalidRequest("page: is not a page token of this list; it has one page")
    query.finish()
    thread = await services_of(request).sessions.thread(caller_of(request).workspace, path_value(request, "session_id"))
    return page([thread] if not statuses or thread["status"] in statuses else [], None)


@router.serves("sessions.threads.retrieve")
async def retrieve_thread(request: Request) -> Response:
    Query(request).finish()
    return json_response(await _thread(request))


@router.serves("sessions.threads.archive")
async def archive_thread(request: Request) -> Response:
    await no_fields(request)
    thread = await _thread(request)
    raise InvalidRequest(f"{thread['id']} is the session's primary thread; archive the session instead")


@router.serves("sessions.threads.events.list")
async def list_thread_events(request: Request) -> Response:
    await _thread(request)
    return await _event_page(request, Query(request), path_value(request, "session_id"))


@router.serves("sessions.threads.events.stream")
async def stream_thread(request: Request) -> Response:
    await _thread(request)
    return await _open_stream(request, path_value(request, "session_id"))


async def _thread(request: Request) -> dict[str, Any]:
    thread_id = path_value(request, "thread_id")
    thread = await services_of(request).sessions.thread(caller_of(request).workspace, path_value(request, "session_id"))
    if thread["id"] != thread_id:
        raise NotFound(f"thread {thread_id} does not exist in this session")
    return thread


async def _event_page(
    request: Request, query: Query, session_id: str, *, order: Order = "asc", **filters: Any
) -> Response:
    limit = query.limit(default=DEFAULT_EVENTS, most=MOST_EVENTS)
    kind = f"events:{session_id}"
    after_seq = parse_number_cursor(query.text("page"), kind, order)
    query.finish()
    rows, more = await services_of(request).sessions.list_events(
        caller_of(request).workspace,
        session_id,
        EventQuery(limit=limit, order=order, after_seq=after_seq, **filters),
    )
    after = number_cursor(kind, order, rows[-1][0]) if rows and more else None
    return page_of_texts((text for _, text in rows), after)


async def _open_stream(request: Request, session_id: str) -> Response:
    query = Query(request)
    deltas = query.some_of("event_deltas", DELTA_TYPES)
    query.finish()
    services = services_of(request)
    # Subscribed before the headers go out: an event that is sent by whoever saw the headers is never missed.
    events = await services.sessions.open_stream(
        caller_of(request).workspace,
        session_id,
        after_seq=last_event_id(request),
        deltas=frozenset[str](deltas),
    )
    return EventStreamResponse(
        events,
        request_id=caller_of(request).request_id,
        keep_alive_seconds=services.keep_alive_seconds,
        slow_reader_seconds=services.slow_reader_seconds,
    )
