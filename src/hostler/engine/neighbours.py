"""How does this server follow what other servers on the same database record? It is told, and reads it once.

Each commit of another server says which events of which session it added. If anybody reads that session here, the
events are read from the log, all that were told of meanwhile in one query, and pushed to its readers as if they had
been recorded here: a faster log makes bigger reads, not more of them, and what is kept in between is two numbers for
each session with readers. A reader whose sequence has a gap reads the log itself (`engine.sessions`), so that nothing
here has to be exact. Workers, polls and webhooks are woken the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sqlalchemy import Connection

from hostler.domain import events as ev
from hostler.domain.errors import HostlerError, NotFound
from hostler.domain.sessions import Frame
from hostler.engine.hub import Hub
from hostler.engine.state import SessionState
from hostler.store import eventlog
from hostler.store import sessions as rows
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.signals import News

log = logging.getLogger("hostler.neighbours")

SPAN: Final = 100
"""Events of one session that are read for all its readers at once; with more, each reads page by page."""
_AT_ONCE: Final = 32
"""Sessions in one query."""
_MOST_WAITING: Final = 256
_RETRY_SECONDS: Final = 1.0
_FIRST_SECONDS: Final = 5.0
"""Of waiting for the first connection: the database answered a moment ago."""


@dataclass(slots=True)
class _Span:
    """What was told of one session and is not read yet."""

    first: int
    last: int
    waiting: dict[str, None] = field(default_factory=dict)

    def add(self, news: News) -> None:
        if news.last >= news.first:
            self.first = min(self.first, news.first) if self.last >= self.first else news.first
            self.last = max(self.last, news.last)
        self.waiting.update(dict.fromkeys(islice(news.waiting, _MOST_WAITING - len(self.waiting))))


class Neighbours:
    """Brings what other servers record to the hub of this one. `run` once. On SQLite it has nothing to do."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub
        self._listener = database.listener()
        self._spans: dict[str, _Span] = {}
        self._gone: set[str] = set()
        self._look = False
        self._told = asyncio.Event()

    def hears_others(self) -> bool:
        """Whether what others record is heard of at once."""
        return self._listener is None or self._listener.listening

    async def begun(self) -> None:
        """Returns when `run` hears others, or has found that it can't now: it keeps trying."""
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_SECONDS):
                    await self._listener.tried()

    async def run(self) -> None:
        """Until cancelled."""
        if self._listener is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listener.run(self._hear, self._look_everywhere))
            tasks.create_task(self._follow())

    # -- called by the listener

    def _hear(self, news: News) -> None:
        if news.about == "queue":
            self._hub.queued(news.subject)
        elif news.about == "signal":
            self._database.signals.send([news.subject])
        elif news.about == "deleted":
            self._gone.add(news.subject)
            self._told.set()
        else:
            if news.wanted:
                self._hub.work(news.subject)
            if (news.waiting or news.last >= news.first) and self._hub.is_read(news.subject):
                self._spans.setdefault(news.subject, _Span(news.first, news.last)).add(news)
                self._told.set()

    def _look_everywhere(self) -> None:
        """There was no connection for a while: anything may have happened."""
        self._hub.look_everywhere()
        self._database.signals.send_all()
        self._look = True
        self._told.set()

    # -- reading

    async def _follow(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                await self._read_spans()
                await self._forget_deleted()
            except (HostlerError, OSError):
                log.exception("news_not_read")
                self._told.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _read_spans(self) -> None:
        """What was told is forgotten only when it has been pushed."""
        while self._spans:
            some = list(islice(self._spans, _AT_ONCE))
            taken = {session_id: self._spans.pop(session_id) for session_id in some}
            try:
                await self._read(taken)
            except BaseException:
                for session_id in taken:  # its readers look for themselves
                    self._hub.look(session_id)
                raise

    async def _read(self, spans: dict[str, _Span]) -> None:
        long = {session_id for session_id, span in spans.items() if span.last - span.first >= SPAN}
        wanted = [
            (session_id, span.first, span.last)
            for session_id, span in spans.items()
            if span.last >= span.first and session_id not in long
        ]
        waiting = {session_id: span.waiting for session_id, span in spans.items() if span.waiting}

        def unit(connection: Connection) -> tuple[dict[str, list[eventlog.StoredEvent]], dict[str, list[Frame]]]:
            found = eventlog.read_spans(connection, wanted, limit=SPAN) if wanted else {}
            return found, {session_id: _waiting(connection, session_id, ids) for session_id, ids in waiting.items()}

        recorded, held = await self._database.read(unit)
        for session_id in spans:
            if session_id in long:
                self._hub.look(session_id)
            frames = [Frame(event.type, event.body, event.seq) for event in recorded.get(session_id, ())]
            self._hub.publish(session_id, [*frames, *held.get(session_id, ())])

    async def _forget_deleted(self) -> None:
        """End the streams of deleted sessions and remove their files, once the database says so, too."""
        asked, self._gone = self._gone, set()
        if self._look:
            asked |= set(self._hub.read_sessions())
        if not asked:
            return
        try:
            exist, now = await self._database.read(lambda c: (rows.existing(c, asked), self._database.now(c)))
        except BaseException:
            self._gone |= asked
            raise
        self._look = False
        for session_id in asked - exist:
            event = ev.deleted(moment(now))
            self._hub.publish(session_id, [Frame(event.type, event.text())])
            self._hub.deleted(session_id)


def _waiting(connection: Connection, session_id: str, ids: Collection[str]) -> list[Frame]:
    """Those of the inputs that still wait."""
    try:
        row = rows.get_session(connection, None, session_id)
    except NotFound:
        return []
    state = SessionState.model_validate_json(row.state)
    bodies = [queued.body for queued in (*state.queue, *([state.interrupt] if state.interrupt else ()))]
    return [Frame(body["type"], ev.to_text(body), behind=row.last_seq) for body in bodies if body["id"] in ids]
