"""Which sessions does this worker serve, and who makes room for whom?

Takes the sessions that `engine.admission` gives a place, runs one `SessionRunner` for each, and lets go of those that
have been idle the longest when there is no room for others, or when memory runs short. A hint from the hub makes it
look at once; a slow poll finds what no hint told of (leases of others that ran out, a session that was to wait).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

from sqlalchemy import Connection

from hostler.engine.admission import Admission, Lack, Room, Taken
from hostler.engine.fairness import SECONDS, SECONDS_EACH, Fairness
from hostler.engine.hub import Hub
from hostler.engine.memory_use import MemoryUse
from hostler.engine.runner import SessionRunner
from hostler.engine.runner_parts import LeaseTerms, RunnerParts
from hostler.engine.sandbox_port import Sandbox
from hostler.engine.waiting_room import WaitingRoom, WaitTerms
from hostler.engine.waiting_turns import Errand, waited_too_long
from hostler.store import runtime, work
from hostler.store.database import Database
from hostler.store.signals import News, raise_signal, tell
from hostler.store.work import Lease

log = logging.getLogger("hostler.worker")

PLACES: Final = "places"
"""Raised when a server has let a session go while others wait for a place: another server may take one of them."""
_BREATH_SECONDS: Final = 0.02
"""Between two looks while somebody waits: a flood of messages must not become a flood of looks at a long queue."""
_ERRANDS: Final = 8
"""Sessions that are served at once for something that needs no process."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    slots: int = 16
    """Sessions served at once, idle ones with a live process included."""
    poll_seconds: float = 2.0
    """How long an unannounced change may go unnoticed."""
    hold_seconds: float = 10.0
    """How long a session whose messages follow each other at once keeps its place while others wait for one."""
    retry_seconds: float = 1.0
    """Pause after a session whose runner broke, before it may be claimed again."""
    breaks: int = 3
    """How often in a row a session's runner may break before its turn is ended."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A session that has a place here."""

    environment_id: str
    since: float
    """Monotonic."""


