"""Every test of the store runs on both databases, each time on one that nothing else has touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio
from storekit import DIALECTS, Databases, Skew, add_catalog, add_session

from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.testing.postgres import PostgresCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as running:
        _migrate(running.create_database("migrated"))
        yield running


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    directory = tmp_path_factory.mktemp("databases")
    _migrate(f"sqlite:///{directory / 'template.db'}")

    def running() -> PostgresCluster:
        found: PostgresCluster = request.getfixturevalue("cluster")
        return found

    return Databases(directory, running, directory / "template.db")


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
async def session(db: Database) -> SessionRow:
    """A session `sesn_1` of the default workspace."""
    await add_catalog(db)
    return await add_session(db, "sesn_1")


def _migrate(url: str) -> None:
    async def run() -> None:
        await (await Database.open(url)).close()

    # In a thread: the cluster is started at its first use, which may be inside a test's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()
