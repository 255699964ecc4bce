"""Which sessions does this worker serve, and who makes room for whom?

Claims sessions that want a worker while it has room, runs one `SessionRunner` for each, and lets go of the session that
has been idle the longest when there is no room left. A hint from the hub makes it look at once; a slow poll finds what
no hint told of (leases of others that ran out, a session that was to wait).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError
from hostler.engine.fairness import Fairness
from hostler.engine.hub import Hub
from hostler.engine.runner import SessionRunner
from hostler.engine.runner_parts import LeaseTerms, RunnerParts
from hostler.engine.sandbox_port import Sandbox
from hostler.store import work
from hostler.store.database import Database
from hostler.store.signals import News, tell
from hostler.store.work import Claimed, Lease

log = logging.getLogger("hostler.worker")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    slots: int = 16
    """Sessions served at once, idle ones with a live process included."""
    poll_seconds: float = 2.0
    """How long an unannounced change may go unnoticed."""
    retry_seconds: float = 1.0
    """Pause after a session whose runner broke, before it may be claimed again."""
    breaks: int = 3
    """How often in a row a session's runner may break before its turn is ended."""


class Worker:
    """Serves sessions until it is stopped. `run` once."""

    def __init__(
        self,
        owner: str,
        database: Database,
        hub: Hub,
        parts: RunnerParts,
        forget: Callable[[str], Awaitable[None]],
        settings: WorkerSettings | None = None,
    ) -> None:
        self.owner = owner
        self._database = database
        self._hub = hub
        self._parts = parts
        self._forget = forget
        self._settings = settings or WorkerSettings()
        self._runners: dict[str, SessionRunner] = {}
        self._look = asyncio.Event()
        self._drain = False
        self._running = False
        self._deleted: list[str] = []
        self._breaks: dict[str, int] = {}
        self._fairness = Fairness(self._sandboxes)
        hub.on_work(self._on_work)
        hub.on_deleted(self._on_deleted)

    @property
    def terms(self) -> LeaseTerms:
        return self._parts.terms

    def live(self) -> int:
        """Sessions with a runner."""
        return len(self._runners)

    def _sandboxes(self) -> list[Sandbox]:
        return [runner.sandbox for runner in self._runners.values() if runner.sandbox is not None]

    def sandbox_of(self, session_id: str) -> Sandbox | None:
        """Where its process lives. None: it has none, or not here."""
        runner = self._runners.get(session_id)
        return None if runner is None else runner.sandbox

    def takes_sessions(self) -> bool:
        """Whether sessions that want a worker find one here."""
        return self._running and not self._drain

    def drain(self) -> None:
        """Claim nothing more; give idle sessions back now and running ones after their turn."""
        self._drain = True
        if self._parts.spares is not None:
            self._parts.spares.drain()
        for runner in self._runners.values():
            runner.retire()
        self._look.set()

    async def release_own(self) -> int:
        """Give back leases that carry this worker's name from a former life. Only before `run`."""

        def unit(connection: Connection) -> int:
            return sum(work.release(connection, lease) for lease in work.leases(connection, self.owner))

        return await self._database.write(unit)

    async def run(self) -> None:
        """Until `drain` and all is given back, or until cancelled: then every process ends at once."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                fairness = tasks.create_task(self._fairness.run())
                try:
                    await self._run(tasks)
                finally:
                    fairness.cancel()
        finally:
            self._running = False

    async def _run(self, tasks: asyncio.TaskGroup) -> None:
        while not (self._drain and not self._runners):
            self._look.clear()
            for session_id in self._take_deleted():
                tasks.create_task(self._remove(session_id))
            if not self._drain:
                for claimed in await self._claim():
                    runner = SessionRunner(claimed.lease, self._parts, self._on_idle)
                    self._runners[claimed.session_id] = runner
                    tasks.create_task(self._serve(runner))
            try:
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _claim(self) -> list[Claimed]:
        room = self._settings.slots - len(self._runners)
        if room <= 0:
            if not await self._anyone_waits():
                return []
            self._make_room()
            return []
        busy = tuple(self._runners)

        def unit(connection: Connection) -> list[Claimed]:
            now = self._database.now(connection)
            return work.claim(connection, now, self.owner, ttl=self.terms.seconds, limit=room, exclude=busy)

        try:
            return await self._database.write(unit)
        except (HostlerError, OSError):
            log.exception("claim_failed")
            return []

    async def _anyone_waits(self) -> bool:
        stats = await self._database.read(lambda c: work.open_work(c, self._database.now(c)))
        return stats.ready > 0

    def _make_room(self) -> None:
        idle = [runner for runner in self._runners.values() if runner.idle_since is not None]
        if idle:
            min(idle, key=lambda runner: runner.idle_since or monotonic()).retire()

    async def _serve(self, runner: SessionRunner) -> None:
        session_id = runner.lease.session_id
        broken = False
        try:
            await runner.serve()
            self._breaks.pop(session_id, None)
        except Exception:
            broken = True
            log.exception("runner_broke", extra={"session": session_id})
            await self._count_break(runner)
        finally:
            self._runners.pop(session_id, None)
            await self._give_back(runner.lease, broken)
            self._look.set()

    async def _count_break(self, runner: SessionRunner) -> None:
        """A session whose runner breaks every time must not stay running for ever: its turn is ended with an error."""
        session_id = runner.lease.session_id
        self._breaks[session_id] = self._breaks.get(session_id, 0) + 1
        if self._breaks[session_id] < self._settings.breaks:
            return
        del self._breaks[session_id]
        try:
            await runner.give_up()
        except Exception:
            log.exception("turn_not_ended", extra={"session": session_id})

    async def _give_back(self, lease: Lease, broken: bool) -> None:
        pause = self._settings.retry_seconds if broken else 0.0

        def unit(connection: Connection) -> None:
            if pause:
                work.postpone(connection, lease, self._database.now(connection) + pause)
            if work.release(connection, lease) and self._drain:  # it is another server's turn, if it still wants one
                tell(connection, News("session", lease.session_id, wanted=True))

        try:
            await self._database.write(unit)
        except (HostlerError, OSError):
            log.exception("release_failed", extra={"session": lease.session_id})

    def _on_idle(self) -> None:
        """Whoever waits for room need not wait for the next look."""
        if len(self._runners) >= self._settings.slots:
            self._look.set()

    def _on_work(self, session_id: str | None) -> None:
        if session_id is None:
            for served in self._runners.values():
                served.wake()
        runner = self._runners.get(session_id or "")
        if runner is not None:
            runner.wake()
        else:
            self._look.set()

    # -- deleted sessions

    def _on_deleted(self, session_id: str) -> None:
        self._deleted.append(session_id)
        runner = self._runners.get(session_id)
        if runner is not None:
            runner.retire()
        self._look.set()

    def _take_deleted(self) -> list[str]:
        gone = [session_id for session_id in self._deleted if session_id not in self._runners]
        self._deleted = [session_id for session_id in self._deleted if session_id in self._runners]
        return gone

    async def _remove(self, session_id: str) -> None:
        try:
            await self._forget(session_id)
        except OSError:
            log.exception("files_not_removed", extra={"session": session_id})
