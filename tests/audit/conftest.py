"""The tests of the audit log run on both databases, each on one that nothing else has touched."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from auditkit import Log
from storekit import DIALECTS, Databases, Skew, add_catalog, add_session

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster


@pytest.fixture(scope="session")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_file: Path
) -> Databases:
    def running() -> PostgresCluster:
        found: PostgresCluster = request.getfixturevalue("cluster")
        return found

    return Databases(tmp_path_factory.mktemp("databases"), running, migrated_file)


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


@pytest_asyncio.fixture
async def log(db: Database) -> Log:
    """A log of two sessions and some acts, chained and signed."""
    await add_catalog(db)
    for session in ("sesn_1", "sesn_2"):
        await add_session(db, session)
    found = Log(db)
    await found.fill()
    return found
