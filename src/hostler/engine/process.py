"""How does a session get its process, and how does it lose it?

One `claude` in one sandbox, with its two roads. Opened in the order that it needs, closed in the reverse order,
whatever failed on the way. What must survive it (workspace, outputs, transcript) is not here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from hostler.engine.egress_port import EgressRoads, McpAccess, RoadSecrets, SessionVariables
from hostler.engine.head_start import HeadStart
from hostler.engine.homes import Homes, remove_tree
from hostler.engine.layers import HeldLayer, PackageLayers
from hostler.engine.limits import LimitWatch
from hostler.engine.placement import Place, Placement
from hostler.engine.ports import ModelRoadListener, ModelRoads, Road, SequenceStore
from hostler.engine.profile import Profile
from hostler.engine.runs import ContextKeeper, Gatekeeper, Harness, Run, RunSpec
from hostler.engine.sandbox_port import IsolationLabel, Mount, Sandbox, SandboxProvider, SandboxSpec, SharedRoom
from hostler.engine.trust import NO_TRUST, Trust, joined, write_trust
from hostler.engine.volume_port import with_disk

log = logging.getLogger("hostler.process")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What processes are made with: the adapters that the composition root chose."""

    harness: Harness
    sandboxes: SandboxProvider
    model_roads: ModelRoads
    egress_roads: EgressRoads
    homes: Homes
    settings: Mapping[str, str]
    """Extra environment of every process."""
    allowed_models: frozenset[str] | None
    """Models that every sandbox may ask for, besides the model of its agent; None: any."""
    placement: Placement
    road_secrets: Callable[[SessionVariables], RoadSecrets]
    """Makes what puts a session's variables into its requests."""
    layers: PackageLayers | None = None
    """What environments' packages are installed into; None: none can be."""
    authorities: bytes = b""
    """Certificates, PEM, that programs in sandboxes trust besides those that the host trusts."""
    make_haste: Callable[[], None] = lambda: None
    """Called in a thread as soon as somebody needs a sandbox: what can be waited for before it is made."""


