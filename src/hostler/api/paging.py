"""Which page of a list is asked for, and how is it answered? For lists of rows, newest first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import caller_of
from hostler.api.cursors import parse_row_cursor, row_cursor
from hostler.api.query import Query
from hostler.api.rendering import page
from hostler.api.routing import path_value
from hostler.domain.sessions import Position, TimeRange

View = dict[str, Any]


def begins_after(query: Query, kind: str, *, created_at: TimeRange | None = None) -> Position | None:
    """The row that the page begins after; None: it is the first one. `created_at`: the filter of the list, if any.

    Raises InvalidRequest for a token of another list than `kind`.
    """
    cursor = parse_row_cursor(query.text("page"), kind, "desc", created_at=created_at)
    return None if cursor is None else cursor.position


def page_of_rows(kind: str, rows: Sequence[View], more: bool) -> Response:
    """`more`: whether others follow. Rows have `created_at` and `id`."""
    return page(rows, row_cursor(kind, "desc", Position(rows[-1]["created_at"], rows[-1]["id"])) if more else None)


async def page_of_session(
    request: Request,
    query: Query,
    topic: str,
    rows_of: Callable[..., Awaitable[tuple[list[View], bool]]],
    *,
    most: int = 100,
) -> Response:
    """What is known of one session. `query`: what is left of it is read here. `most`: rows of one page."""
    session_id = path_value(request, "session_id")
    kind = f"{topic}:{session_id}"
    limit = query.limit(default=20, most=most)
    after = begins_after(query, kind)
    query.finish()
    rows, more = await rows_of(caller_of(request).workspace, session_id, limit=limit, after=after)
    return page_of_rows(kind, rows, more)
