"""How does a session get its process, and how does it lose it?

One `claude` in one sandbox, with its two roads. Opened in the order that it needs, closed in the reverse order,
whatever failed on the way. What must survive it (workspace, outputs, transcript) is not here.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.egress_port import EgressRoads, McpAccess
from hostler.engine.layers import HeldLayer, PackageLayers
from hostler.engine.ports import ModelRoadListener, ModelRoads, Road, SequenceStore
from hostler.engine.profile import Profile
from hostler.engine.runs import Gatekeeper, Harness, Run
from hostler.engine.sandbox_port import IsolationLabel, Mount, Sandbox, SandboxProvider, SandboxSpec

log = logging.getLogger("hostler.process")


@dataclass(frozen=True, slots=True)
class Homes:
    """Where the files of sessions are. `kept` outlives processes; `sockets` has short paths (108 bytes at most)."""

    kept: Path
    sockets: Path

    def of(self, session_id: str) -> Path:
        return self.kept / session_id

    def socket_folder(self, session_id: str) -> Path:
        return self.sockets / session_id[-12:]

    def make(self, session_id: str) -> None:
        """Everything a process needs, with an empty place for the state of the harness."""
        home = self.of(session_id)
        for folder in (self.kept, home):  # nobody else lists who is here
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        for name in ("workspace", "outputs"):
            (home / name).mkdir(exist_ok=True, mode=0o700)
        remove_tree(home / "harness")
        (home / "harness").mkdir()
        sockets = self.socket_folder(session_id)
        remove_tree(sockets)
        sockets.mkdir(parents=True, mode=0o711)

    def remove(self, session_id: str) -> None:
        remove_tree(self.of(session_id))
        remove_tree(self.socket_folder(session_id))


def remove_tree(folder: Path) -> None:
    """Remove what an agent may have filled: a tree of any depth, with folders that forbid reading."""
    remove = ["rm", "-rf", "--one-file-system", "--", str(folder)]
    subprocess.run(remove, check=False, stderr=subprocess.DEVNULL)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(remove, check=False, stderr=subprocess.DEVNULL)


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
    layers: PackageLayers | None = None
    """What environments' packages are installed into; None: none can be."""


class LiveProcess:
    """A run and all that it stands on. Close it exactly where it was opened; closing is idempotent."""

    def __init__(self, run: Run, sandbox: Sandbox, model_road: Road, stack: AsyncExitStack) -> None:
        self.run = run
        self.sandbox = sandbox
        self.model_road = model_road
        self._stack = stack

    @property
    def label(self) -> IsolationLabel:
        return self.sandbox.label

    async def close(self, *, kill: bool) -> None:
        """`kill` ends it in the middle of whatever it does; otherwise an idle process is let go in peace."""
        if not kill:
            await self.run.close()
        await self._stack.aclose()

    async def last_words(self) -> str:
        """Why it may have died, as far as the sandbox knows."""
        stats = await self.sandbox.stats()
        return "The sandbox ran out of memory." if stats.oom_kills else ""


async def _close_model_road(session_id: str, road: Road) -> None:
    """What the road could not record by now is lost to the ledger, and must at least be seen."""
    try:
        await road.close()
    except Exception:
        log.exception("usage_not_recorded", extra={"session": session_id})


async def open_process(
    around: Surroundings,
    session_id: str,
    profile: Profile,
    *,
    resume: bool,
    transcripts: object,
    gatekeeper: Gatekeeper,
    listener: ModelRoadListener,
    sequence: SequenceStore,
    mounts: Sequence[Mount],
    mcp: McpAccess | None = None,
    layer: HeldLayer | None = None,
) -> LiveProcess:
    """Start a process for the session, in the folders that `Homes.make` has made.

    `layer` holds the packages of the session's environment; it is let go with the process. Raises what the first
    failing part raises; then nothing is left open, the layer neither.
    """
    spec = profile.run_spec(session_id, resume=resume, settings=around.settings)
    homes, home = around.homes, around.homes.of(session_id)
    async with AsyncExitStack() as stack:
        if layer is not None:
            stack.callback(layer.close)
        sockets = homes.socket_folder(session_id)
        stack.push_async_callback(asyncio.to_thread, remove_tree, sockets)
        await around.harness.prepare(spec, home / "harness", transcripts)
        model_road = await around.model_roads.open(
            session_id,
            sockets / "model.sock",
            listener,
            one_call_at_a_time=profile.one_call_at_a_time,
            sequence=sequence,
            allowed_models=None if around.allowed_models is None else around.allowed_models | profile.model_names,
        )
        stack.push_async_callback(_close_model_road, session_id, model_road)
        egress_road = await around.egress_roads.open(session_id, sockets / "egress.sock", profile.egress, mcp)
        stack.push_async_callback(egress_road.close)
        sandbox = await around.sandboxes.create(
            SandboxSpec(
                session_id=session_id,
                workspace=home / "workspace",
                outputs=home / "outputs",
                harness_state=home / "harness",
                model_socket=sockets / "model.sock",
                egress_socket=sockets / "egress.sock",
                program=around.harness.program,
                environment=around.harness.environment(spec),
                limits=profile.sandbox_limits,
                mounts=tuple(mounts),
                layer=None if layer is None else layer.path,
            )
        )
        run: Run | None = None

        async def end() -> None:
            await sandbox.destroy()  # first, so that the harness finds its process gone and need not wait for it
            if run is not None:
                await run.close()

        stack.push_async_callback(end)
        run = await around.harness.start(spec, sandbox.launcher, gatekeeper, transcripts)
        return LiveProcess(run, sandbox, model_road, stack.pop_all())
    raise AssertionError("unreachable")  # the stack swallows nothing