class LiveProcess:
    """A run and all that it stands on. Close it exactly where it was opened; closing is idempotent."""

    def __init__(
        self,
        run: Run,
        sandbox: Sandbox,
        cli_version: str,
        label: IsolationLabel,
        limits: LimitWatch,
        stack: AsyncExitStack,
    ) -> None:
        """`cli_version`: of the `claude` that runs. `label`: of the sandbox and of the place where its files are.
        `limits`: those that it runs under."""
        self.run = run
        self.sandbox = sandbox
        self.cli_version = cli_version
        self.label = label
        self.limits = limits
        self._stack = stack
        self._closing: asyncio.Task[None] | None = None

    async def close(self, *, kill: bool) -> None:
        """`kill` ends it in the middle of whatever it does; otherwise an idle process is let go in peace.

        Whoever is cancelled while it closes leaves it closed all the same: a server that stops must not leave a
        sandbox behind because it was just about to end it.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(kill))
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            await asyncio.wait([self._closing])
            raise

    async def _close(self, kill: bool) -> None:
        try:
            if not kill:
                await self.run.close()
        finally:
            await self._stack.aclose()


async def close_model_road(session_id: str, road: Road) -> None:
    """What the road could not record by now is lost to the ledger, and must at least be seen."""
    try:
        await road.close()
    except Exception:
        log.exception("usage_not_recorded", extra={"session": session_id})


def models_of(around: Surroundings, profile: Profile) -> frozenset[str] | None:
    """Those that a process may ask for; None: any."""
    return None if around.allowed_models is None else around.allowed_models | profile.model_names


def sandbox_spec(
    around: Surroundings,
    name: str,
    profile: Profile,
    spec: RunSpec,
    place: Place,
    mounts: Sequence[Mount],
    trust: Trust,
    layer: HeldLayer | None,
    placeholders: Mapping[str, str] | None = None,
) -> SandboxSpec:
    """What the sandbox of a process is made from. `name`: of the home and of the folder of the sockets."""
    home, sockets = around.homes.of(name), around.homes.socket_folder(name)
    return SandboxSpec(
        session_id=name,
        workspace=home / "workspace",
        outputs=home / "outputs",
        harness_state=home / "harness",
        model_socket=sockets / "model.sock",
        egress_socket=sockets / "egress.sock",
        program=around.placement.programs.path(profile.cli_version),
        # What the harness and its roads need counts, whatever a vault says.
        environment={**(placeholders or {}), **around.harness.environment(spec), **trust.environment},
        limits=profile.sandbox_limits,
        mounts=(*mounts, *trust.mounts),
        technology=place.technology,
        layer=None if layer is None else layer.path,
    )


async def open_process(
    around: Surroundings,
    session_id: str,
    profile: Profile,
    spec: RunSpec,
    *,
    transcripts: object,
    gatekeeper: Gatekeeper,
    listener: ModelRoadListener,
    sequence: SequenceStore,
    mounts: Sequence[Mount],
    mcp: McpAccess | None = None,
    variables: SessionVariables | None = None,
    layer: HeldLayer | None = None,
    keeper: ContextKeeper | None = None,
    room: SharedRoom | None = None,
    head_start: HeadStart | None = None,
) -> LiveProcess:
    """Start a process for the session, in the folders that `Homes.make` has made and that are entered.

    `spec` is what the harness has prepared their state for; with a head start, the files may still be coming. `layer`
    holds the packages of the session's environment; it is let go with the process. Raises what the first failing part
    raises, SandboxUnavailable when this host can't keep what the session was promised; then nothing is left open, the
    layer neither.
    """
    placement = around.placement
    homes, home = around.homes, around.homes.of(session_id)
    async with AsyncExitStack() as stack:
        if layer is not None:
            stack.callback(layer.close)
        placement.programs.path(profile.cli_version)  # before anything is made
        place = await placement.place(profile.needs)
        sockets = homes.socket_folder(session_id)
        stack.push_async_callback(asyncio.to_thread, remove_tree, sockets)
        if head_start is None:  # else the files come first
            await asyncio.to_thread(homes.volumes.keep_reserve, home)
        model_road = await around.model_roads.open(
            session_id,
            sockets / "model.sock",
            listener,
            one_call_at_a_time=profile.one_call_at_a_time,
            sequence=sequence,
            allowed_models=models_of(around, profile),
        )
        stack.push_async_callback(close_model_road, session_id, model_road)
        placeholders = variables.placeholders if variables is not None else {}
        secrets = around.road_secrets(variables) if variables is not None and placeholders else None
        egress_road = await around.egress_roads.open(session_id, sockets / "egress.sock", profile.egress, mcp, secrets)
        stack.push_async_callback(egress_road.close)
        trust = NO_TRUST
        authorities = joined(around.authorities, egress_road.authority or b"")
        if authorities:
            trust = await asyncio.to_thread(write_trust, home / "trust", authorities)
        wanted = sandbox_spec(around, session_id, profile, spec, place, mounts, trust, layer, placeholders)
        sandbox = await around.sandboxes.create(replace(wanted, room=room))
        run: Run | None = None

        async def end() -> None:
            await sandbox.destroy()  # first, so that the harness finds its process gone and need not wait for it
            if run is not None:
                await run.close()

        stack.push_async_callback(end)
        laid_out = None
        if head_start is not None:
            await head_start.made(wanted.workspace)
            laid_out = head_start.laid_out
        run = await around.harness.start(spec, sandbox.launcher, gatekeeper, transcripts, keeper, laid_out)
        label = with_disk(sandbox.label, around.homes.volumes, home)
        limits = LimitWatch(sandbox, lambda: homes.volumes.room(home), profile.sandbox_limits)
        version = profile.cli_version or placement.programs.bundled
        return LiveProcess(run, sandbox, version, label, limits, stack.pop_all())
    raise AssertionError("unreachable")  # the stack swallows nothing
