"""How does a statement that runs all the time stay cheap? Its text is made once for each database, not at each call.

Making a SELECT and finding it in the compiler's cache costs several times what SQLite needs to answer it, and so does
preparing each value of an INSERT. Only for statements without conditions that come and go, over columns whose values
need no conversion.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.sql.dml import ReturningUpdate

from hostler.store.jsontext import plain

ONLY_READS: Final = "hostler_only_reads"
"""Execution option of connections on which every statement is a transaction of its own."""
_MOST_ROWS: Final = 64
"""In one INSERT. Its text stays prepared with each connection."""


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


class PreparedUpdate:
    """An UPDATE … RETURNING with `bindparam`s, each given by name when it runs. The values go to the driver as they
    are."""

    def __init__(self, update: ReturningUpdate[Any]) -> None:
        self._update = update
        self._texts: dict[str, tuple[str, tuple[str, ...]]] = {}

    def run(self, conn: Connection, **values: str | int | float) -> Sequence[Sequence[Any]]:
        """What it returns of each row that it changed."""
        found = self._texts.get(conn.dialect.name)
        if found is None:
            compiled = self._update.compile(dialect=conn.dialect)
            found = self._texts[conn.dialect.name] = (str(compiled), tuple(compiled.positiontup or ()))
        text, order = found
        return conn.exec_driver_sql(text, tuple(values[key] for key in order)).all()


class PreparedInsert:
    """Rows for one table, all columns of it that are named. The values go to the driver as they are: what a column
    can't hold has to be out of them (`jsontext.cleaned`)."""

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = list(columns)
        self._texts: dict[tuple[str, int], str] = {}
        # A compiled INSERT names its columns in the order of the table.
        order = [self._columns.index(column.name) for column in table.columns if column.name in self._columns]
        self._arranged = itemgetter(*order) if order != list(range(len(order))) else None

    def run(self, conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Adds them in their order: all, or none and the transaction is over."""
        if self._arranged is not None:
            rows = [self._arranged(row) for row in rows]
        if conn.dialect.name != "sqlite":
            # One row is not many: the driver asks the server less.
            conn.exec_driver_sql(self._text(conn, 1), rows[0] if len(rows) == 1 else list(rows))
            return
        # One step of one statement for many rows: the thread lets go of the interpreter, and has to wait to get it
        # back, once for each step. Powers of two, so that a few texts stay prepared.
        done = 0
        while done < len(rows):
            count = min(_MOST_ROWS, 1 << ((len(rows) - done).bit_length() - 1))
            values = tuple(value for row in rows[done : done + count] for value in row)
            conn.exec_driver_sql(self._text(conn, count), values)
            done += count

    def _text(self, conn: Connection, rows: int) -> str:
        key = (conn.dialect.name, rows)
        text = self._texts.get(key)
        if text is None:
            blank = dict.fromkeys(self._columns)
            one = str(self._table.insert().values(blank).compile(dialect=conn.dialect, column_keys=self._columns))
            before, word, row = one.partition("VALUES ")
            text = self._texts[key] = before + word + ", ".join([row] * rows)
        return text


def _fetched(conn: Connection, text: str, given: Sequence[Any]) -> Sequence[Sequence[Any]]:
    cursor = conn.connection.cursor()
    try:
        cursor.execute(text, given)
        return cursor.fetchall()
    finally:
        cursor.close()
