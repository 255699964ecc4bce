"""How does a query that runs all the time stay cheap? Its text is made once for each database, not at each call.

Making a SELECT and finding it in the compiler's cache costs several times what SQLite needs to answer it. Only for
queries without conditions that come and go, over columns whose values need no conversion.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.store.jsontext import plain

ONLY_READS: Final = "hostler_only_reads"
"""Execution option of connections on which every statement is a transaction of its own."""


class Prepared:
    """A SELECT with `bindparam`s, each given by name when it runs."""

    def __init__(self, query: sa.Select[Any]) -> None:
        self._query = query
        self._texts: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {}

    def run(self, conn: Connection, **values: str | int | float) -> Sequence[Sequence[Any]]:
        """All rows. Text that no column can hold is refused as a column would: InvalidRequest."""
        name = conn.dialect.name
        found = self._texts.get(name)
        if found is None:
            compiled = self._query.compile(dialect=conn.dialect)
            found = self._texts[name] = (str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params))
        text, order, known = found
        for value in values.values():
            if isinstance(value, str):
                plain(value)
        given = tuple(values[key] if key in values else known[key] for key in order)  # SQLite adds an OFFSET of 0
        if name == "sqlite" or conn.get_execution_options().get(ONLY_READS):
            # The driver's own cursor: describing thirty columns anew costs more than fetching them. Where nothing can
            # be half-done, so that an error may simply be met again on the way where it is translated.
            with contextlib.suppress(Exception):
                return _fetched(conn, text, given)
        return conn.exec_driver_sql(text, given).all()


def _fetched(conn: Connection, text: str, given: Sequence[Any]) -> Sequence[Sequence[Any]]:
    cursor = conn.connection.cursor()
    try:
        cursor.execute(text, given)
        return cursor.fetchall()
    finally:
        cursor.close()
