"""Our own endpoints for money: what was used and what it cost, the prices, and where ledgers did not agree."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of, services_of
from hostler.api.cursors import keys_cursor, parse_keys_cursor
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import OwnRouter
from hostler.domain.errors import InvalidRequest
from hostler.domain.values import listed
from hostler.store.pages import Range
from hostler.store.usage_report import GROUP_KEYS, Filters, GroupKey

router = OwnRouter()
_MOST_KEYS = 3


@router.serves("usage.list")
async def list_usage(request: Request) -> Response:
    query = Query(request)
    by = _group_by(query)
    filters = Filters(
        workspace_id=query.text("workspace_id"),
        created=Range(**query.times("created_at").texts()),
        agent_id=query.text("agent_id"),
        environment_id=query.text("environment_id"),
        session_id=query.text("session_id"),
        model=query.text("model"),
        upstream=query.text("upstream"),
    )
    limit = query.limit(default=100, most=1_000)
    kind = f"usage:{','.join(by)}"
    after = parse_keys_cursor(query.text("page", longest=8192), kind, len(by))
    query.finish()
    rows, more = await services_of(request).usage.report(
        caller_of(request).principal, by, filters, limit=limit, after=after
    )
    token = keys_cursor(kind, [value or "" for value in rows[-1]["group"].values()]) if more else None
    return page(rows, token)


def _group_by(query: Query) -> list[GroupKey]:
    """In the order in which they were asked for; the day when nothing was."""
    asked = query.texts("group_by", most=_MOST_KEYS)
    if asked is None:
        return ["day"]
    for name in asked:
        if name not in GROUP_KEYS:
            raise InvalidRequest(f"group_by: {name[:100]!r} is not allowed; use {listed(sorted(GROUP_KEYS))}")
    return [key for name in asked for key in GROUP_KEYS if key == name]


@router.serves("usage.mismatches.list")
async def list_mismatches(request: Request) -> Response:
    query = Query(request)
    workspace_id, session_id = query.text("workspace_id"), query.text("session_id")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "usage_mismatches")
    query.finish()
    rows, more = await services_of(request).usage.mismatches(
        caller_of(request).principal,
        workspace_id,
        session_id,
        limit=limit,
        after=after,
    )
    return page_of_rows("usage_mismatches", rows, more)


@router.serves("prices.retrieve")
async def retrieve_prices(request: Request) -> Response:
    Query(request).finish()
    return json_response(services_of(request).usage.prices())
