"""Never more is spent than the budget, by the upstream's own count, whatever happens to requests and gateways."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from budget_run import DOLLAR, Run, Tally, WallBroken, gateways
from budget_upstream import Upstream

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster

COUNT = max(1, int(os.environ.get("BUDGET_RUNS", "1000")) // 2)
"""On each of the databases."""
SEED = int(os.environ.get("BUDGET_SEED") or secrets.randbelow(1_000_000))


@pytest.fixture(params=("sqlite", "postgresql"))
def url(request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(migrated_file, tmp_path / "hostler.db")
        yield f"sqlite:///{tmp_path / 'hostler.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("cluster")
    yield cluster.create_database("budgets", template="migrated")
    cluster.drop_database("budgets")


async def test_three_runs_against_a_dollar(url: str, tmp_path: Path) -> None:
    tally = await runs(url, tmp_path, 3, SEED)
    assert tally.charged > 0.1 * 3 * DOLLAR


@pytest.mark.budget_runs
@pytest.mark.timeout(0)
async def test_a_thousand_runs_against_a_dollar(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since = time.monotonic()
    tally = await runs(url, tmp_path, COUNT, SEED)
    with capsys.disabled():
        kind = url.partition(":")[0]
        print(f"\n{kind}, seed {SEED}, {time.monotonic() - since:.0f} s: {tally}", flush=True)
    # Otherwise nothing of this was shown.
    assert tally.charged > 0.2 * COUNT * DOLLAR
    assert tally.kills > COUNT / 4
    assert {"cut", "early cut", "reset", "no end", "counted"} <= set(tally.answers)


async def runs(url: str, folder: Path, count: int, seed: int) -> Tally:
    tally, upstream = Tally(), Upstream()
    await upstream.start()
    database = await Database.open(url, migrate=False)
    try:
        async with gateways(url) as made:
            for number in range(count):
                try:
                    await Run(database, made, upstream, folder, f"{seed} {number}").run(tally)
                except* WallBroken as broken:
                    raise WallBroken(f"run {number} of seed {seed}: {broken.exceptions[0]}") from None
    finally:
        await database.close()
        await upstream.stop()
    return tally
