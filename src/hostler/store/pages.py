"""How is a long list cut into pages that stay right while rows come and go?

By position in the order, never by offset: a page begins after the last row of the one before, told by its two sort
keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

Row = TypeVar("Row")
Order = Literal["asc", "desc"]


class Position(NamedTuple):
    """Where a row stands in a list: what a page cursor holds."""

    created_at: str
    id: str


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a moment, as RFC 3339 text from `domain.clock.rfc3339` (any other spelling does not compare)."""

    gt: str | None = None
    gte: str | None = None
    lt: str | None = None
    lte: str | None = None

    def conditions(self, column: sa.Column[str]) -> list[ColumnElement[bool]]:
        pairs = (
            (self.gt, column.__gt__),
            (self.gte, column.__ge__),
            (self.lt, column.__lt__),
            (self.lte, column.__le__),
        )
        return [compare(bound) for bound, compare in pairs if bound is not None]


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows in the order that was asked for, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_prev: bool


def page(
    conn: Connection,
    table: sa.FromClause,
    columns: Sequence[ColumnElement[Any]],
    conditions: Sequence[ColumnElement[bool]],
    make: Callable[..., Row],
    *,
    keys: tuple[sa.Column[str], sa.Column[str]],
    order: Order,
    limit: int,
    after: Position | None,
    before: Position | None,
) -> Page[Row]:
    """The `limit` rows next to a position, or the first ones. At most one of `after` and `before` is given.

    `before` answers with the rows right before the position, in the list's own order.
    """
    position = tuple(keys)
    ascending = (order == "asc") == (before is None)
    query = sa.select(*columns).select_from(table).where(*conditions)
    start = after or before
    if start is not None:
        query = query.where(_beyond(keys, start, ascending=ascending))
    direction = sa.asc if ascending else sa.desc
    query = query.order_by(*(direction(key) for key in position)).limit(limit + 1)
    found = conn.execute(query).all()
    more, found = len(found) > limit, found[:limit]
    behind = False
    if start is not None:
        # The row of the cursor itself may be gone by now, so it is looked up rather than assumed.
        edge = sa.select(sa.literal(1)).select_from(table).where(*conditions)
        edge = edge.where(sa.not_(_beyond(keys, start, ascending=ascending))).limit(1)
        behind = conn.execute(edge).first() is not None
    rows = [make(*row) for row in (found if before is None else reversed(found))]
    return Page(rows, has_next=more, has_prev=behind) if before is None else Page(rows, has_next=behind, has_prev=more)


def _beyond(keys: tuple[sa.Column[str], sa.Column[str]], start: Position, *, ascending: bool) -> ColumnElement[bool]:
    here = sa.tuple_(*keys)
    there = sa.tuple_(sa.literal(start.created_at, keys[0].type), sa.literal(start.id, keys[1].type))
    return here > there if ascending else here < there
