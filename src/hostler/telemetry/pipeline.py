"""How do spans get from where they are made to whoever takes them, without anybody having to wait?

A bounded queue and one thread. What doesn't fit is dropped and counted; what can't be exported is dropped and counted.
Nothing that makes spans ever waits, whatever the other side does.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

log = logging.getLogger("hostler.telemetry")

_SAID_EVERY: Final = 60.0
"""Seconds between two log lines about lost spans."""


class Exportable(Protocol):
    """A span, or what one is made of."""

    @property
    def inside(self) -> bool:
        """Whether the harness says it, from inside a sandbox."""
        ...

    def written(self) -> bytes:
        """As OTLP's protobuf has it. Called at most once, where nobody waits for it."""
        ...


class Exporter(Protocol):
    """Brings spans somewhere. Called from one thread."""

    def export(self, spans: Sequence[Exportable]) -> bool:
        """False: they are lost. May take a while."""
        ...

    def close(self) -> None:
        """Ends an `export` that waits. Called from another thread."""
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """Since the server began."""

    sent: int
    dropped: int
    """There was no room in the queue."""
    failed: int
    """Nobody took them."""
    waiting: int


class Pipeline:
    """`put` from anywhere, at any time; `close` once."""

    def __init__(
        self,
        make: Callable[[], Exporter],
        *,
        most: int = 8192,
        batch: int = 1024,
        every_seconds: float = 1.0,
    ) -> None:
        """`make` is called in the thread: what it imports is nobody's time. `most`: spans that may wait."""
        self._make = make
        self._most = most
        self._batch = batch
        self._every = every_seconds
        self._waiting: deque[Exportable] = deque()
        self._look = threading.Event()
        self._closing = False
        self._exporter: Exporter | None = None
        self._sent = self._dropped = self._failed = self._going = 0
        self._said_at = -_SAID_EVERY
        self._said = 0
        self._thread = threading.Thread(target=self._run, name="hostler-traces", daemon=True)
        self._thread.start()

    def put(self, span: Exportable) -> None:
        """Costs next to nothing. Nothing happens after `close`."""
        waiting = len(self._waiting)
        if waiting >= self._most or self._closing:
            self._dropped += 1
            return
        self._waiting.append(span)
        if waiting + 1 == self._batch:
            self._look.set()

    def figures(self) -> Figures:
        return Figures(self._sent, self._dropped, self._failed, len(self._waiting) + self._going)

    def close(self, seconds: float) -> None:
        """Sends what waits, for so long at most; what is left then is lost. Blocks: call it from a thread."""
        until = monotonic() + seconds
        self._closing = True
        self._look.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            if self._exporter is not None:
                self._exporter.close()
            self._thread.join(max(0.5, until - monotonic()))
        lost = self._dropped + self._failed + len(self._waiting) + self._going
        if lost:
            log.warning("telemetry.spans_lost", extra={"spans": lost, "sent": self._sent})

    def _run(self) -> None:
        try:
            self._exporter = exporter = self._make()
        except Exception:
            log.exception("telemetry.exporter_not_made")
            self._most = 0
            return
        while not self._closing:
            self._look.wait(self._every)
            self._look.clear()
            self._empty(exporter)
        self._empty(exporter)
        exporter.close()

    def _empty(self, exporter: Exporter) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._going = len(spans)
            try:
                taken = exporter.export(spans)
            except Exception:
                log.exception("telemetry.export_broke")
                taken = False
            self._going = 0
            if taken:
                self._sent += len(spans)
            else:
                self._failed += len(spans)
            self._say()

    def _say(self) -> None:
        lost = self._dropped + self._failed
        if lost > self._said and monotonic() - self._said_at >= _SAID_EVERY:
            log.warning("telemetry.spans_lost", extra={"spans": lost - self._said, "sent": self._sent})
            self._said, self._said_at = lost, monotonic()
