"""The attack corpus on every rung that this machine has: what the rung promises holds."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

import pytest
from rungs import RUNGS, Rung

from hostler.attacks import corpus
from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import attack_rung
from hostler.compose.attacks import attack_tools
from hostler.compose.sandboxes import sandbox_provider
from hostler.config import load
from hostler.engine.sandbox_port import Mount, SandboxSpec
from hostler.sandbox.gvisor import GvisorProvider, GvisorSandbox

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung.name != "bubblewrap"], ids=str)
async def test_what_a_rung_promises_holds(rung: Rung, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options = rung.settings(request, tmp_path / "state")
    settings = load({}, state_dir=str(tmp_path / "state"), **options)
    with ground_folder() as place:
        ladder = sandbox_provider(settings, place=place / "state")
        (place / "state").mkdir()
        try:
            label = await ladder.label_of(rung.name)
            report = await attack_rung(place, attack_tools(), ladder, label)
        finally:
            ladder.close()
    wrong = [outcome for outcome in report.outcomes if outcome.verdict not in ("held", "not_promised")]
    assert [(o.case.id, o.case.title, o.verdict, o.found) for o in wrong] == []


class ShowingDevices(GvisorProvider):
    """Shows the host's devices inside."""

    async def create(self, spec: SandboxSpec) -> GvisorSandbox:
        return await super().create(dataclasses.replace(spec, mounts=(*spec.mounts, Mount(Path("/dev"), "/dev/host"))))


async def test_devices_of_the_host_are_found_in_gvisor() -> None:
    """Where gVisor lets nobody open them, too: that they are there is enough."""
    with ground_folder() as place:
        provider = ShowingDevices(place / "state", cgroup_name=f"hg{secrets.token_hex(4)}")
        try:
            cases = [case for case in corpus.ON_SANDBOX if case.id == "C6.23"]
            report = await attack_rung(place, attack_tools(), provider, await provider.probe(), cases)
        finally:
            provider.close()
    (outcome,) = report.outcomes
    assert outcome.verdict == "broken", outcome
    assert any("the host's device /dev/host/" in found for found in outcome.found), outcome
