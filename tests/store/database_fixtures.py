"""A database of each kind for a test, each one that nothing else has touched. For conftests of several folders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from storekit import DIALECTS, Databases, Skew

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster


@pytest.fixture(scope="session")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_file: Path
) -> Databases:
    directory = tmp_path_factory.mktemp("databases")

    def running() -> PostgresCluster:
        found: PostgresCluster = request.getfixturevalue("cluster")
        return found

    return Databases(directory, running, migrated_file)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def url(databases: Databases, dialect: str) -> Iterator[str]:
    made = databases.fresh(dialect)
    yield made
    databases.drop(made)


@pytest.fixture
def skew() -> Skew:
    return Skew()


@pytest_asyncio.fixture
async def db(url: str, skew: Skew) -> AsyncIterator[Database]:
    database = await Database.open(url, clock_skew=skew)
    yield database
    await database.close()
