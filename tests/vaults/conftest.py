"""A broker over a real database of each kind, a turnable clock, and a provider of tokens on loopback."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from brokerkit import Bench, Heard, Skew, open_bench
from oauthkit import FakeProvider

from hostler.testing.postgres import PostgresCluster

_NUMBERS = count(1)


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
