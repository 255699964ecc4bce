"""A whole Hostler per test, on each database, or on one of both where the database is not what is tested."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import House, open_house

from hostler.testing.postgres import PostgresCluster

DIALECTS = ["sqlite", "postgresql"]
_NUMBERS = count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both databases for a test, unless it names one, or has the mark `one_database`: then always the same of the two,
    so that of all those tests half runs on each."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "store_url" not in metafunc.fixturenames or any("store_url" in mark.args[0] for mark in marks):
        return
    one = metafunc.definition.get_closest_marker("one_database") is not None
    chosen = [DIALECTS[zlib.crc32(metafunc.function.__name__.encode()) % 2]] if one else DIALECTS
    metafunc.parametrize("store_url", chosen, indirect=True)


@pytest.fixture(scope="session")
def server_cluster(cluster: PostgresCluster) -> PostgresCluster:
    return cluster


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "hostler.db")
        (tmp_path / "hostler.db").chmod(0o600)
        yield f"sqlite:///{tmp_path / 'hostler.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("cluster")
    name = f"house_{next(_NUMBERS)}"
    yield cluster.create_database(name, template="migrated")
    cluster.drop_database(name)


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url) as opened:
        yield opened
