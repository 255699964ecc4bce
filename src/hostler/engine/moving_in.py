"""How does a new session take over a spare?

The home is handed on first, then it is made the copy that counts, then the process is bound. When something of that
fails, the session keeps its home, which is empty, and gets a process the ordinary way.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from hostler.domain.errors import LeaseLost, NotFound
from hostler.engine.call_gate import CallGate
from hostler.engine.egress_port import McpAccess
from hostler.engine.homes import Stay
from hostler.engine.late_ties import Ties
from hostler.engine.memory import Memory
from hostler.engine.ports import ModelRoadListener
from hostler.engine.process import LiveProcess
from hostler.engine.profile import Profile, transcript_id
from hostler.engine.records import Telling
from hostler.engine.runner_parts import RunnerParts
from hostler.engine.runs import ContextKeeper
from hostler.engine.spare_process import SpareProcess
from hostler.engine.spares import hindrance
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
        if await self.memory.exists() or not await copies.none_yet(session.id):
            return None
        try:
            spare = await spares.claim(session, profile)
        finally:
            spares.ask(session, profile)
        return None if spare is None else await self._take_over(spare, session, profile)

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
            live: LiveProcess | None = None
            try:
                live = await self._bound(spare, session, profile)
            except (LeaseLost, NotFound):
                raise
            except Exception:
                log.exception("spare_not_used", extra={"session": session.id, "spare": spare.name})
                await process.aclose()
            process.pop_all()
            return MovedIn(stay, house.pop_all(), settled.unkept, live)
        raise AssertionError("unreachable")  # the stacks swallow nothing

    async def _bound(self, spare: SpareProcess, session: SessionRow, profile: Profile) -> LiveProcess:
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
        )
