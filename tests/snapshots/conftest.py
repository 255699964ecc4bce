"""Every test of snapshots that needs a database runs on both."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from snapkit import DIALECTS, Bench, Skew

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as running:
        _migrate(running.create_database("migrated"))
        yield running


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("template"), tmp_path / "hostler.db")
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
async def lite(template: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    """On SQLite only: for what the database has no part in."""
    shutil.copyfile(template, tmp_path / "hostler.db")
    skew = Skew()
    database = await Database.open(f"sqlite:///{tmp_path / 'hostler.db'}", clock_skew=skew)
    yield Bench(database, skew, tmp_path)
    await database.close()


def _migrate(url: str) -> None:
    async def run() -> None:
        await (await Database.open(url)).close()

    # In a thread: the cluster is started at its first use, which may be inside a test's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()
