"""How does a unit of work reach the database, and when is it done?

A unit of work is a plain function of one SQLAlchemy connection. `read` and `write` run it where it belongs: on SQLite
in a thread that owns the connection, on PostgreSQL on a pooled connection. Everything else in the store is such
functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hostler.domain.clock import SystemClock
from hostler.domain.errors import InvalidRequest
from hostler.domain.principals import ACTING
from hostler.store import acting
from hostler.store.migrate import ensure_schema
from hostler.store.signals import Signals
from hostler.store.sqlite import SqliteBackend

if TYPE_CHECKING:
    from hostler.store.listening import Listener
    from hostler.store.postgresql import PostgresBackend

T = TypeVar("T")

Dialect = Literal["sqlite", "postgresql"]

_POSTGRES_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_SERVER_CLOCK_SECONDS = 5.0


def _no_skew() -> float:
    return 0.0


class Backend(Protocol):
    """One kind of database. `open` has been called before anything else; nothing is called after `close`."""

    async def read(self, fn: Callable[[Connection], T]) -> T: ...

    async def write(self, fn: Callable[[Connection], T]) -> T: ...

    async def write_one(self, fn: Callable[[Connection], T]) -> T: ...

    def listener(self, sender: str) -> Listener | None: ...

    async def close(self) -> None: ...


class _ServerClock:
    """PostgreSQL's clock without a round trip at each look: asked every few seconds, counted on from there.

    Counted by the clock that also runs while the machine sleeps. The answer is at most one round trip behind the
    server's time and never ahead of it, so nobody takes a lease early. Leases last seconds; a worker lets go of its
    own seconds before.
    """

    def __init__(self) -> None:
        self._known: tuple[float, float] | None = None
        """The server's time, and ours when its answer was there."""

    def now(self, conn: Connection) -> float:
        here = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._known is None or here - self._known[1] > _SERVER_CLOCK_SECONDS:
            server = float(conn.exec_driver_sql(_POSTGRES_NOW).scalar_one())
            here = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._known = (server, here)
        return self._known[0] + here - self._known[1]


class Database:
    """An open database with a schema that this program knows. Made by `open`; belongs to one event loop."""

    def __init__(self, backend: Backend, dialect: Dialect, clock_skew: Callable[[], float]) -> None:
        self._backend = backend
        self._clock_skew = clock_skew
        self._system_clock = SystemClock()
        self._server_clock = _ServerClock()
        self.dialect: Dialect = dialect
        self.signals = Signals(shared=dialect == "postgresql")
        """Who hears of what `write` committed."""

    @staticmethod
    async def open(
        url: str,
        *,
        migrate: bool = True,
        clock_skew: Callable[[], float] = _no_skew,
        durable: bool = False,
        pool_size: int = 10,
    ) -> Database:
        """Connect, check the server, and bring the schema up to this program's.

        url         `sqlite:////absolute/path.db` (made when missing, readable by its owner only), or
                    `postgresql://user:password@host:port/name`, or `postgresql://user@/name?host=/socket/directory`.
        migrate     False: refuse (SchemaMismatch) unless the schema is already this program's.
        clock_skew  seconds added to the database's clock; tests turn it.
        durable     SQLite only: survive a power cut without losing the last transactions (`synchronous=FULL`). A crash
                    of the process loses nothing either way. PostgreSQL: as the server is configured.
        pool_size   PostgreSQL only: connections kept open; half as many again are opened under load.

        Raises InvalidRequest for a URL that names no supported database, SchemaMismatch for a schema that this program
        can't use, and StoreBusy when the server can't be reached.
        """
        target = _parsed(url)
        backend: SqliteBackend | PostgresBackend
        if target.get_backend_name() == "sqlite":
            backend, dialect = await SqliteBackend.open(target, durable=durable), "sqlite"
        else:
            # Its driver and SQLAlchemy's asyncio part take a third of a second to import.
            from hostler.store.postgresql import PostgresBackend

            backend, dialect = await PostgresBackend.open(target, pool_size=pool_size), "postgresql"
        try:
            await backend.write(lambda connection: ensure_schema(connection, migrate=migrate))
        except BaseException:
            await backend.close()
            raise
        return Database(backend, "sqlite" if dialect == "sqlite" else "postgresql", clock_skew)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn`, which only reads. On SQLite it sees one moment; on PostgreSQL each statement sees its own.

        `fn` may run twice when a connection breaks.
        """
        return await self._backend.read(fn)

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in one transaction, committed when this returns; an exception of `fn` rolls all of it back.

        `fn` may run more than once (deadlock, serialization failure, broken connection), so it must touch nothing but
        the connection. Raises StoreBusy when the database stayed locked or was full, or the connection broke during
        commit: only then is it unknown whether the transaction happened. The same holds for a cancelled caller.
        """
        raised = self.signals.raised()
        actor = ACTING.get()

        def unit(conn: Connection) -> T:
            raised.begin(conn)
            acting.begin(conn, actor)
            result = fn(conn)
            raised.flush(conn)
            return result

        result = await self._backend.write(unit)
        self.signals.send(raised.names)
        return result

    async def write_one(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn`, which on PostgreSQL is one statement and nothing else: it is a transaction of its own, which saves
        two round trips. Signals can't be raised in it.

        Raises StoreBusy also when the connection broke, and then it is unknown whether the statement happened. The same
        holds for a cancelled caller.
        """
        return await self._backend.write_one(fn)

    def listener(self) -> Listener | None:
        """Hears what other servers commit. None on SQLite: there are no others."""
        sender = self.signals.sender
        return None if sender is None else self._backend.listener(sender)

    def now(self, conn: Connection) -> float:
        """The database's time in seconds since 1970, plus the skew. The only clock that decides leases.

        SQLite has no clock of its own: `julianday('now')` asks this machine's and rounds to milliseconds. We ask the
        same clock and keep the microseconds.
        """
        sqlite = self.dialect == "sqlite"
        seconds = self._system_clock.now().timestamp() if sqlite else self._server_clock.now(conn)
        return seconds + self._clock_skew()

    async def close(self) -> None:
        """Let running units of work end, then close every connection. Safe to call twice."""
        await self._backend.close()


def _parsed(url: str) -> URL:
    try:
        target = make_url(url)
        name = target.get_backend_name()
    except (ArgumentError, sa.exc.NoSuchModuleError):
        name = ""
    if name == "sqlite":
        if not target.database or target.database == ":memory:":
            raise InvalidRequest(
                f"the database URL {url!r} names no file; write it like sqlite:////var/lib/hostler/hostler.db"
            )
        return target
    if name == "postgresql":
        return target.set(drivername="postgresql+asyncpg")
    raise InvalidRequest("the database URL must begin with sqlite:/// or postgresql://")
