"""The corpus in bubblewrap sandboxes: every attack fails. And with its defence switched off: it succeeds."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import weak_boxes as weak
from weak_boxes import Weakness, WeakProvider
from weak_roads import open_proxy

from hostler.attacks import corpus
from hostler.attacks.cases import Case
from hostler.attacks.grounds import Tools
from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import attack_rung
from hostler.compose.attacks import attack_tools
from hostler.sandbox.bubblewrap import BubblewrapProvider

pytestmark = pytest.mark.needs_root


@pytest.fixture
def place() -> Iterator[Path]:
    with ground_folder() as made:
        yield made


@pytest.fixture
def provider(place: Path) -> Iterator[BubblewrapProvider]:
    made = BubblewrapProvider(place / "state", cgroup_name=f"ha{secrets.token_hex(4)}")
    yield made
    made.close()


def chosen(*ids: str) -> list[Case]:
    found = [case for case in corpus.ON_SANDBOX if case.id in ids]
    assert len(found) == len(ids), set(ids) - {case.id for case in found}
    return found


@asynccontextmanager
async def no_quota(path: Path, size: int) -> AsyncIterator[Path]:
    path.mkdir()
    path.chmod(0o711)
    yield path


async def test_every_attack_on_a_sandbox_fails(place: Path, provider: BubblewrapProvider) -> None:
    report = await attack_rung(place, attack_tools(), provider, await provider.probe())
    assert [outcome for outcome in report.outcomes if outcome.verdict not in ("held", "not_promised")] == []
    assert list((place / "state" / "sandboxes").iterdir()) == []


HOST_PROC = ("B3.1", "B3.2", "B3.4", "B3.5", "B3.6", "B3.7", "B3.8", "B3.12", "B3.13")
CALLS = tuple(f"C6.{n}" for n in range(1, 18))

PROOFS: dict[str, tuple[Weakness, tuple[str, ...]]] = {
    "no filter": (weak.NO_FILTER, ("C6.1", "C6.2", "C6.3", "C6.5", "C6.13", "C6.14", "C6.15", "C6.16", "B3.11")),
    "not filtered": (weak.NOT_FILTERED, ("C6.28", "C6.18", "C6.19", "C6.17")),
    "leaky": (weak.LEAKY, ("B3.9", "B3.10", "B4.1", "B4.3", "C7.10")),
    "host network": (weak.HOST_NETWORK, ("A7.8", "B4.4")),
    "routed": (
        weak.ROUTED,
        ("A7.1", "A7.2", "A7.3", "A7.4", "A7.5", "A7.6", "A7.7", "A7.9", "A7.10", "A7.11", "A7.13", "A7.14", "A7.22"),
    ),
    "bare": (
        weak.BARE,
        (
            *HOST_PROC,
            *(f"C6.{n}" for n in (4, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 24, 25, 26, 27, 29, 30, 40)),
            *(f"C6.{n}" for n in range(32, 40)),
            *(f"C7.{n}" for n in range(1, 10)),
            *("A7.15", "A7.16", "A7.17", "A7.23", "B3.14", "B4.2", "B4.5", "B4.6", "C1.4", "C3.21", "C7.11"),
        ),
    ),
    "the host's folder": (weak.HOST_FOLDER, ("A7.18", "C1.1", "C1.2", "C1.3", "C1.5", "C1.8", "C1.9")),
    "one root": (weak.ONE_ROOT, ("C1.6", "C1.7")),
    "no limits": (weak.NO_LIMITS, tuple(f"C3.{n}" for n in range(1, 11))),
    "endless": (weak.ENDLESS, ("C4.1", "C4.3", "C4.5", "C4.6")),
    "orphans": (weak.ORPHANS, ("C4.2", "C4.4")),
    "shared scratch": (weak.SHARED_SCRATCH, ("C5.1", "C5.2", "C5.5")),
    "same user": (weak.SAME_USER, ("C5.6",)),
    "following links": (weak.FOLLOWING, ("C1.21",)),
    "giving away": (weak.GENEROUS, ("C1.22",)),
    "resolving links": (weak.RESOLVING, ("C1.23",)),
    "normalising": (weak.NORMALISING, ("C1.24",)),
    "the workspace's programs": (weak.OWN_PATH, ("C7.21",)),
    "a shell that reads": (weak.READS_STARTUP, ("C7.22",)),
    "ending at NUL": (weak.ENDS_AT_NUL, ("C7.23",)),
    "pretending": (weak.PRETENDING, ("C6.31",)),
}
OTHERS = {"A7.12", "A7.19", "A7.20", "A7.21", "A10.11", "B3.3", "C3.11", "C5.3"}
"""Proved one by one below."""


async def proved(
    place: Path, provider: BubblewrapProvider, weakness: Weakness, cases: list[Case], tools: Tools
) -> None:
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    weakened = WeakProvider(provider, weakness, shared)
    try:
        label = await weakened.probe()
        report = await attack_rung(place, tools, weakened, label, cases)
    finally:
        await weakened.really_end()
    assert [(o.case.id, o.case.title, o.verdict, o.found) for o in report.outcomes if o.verdict != "broken"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROOFS)
async def test_an_attack_succeeds_when_its_defence_is_switched_off(
    place: Path, provider: BubblewrapProvider, name: str
) -> None:
    weakness, ids = PROOFS[name]
    await proved(place, provider, weakness, chosen(*ids), attack_tools())


@pytest.mark.slow
async def test_a_proxy_without_rules_is_noticed_from_inside(place: Path, provider: BubblewrapProvider) -> None:
    tools = dataclasses.replace(attack_tools(), make_proxy=open_proxy)
    await proved(place, provider, Weakness(), chosen("A7.19", "A7.20", "A7.21", "A10.11"), tools)


@pytest.mark.slow
async def test_a_disk_without_quota_is_noticed(place: Path, provider: BubblewrapProvider) -> None:
    tools = dataclasses.replace(attack_tools(), volume=no_quota)
    await proved(place, provider, Weakness(label={"disk_by": "volume"}), chosen("C3.11"), tools)


@pytest.mark.slow
async def test_an_environment_that_is_kept_is_noticed(place: Path, provider: BubblewrapProvider) -> None:
    await proved(place, provider, Weakness(spec=weak.Remembering()), chosen("C5.3"), attack_tools())


def test_every_case_in_a_sandbox_has_a_proof() -> None:
    known = {id_ for _, ids in PROOFS.values() for id_ in ids} | OTHERS
    assert {case.id for case in corpus.ON_SANDBOX} == known
