"""Every test of the store runs on both databases, each time on one that nothing else has touched."""

from __future__ import annotations

import pytest_asyncio
from database_fixtures import databases, db, dialect, skew, url
from storekit import add_catalog, add_session

from hostler.store.database import Database
from hostler.store.sessions import SessionRow

__all__ = ["databases", "db", "dialect", "skew", "url"]


@pytest_asyncio.fixture
async def session(db: Database) -> SessionRow:
    """A session `sesn_1` of the default workspace."""
    await add_catalog(db)
    return await add_session(db, "sesn_1")
