"""How does a session take over a spare?

A new one: the home is handed on first, then it is made the copy that counts, then the process is bound. When something
of that fails, the session keeps its home, which is empty, and gets a process the ordinary way.

One that wakes up: its files are brought into the spare's home first. Only then what is here of the session goes, and
the home is handed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from hostler.domain.errors import LeaseLost, NotFound
from hostler.engine import head_start
from hostler.engine.call_gate import CallGate
from hostler.engine.copies import Copies, confirmed
from hostler.engine.egress_port import McpAccess
from hostler.engine.homes import Stay
from hostler.engine.late_ties import Ties
from hostler.engine.memory import Memory
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.ports import ModelRoadListener
from hostler.engine.process import LiveProcess
from hostler.engine.profile import Profile, transcript_id
from hostler.engine.records import Telling
from hostler.engine.runner_parts import RunnerParts
from hostler.engine.runs import ContextKeeper
from hostler.engine.spare_process import SpareProcess
from hostler.engine.spares import Spares, hindrance
from hostler.engine.threads import together
from hostler.engine.variables import BrokeredVariables
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

log = logging.getLogger("hostler.moving_in")


@dataclass(frozen=True, slots=True)
class MovedIn:
    """What a session has of a spare."""

    stay: Stay
    house: AsyncExitStack
    """Leaves the home."""
    unkept: bool
    process: LiveProcess | None
    """None: it came to nothing after the home was handed on."""


@dataclass(frozen=True, slots=True)
class MovingIn:
    """For one session under one lease."""

    lease: Lease
    parts: RunnerParts
    memory: Memory
    gate: CallGate
    listener: ModelRoadListener
    keeper: ContextKeeper | None

    async def try_(self, session: SessionRow, profile: Profile, variables: BrokeredVariables | None) -> MovedIn | None:
        """Of a session without process and home here. None: there is no spare for it."""
        spares, copies = self.parts.spares, self.parts.copies
        if spares is None or copies is None or hindrance(session, profile, variables) is not None:
            return None
        if await self.memory.exists():
            return await self._wake_up(spares, copies, session, profile)
        if not await copies.none_yet(session.id):
            return None
        try:
            spare = await spares.claim(session, profile)
        finally:
            spares.ask(session, profile)
        return None if spare is None else await self._take_over(spare, session, profile)

    async def _wake_up(self, spares: Spares, copies: Copies, session: SessionRow, profile: Profile) -> MovedIn | None:
        place = await self.parts.around.placement.place(profile.needs)
        known = await copies.known(session.id)
        if not head_start.possible(session, profile, place.technology):
            return None
        if profile.spares < 2 or not await copies.kept_and_small(session.id, known):
            return None
        try:
            spare = await spares.claim(session, profile, resuming=True)
        finally:
            spares.ask(session, profile, resuming=True)
        if spare is None:
            return None
        async with AsyncExitStack() as house, AsyncExitStack() as process:
            process.push_async_callback(spare.discard)
            await house.enter_async_context(copies.staying(session.id))
            telling = Telling(self.parts.records, self.lease)
            assert spare.held is not None, "a spare for sessions that wake up is held back"
            try:
                async with together() as tasks:
                    reading = tasks.create_task(self.memory.read())
                    right = await copies.bring(
                        session, self.lease, spare.stay, known, telling.tell, spare.held.ahead.shown
                    )
                if right.older:  # not all that was kept can be read: then what is here, if it counts, is worth more
                    return None
                await copies.forget(session.id)  # what is here is a copy of the same, or outdated
                stay, home = await spare.hand_on_home(session.id)
            except (OSError, ObjectsUnavailable):
                log.exception("spare_not_used", extra={"session": session.id, "spare": spare.name})
                return None
            await house.enter_async_context(home)
            async with together() as tasks:
                tasks.create_task(confirmed(right, telling, house))
                live = await self._bound_if_possible(spare, session, profile, process, reading.result())
            process.pop_all()
            return MovedIn(stay, house.pop_all(), right.unkept, live)
        raise AssertionError("unreachable")  # the stacks swallow nothing

    async def _take_over(self, spare: SpareProcess, session: SessionRow, profile: Profile) -> MovedIn | None:
        copies = self.parts.copies
        assert copies is not None, "looked at before"
        async with AsyncExitStack() as house, AsyncExitStack() as process:
            process.push_async_callback(spare.discard)
            await house.enter_async_context(copies.staying(session.id))
            try:
                stay, home = await spare.hand_on_home(session.id)
            except OSError:
                log.exception("spare_not_used", extra={"session": session.id, "spare": spare.name})
                return None
            await house.enter_async_context(home)
            telling = Telling(self.parts.records, self.lease)
            settled = await copies.settle(session, self.lease, stay.home, telling.tell)
            telling.announce()
            live = await self._bound_if_possible(spare, session, profile, process)
            process.pop_all()
            return MovedIn(stay, house.pop_all(), settled.unkept, live)
        raise AssertionError("unreachable")  # the stacks swallow nothing

    async def _bound_if_possible(
        self,
        spare: SpareProcess,
        session: SessionRow,
        profile: Profile,
        process: AsyncExitStack,
        remembered: Sequence[str] = (),
    ) -> LiveProcess | None:
        """None: the process is gone, and the home is there."""
        try:
            return await self._bound(spare, session, profile, remembered)
        except (LeaseLost, NotFound):
            raise
        except Exception:
            log.exception("spare_not_used", extra={"session": session.id, "spare": spare.name})
            await process.aclose()
            return None

    async def _bound(
        self, spare: SpareProcess, session: SessionRow, profile: Profile, remembered: Sequence[str]
    ) -> LiveProcess:
        mounts = await self.parts.attachments.lay_out(session, spare.stay.home)
        if not await asyncio.to_thread(spare.has, mounts):
            raise LookupError("what is mounted for the session is not what the spare was started with")
        self.gate.open(profile, session.workspace_id)
        return await spare.bind(
            session.id,
            Ties(transcript_id(session.id), self.memory.transcripts, self.gate, self.keeper),
            self.listener,
            self.parts.ledger.sequence(self.lease),
            McpAccess((), session.workspace_id, tuple(session.vault_ids), self.gate),
            remembered,
        )
