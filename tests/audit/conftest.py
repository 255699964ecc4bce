"""The tests of the audit log run on both databases, each on one that nothing else has touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from auditkit import Log
from database_fixtures import databases, db, dialect, skew, url
from storekit import add_catalog, add_session

from hostler.store.database import Database

__all__ = ["databases", "db", "dialect", "skew", "url"]


@pytest_asyncio.fixture
async def log(db: Database) -> Log:
    """A log of two sessions and some acts, chained and signed."""
    await add_catalog(db)
    for session in ("sesn_1", "sesn_2"):
        await add_session(db, session)
    found = Log(db)
    await found.fill()
    return found
