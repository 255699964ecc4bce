"""What is a process that belongs to no session yet, and how does it become one's?

A spare has all that a session's process has (home, sandbox, `claude`) under a name of its own, and nothing of anybody:
its two roads are sockets that refuse, its calls are denied, its home is empty. `bind` gives it to one session: the home
takes the session's name, the roads are opened with the session's policy on the sockets that are there, and calls and
transcript go to the session.

A spare for sessions that wake up is *held back* besides (`engine.head_start`): it has not looked at its transcript and
its files yet, which are put there when a session has claimed it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from hostler.domain.isolation import Technology
from hostler.engine.egress_port import McpAccess
from hostler.engine.head_start import HeadStart
from hostler.engine.homes import Stay, remove_tree
from hostler.engine.late_ties import LateTies, Ties
from hostler.engine.layers import HeldLayer
from hostler.engine.limits import LimitWatch
from hostler.engine.ports import ModelRoadListener, SequenceStore
from hostler.engine.process import LiveProcess, Surroundings, close_model_road, models_of, sandbox_spec
from hostler.engine.profile import Profile, transcript_id
from hostler.engine.runs import Harness, Run
from hostler.engine.sandbox_port import InGroups, Mount, Sandbox
from hostler.engine.sockets import closed_door
from hostler.engine.threads import in_thread
from hostler.engine.trust import NO_TRUST, write_trust
from hostler.engine.volume_port import with_disk

ANSWER_SECONDS: Final = 2.0
"""How long a spare may take to answer before it is used. It takes milliseconds when it is well."""

LOOK_SECONDS: Final = 0.5
"""How long it may take to answer while it waits before somebody looks at the next one."""

QUIET_WITHIN_SECONDS: Final = 30.0
_NOTHING_SECONDS: Final = 0.005
_LOOK_AGAIN_SECONDS: Final = 0.2
"""A `claude` that waits takes some milliseconds of processor time in a second."""

PREFIX: Final = "spare"
"""Of the names of spares: their homes are told from those of sessions by it."""


class HeldBack:
    """A `claude` that has begun, and goes on when a session's transcript and files are there."""

    def __init__(self, name: str, harness: Harness) -> None:
        """`name`: of the spare."""
        self._own_id = transcript_id(name)
        self._harness = harness
        self._remembered: asyncio.Future[tuple[Path, Sequence[str]]] = asyncio.get_running_loop().create_future()
        self.ahead = HeadStart(self._remember)
        self._starting: asyncio.Task[Run] | None = None

    async def begin(self, starting: Coroutine[Any, Any, Run]) -> None:
        """Returns when it waits. Raises what `starting` raises."""
        self._starting = asyncio.create_task(starting)
        begun = asyncio.create_task(self.ahead.begun.wait())
        try:
            await asyncio.wait({begun, self._starting}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.end()
            raise
        finally:
            begun.cancel()
        if self._starting.done():
            self._starting.result()

    @property
    def waits(self) -> bool:
        return self._starting is not None and not self._starting.done()

    async def go_on(self, state: Path, whose: str, remembered: Sequence[str]) -> Run:
        """`whose`: the id of the conversation that is `remembered`, in the harness's `state`. The files are there.

        Raises ProcessLost.
        """
        assert self._starting is not None, "begun"
        # It is told that the conversation is the one that it was started with; `LateTies` says it the other way round.
        self._remembered.set_result((state, await in_thread(lambda: _renamed(remembered, whose, self._own_id))))
        self.ahead.filled()
        return await asyncio.shield(self._starting)

    async def end(self) -> None:
        """After its sandbox. Idempotent."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
            if not self._starting.cancelled() and self._starting.exception() is None:
                await self._starting.result().close()

    async def _remember(self) -> None:
        state, remembered = await self._remembered
        await self._harness.remember(self._own_id, state, remembered)


@dataclass(slots=True)
class SpareProcess:
    """One spare. Either `bind` or `discard` ends it; a failed `bind` discards it."""

    name: str
    profile: Profile
    technology: Technology
    """That it runs in."""
    stay: Stay
    mounts: Sequence[Mount]
    sandbox: Sandbox
    held: HeldBack | None
    """None: it is for sessions that are new, and `run` is there."""
    _run: Run | None
    _around: Surroundings
    _ties: LateTies
    _doors: dict[Path, socket.socket]
    _identities: tuple[tuple[int, ...], ...]
    _process: AsyncExitStack
    """Everything but the home."""
    _roads: AsyncExitStack
    """Inside of it, where the roads have their place: they end after the sandbox."""
    _home: AsyncExitStack
    ready_at: float = field(default_factory=monotonic)
    stopped: bool = False
    """Whether its processes stand still."""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def run(self) -> Run:
        """Of a spare that is not held back any more."""
        assert self._run is not None, "it is held back"
        return self._run

    async def rest(self) -> None:
        """It costs no processor time until it is used."""
        async with self._changing:
            await self.sandbox.suspend()
            self.stopped = True

    async def gone(self) -> bool:
        """Whether its process has ended, as far as that can be told. One that only takes its time has not."""
        if (await self.sandbox.stats()).pids == 0:
            return True
        if self.held is not None:
            return not self.held.waits
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return not self.stopped and not await self.run.alive()
        except TimeoutError:
            return False

    async def well(self) -> bool:
        """Runs again, and answers."""
        async with self._changing:
            if self.stopped:
                await self.sandbox.resume()
                self.stopped = False
        if self.held is not None:
            return self.held.waits and (await self.sandbox.stats()).pids != 0
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self.run.alive()
        except TimeoutError:
            return False

    def has(self, mounts: Sequence[Mount]) -> bool:
        """Whether these are what it was started with, and still the same files. Blocks."""
        return tuple(mounts) == tuple(self.mounts) and _identities(mounts) == self._identities

    async def hand_on_home(self, session_id: str) -> tuple[Stay, AsyncExitStack]:
        """The home is the session's from now on, and whoever closes the stack leaves it. Raises OSError."""
        homes = self._around.homes
        # Whoever discards it must know where the home is, so this is waited for.
        await in_thread(lambda: homes.hand_on(self.stay, session_id))
        return self.stay, self._home.pop_all()

    async def bind(
        self,
        session_id: str,
        ties: Ties,
        listener: ModelRoadListener,
        sequence: SequenceStore,
        mcp: McpAccess,
        remembered: Sequence[str] = (),
    ) -> LiveProcess:
        """The session's process, in the home that was handed on. What fails here leaves nothing of the process.

        `remembered`: the session's transcript, for one that is held back.
        """
        around, profile, home = self._around, self.profile, self.stay.home
        model, egress = self._doors
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._process.aclose)
            model_road = await around.model_roads.open(
                session_id,
                model,
                listener,
                one_call_at_a_time=profile.one_call_at_a_time,
                sequence=sequence,
                allowed_models=models_of(around, profile),
                bound=self._doors[model],
            )
            self._roads.push_async_callback(close_model_road, session_id, model_road)
            egress_road = await around.egress_roads.open(
                session_id, egress, profile.egress, mcp, None, bound=self._doors[egress]
            )
            self._roads.push_async_callback(egress_road.close)
            self._ties.tie(ties)
            if self.held is not None:
                self._run = await self.held.go_on(home / "harness", ties.transcript_id, remembered)
            stack.pop_all()
        label = with_disk(self.sandbox.label, around.homes.volumes, home)
        limits = LimitWatch(self.sandbox, lambda: around.homes.volumes.room(home), profile.sandbox_limits)
        version = profile.cli_version or around.placement.programs.bundled
        return LiveProcess(self.run, self.sandbox, version, label, limits, self._process)

    async def discard(self) -> None:
        """Nothing of it is left, but a home that was handed on. Idempotent."""
        try:
            await self._process.aclose()
        finally:
            await self._home.aclose()


