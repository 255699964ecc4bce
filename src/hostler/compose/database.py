"""How is the store of these settings opened, and who has a key to it?"""

from __future__ import annotations

from hostler.config import Settings
from hostler.store import keys
from hostler.store.database import Database


async def open_database(settings: Settings) -> Database:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    return await Database.open(settings.store_url, durable=settings.store.durable, pool_size=settings.store.pool_size)


async def create_key(database: Database, name: str) -> tuple[keys.KeyRow, str]:
    """A new API key of the default workspace. The secret is shown here and never again."""
    return await database.write(lambda c: keys.create_key(c, database.now(c), keys.DEFAULT_WORKSPACE, name))


async def has_key(database: Database) -> bool:
    now, rows = await database.read(lambda c: (database.now(c), keys.list_keys(c)))
    return any(row.valid(now) for row in rows)
