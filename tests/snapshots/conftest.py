"""Every test of snapshots that needs a database runs on both."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from snapkit import DIALECTS, Bench, Skew

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster

_NUMBERS = count(1)


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "hostler.db")
        yield f"sqlite:///{tmp_path / 'hostler.db'}"
        return
    running: PostgresCluster = request.getfixturevalue("cluster")
    name = f"snapshots_{next(_NUMBERS)}"
    yield running.create_database(name, template="migrated")
    running.drop_database(name)


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    skew = Skew()
    database = await Database.open(url, clock_skew=skew)
    yield Bench(database, skew, tmp_path)
    await database.close()


@pytest_asyncio.fixture
async def lite(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    """On SQLite only: for what the database has no part in."""
    shutil.copyfile(migrated_file, tmp_path / "hostler.db")
    skew = Skew()
    database = await Database.open(f"sqlite:///{tmp_path / 'hostler.db'}", clock_skew=skew)
    yield Bench(database, skew, tmp_path)
    await database.close()
