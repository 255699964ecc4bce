"""Which columns hold sealed secrets, and under which master keys?

Whatever column has the type `Sealed` is found here, whichever topic it belongs to, so that a rotation forgets none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.store.schema import metadata
from hostler.store.tables import SEALED_FORMAT, Sealed

FORMAT = SEALED_FORMAT


def sealed_columns() -> Sequence[sa.Column[Any]]:
    """Every column of every table that holds sealed secrets, in a fixed order."""
    return [column for table in metadata.sorted_tables for column in table.columns if isinstance(column.type, Sealed)]


def rewrap_some(
    conn: Connection, column: sa.Column[Any], key_id: str, rewrapped: Callable[[str], str], *, limit: int
) -> int:
    """Up to `limit` secrets of `column` that are not under the key `key_id`, given to `rewrapped` and kept anew.

    Answers how many there were; 0 means that none is left. A secret that somebody replaces meanwhile stays as they
    wrote it. Raises what `rewrapped` raises; then none of them has changed.
    """
    keys = list(column.table.primary_key.columns)
    query = (
        sa.select(*keys, column)
        .where(column.is_not(None), sa.not_(sa.cast(column, sa.Text).startswith(_prefix(key_id), autoescape=True)))
        .order_by(*keys)
        .limit(limit)
    )
    found = conn.execute(query).all()
    for *key, old in found:
        here = [part == value for part, value in zip(keys, key, strict=True)]
        conn.execute(sa.update(column.table).where(*here, column == old).values({column: rewrapped(old)}))
    return len(found)


def count_by_key(conn: Connection) -> dict[str, int]:
    """How many secrets are sealed under each master key, by its id."""
    counts: dict[str, int] = {}
    for column in sealed_columns():
        for (text,) in conn.execute(sa.select(column).where(column.is_not(None))):
            key_id = str(text).split(".", 2)[1] if str(text).count(".") == 3 else "unknown"
            counts[key_id] = counts.get(key_id, 0) + 1
    return counts


def _prefix(key_id: str) -> str:
    return f"{FORMAT}.{key_id}."
