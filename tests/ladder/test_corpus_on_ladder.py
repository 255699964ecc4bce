"""The attack corpus on every rung that this machine has: what the rung promises holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from rungs import RUNGS, Rung

from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import attack_rung
from hostler.compose.attacks import attack_tools
from hostler.compose.sandboxes import sandbox_provider
from hostler.config import load

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
