"""How do units of work run on SQLite? One thread writes, a few threads read, and each owns its connection.

SQLite lets one connection write at a time. Sixteen connections that poll for the lock reach a p99 of 200 ms; sixteen
tasks that queue for one writing thread reach 4 ms. A unit of work costs one hop to a thread, however many statements
it has.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import StatementError
from sqlalchemy.pool import NullPool

from hostler.domain.errors import HostlerError, InvalidRequest, StoreBusy, StoreDamaged
from hostler.store.disk_priority import write_first

T = TypeVar("T")

_READERS = 3
_BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process (a command line beside the server) that holds the write lock."""

_OLDEST = (3, 35, 0)
"""The first SQLite with RETURNING."""


class SqliteBackend:
    """Threads over one database file. Safe to use from one event loop."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="hostler-db-write", initializer=write_first)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="hostler-db-read")
        self._write_engine = self._engine(begin="BEGIN IMMEDIATE", read_only=False)
        self._read_engine = self._engine(begin="BEGIN", read_only=True)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._closed = False

    @staticmethod
    async def open(url: URL, *, durable: bool) -> SqliteBackend:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise InvalidRequest(f"SQLite {sqlite3.sqlite_version} is too old: Hostler needs 3.35 or newer")
        assert url.database is not None
        path = Path(url.database).absolute()
        _make_private_file(path)
        return SqliteBackend(path, durable=durable)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._run, self._read_engine, fn)

    async def write(self, fn: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._run, self._write_engine, fn)

    write_one = write
    """A transaction costs no round trips here."""

    def listener(self, sender: str) -> None:
        """Nobody else has the file open."""
        return

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._readers.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _run(self, engine: sa.Engine, fn: Callable[[Connection], T]) -> T:
        try:
            connection = self._connection(engine)
            with connection.begin():
                return fn(connection)
        except StatementError as error:
            raise _translated(error, error.orig, reading=engine is self._read_engine) from error
        except sqlite3.Error as error:
            raise _translated(error, error, reading=engine is self._read_engine) from error

    def _connection(self, engine: sa.Engine) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = engine.connect()
            with self._lock:
                self._connections.add(connection)
        return connection

    def _engine(self, *, begin: str, read_only: bool) -> sa.Engine:
        engine = sa.create_engine(
            URL.create("sqlite", database=str(self._path)),
            poolclass=NullPool,
            hide_parameters=True,  # an error that is logged must not hold what was stored
            # Used by one thread at a time; closed by another one at the end.
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )

        def prepare(driver: sqlite3.Connection, _record: object) -> None:
            for pragma in (
                f"busy_timeout={_BUSY_TIMEOUT_MS}",
                "journal_mode=WAL",
                f"synchronous={'FULL' if self._durable else 'NORMAL'}",
                "foreign_keys=ON",
                "cache_size=-65536",
                "mmap_size=536870912",
                "journal_size_limit=67108864",
                f"query_only={'ON' if read_only else 'OFF'}",
            ):
                driver.execute(f"PRAGMA {pragma}").fetchall()

        def start(connection: Connection) -> None:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(begin)  # By SQLAlchemy it would cost as much as a small unit of work.

        sa.event.listen(engine, "connect", prepare)
        sa.event.listen(engine, "begin", start)
        return engine


def _translated(error: Exception, cause: BaseException | None, *, reading: bool = False) -> Exception:
    """Our error for what a caller can act on; the original for the rest, which is a bug."""
    if isinstance(cause, HostlerError):  # a column refused a value (`tables.Words`), and SQLAlchemy wrapped that
        return cause
    code = getattr(cause, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreBusy("the database is locked by another process; try again")
    if code.startswith("SQLITE_FULL"):
        return StoreBusy("the disk that holds the database is full", retry_after_seconds=30)
    if reading and code == "SQLITE_READONLY":  # whoever reads has tried to write
        return error
    if code.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_NOMEM")):
        return StoreBusy(f"the database file can't be read or written now ({code})", retry_after_seconds=5)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged("the database file is damaged: restore it from a backup")
    return error


def _make_private_file(path: Path) -> None:
    """An empty file that only its owner reads, unless there is one. SQLite gives the log beside it the same rights."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise InvalidRequest(f"the database file {path} can't be opened: {error.strerror}") from error
