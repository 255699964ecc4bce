"""The corpus on the product's proxy: every attack fails. And on one without defences: every attack succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from weak_roads import gullible_proxy, weak_tools

from hostler.attacks import corpus
from hostler.attacks.cases import CLASSES, Case
from hostler.attacks.grounds import Tools
from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import attack_roads
from hostler.compose.attacks import attack_tools

READS_TUNNELS = {"A6.22"}
"""Attacks on a tunnel that is taken for more than a tunnel."""


@pytest.fixture
def place() -> Iterator[Path]:
    with ground_folder() as made:
        yield made


def classes() -> list[str]:
    return [name for name in CLASSES if any(case.attack_class == name for case in corpus.ON_PROXY)]


def cases(name: str) -> list[Case]:
    return [case for case in corpus.ON_PROXY if case.attack_class == name]


@pytest.mark.parametrize("name", classes())
async def test_every_attack_on_the_roads_fails(place: Path, name: str) -> None:
    report = await attack_roads(place, attack_tools(), cases(name))
    assert [outcome for outcome in report.outcomes if outcome.verdict != "held"] == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", classes())
async def test_every_attack_on_the_roads_can_succeed(place: Path, name: str) -> None:
    weak = weak_tools(attack_tools())
    report = await attack_roads(place, weak, [case for case in cases(name) if case.id not in READS_TUNNELS])
    assert [(o.case.id, o.case.title, o.verdict, o.found) for o in report.outcomes if o.verdict != "broken"] == []


async def test_a_tunnel_that_is_read_is_noticed(place: Path) -> None:
    chosen = [case for case in corpus.ON_PROXY if case.id in READS_TUNNELS]
    report = await attack_roads(place, Tools(make_proxy=gullible_proxy), chosen)
    assert [outcome.verdict for outcome in report.outcomes] == ["broken"] * len(READS_TUNNELS)
