"""A broker over a real database of each kind, a turnable clock, and a provider of tokens on loopback."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from brokerkit import Bench, Heard, Skew, open_bench
from oauthkit import FakeProvider

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as running:
        _migrate(running.create_database("migrated"))
        yield running


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "hostler.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "hostler.db")
        yield f"sqlite:///{tmp_path / 'hostler.db'}"
        return
    running: PostgresCluster = request.getfixturevalue("cluster")
    name = f"vaults_{next(_NUMBERS)}"
    yield running.create_database(name, template="migrated")
    running.drop_database(name)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def skew() -> Skew:
    return Skew()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path, skew: Skew, heard: Heard) -> AsyncIterator[Bench]:
    async with open_bench(url, tmp_path / "keys.json", skew, heard) as opened:
        yield opened


def _migrate(url: str) -> None:
    async def run() -> None:
        await (await Database.open(url)).close()

    # In a thread: a cluster is started at its first use, which may be inside a test's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()