class Worker:
    """Serves sessions until it is stopped. `run` once."""

    def __init__(
        self,
        owner: str,
        database: Database,
        hub: Hub,
        parts: RunnerParts,
        forget: Callable[[str], Awaitable[None]],
        memory: MemoryUse,
        settings: WorkerSettings | None = None,
        wait_terms: WaitTerms | None = None,
    ) -> None:
        self.owner = owner
        self.admission = Admission()
        self.memory = memory
        self._database = database
        self._hub = hub
        self._parts = parts
        self._forget = forget
        self._settings = settings or WorkerSettings()
        self._runners: dict[str, SessionRunner] = {}
        self._leaving = 0
        """Sessions whose lease is being given back."""
        self._placed: dict[str, _Placed] = {}
        """Those of them that have a place, by session."""
        self._retired: set[str] = set()
        """Those that were told to make room and have not gone yet."""
        self._left = False
        """Somebody waits for a place, as of the last look."""
        self._lacks: Sequence[Lack] = ()
        """What they wait for."""
        self._look = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        """When places are looked for again after that has failed."""
        self._waiting_room = WaitingRoom(
            database, parts.records, self.admission, wait_terms or WaitTerms(), self._look.set
        )
        self._drain = False
        self._running = False
        self._deleted: list[str] = []
        self._breaks: dict[str, int] = {}
        self._fairness = Fairness(self._sandboxes)
        hub.on_work(self._on_work)
        hub.on_deleted(self._on_deleted)
        database.signals.on(PLACES, self._look.set)

    @property
    def terms(self) -> LeaseTerms:
        return self._parts.terms

    def live(self) -> int:
        """Sessions with a runner."""
        return len(self._runners)

    def busy(self) -> bool:
        """Whether any session has one, or is just being given back."""
        return bool(self._runners) or self._leaving > 0

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
                beside = [
                    tasks.create_task(self._fairness.run()),
                    tasks.create_task(self._keep_memory()),
                    tasks.create_task(self._waiting_room.run()),
                ]
                try:
                    await self._run(tasks)
                finally:
                    for task in beside:
                        task.cancel()
        finally:
            self._running = False

    async def _run(self, tasks: asyncio.TaskGroup) -> None:
        while not (self._drain and not self._runners):
            self._look.clear()
            for session_id in self._take_deleted():
                tasks.create_task(self._remove(session_id))
            if not self._drain:
                for runner in await self._take():
                    if self._drain:  # since it was claimed
                        runner.retire()
                    tasks.create_task(self._serve(runner))
            try:
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self._look.wait()
            except TimeoutError:
                continue
            if self._left:
                await asyncio.sleep(_BREATH_SECONDS)

    # -- places

    async def _take(self) -> list[SessionRunner]:
        """Those that there is room for; and for those that there is none for, room is made."""
        room, held, overdue = await self._room(), tuple(self._runners), self._waiting_room.overdue
        since = {session_id: row.since for session_id, (row, _) in overdue.items()}

        def unit(connection: Connection) -> Taken:
            now = self._database.now(connection)
            return self.admission.take(
                connection, now, self.owner, room, ttl=self.terms.seconds, held=held, overdue=since
            )

        try:
            taken = await self._database.write(unit)
        except Exception:  # whatever it is: what runs here must not end with it
            log.exception("claim_failed")
            if self._again is None or self._again.when() <= asyncio.get_running_loop().time():
                self._again = asyncio.get_running_loop().call_later(self._settings.retry_seconds, self._look.set)
            return []
        self.admission.taken(taken)
        runners: list[SessionRunner] = []
        for claimed, row in taken.placed:
            self._placed[claimed.session_id] = _Placed(row.environment_id, monotonic())
            self.memory.begins(claimed.session_id, row.environment_id)
            gives_way = partial(self._gives_way, claimed.session_id)
            runners.append(SessionRunner(claimed.lease, self._parts, self._on_idle, gives_way))
        for claimed in taken.errands:
            end = None
            if claimed.session_id in taken.overdue:
                seconds = self._waiting_room.terms.longest_wait_seconds
                end = waited_too_long(seconds, overdue[claimed.session_id][1])
            runners.append(SessionRunner(claimed.lease, self._parts, self._on_idle, errand=Errand(end)))
        self._runners |= {runner.lease.session_id: runner for runner in runners}
        self._left, self._lacks = taken.left, taken.lacks
        if taken.left:
            self._waiting_room.somebody_waits()
        for lack in taken.lacks:
            self._make_room(lack)
        return runners

    async def _room(self) -> Room:
        await self.memory.refresh()
        return Room(
            places=self._settings.slots - len(self._placed),
            errands=_ERRANDS - (len(self._runners) - len(self._placed)),
            headroom=self.memory.headroom(),
            reserve=self.memory.reserve,
            alone=not self._placed,
            expected=self.memory.expected,
        )

    def _make_room(self, lack: Lack) -> None:
        """Ends as many idle processes as are needed, those that have been idle for longest first."""
        if lack.reason == "memory":
            self._free(lack.missing_bytes)
            return
        missing = lack.count - self._going(lack.environment_id)
        for runner in self._idle(lack.environment_id)[: max(0, missing)]:
            self._retire(runner)

    def _gives_way(self, session_id: str) -> bool:
        """A turn has ended: whether the session has had its place for long enough while others wait for one."""
        mine = self._placed[session_id]
        if monotonic() - mine.since < self._settings.hold_seconds:
            return False
        scopes = [lack for lack in self._lacks if lack.environment_id in (None, mine.environment_id)]
        if any(lack.count > self._going(lack.environment_id) for lack in scopes):
            self._retired.add(session_id)
            return True
        return False

    def _going(self, environment_id: str | None) -> int:
        """How many of an environment, or of all, are making room already."""
        return sum(1 for s in self._retired if environment_id in (None, self._placed[s].environment_id))

    def _free(self, missing_bytes: int) -> None:
        """Ends idle processes until so much memory comes back."""
        missing = missing_bytes - sum(self.memory.used(session_id) for session_id in self._retired)
        for runner in self._idle():
            if missing <= 0:
                return
            missing -= self.memory.used(runner.lease.session_id)
            self._retire(runner)

    def _idle(self, environment_id: str | None = None) -> list[SessionRunner]:
        """Those whose process could be ended, the one that has been idle for longest first."""
        found = [
            (since, runner)
            for session_id, runner in self._runners.items()
            if (since := runner.idle_since) is not None
            and session_id not in self._retired
            and (row := self._placed.get(session_id)) is not None
            and environment_id in (None, row.environment_id)
        ]
        return [runner for _, runner in sorted(found, key=lambda each: each[0])]

    def _retire(self, runner: SessionRunner) -> None:
        self._retired.add(runner.lease.session_id)
        runner.retire()

    async def _keep_memory(self) -> None:
        """Measures what is live; ends idle processes when so little memory is left that working ones are in danger."""
        while True:
            await asyncio.sleep(max(SECONDS, SECONDS_EACH * len(self._placed)))
            sandboxes = {s: sandbox for s in self._placed if (sandbox := self.sandbox_of(s)) is not None}
            await self.memory.look(sandboxes)
            await self.memory.refresh()
            available = self.memory.available()
            if available is not None and available < self.memory.reserve and self._idle():
                log.warning("memory_short", extra={"available": available, "reserve": self.memory.reserve})
                self._free(self.memory.reserve - available)

    # -- serving

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
            self._leaving += 1
            self._runners.pop(session_id, None)
            self._placed.pop(session_id, None)
            self._retired.discard(session_id)
            self.memory.ended(session_id)
            try:
                await self._give_back(runner.lease, broken)
            finally:
                self._leaving -= 1
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
            runtime.book(connection, self._database.now(connection), lease.session_id, lease.epoch)
            if pause:
                work.postpone(connection, lease, self._database.now(connection) + pause)
            if work.release(connection, lease) and self._drain:  # it is another server's turn, if it still wants one
                tell(connection, News("session", lease.session_id, wanted=True))
            if self._left:
                raise_signal(connection, PLACES)

        try:
            await self._database.write(unit)
        except Exception:  # then the lease runs out
            log.exception("release_failed", extra={"session": lease.session_id})

    def _on_idle(self) -> None:
        """Whoever waits for room need not wait for the next look."""
        if self._left:
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
