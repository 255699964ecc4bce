"""How do an environment's packages become something that its sessions share?

They are installed once, into a layer over the base image, in a sandbox that reaches package registries and nothing
else. Whoever wants the same layer meanwhile waits for that one build. What failed is tried again by whoever asks next.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from hostler.domain.packages import PackageLists
from hostler.engine.egress_port import EgressDecision, EgressRoads, EgressRules

log = logging.getLogger("hostler.layers")

MOST_NAMED = 5
"""Denied hosts that the message of a failed build names."""


class LayerFailed(Exception):
    """There is no such layer. The message is for a person: it says what failed, and what can be done."""


class HeldLayer(Protocol):
    """A layer that is there until it is let go."""

    @property
    def path(self) -> Path:
        """For `SandboxSpec.layer`."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class LayerStore(Protocol):
    """Builds and keeps layers on one host."""

    async def hold(self, packages: PackageLists) -> HeldLayer | None:
        """The layer with these packages over the current base image. None: it must be built. Raises LayerFailed when
        this host can't have layers."""
        ...

    def registry_hosts(self) -> Sequence[str]:
        """Where apt of the base image finds its packages."""
        ...

    async def build(self, packages: PackageLists, egress_socket: Path) -> None:
        """Builds it, or waits for another process that does; afterwards it can be held. Raises LayerFailed; then, and
        when it is cancelled, nothing is left.

        egress_socket  the only way out of the installers' sandbox.
        """
        ...


class LayerDecisions:
    """Implements `EgressRecorder` for the roads of builds: each decision is a line in the log."""

    def __init__(self) -> None:
        self._denied: dict[str, dict[str, None]] = {}

    async def record(self, decision: EgressDecision) -> None:
        said = {
            "build": decision.session_id,
            "host": decision.host,
            "port": decision.port,
            "allowed": decision.allowed,
            "reason": decision.reason,
        }
        log.info("package_egress", extra=said)
        if not decision.allowed:
            self._denied.setdefault(decision.session_id, {})[f"{decision.host} ({decision.reason})"] = None

    def denied(self, build: str) -> tuple[str, ...]:
        """What was denied to one build, and why; asked once."""
        return tuple(self._denied.pop(build, ()))


class PackageLayers:
    """The layers of one worker. `close` ends the builds that run."""

    def __init__(
        self, store: LayerStore, roads: EgressRoads, decisions: LayerDecisions, hosts: Sequence[str], sockets: Path
    ) -> None:
        """
        roads    whose decisions `decisions` records.
        hosts    registries that installers may reach, besides those of the base image's apt.
        sockets  folder for sockets; its path is short.
        """
        self._store = store
        self._roads = roads
        self._decisions = decisions
        self._hosts = tuple(hosts)
        self._sockets = sockets
        self._building: dict[str, asyncio.Task[None]] = {}
        self._one = asyncio.Lock()

    async def acquire(self, packages: PackageLists) -> HeldLayer:
        """The layer, built first when there is none. Raises LayerFailed. Close what it gives.

        When the caller is cancelled the build goes on: its layer will be there next time.
        """
        while True:
            held = await self._store.hold(packages)
            if held is not None:
                return held
            building = self._building.get(packages.digest)
            if building is None:
                building = asyncio.get_running_loop().create_task(self._build(packages), name="package-layer")
                self._building[packages.digest] = building
                building.add_done_callback(lambda _: self._building.pop(packages.digest, None))
            try:
                await asyncio.shield(building)
            except asyncio.CancelledError:
                if building.cancelled():  # not the caller: the server stops
                    raise LayerFailed("the server was stopped while it installed the packages; try again") from None
                raise

    async def close(self) -> None:
        while self._building:
            for building in self._building.values():
                building.cancel()
            await asyncio.wait(set(self._building.values()))

    async def _build(self, packages: PackageLists) -> None:
        async with self._one:
            build = secrets.token_hex(6)
            home = self._sockets / f"packages-{build}"
            try:
                home.mkdir(parents=True, mode=0o700)
                rules = EgressRules("listed", hosts=tuple(dict.fromkeys((*self._hosts, *self._store.registry_hosts()))))
                road = await self._roads.open(build, home / "egress.sock", rules)
                try:
                    log.info("packages_installing", extra={"build": build, "packages": packages.digest[:12]})
                    await self._store.build(packages, home / "egress.sock")
                except LayerFailed as failed:
                    denied = self._decisions.denied(build)
                    log.warning("packages_not_installed", extra={"build": build, "reason": str(failed)})
                    raise LayerFailed(f"{failed}{_denied_text(denied)}") from None
                finally:
                    await road.close()
                    self._decisions.denied(build)
            except OSError as error:  # such as a path that is too long for a socket
                raise LayerFailed(f"The environment's packages can't be installed on this host: {error}") from error
            finally:
                shutil.rmtree(home, ignore_errors=True)


async def until_installed(
    layers: PackageLayers, packages: PackageLists, wake: asyncio.Event, stopped: Callable[[], Awaitable[bool]]
) -> HeldLayer | None:
    """The layer, or None when `stopped` says so, which is asked whenever `wake` is set. Raises LayerFailed."""
    async with AsyncExitStack() as stack:
        waiting = asyncio.get_running_loop().create_task(layers.acquire(packages), name="until-installed")
        stack.push_async_callback(_give_up, waiting)
        while True:
            waking = asyncio.get_running_loop().create_task(wake.wait())
            try:
                await asyncio.wait({waiting, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()
            if waiting.done():
                stack.pop_all()
                return waiting.result()
            wake.clear()
            if await stopped():
                return None


async def _give_up(waiting: asyncio.Task[HeldLayer]) -> None:
    waiting.cancel()
    await asyncio.wait({waiting})
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().close()


def _denied_text(denied: Sequence[str]) -> str:
    if not denied:
        return ""
    named = ", ".join(denied[:MOST_NAMED]) + (", …" if len(denied) > MOST_NAMED else "")
    return f"\nWhere packages are installed only registries can be reached; denied: {named}."
