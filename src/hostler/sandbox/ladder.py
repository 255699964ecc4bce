"""Which technology makes a session's sandbox? All adapters of this host behind one port, the strongest first.

What the host gives is found out once, by trying, all adapters at the same time: a technology that can't run here is a
sentence that says why, and whoever asks for it gets that sentence. Nothing falls back to a weaker rung by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hostler.engine.sandbox_port import (
    IsolationLabel,
    LeftOver,
    Sandbox,
    SandboxProvider,
    SandboxSpec,
    SandboxUnavailable,
    Technology,
)

PREFERENCE: Final[tuple[Technology, ...]] = ("microvm", "gvisor", "docker", "podman", "bubblewrap")
"""Order in which the default is looked for."""


class Ladder:
    """Implements `SandboxProvider` for several technologies. Made of adapters that share nothing."""

    def __init__(
        self,
        adapters: Mapping[Technology, SandboxProvider],
        default: Technology | None = None,
        also: Callable[[IsolationLabel], IsolationLabel] = lambda label: label,
    ) -> None:
        """`default` is for sandboxes whose specification names none; None: the strongest that this host gives.

        `also` puts into a label what this host gives on every rung; it may block.
        """
        self._adapters = dict(adapters)
        self._also = also
        self._wanted = default
        self._looking = asyncio.Lock()
        self._found: dict[Technology, IsolationLabel | str] | None = None

    async def rungs(self) -> Mapping[Technology, IsolationLabel | str]:
        """What each adapter gives here, the strongest first; or, for a person, why it gives nothing and what to do."""
        async with self._looking:
            if self._found is None:
                async with asyncio.TaskGroup() as tasks:
                    looking = {name: tasks.create_task(self._look(self._adapters[name])) for name in self._ordered()}
                self._found = {name: task.result() for name, task in looking.items()}
            return self._found

    async def _look(self, adapter: SandboxProvider) -> IsolationLabel | str:
        try:
            return await asyncio.to_thread(self._also, await adapter.probe())
        except SandboxUnavailable as unavailable:
            return str(unavailable)

    def _ordered(self) -> list[Technology]:
        return [name for name in PREFERENCE if name in self._adapters]

    async def probe(self) -> IsolationLabel:
        """What a sandbox gets whose specification names no technology. Raises SandboxUnavailable with all reasons."""
        return await self.label_of(None)

    async def label_of(self, technology: Technology | None) -> IsolationLabel:
        """What a sandbox of this technology gets. Raises SandboxUnavailable with the reason."""
        rungs = await self.rungs()
        wanted = technology or self._wanted
        if wanted is not None:
            found = rungs.get(wanted)
            if isinstance(found, IsolationLabel):
                return found
            why = found or "it is not configured on this server"
            raise SandboxUnavailable(f"this host gives no {wanted} sandboxes: {why}")
        for found in rungs.values():
            if isinstance(found, IsolationLabel):
                return found
        reasons = "; ".join(f"{name}: {why}" for name, why in rungs.items())
        raise SandboxUnavailable(f"this host gives no sandboxes at all: {reasons or 'none is configured'}")

    async def create(self, spec: SandboxSpec) -> Sandbox:
        label = await self.label_of(spec.technology)
        if spec.room is not None and label.no_rooms:  # an adapter that knows nothing of rooms would give one without
            raise SandboxUnavailable(f"sessions can't share a sandbox of {label.technology} here: {label.no_rooms}")
        return await self._adapters[label.technology].create(replace(spec, technology=label.technology))

    async def left_over(self) -> Sequence[LeftOver]:
        return [left for name in await self._usable() for left in await self._adapters[name].left_over()]

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> Sandbox:
        for left in await self.left_over():
            if left.sandbox_id == sandbox_id:
                return await self._adapters[left.technology].adopt(sandbox_id, spec)
        raise SandboxUnavailable(f"there is no sandbox {sandbox_id} here; create another one")

    async def sweep(self) -> Sequence[str]:
        return [said for name in await self._usable() for said in await self._adapters[name].sweep()]

    async def _usable(self) -> list[Technology]:
        return [name for name, found in (await self.rungs()).items() if isinstance(found, IsolationLabel)]

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()
