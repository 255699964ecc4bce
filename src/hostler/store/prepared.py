"""How does a query that runs all the time stay cheap? Its text is made once for each database, not at each call.

Making a SELECT and finding it in the compiler's cache costs several times what SQLite needs to answer it. Only for
queries without conditions that come and go, over columns whose values need no conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hostler.store.jsontext import plain


class Prepared:
    """A SELECT with `bindparam`s, each given by name when it runs."""

    def __init__(self, query: sa.Select[Any]) -> None:
        self._query = query
        self._texts: dict[str, tuple[str, tuple[str, ...]]] = {}

    def run(self, conn: Connection, **values: str | int | float) -> Sequence[Row[Any]]:
        """All rows. Text that no column can hold is refused as a column would: InvalidRequest."""
        name = conn.dialect.name
        found = self._texts.get(name)
        if found is None:
            compiled = self._query.compile(dialect=conn.dialect)
            found = self._texts[name] = (str(compiled), tuple(compiled.positiontup or ()))
        text, order = found
        given = tuple(plain(value) if isinstance(value := values[key], str) else value for key in order)
        return conn.exec_driver_sql(text, given).all()
