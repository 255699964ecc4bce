"""How does a session keep its process from one turn to the next?

`Lodging` opens a process when a turn needs one, with everything that it stands on: the session's files, what is laid
out for it, its packages, its variables. It closes a process that was started for something else than what
counts now. It sees to it that the files are those that count (`engine.copies`), and that they are kept when a turn has
ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from hostler.domain import events as ev
from hostler.domain.errors import HostlerError, NotFound
from hostler.domain.packages import PackageLists
from hostler.engine import head_start, labels
from hostler.engine.call_gate import CallGate
from hostler.engine.copies import Copies, PutRight, confirmed
from hostler.engine.egress_port import McpAccess
from hostler.engine.head_start import HeadStart
from hostler.engine.homes import Stay
from hostler.engine.layers import HeldLayer, LayerFailed, until_installed
from hostler.engine.memory import Memory
from hostler.engine.moving_in import MovingIn
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.ports import ModelRoadListener
from hostler.engine.process import LiveProcess, open_process
from hostler.engine.profile import Profile, transcript_id
from hostler.engine.records import Telling
from hostler.engine.rooms import Place
from hostler.engine.runner_parts import Apply, RunnerParts
from hostler.engine.runs import ContextKeeper, Notice, RunSpec
from hostler.engine.sandbox_port import Mount, SandboxUnavailable
from hostler.engine.snapshot_port import Reason, Snapshot, SnapshotTooLarge
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.engine.threads import in_thread, together
from hostler.engine.variables import BrokeredVariables
from hostler.engine.volume_port import Room
from hostler.store.sessions import SessionRow, SessionUpdate
from hostler.store.work import Lease

log = logging.getLogger("hostler.lodging")

T = TypeVar("T")

KEEP_WITHIN_SECONDS: Final = 30.0
"""A session whose turns follow each other at once has its files kept this often, although the next message waits."""


_EXCHANGED: Final = ("/workspace/", "/mnt/session/outputs/")
"""Where files come after a process was started ahead of them."""


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
        tell: Callable[[Notice], None],
        keeper: ContextKeeper | None = None,
    ) -> None:
        self._lease = lease
        self._parts = parts
        self._memory = memory
        self._gate = gate
        self._listener = listener
        self._apply = apply
        self._tell = tell
        self._keeper = keeper
        self._house = AsyncExitStack()
        self._stay: Stay | None = None
        """The session's files, from the first need of them to the end."""
        self._unconfirmed: tuple[PutRight, Telling] | None = None
        """What is to be done before those files count, and whom to tell then. None: they count."""
        self._profile: Profile | None = None
        self._kept_at = 0
        """`CallGate.touched` when the files were last kept."""
        self._put_off: float | None = None
        """Monotonic time at which keeping the files was put off; None: it was not."""
        self._unkept = False
        """There may be more in the files than was kept, whatever was called since."""
        self.older = False
        """The files are older than the conversation, and the model has not been told yet."""
        self.process: LiveProcess | None = None
        self.variables: BrokeredVariables | None = None
        """Of the process, or of the last one."""
        self._place: Place | None = None
        """In the room that the session shares with others; None: it shares none, or its files are not entered."""
        self.used = False
        """Whether the process was given a prompt already."""
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
        if self.process is None and self._stay is None:
            await self._move_in(session, profile, variables)
            if self.process is not None:
                self._gate.begin()
                return self.process
        if self.process is None:

            async def installed() -> HeldLayer | None:
                return await self._layer(profile.packages, wake, interrupted)

            asyncio.get_running_loop().run_in_executor(None, self._parts.around.make_haste)
            self._profile, self.variables = profile, variables
            self._gate.open(profile, session.workspace_id)
            if self._stay is None and await self._head_start_possible(session, profile):
                opened = await self._start_ahead(session, profile, variables, installed)
            else:
                opened = await self._start(session, profile, variables, installed)
            if not opened:
                return None
            assert self.process is not None, "just opened"
            self._unkept = self._unkept or _writes_unasked(profile)
            if self._place is not None:
                try:
                    await self._place.began(self.process.sandbox)
                except BaseException:  # nobody would see what it does
                    await self.close()
                    raise
            self.used = False
            await self._label(session, profile, self.process)
        elif not profile.self_hosted:
            assert self._stay is not None, "a process has files"
            await self._parts.attachments.refresh(session, self._stay.home)
        self._gate.begin()  # whatever kept an earlier turn from coming so far
        return self.process

    async def _start(
        self,
        session: SessionRow,
        profile: Profile,
        variables: BrokeredVariables | None,
        installed: Callable[[], Awaitable[HeldLayer | None]],
    ) -> bool:
        """Opens a process when all is laid out for it. False: a person has interrupted what is `installed` for it."""
        spec, mounts = await self._lay_out(session, profile)
        layer = None if profile.packages.empty else await installed()
        if layer is None and not profile.packages.empty:
            return False
        try:
            async with together() as tasks:
                tasks.create_task(self._confirm())
                self.process = await self._opened(session, profile, variables, spec, mounts, layer)
        except BaseException:
            await self.close()
            raise
        return True

    async def _head_start_possible(self, session: SessionRow, profile: Profile) -> bool:
        if self._parts.copies is None:
            return False
        place = await self._parts.around.placement.place(profile.needs)
        return head_start.possible(session, profile, place.technology)

    async def _start_ahead(
        self,
        session: SessionRow,
        profile: Profile,
        variables: BrokeredVariables | None,
        installed: Callable[[], Awaitable[HeldLayer | None]],
    ) -> bool:
        """As `_start`, with a head start: the files come while the process begins."""
        around, homes, home = self._parts.around, self._parts.around.homes, self._parts.around.homes.of(session.id)
        async with together() as tasks:
            begun = tasks.create_task(self._memory.exists())
            reading = tasks.create_task(self._memory.read())

            async def remember() -> None:
                await around.harness.remember(transcript_id(session.id), home / "harness", await reading)

            async def start() -> bool:
                await in_thread(lambda: homes.make(session.id))
                spec = profile.run_spec(session.id, resume=await begun, settings=around.settings)
                await around.harness.prepare(spec, home / "harness")
                mounts = await self._parts.attachments.ahead(session)
                assert not any(mount.inside.startswith(_EXCHANGED) for mount in mounts), "it would not be seen any more"
                layer = None if profile.packages.empty else await installed()
                if layer is None and not profile.packages.empty:
                    ahead.not_made()
                    return False
                self.process = await self._opened(session, profile, variables, spec, mounts, layer, ahead)
                return True

            async def keep_reserve() -> None:  # what comes before has the whole volume, and may have needed it
                await in_thread(lambda: homes.volumes.keep_reserve(home))

            ahead = HeadStart(remember, keep_reserve)
            return await self._enter(session, profile, start, ahead)
        raise AssertionError("unreachable")  # the group swallows nothing

    async def _opened(
        self,
        session: SessionRow,
        profile: Profile,
        variables: BrokeredVariables | None,
        spec: RunSpec,
        mounts: Sequence[Mount],
        layer: HeldLayer | None,
        ahead: HeadStart | None = None,
    ) -> LiveProcess:
        return await open_process(
            self._parts.around,
            self._lease.session_id,
            profile,
            spec,
            transcripts=self._memory.transcripts,
            gatekeeper=self._gate,
            listener=self._listener,
            sequence=self._parts.ledger.sequence(self._lease),
            mounts=mounts,
            mcp=McpAccess(profile.mcp_routes, session.workspace_id, tuple(session.vault_ids), self._gate),
            variables=variables,
            layer=layer,
            keeper=self._keeper,
            room=None if self._place is None else self._place.ground,
            head_start=ahead,
        )

    async def _move_in(self, session: SessionRow, profile: Profile, variables: BrokeredVariables | None) -> None:
        """Into a process that was there before the session was, or into its home alone, or not at all."""
        moving = MovingIn(self._lease, self._parts, self._memory, self._gate, self._listener, self._keeper)
        moved = await moving.try_(session, profile, variables)
        if moved is None:
            return
        self._house.push_async_exit(moved.house)
        self._stay, self._kept_at, self._unkept = moved.stay, self._gate.touched, moved.unkept
        if moved.process is not None:
            self._profile, self.variables, self.used = profile, variables, False
            self.process = moved.process  # whatever fails from here on, somebody has to end it
            await self._label(session, profile, moved.process)

    async def _lay_out(self, session: SessionRow, profile: Profile) -> tuple[RunSpec, Sequence[Mount]]:
        """The session's files and its memory, as a new process is to find them. What it is started as, and with."""
        around, homes = self._parts.around, self._parts.around.homes
        async with together() as tasks:
            reading = tasks.create_task(self._memory.read())

            async def prepare() -> RunSpec:
                await in_thread(lambda: homes.make_state(session.id))
                remembered = await reading
                spec = profile.run_spec(session.id, resume=bool(remembered), settings=around.settings)
                await around.harness.prepare(spec, homes.of(session.id) / "harness")
                await around.harness.remember(spec.transcript_id, homes.of(session.id) / "harness", remembered)
                return spec

            spec = await self._enter(session, profile, prepare)
        assert self._stay is not None, "just entered"
        await asyncio.to_thread(homes.make_parts, session.id)
        mounts: Sequence[Mount] = ()
        if not profile.self_hosted:  # there the worker lays out what the agent works with
            mounts = await self._attached(session, self._stay.home)
        if self._place is not None:
            mounts = [*mounts, *self._place.mounts]
        return spec, mounts

    async def _attached(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        mounts = await self._parts.attachments.lay_out(session, home)
        await self._complain(session)
        return mounts

    async def _complain(self, session: SessionRow) -> None:
        complaints = self._parts.attachments.complaints(session.id)

        def told(state: SessionState, at: Moment, totals: Totals, _: SessionRow) -> Step:
            over = state.status == "terminated"  # nothing follows that
            return Step(state, () if over else tuple(complaint(at.text) for complaint in complaints))

        if complaints:
            await self._apply(told)

    async def enter(self, session: SessionRow, profile: Profile) -> None:
        """Into the session's home, with the files in it that count, unless that was done."""

        async def nothing() -> None:
            pass

        await self._enter(session, profile, nothing)
        await self._confirm()

    async def _enter(
        self,
        session: SessionRow,
        profile: Profile,
        beside: Callable[[], Awaitable[T]],
        ahead: HeadStart | None = None,
    ) -> T:
        """The same but for `_confirm`. `beside` is called once the home is entered, and may use it, but for its parts:
        what counts of those comes at the same time. What it gave.

        With `ahead`, `beside` may give the parts to a sandbox and start a process, and the files count in the end.
        """
        if self._stay is not None:
            return await beside()
        copies, homes = self._parts.copies, self._parts.around.homes
        entered = homes.entered(session.id, profile.sandbox_limits.disk_bytes)
        unconfirmed: tuple[PutRight, Telling] | None = None
        async with AsyncExitStack() as stack:
            if copies is None or profile.self_hosted:
                stay = await stack.enter_async_context(entered)
                result = await beside()
            else:
                await stack.enter_async_context(copies.staying(session.id))
                async with together() as tasks:
                    known = tasks.create_task(copies.known(session.id))
                    stay = await stack.enter_async_context(entered)
                telling = Telling(self._parts.records, self._lease)
                shown = None if ahead is None else ahead.shown
                try:
                    async with together() as tasks:
                        other = tasks.create_task(_awaited(beside))
                        right = await copies.put_right(
                            session, self._lease, stay.home, known.result(), telling.tell, shown
                        )
                        if ahead is not None:
                            await self._attached(session, stay.home)
                            ahead.filled()
                            await confirmed(right, telling, stack)
                except BaseException:
                    await self.close()  # before the files are left
                    raise
                result = other.result()
                clones = any(resource["type"] == "github_repository" for resource in session.resources)
                self._unkept = right.unkept or clones
                self.older = self.older or right.older
                unconfirmed = (right, telling) if ahead is None else None
            if profile.shared is not None:
                if unconfirmed is not None:  # others in the room may write to these files
                    await confirmed(*unconfirmed, stack)
                    unconfirmed = None
                self._place = await self._into_room(stack, session, profile, stay.home)
            await self._house.enter_async_context(stack.pop_all())
        self._stay, self._kept_at, self._put_off = stay, self._gate.touched, None
        self._unconfirmed = unconfirmed
        return result

    async def _confirm(self) -> None:
        """The files that the session has here count, before anything of it can change them. Raises LeaseLost."""
        if self._unconfirmed is not None:
            await confirmed(*self._unconfirmed, self._house)
            self._unconfirmed = None

    async def _into_room(self, stack: AsyncExitStack, session: SessionRow, profile: Profile, home: Path) -> Place:
        """Raises RoomElsewhere, NotFound for a session that never joined a room, and what entering its files raises."""
        rooms = self._parts.rooms
        if rooms is None or profile.shared is None:
            raise SandboxUnavailable("this server has no rooms, which the environment of this session asks for")
        entering = rooms.entered(self._lease, profile.shared, profile.sandbox_limits, home, self._tell)
        try:
            place = await stack.enter_async_context(entering)
        except NotFound as error:
            raise SandboxUnavailable(
                "this session has never joined a room, although its environment has rooms; make a new one"
            ) from error
        self._gate.objects = place.objects
        if told := place.notices:
            await self._apply(
                lambda s, at, totals, _: Step(
                    s, tuple(ev.notice(at.text, one.kind, one.message, one.details) for one in told)
                )
            )
        return place

    async def _label(self, session: SessionRow, profile: Profile, process: LiveProcess) -> None:
        """The session says what it runs in, before anything is asked of what runs there."""
        before = session.isolation
        after = labels.running(before, process.label, process.cli_version, profile.cli_version)
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
        taken = await self._parts.attachments.collect(session, self._stay.home)
        with suppress(HostlerError):  # Whoever loses the lease here loses it in what follows, and the log has it.
            await self._complain(session)
        return taken

    async def model_knows(self) -> None:
        """A prompt has said whether the files are older than the conversation."""
        if self.older and self._parts.copies is not None:
            with suppress(OSError):  # then it is told once more
                await self._parts.copies.model_knows(self._lease.session_id)
        self.older = False

    def put_off(self) -> bool:
        """Let another turn go before what there is to keep. False: there is nothing, or it has waited long enough."""
        if self._gate.touched == self._kept_at:
            return False
        now = monotonic()
        if self._put_off is None:
            self._put_off = now
        return now - self._put_off < KEEP_WITHIN_SECONDS

    async def keep(self, session: SessionRow, *, last: bool = False) -> None:
        """Takes a snapshot of the files, unless nothing can have changed. The process stands still meanwhile.

        `last`: the process is gone for good. What can't be kept now stays on this worker, which tries again later.
        """
        copies = self._parts.copies
        if self._stay is None or copies is None or (self._profile is not None and self._profile.self_hosted):
            return
        if self._unconfirmed is not None:  # nothing ran here: whoever enters next finds out anew what was lost
            return
        if self._gate.touched == self._kept_at and not (last and self._unkept):
            if last:
                await copies.rest(session.id)
                if self._place is not None:
                    async with self._place.alone():
                        await self._place.keep("hibernation", last=True)
            return
        try:
            await self._snapshot(session, copies, self._stay, "hibernation" if last else "turn", last=last)
        except SnapshotTooLarge as error:
            self._tell(Notice("files_not_kept", f"This session's files were not kept: {error}"))
        except ObjectsUnavailable as error:
            log.error("files_not_kept", extra={"session": session.id, "reason": str(error)})

    async def _snapshot(
        self, session: SessionRow, copies: Copies, stay: Stay, reason: Reason, *, last: bool = False
    ) -> Snapshot:
        """Of the files as they are, while the process stands still; and of what its room has in common."""
        if self._place is None:
            return await self._own_snapshot(session, copies, stay, reason, last=last)
        async with self._place.alone():
            snapshot = await self._own_snapshot(session, copies, stay, reason, last=last)
            await self._place.keep(reason, last=last)
        return snapshot

    async def _own_snapshot(
        self, session: SessionRow, copies: Copies, stay: Stay, reason: Reason, *, last: bool
    ) -> Snapshot:
        touched = self._gate.touched
        sandbox = None if self.process is None else self.process.sandbox
        if sandbox is not None:
            await sandbox.suspend()
        try:
            snapshot = await copies.keep(session, self._lease, stay.home, reason, last=last)
        finally:
            if sandbox is not None:
                await sandbox.resume()
        self._kept_at, self._put_off = touched, None
        self._unkept = sandbox is not None  # what a call has left running may write at any time
        return snapshot

    # -- between two turns (`engine.boundary.Files`)

    async def kept(self, session: SessionRow) -> str | None:
        copies, profile = self._parts.copies, self._parts.profile_of(session)
        if copies is None or profile.self_hosted:
            return None
        await self.enter(session, profile)
        assert self._stay is not None, "just entered"
        await self._parts.attachments.collect(session, self._stay.home)
        return (await self._snapshot(session, copies, self._stay, "checkpoint")).id

    async def stilled(self) -> None:
        await self.close()

    async def abandoned(self) -> None:
        if self._stay is not None:
            self._stay.looked_through = True
        self._stay = self._place = self._unconfirmed = None
        house = self._house
        self._house = AsyncExitStack()
        await house.aclose()

    async def look_through(self, session: SessionRow | None) -> None:
        """The last look into the session's files: its processes may have gone on after the turn."""
        if self._stay is not None:
            assert session is not None, "somebody's files"
            await self.close()
            self._stay.looked_through = await self.collect(session)
            await self.keep(session, last=True)
            await asyncio.to_thread(self._parts.around.homes.tidy, session.id)

    async def leave(self, session: SessionRow) -> bool:
        """Ends the process, takes what the session has put out, and leaves its files. False: not all could be taken."""
        await self.close()
        if self._stay is None:
            return True
        self._stay.looked_through = taken = await self.collect(session)
        self._stay = self._place = self._unconfirmed = None
        await self._house.aclose()
        return taken

    @property
    def touched(self) -> bool:
        """Whether anything was called that may have left something behind, in this life."""
        return self._gate.touched > 0

    def room(self) -> Room | None:
        """What is left of the session's disk. Blocks."""
        return None if self._stay is None else self._parts.around.homes.volumes.room(self._stay.home)

    async def close(self) -> None:
        """Ends the process, if there is one. What it is to find again stays."""
        process, self.process = self.process, None
        if self._place is not None:
            self._place.ended()
        if process is not None:
            await process.close(kill=self.busy)

    async def aclose(self) -> None:
        """Ends the process and leaves the session's files."""
        try:
            await self.close()
        finally:
            await self._house.aclose()


def _writes_unasked(profile: Profile) -> bool:
    """Whether something runs beside `claude` that may change files without any call."""
    return any(server.command for server in profile.mcp_servers)


async def _awaited(what: Callable[[], Awaitable[T]]) -> T:
    return await what()


def _same(held: BrokeredVariables | None, wanted: BrokeredVariables | None) -> bool:
    """Whether a process that was started with the one serves for the other."""
    return (held.placeholders if held else {}) == (wanted.placeholders if wanted else {})
