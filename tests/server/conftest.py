"""A whole Hostler per test, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import House, open_house

from hostler.testing.postgres import PostgresCluster

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def server_cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hostler.db'}"
    cluster: PostgresCluster = request.getfixturevalue("server_cluster")
    return cluster.create_database(f"house_{next(_NUMBERS)}")


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url) as opened:
        yield opened
