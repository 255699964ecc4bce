"""Which variables make `claude` compact where an agent's policy says? The arithmetic that was measured."""

from __future__ import annotations

import pytest

from hostler.engine.runs import RunSpec
from hostler.harness.compaction import threshold_environment

WINDOW, PERCENT = "CLAUDE_CODE_AUTO_COMPACT_WINDOW", "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"


def spec(tokens: int | None = None, percent: float | None = None) -> RunSpec:
    return RunSpec("t", False, "claude-opus-5-5", None, None, (), compact_at_tokens=tokens, compact_at_percent=percent)


def threshold(environment: dict[str, str], window_of_model: int = 1_000_000) -> float:
    """Where `claude` 2.1.329 compacts, as measured."""
    window = min(window_of_model, max(100_000, int(environment.get(WINDOW, window_of_model))))
    part = float(environment.get(PERCENT, 100)) / 100
    return min(window - 33_000, part * (window - 20_000))


@pytest.mark.parametrize("tokens", [20_000, 40_000, 66_999, 67_000, 150_000, 900_000])
def test_it_compacts_at_the_tokens_that_were_asked_for(tokens: int) -> None:
    assert threshold(threshold_environment(spec(tokens))) == pytest.approx(tokens, abs=1)


def test_smaller_model_compacts_before_its_end() -> None:
    assert threshold(threshold_environment(spec(400_000)), 200_000) == 167_000
    assert threshold(threshold_environment(spec(percent=50)), 200_000) == 90_000


def test_without_a_threshold_nothing_is_changed() -> None:
    assert threshold_environment(spec()) == {}
