"""A host that gives one kind of sandbox and never makes one: for servers in tests whose sessions never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hostler.engine.placement import Placement, Programs
from hostler.engine.sandbox_port import IsolationLabel, Technology


class OneRung:
    """A host that gives bubblewrap sandboxes in which every limit holds."""

    async def rungs(self) -> Mapping[Technology, IsolationLabel | str]:
        return {"bubblewrap": IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v2", disk_by="volume")}


PLACEMENT = Placement(OneRung(), Programs("2.1.300", {"2.1.300": Path("/nonexistent")}))
