"""What was used, and what did it cost, taken together by whatever one asks for?

Sums over the rows of the ledgers: model requests, and spans of running time, whose groups have no model, upstream,
thread, purpose or tool. A span belongs to the day on which it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.store.pages import Range
from hostler.store.sessions import Usage
from hostler.store.tables import model_requests
from hostler.store.tables_runtime import request_tools, runtime_spans

GroupKey = Literal[
    "day", "workspace", "environment", "agent", "session", "thread", "model", "upstream", "purpose", "tool"
]
GROUP_KEYS: Final[tuple[GroupKey, ...]] = get_args(GroupKey)

# Written out: as parameters, PostgreSQL would take the same expression in SELECT and GROUP BY for two.
_DAY: Final[tuple[ColumnElement[Any], ...]] = (sa.literal_column("1"), sa.literal_column("10"))
_NONE: Final = sa.literal_column("''", sa.Text)
_OF_REQUESTS: Final[Mapping[str, ColumnElement[Any]]] = {
    "day": sa.func.substr(model_requests.c.created_at, *_DAY),
    "workspace": model_requests.c.workspace_id,
    "environment": model_requests.c.environment_id,
    "agent": model_requests.c.agent_id,
    "session": model_requests.c.session_id,
    "thread": model_requests.c.thread,
    "model": model_requests.c.model,
    "upstream": model_requests.c.upstream,
    "purpose": model_requests.c.purpose,
    "tool": sa.func.coalesce(request_tools.c.tool, _NONE),
}
_OF_SPANS: Final[Mapping[str, ColumnElement[Any]]] = {
    "day": sa.func.substr(runtime_spans.c.created_at, *_DAY),
    "workspace": runtime_spans.c.workspace_id,
    "environment": runtime_spans.c.environment_id,
    "agent": runtime_spans.c.agent_id,
    "session": runtime_spans.c.session_id,
}
_NUMBERS: Final = ("requests", *Usage.__slots__, "result_bytes", "spans", "active_us", "runtime_nanos")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows count. None: whichever."""

    workspace_id: str | None = None
    created: Range = field(default_factory=Range)
    agent_id: str | None = None
    environment_id: str | None = None
    session_id: str | None = None
    model: str | None = None
    upstream: str | None = None
    """With a model or an upstream, running time does not count: it has none."""


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """The sums of one group."""

    keys: tuple[str, ...]
    """In the order that was asked for. Empty text: it has none of that kind."""
    requests: int
    """Attempts that were made. By tool: those that brought results of the tool, so the sum may be more."""
    usage: Usage
    """`list_cost_nanos`: of the requests."""
    result_bytes: int
    """By tool: of the results that were brought to the model."""
    spans: int
    active_us: int
    runtime_nanos: int


def report(
    conn: Connection,
    by: Sequence[GroupKey],
    filters: Filters,
    *,
    limit: int,
    after: Sequence[str] | None = None,
) -> tuple[list[UsageGroup], bool]:
    """The groups in the order of their keys, and whether more follow. Without keys: one, or none when nothing was used.

    after  the keys of the last group before.
    """
    parts = [_requests(by, filters)]
    if filters.model is None and filters.upstream is None:
        parts.append(_spans(by, filters))
    rows = sa.union_all(*parts).subquery()
    keys = [rows.c[f"key_{key}"] for key in by]
    # PostgreSQL makes a numeric of a sum of whole numbers.
    sums = [sa.cast(sa.func.sum(rows.c[name]), sa.BigInteger).label(name) for name in _NUMBERS]
    query = sa.select(*keys, *sums).group_by(*keys)
    # Sums over nothing are a row, too.
    query = query.having(sa.func.sum(rows.c.requests) + sa.func.sum(rows.c.spans) > 0)
    if after is not None and keys:
        query = query.where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, after)))
    if keys:
        query = query.order_by(*keys)
    found = [_group(row, len(by)) for row in conn.execute(query.limit(limit + 1))]
    return found[:limit], len(found) > limit


def _group(row: sa.Row[Any], width: int) -> UsageGroup:
    keys, numbers = tuple(map(str, row[:width])), [int(number or 0) for number in row[width:]]
    requests, *rest = numbers
    count = len(Usage.__slots__)
    return UsageGroup(keys, requests, Usage(*rest[:count]), *rest[count:])


def _requests(by: Sequence[GroupKey], filters: Filters) -> sa.Select[Any]:
    """Sums over the requests; by tool, of the shares of each."""
    source: sa.FromClause = model_requests
    numbers: list[ColumnElement[Any]] = [sa.func.sum(model_requests.c[name]) for name in Usage.__slots__]
    size: ColumnElement[Any] = sa.literal(0)
    if "tool" in by:
        source = model_requests.outerjoin(request_tools, request_tools.c.model_request_id == model_requests.c.id)
        numbers = [
            sa.func.sum(sa.func.coalesce(request_tools.c[name], model_requests.c[name])) for name in Usage.__slots__
        ]
        size = sa.func.coalesce(sa.func.sum(request_tools.c.result_bytes), 0)
    keys = [_OF_REQUESTS[key].label(f"key_{key}") for key in by]
    zeros = [sa.literal(0).label(name) for name in ("spans", "active_us", "runtime_nanos")]
    named = [number.label(name) for number, name in zip(numbers, Usage.__slots__, strict=True)]
    query = sa.select(*keys, sa.func.count().label("requests"), *named, size.label("result_bytes"), *zeros)
    columns = model_requests.c
    wanted = {
        columns.workspace_id: filters.workspace_id,
        columns.agent_id: filters.agent_id,
        columns.environment_id: filters.environment_id,
        columns.session_id: filters.session_id,
        columns.model: filters.model,
        columns.upstream: filters.upstream,
    }
    where = [column == value for column, value in wanted.items() if value is not None]
    where += filters.created.conditions(columns.created_at)
    return query.select_from(source).where(*where).group_by(*(_OF_REQUESTS[key] for key in by))


def _spans(by: Sequence[GroupKey], filters: Filters) -> sa.Select[Any]:
    """Sums over the spans of running time."""
    columns = runtime_spans.c
    keys = [_OF_SPANS.get(key, _NONE).label(f"key_{key}") for key in by]
    zeros = [sa.literal(0).label(name) for name in ("requests", *Usage.__slots__, "result_bytes")]
    query = sa.select(
        *keys,
        *zeros,
        sa.func.count().label("spans"),
        sa.func.sum(columns.active_us).label("active_us"),
        sa.func.sum(columns.list_cost_nanos).label("runtime_nanos"),
    )
    wanted = {
        columns.workspace_id: filters.workspace_id,
        columns.agent_id: filters.agent_id,
        columns.environment_id: filters.environment_id,
        columns.session_id: filters.session_id,
    }
    where = [column == value for column, value in wanted.items() if value is not None]
    where += filters.created.conditions(columns.created_at)
    return query.select_from(runtime_spans).where(*where).group_by(*(_OF_SPANS[key] for key in by if key in _OF_SPANS))
