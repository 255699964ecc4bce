"""How does a session keep its process from one turn to the next?

`Lodging` opens a process when a turn needs one, with everything that it stands on: the session's files, what is laid
out for it, its packages, its variables. It closes a process that was started for something else than what counts now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from hostler.domain import events as ev
from hostler.domain.packages import PackageLists
from hostler.engine import labels
from hostler.engine.call_gate import CallGate
from hostler.engine.egress_port import McpAccess
from hostler.engine.homes import Stay
from hostler.engine.layers import HeldLayer, LayerFailed, until_installed
from hostler.engine.memory import Memory
from hostler.engine.ports import ModelRoadListener
from hostler.engine.process import LiveProcess, open_process
from hostler.engine.profile import Profile
from hostler.engine.runner_parts import Apply, RunnerParts
from hostler.engine.sandbox_port import Mount
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.engine.variables import BrokeredVariables
from hostler.store.sessions import SessionRow, SessionUpdate
from hostler.store.work import Lease


class Lodging:
    """For one session under one lease. Leave it with `aclose`."""

    def __init__(
        self,
        lease: Lease,
        parts: RunnerParts,
        memory: Memory,
        gate: CallGate,
        listener: ModelRoadListener,
        apply: Apply,
    ) -> None:
        self._lease = lease
        self._parts = parts
        self._memory = memory
        self._gate = gate
        self._listener = listener
        self._apply = apply
        self._house = AsyncExitStack()
        self._stay: Stay | None = None
        """The session's files, from the first need of them to the end."""
        self._profile: Profile | None = None
        self.process: LiveProcess | None = None
        self.variables: BrokeredVariables | None = None
        """Of the process, or of the last one."""
        self.busy = False
        """True while the process works on a prompt: then it can only be killed."""

    async def process_for(
        self,
        session: SessionRow,
        profile: Profile,
        wake: asyncio.Event,
        interrupted: Callable[[], Awaitable[bool]],
    ) -> LiveProcess | None:
        """The one that is there, if it serves for `profile`, or a new one.

        Installing packages can take minutes: `wake` says when to ask `interrupted`. None: it said yes. Raises what
        opening raises, LayerFailed with what an installer said.
        """
        variables = await self._variables(session, profile)
        if self._profile != profile or not _same(self.variables, variables):
            await self.close()
        if self.process is None:
            mounts = await self._lay_out(session, profile)
            self._profile, self.variables = profile, variables
            self._gate.open(profile, session.workspace_id)
            resume = await self._memory.exists()
            layer: HeldLayer | None = None
            if not profile.packages.empty:
                layer = await self._layer(profile.packages, wake, interrupted)
                if layer is None:
                    return None
            self.process = await open_process(
                self._parts.around,
                self._lease.session_id,
                profile,
                resume=resume,
                transcripts=self._memory.transcripts,
                gatekeeper=self._gate,
                listener=self._listener,
                sequence=self._parts.ledger.sequence(self._lease),
                mounts=mounts,
                mcp=McpAccess(profile.mcp_routes, session.workspace_id, tuple(session.vault_ids), self._gate),
                variables=variables,
                layer=layer,
            )
            await self._label(session, self.process)
        elif not profile.self_hosted:
            assert self._stay is not None, "a process has files"
            await self._parts.attachments.refresh(session, self._stay.home)
        return self.process

    async def _lay_out(self, session: SessionRow, profile: Profile) -> Sequence[Mount]:
        """The session's files, as a new process is to find them."""
        homes = self._parts.around.homes
        if self._stay is None:
            entered = homes.entered(session.id, profile.sandbox_limits.disk_bytes)
            self._stay = await self._house.enter_async_context(entered)
        await asyncio.to_thread(homes.make, session.id)
        mounts: Sequence[Mount] = ()
        if not profile.self_hosted:  # there the worker lays out what the agent works with
            mounts = await self._parts.attachments.lay_out(session, self._stay.home)
        complaints = self._parts.attachments.complaints(session.id)
        if complaints:
            await self._apply(lambda s, at, totals, _: Step(s, tuple(c(at.text) for c in complaints)))
        return mounts

    async def _label(self, session: SessionRow, process: LiveProcess) -> None:
        """The session says what it runs in, before anything is asked of what runs there."""
        before = session.isolation
        after = labels.running(before, process.label, process.cli_version)
        if after != before:
            await self._parts.records.apply(
                session.id, lambda s, *_: Step(s), lease=self._lease, update=SessionUpdate(isolation=after)
            )

    async def _variables(self, session: SessionRow, profile: Profile) -> BrokeredVariables | None:
        """What the process gets. A live one has the same already, or it has to go."""
        broker = self._parts.variables
        if broker is None or profile.self_hosted:
            return None
        found = await broker.of(session, profile.egress)
        if found is None:
            return None
        if told := found.unreachable:

            def tell(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
                errors = (
                    ev.credential_host_error(at.text, one.vault_id, one.credential_id, one.message) for one in told
                )
                return Step(state, tuple(errors))

            await self._apply(tell)
        if self.variables is not None:
            self.variables.follow(found)
        return found

    async def _layer(
        self, packages: PackageLists, wake: asyncio.Event, interrupted: Callable[[], Awaitable[bool]]
    ) -> HeldLayer | None:
        layers = self._parts.around.layers
        if layers is None:
            raise LayerFailed("This server can't install packages; take them out of the environment.")
        return await until_installed(layers, packages, wake, interrupted)

    async def collect(self, session: SessionRow) -> bool:
        """Takes what the session has put out so far. False when something of it has to be looked at again."""
        if self._stay is None or (self._profile is not None and self._profile.self_hosted):
            return True
        return await self._parts.attachments.collect(session, self._stay.home)

    # -- between two turns (`engine.boundary.Files`)

    async def kept(self, session: SessionRow) -> str | None:
        await self.collect(session)
        return None

    async def abandoned(self) -> None:
        await self.aclose()
        self._stay, self._house = None, AsyncExitStack()

    async def look_through(self, session: SessionRow | None) -> None:
        """The last look into the session's files: its processes may have gone on after the turn."""
        if self._stay is not None:
            assert session is not None, "somebody's files"
            await self.close()
            self._stay.looked_through = await self.collect(session)

    async def close(self) -> None:
        """Ends the process, if there is one. What it is to find again stays."""
        process, self.process = self.process, None
        if process is not None:
            await process.close(kill=self.busy)

    async def aclose(self) -> None:
        """Ends the process and leaves the session's files."""
        try:
            await self.close()
        finally:
            await self._house.aclose()


def _same(held: BrokeredVariables | None, wanted: BrokeredVariables | None) -> bool:
    """Whether a process that was started with the one serves for the other."""
    return (held.placeholders if held else {}) == (wanted.placeholders if wanted else {})
