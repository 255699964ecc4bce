"""The corpus on the product's proxy: every attack fails. And on one without defences: every attack succeeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from weak_roads import UnpackingSecrets, gullible_proxy, weak_tools

from hostler.attacks import corpus
from hostler.attacks.cases import CLASSES, Case
from hostler.attacks.grounds import Tools
from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import attack_roads
from hostler.compose.attacks import attack_tools

APART: dict[str, Callable[[Tools], Tools]] = {
    "A6.22": lambda tools: dataclasses.replace(tools, make_proxy=gullible_proxy),
    "A11.11": lambda tools: dataclasses.replace(tools, make_secrets=UnpackingSecrets),
}
"""Attacks whose defence is switched off in another way: a tunnel that is read, an answer that is unpacked at once."""


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


@pytest.mark.slow
@pytest.mark.parametrize("name", classes())
async def test_every_attack_on_the_roads_can_succeed(place: Path, name: str) -> None:
    weak = weak_tools(attack_tools())
    report = await attack_roads(place, weak, [case for case in cases(name) if case.id not in APART])
    assert [(o.case.id, o.case.title, o.verdict, o.found) for o in report.outcomes if o.verdict != "broken"] == []


@pytest.mark.slow
@pytest.mark.parametrize("id_", APART)
async def test_an_attack_of_another_kind_can_succeed(place: Path, id_: str) -> None:
    chosen = [case for case in corpus.ON_PROXY if case.id == id_]
    report = await attack_roads(place, APART[id_](attack_tools()), chosen)
    assert [outcome.verdict for outcome in report.outcomes] == ["broken"]


def test_the_corpus_has_every_class_and_each_case_once() -> None:
    ids = [case.id for case in corpus.CASES]
    assert len(set(ids)) == len(ids) >= 120
    assert {case.attack_class for case in corpus.CASES} == set(CLASSES)
    for name in CLASSES:
        assert sum(case.attack_class == name for case in corpus.CASES) >= 3, name
