"""Who is waiting for news of a session? Wakes stream readers and workers of this process after a commit.

Nothing here is durable: what is recorded is in the log, and a reader that missed a push reads it there. Previews of
text (deltas) exist only here. What other processes commit, `engine.neighbours` brings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hostler.domain.sessions import Frame

BACKLOG = 1024
"""Frames that one slow reader may leave lying. Past that, previews stop for it and events are read from the log."""


@dataclass(eq=False, slots=True)
class Subscription:
    """One reader's queue. Use from the loop of the hub only."""

    session_id: str
    previews: frozenset[str]
    """Event types whose previews this reader wants."""
    frames: deque[Frame] = field(default_factory=deque)
    overrun: bool = False
    """True: frames were dropped; read the log from the last sequence that was seen."""
    closed: bool = False
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _open_previews: set[str] = field(default_factory=set)

    def push(self, frame: Frame) -> None:
        if frame.preview_of is not None:
            if frame.name == "event_start":
                self._open_previews.add(frame.preview_of)
            elif frame.preview_of not in self._open_previews:
                return
            if len(self.frames) >= BACKLOG:
                self._open_previews.discard(frame.preview_of)
                return
        elif len(self.frames) >= BACKLOG:
            self.overrun = True
            return
        self.frames.append(frame)
        self._ready.set()

    def look(self) -> None:
        """There may be something in the log that was not pushed."""
        self.overrun = True
        self._ready.set()

    def end(self) -> None:
        self.closed = True
        self._ready.set()

    async def wait(self) -> None:
        """Return when there is something in `frames`, or the subscription was overrun or closed."""
        if not (self.frames or self.overrun or self.closed):
            self._ready.clear()
            await self._ready.wait()


class Hub:
    """Fan-out within one process."""

    def __init__(self) -> None:
        self._readers: dict[str, list[Subscription]] = {}
        self._workers: list[Callable[[str | None], None]] = []
        self._forgetters: list[Callable[[str], None]] = []
        self._pollers: dict[str, deque[asyncio.Event]] = {}

    def subscribe(self, session_id: str, previews: frozenset[str] = frozenset()) -> Subscription:
        subscription = Subscription(session_id, previews)
        self._readers.setdefault(session_id, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        readers = self._readers.get(subscription.session_id, [])
        if subscription in readers:
            readers.remove(subscription)
        if not readers:
            self._readers.pop(subscription.session_id, None)
        subscription.end()

    def publish(self, session_id: str, frames: Sequence[Frame]) -> None:
        """Committed events, in order of their sequence; or accepted input that waits (no sequence)."""
        for reader in self._readers.get(session_id, ()):
            for frame in frames:
                reader.push(frame)

    def preview(self, session_id: str, type_: str, frame: Frame) -> None:
        """A piece of an event that is being written, for the readers that asked for its type."""
        for reader in self._readers.get(session_id, ()):
            if type_ in reader.previews:
                reader.push(frame)

    def previews(self, session_id: str) -> bool:
        """Whether any reader of the session asked for previews."""
        return any(reader.previews for reader in self._readers.get(session_id, ()))

    def read_sessions(self) -> list[str]:
        """The sessions that have readers here."""
        return list(self._readers)

    def is_read(self, session_id: str) -> bool:
        """Whether the session has a reader here."""
        return session_id in self._readers

    def look(self, session_id: str) -> None:
        """Something may be in the session's log that was not published: every reader looks."""
        for reader in self._readers.get(session_id, ()):
            reader.look()

    def look_everywhere(self) -> None:
        """Anything may have happened: every reader, worker and poll looks once."""
        for session_id in self._readers:
            self.look(session_id)
        for wake in self._workers:
            wake(None)
        for waiting in self._pollers.values():
            for poller in waiting:
                poller.set()

    def on_work(self, wake: Callable[[str | None], None]) -> None:
        """`wake(session_id)` is called whenever that session may need a worker; None: any session may."""
        self._workers.append(wake)

    def work(self, session_id: str) -> None:
        for wake in self._workers:
            wake(session_id)

    @contextmanager
    def queue_waiter(self, environment_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the environment's queue may hold something new, for as long as the block lasts."""
        waiting = self._pollers.setdefault(environment_id, deque())
        mine = asyncio.Event()
        waiting.append(mine)
        try:
            yield mine
        finally:
            waiting.remove(mine)
            if not waiting:
                self._pollers.pop(environment_id, None)
            elif mine.is_set():  # told, and gone before it looked: the next one must look
                self.queued(environment_id)

    def polled(self, environment_id: str) -> bool:
        """Whether anybody waits for that environment's queue."""
        return environment_id in self._pollers

    def queued(self, environment_id: str) -> None:
        """One more item waits there. Wakes one of those who wait, in turn."""
        waiting = self._pollers.get(environment_id, deque())
        for _ in range(len(waiting)):
            waiting.rotate(-1)
            if not waiting[-1].is_set():
                waiting[-1].set()
                return

    def on_deleted(self, forget: Callable[[str], None]) -> None:
        """`forget(session_id)` is called when a session was deleted: what belongs to it on this host can go."""
        self._forgetters.append(forget)

    def deleted(self, session_id: str) -> None:
        for forget in self._forgetters:
            forget(session_id)
        self.end_session(session_id)

    def close(self) -> None:
        """The process ends: so do all streams. Readers come back elsewhere with the sequence they have seen."""
        for session_id in list(self._readers):
            self.end_session(session_id)
        for waiting in self._pollers.values():
            for poller in waiting:
                poller.set()

    def end_session(self, session_id: str) -> None:
        """The session is gone: its streams end after what they still hold."""
        for reader in list(self._readers.get(session_id, ())):
            reader.end()
