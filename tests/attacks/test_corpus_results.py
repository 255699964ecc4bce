"""What the corpus showed is kept, counts for a while, and decides about production."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hostler.attacks import corpus, table
from hostler.attacks.cases import TYPICAL, Case, Outcome, Verdict
from hostler.attacks.results import Results
from hostler.attacks.runner import Report, Target
from hostler.compose.attack_gate import AttackGate
from hostler.compose.attacks import attack_results
from hostler.config import load

LABEL = TYPICAL["gvisor"]
ROOT = Path(__file__).parents[2]


class HandClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


def case(id_: str) -> Case:
    return next(case for case in corpus.CASES if case.id == id_)


def report(target: Target, **verdicts: Verdict) -> Report:
    outcomes = tuple(
        Outcome(case(id_.replace("_", ".")), verdict, ("it got through",) if verdict == "broken" else ())
        for id_, verdict in verdicts.items()
    )
    return Report(target, None if target == "roads" else LABEL, outcomes, 1.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def results(tmp_path: Path, clock: HandClock) -> Results:
    return Results(tmp_path / "attacks", "1.0", clock)


def test_nothing_is_known_before_roads_and_rung_were_attacked(results: Results) -> None:
    assert results.critical_failures("gvisor", LABEL) is None
    results.keep(report("gvisor", C6_25="held"))
    assert results.critical_failures("gvisor", LABEL) is None
    results.keep(report("roads", A1_1="held"))
    assert results.critical_failures("gvisor", LABEL) == []
    assert results.critical_failures("docker", TYPICAL["docker"]) is None


def test_critical_cases_that_succeeded_or_could_not_be_made_are_failures(results: Results) -> None:
    results.keep(report("gvisor", C6_25="broken", C6_13="not_promised", C4_1="not_run", B3_14="broken"))
    results.keep(report("roads", A1_1="broken", A11_1="broken"))
    said = results.critical_failures("gvisor", LABEL)
    assert said is not None
    assert [sentence.partition(",")[0] for sentence in said] == ["C6.25", "C4.1", "A1.1"]
    assert "it got through" in said[0]


def test_a_result_is_old_after_a_week_and_after_a_change(results: Results, clock: HandClock, tmp_path: Path) -> None:
    results.keep(report("gvisor", C6_25="held"))
    results.keep(report("roads", A1_1="held"))
    for label in (replace(LABEL, runtime="runsc of tomorrow"), replace(LABEL, limits_by="none")):
        assert results.critical_failures("gvisor", label) is None
    assert Results(tmp_path / "attacks", "1.1", clock).critical_failures("gvisor", LABEL) is None
    clock.time += timedelta(days=7)
    assert results.critical_failures("gvisor", LABEL) == []
    clock.time += timedelta(seconds=1)
    assert results.critical_failures("gvisor", LABEL) is None
    assert results.latest("gvisor") is not None
    clock.time -= timedelta(days=8)  # a clock that was set back
    assert results.critical_failures("gvisor", LABEL) is None


def test_a_result_that_can_not_be_read_is_none(results: Results, tmp_path: Path) -> None:
    results.keep(report("roads", A1_1="held"))
    (tmp_path / "attacks" / "roads.json").write_text('{"format": 1')
    assert results.latest("roads") is None


def test_the_table_of_the_security_model_is_fresh() -> None:
    page = ROOT / table.PAGE
    assert page.read_text("utf-8") == table.page(page.read_text("utf-8"))


@pytest.mark.ladder
@pytest.mark.needs_root
async def test_a_server_makes_it_known_when_it_is_asked(tmp_path: Path) -> None:
    settings = load({}, state_dir=str(tmp_path / "state"))
    gate = AttackGate(settings)
    label = replace(TYPICAL["bubblewrap"])
    assert gate.critical_failures("bubblewrap", label) is None
    kept = tmp_path / "state" / "attacks" / "bubblewrap.json"
    async with asyncio.timeout(300), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(gate.run())
        while not kept.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.1)
        running.cancel()
    found = attack_results(settings).latest("bubblewrap")
    assert found is not None
    assert found["counts"]["broken"] == found["counts"]["not_run"] == 0
    assert {case["severity"] for case in found["cases"]} == {"critical"}
