"""How do units of work run on PostgreSQL? On pooled connections; reads without a transaction, writes retried when they
collide.

A read in a transaction would cost two more round trips (0.23 ms). Connections that the server closed are replaced,
and the unit of work runs again, unless the break came during commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from hostler.domain.errors import HostlerError, InvalidRequest, StoreBusy
from hostler.store.listening import APPLICATION, Listener
from hostler.store.prepared import ONLY_READS

T = TypeVar("T")

_OLDEST = 150000
_ATTEMPTS = 6
_TOOK_TOO_LONG = "57014"
_READ_ONLY = "25006"
_COLLISIONS = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected: the server rolled back, and asks to try again."""
_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 60


class PostgresBackend:
    """A pool of connections to one database. Safe to use from one event loop."""

    def __init__(self, engine: AsyncEngine, listener_arguments: dict[str, Any]) -> None:
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT", **{ONLY_READS: True})
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._listener_arguments = listener_arguments

    @staticmethod
    async def open(url: URL, *, pool_size: int) -> PostgresBackend:
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            hide_parameters=True,  # an error that is logged must not hold what was stored
            max_overflow=(pool_size + 1) // 2,
            pool_timeout=30,
            pool_recycle=1800,
            isolation_level="READ COMMITTED",
            connect_args={
                "timeout": _CONNECT_SECONDS,
                "command_timeout": _STATEMENT_SECONDS * 1.5,
                "server_settings": {
                    "application_name": "hostler",
                    "jit": "off",
                    "statement_timeout": f"{_STATEMENT_SECONDS}s",
                    # A server that froze in the middle of a write must not hold its locks for longer than a lease.
                    "idle_in_transaction_session_timeout": "10s",
                },
            },
        )
        sa.event.listen(engine.sync_engine, "handle_error", _let_go_of_a_standby)
        arguments = dict(engine.dialect.create_connect_args(url)[1])
        arguments.update(timeout=_CONNECT_SECONDS, server_settings={"application_name": APPLICATION})
        backend = PostgresBackend(engine, dict(arguments))
        try:
            await backend.read(_check_server)
        except BaseException:
            await engine.dispose()
            raise
        return backend

    async def read(self, fn: Callable[[Connection], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._reading.connect() as connection:
                    return await connection.run_sync(fn)
            except DBAPIError as error:
                if not (error.connection_invalidated and attempt < _ATTEMPTS):
                    raise _translated(error) from error
            except StatementError as error:
                raise _translated(error) from error
            except (OSError, PoolTimeout) as error:
                raise StoreBusy(f"the database can't be reached: {error}", retry_after_seconds=2) from error

    async def write(self, fn: Callable[[Connection], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            committing = False
            try:
                async with self._engine.connect() as connection:
                    result = await connection.run_sync(fn)
                    committing = True
                    await connection.commit()
                    return result
            except DBAPIError as error:
                if error.connection_invalidated and committing:
                    raise StoreBusy(
                        "the connection to the database broke during a commit: read again before retrying"
                    ) from error
                again = error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _COLLISIONS
                if not again or attempt >= _ATTEMPTS:
                    raise _translated(error) from error
            except StatementError as error:
                raise _translated(error) from error
            except (OSError, PoolTimeout) as error:
                raise StoreBusy(f"the database can't be reached: {error}", retry_after_seconds=2) from error
            await asyncio.sleep(0.002 * 2**attempt)

    async def write_one(self, fn: Callable[[Connection], T]) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._single.connect() as connection:
                    return await connection.run_sync(fn)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _COLLISIONS or attempt == _ATTEMPTS:
                    raise _translated(error) from error
            except StatementError as error:
                raise _translated(error) from error
            except (OSError, PoolTimeout) as error:
                raise StoreBusy(f"the database can't be reached: {error}", retry_after_seconds=2) from error
            await asyncio.sleep(0.002 * 2**attempt)
        raise AssertionError("unreachable")

    def listener(self, sender: str) -> Listener:
        """A connection outside of the pool; there is none before it runs."""
        return Listener(self._listener_arguments, sender)

    async def close(self) -> None:
        await self._engine.dispose()


def _let_go_of_a_standby(context: ExceptionContext) -> None:
    """A server that takes no writes any more: after a failover, the connections to it are as good as broken."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _check_server(connection: Connection) -> None:
    version, encoding = connection.execute(
        sa.text("SELECT current_setting('server_version_num')::int, current_setting('server_encoding')")
    ).one()
    if version < _OLDEST:
        raise InvalidRequest(f"PostgreSQL {version // 10000} is too old: Hostler needs 15 or newer")
    if encoding != "UTF8":
        raise InvalidRequest(f"the database's encoding is {encoding}: make one with ENCODING 'UTF8'")


def _translated(error: StatementError) -> Exception:
    """Our error for what a caller can act on; the original for the rest, which is a bug."""
    if isinstance(error.orig, HostlerError):  # a column refused a value (`tables.Words`), and SQLAlchemy wrapped that
        return error.orig
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == "3D000" or state.startswith("28"):
        return InvalidRequest(f"the database refuses us: {error.orig}")
    if state == _TOOK_TOO_LONG:
        return StoreBusy(f"the database did not finish within {_STATEMENT_SECONDS} s; try again", retry_after_seconds=5)
    if state == "53100":
        return StoreBusy("the disk that holds the database is full", retry_after_seconds=30)
    if (
        state in _COLLISIONS
        or state.startswith(("53", "57P", "08"))
        or (isinstance(error, DBAPIError) and error.connection_invalidated)
    ):
        return StoreBusy("the database is overloaded, starting or stopping; try again", retry_after_seconds=2)
    return error