async def warm_up(
    around: Surroundings,
    name: str,
    profile: Profile,
    mounts: Sequence[Mount],
    layer: HeldLayer | None,
    inside: AbstractAsyncContextManager[None],
    *,
    resuming: bool = False,
) -> SpareProcess:
    """A spare with this name. `mounts` are laid out, and don't depend on a session. `layer` is let go with it.
    `resuming`: it is for sessions that wake up.

    `inside` is entered for as long as there is a home.

    Raises what the first failing part raises; then nothing is left, the layer neither.
    """
    homes, home = around.homes, around.homes.of(name)
    async with AsyncExitStack() as leaving, AsyncExitStack() as process:
        if layer is not None:
            process.callback(layer.close)
        around.placement.programs.path(profile.cli_version)  # before anything is made
        place = await around.placement.place(profile.needs)
        await leaving.enter_async_context(inside)
        leaving.push_async_callback(_remove_home, around, name)
        stay = await leaving.enter_async_context(homes.entered(name, profile.sandbox_limits.disk_bytes))
        await asyncio.to_thread(homes.make, name)
        sockets = homes.socket_folder(name)
        process.push_async_callback(asyncio.to_thread, remove_tree, sockets)
        doors = {}
        for path in (sockets / "model.sock", sockets / "egress.sock"):
            doors[path] = closed_door(path)
            process.callback(doors[path].close)
        roads = await process.enter_async_context(AsyncExitStack())
        spec = profile.run_spec(name, resume=resuming, settings=around.settings)
        ties = LateTies(transcript_id(name))
        await around.harness.prepare(spec, home / "harness")
        await asyncio.to_thread(homes.volumes.keep_reserve, home)
        trust = NO_TRUST
        if around.authorities:
            trust = await asyncio.to_thread(write_trust, home / "trust", around.authorities)
        wanted = sandbox_spec(around, name, profile, spec, place, mounts, trust, layer)
        sandbox = await around.sandboxes.create(wanted)
        run: Run | None = None
        held = HeldBack(name, around.harness) if resuming else None

        async def end() -> None:
            await sandbox.destroy()
            if held is not None:
                await held.end()
            if run is not None:
                await run.close()

        process.push_async_callback(end)
        if isinstance(sandbox, InGroups):  # a session's turn is more urgent
            await sandbox.yield_processors(True)
        if held is None:
            run = await around.harness.start(spec, sandbox.launcher, ties, ties, ties)
        else:
            await held.ahead.made(home / "workspace")
            laid_out = held.ahead.laid_out
            await held.begin(around.harness.start(spec, sandbox.launcher, ties, ties, ties, laid_out))
            await _quiet(sandbox)
        if isinstance(sandbox, InGroups):
            await sandbox.yield_processors(False)
        identities = await asyncio.to_thread(_identities, mounts)
        return SpareProcess(
            name,
            profile,
            place.technology,
            stay,
            mounts,
            sandbox,
            held,
            run,
            around,
            ties,
            doors,
            identities,
            process.pop_all(),
            roads,
            leaving.pop_all(),
        )
    raise AssertionError("unreachable")  # the stacks swallow nothing


def _renamed(entries: Sequence[str], before: str, after: str) -> Sequence[str]:
    """Entries of a transcript, each as JSON on one line, as those of another conversation."""
    whole = "\n".join(entries)
    for space in ("", " "):
        whole = whole.replace(f'"sessionId":{space}"{before}"', f'"sessionId":{space}"{after}"')
    return whole.split("\n") if entries else ()


async def _quiet(sandbox: Sandbox) -> None:
    """Until it has done all that it does before it waits, as far as that can be seen."""
    before = -1.0
    async with asyncio.timeout(QUIET_WITHIN_SECONDS):
        while (used := (await sandbox.stats()).cpu_seconds) is not None and used - before > _NOTHING_SECONDS:
            before = used
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _remove_home(around: Surroundings, name: str) -> None:
    """A home that was handed on has another name by now."""
    await asyncio.to_thread(around.homes.remove, name)


def _identities(mounts: Sequence[Mount]) -> tuple[tuple[int, ...], ...]:
    found = []
    for mount in mounts:
        at = os.stat(mount.source)
        found.append((at.st_dev, at.st_ino, at.st_ctime_ns))
    return tuple(found)
