"""Our own endpoints about long conversations: compact one now, how compactions went, what was archived before."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import number_cursor, parse_number_cursor
from hostler.api.paging import page_of_session
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.compaction import RequestCompaction
from hostler.domain.errors import InvalidRequest
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("sessions.compact")
async def compact(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(RequestCompaction, await json_object(request))
    session_id = path_value(request, "session_id")
    return json_response(
        await services_of(request).compactions.request(caller_of(request).workspace, session_id, wanted)
    )


@router.serves("sessions.compaction.retrieve")
async def state(request: Request) -> Response:
    Query(request).finish()
    session_id = path_value(request, "session_id")
    return json_response(await services_of(request).compactions.state(caller_of(request).workspace, session_id))


@router.serves("sessions.compactions.list")
async def list_compactions(request: Request) -> Response:
    return await page_of_session(request, Query(request), "compactions", services_of(request).compactions.list)


@router.serves("sessions.archives.list")
async def list_archives(request: Request) -> Response:
    query = Query(request)
    session_id = path_value(request, "session_id")
    kind = f"archives:{session_id}"
    limit = query.limit(default=20, most=100)
    before = parse_number_cursor(query.text("page"), kind, "desc")
    query.finish()
    rows, more = await services_of(request).archives.page(
        caller_of(request).workspace, session_id, limit=limit, before=_small(before)
    )
    return page(rows, number_cursor(kind, "desc", rows[-1]["number"]) if more else None)


@router.serves("sessions.archives.search")
async def search_archives(request: Request) -> Response:
    query = Query(request)
    session_id = path_value(request, "session_id")
    words = query.text("q", longest=256)
    if words is None or not words.strip():
        # Of somebody else's session not even this is said.
        await services_of(request).compactions.state(caller_of(request).workspace, session_id)
        raise InvalidRequest("q: is required; give the words to look for")
    kind = f"archive_search:{session_id}:{hashlib.sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    limit = query.limit(default=20, most=100)
    start = parse_number_cursor(query.text("page"), kind, "asc")
    query.finish()
    rows, following = await services_of(request).archives.search(
        caller_of(request).workspace, session_id, words, limit=limit, start=start
    )
    return page(rows, None if following is None else number_cursor(kind, "asc", following))


@router.serves("sessions.archives.retrieve")
async def retrieve_archive(request: Request) -> Response:
    query = Query(request)
    session_id, archive_id = path_value(request, "session_id"), path_value(request, "archive_id")
    kind = f"archive:{archive_id}"
    limit = query.limit(default=100, most=1_000)
    first = parse_number_cursor(query.text("page"), kind, "asc")
    query.finish()
    archive, rows, following = await services_of(request).archives.read(
        caller_of(request).workspace, session_id, archive_id, limit=limit, first=first or 0
    )
    after = None if following is None else number_cursor(kind, "asc", following)
    return json_response({**archive, "data": rows, "next_page": after})


def _small(number: int | None) -> int | None:
    """Archives are counted in 32 bits; a larger number names a place behind all of them."""
    return None if number is None else min(number, 2**31 - 1)
