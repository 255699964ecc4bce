"""Where do tests get a database that is empty and migrated? As a copy: one PostgreSQL server and one file for each
process that runs tests, whatever folder they are in. To start a server and to migrate is what takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hostler.testing.postgres import PostgresCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    """Its database `migrated` is a template: nobody connects to it. Names of databases begin with the folder's."""
    from hostler.testing.postgres import PostgresCluster  # whoever only collects tests needs neither

    with PostgresCluster() as running:
        _migrate(running.create_database("migrated"))
        yield running


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "hostler.db"
    _migrate(f"sqlite:///{path}")
    return path


def _migrate(url: str) -> None:
    from hostler.store.database import Database

    async def run() -> None:
        await (await Database.open(url)).close()

    # In a thread: either is made at its first use, which may be inside a test's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()
