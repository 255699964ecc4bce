"""How does a server hear of what others commit to its PostgreSQL? On one connection of its own that only listens.

The connection is made again, after pauses that grow, for as long as the server runs. Whatever was told while there was
none is lost; so whoever listens is asked to look once each time it is there again.

The same connection looks for servers that froze in the middle of a write: their locks would hold up everybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import asyncpg

from hostler.store.signals import CHANNEL, News, news_of

log = logging.getLogger("hostler.store")

APPLICATION: Final = "hostler-listener"
"""The connection's name in pg_stat_activity."""
_PROBE_SECONDS: Final = 5.0
"""A connection that was cut without a word is noticed after this time and the next."""
_END_FROZEN: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = 'hostler'
    AND state = 'active' AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '10 seconds'
"""
"""Ends connections that began a statement and left it there: frozen between its preparation and its execution, which no
time limit of PostgreSQL 15 ends. Elsewhere in a transaction `idle_in_transaction_session_timeout` does."""
_ANSWER_SECONDS: Final = 10.0
_PAUSES: Final = (0.05, 5.0)
_FAILURES: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Listener:
    """Hears the other servers. `run` once; belongs to one event loop.

    arguments  of `asyncpg.connect`.
    sender     this server's own name: what it tells itself it has heard already.
    """

    def __init__(self, arguments: dict[str, Any], sender: str) -> None:
        self._arguments = arguments
        self._sender = sender
        self._strange = False
        self._tried = asyncio.Event()
        self.listening = False
        """Whether news arrives now."""

    async def tried(self) -> None:
        """Returns when the first attempt to listen has succeeded or failed."""
        await self._tried.wait()

    async def run(self, heard: Callable[[News], None], look: Callable[[], None]) -> None:
        """Until cancelled. Both are called in this loop and must return at once.

        `heard` is called for each commit that others told of, in the order of commits. `look` is called whenever there
        may have been others of which nothing was heard.
        """
        shortest, longest = _PAUSES
        pause = shortest
        while True:
            begun = monotonic()
            try:
                await self._listen(heard, look)
            except _FAILURES as error:
                pause = shortest if monotonic() - begun > longest else min(longest, pause * 2)
                # The driver's messages name hosts and users, no passwords.
                log.warning("listener_broken", extra={"reason": f"{type(error).__name__}: {error}", "pause": pause})
            finally:
                self.listening = False
                self._tried.set()
            await asyncio.sleep(pause)

    async def _listen(self, heard: Callable[[News], None], look: Callable[[], None]) -> None:
        closed = asyncio.Event()
        connection = await asyncpg.connect(**self._arguments)
        try:
            connection.add_termination_listener(lambda _: closed.set())
            await connection.add_listener(CHANNEL, lambda *told: self._take(str(told[3]), heard))
            self.listening = True
            self._tried.set()
            log.info("listener_ready")
            look()
            while not closed.is_set():
                try:
                    async with asyncio.timeout(_PROBE_SECONDS):
                        await closed.wait()
                except TimeoutError:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        ended = len(await connection.fetch(_END_FROZEN))
                    if ended:
                        log.warning("frozen_writers_ended", extra={"connections": ended})
            raise ConnectionResetError("the database closed the connection")
        finally:
            connection.terminate()

    def _take(self, text: str, heard: Callable[[News], None]) -> None:
        found = news_of(text)
        if found is None:
            if not self._strange:
                log.warning("news_not_understood", extra={"length": len(text)})
            self._strange = True
        elif found[0] != self._sender:
            heard(found[1])
