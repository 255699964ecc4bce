"""Whose request is this? The principal that a secret stands for."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection

from hostler.domain.principals import Principal
from hostler.engine.worker_keys import WorkerKeys
from hostler.store.database import Database
from hostler.store.keys import KeyRow, find_key, needs_touch, touch_key


class Keys(Protocol):
    """Who knows API keys."""

    async def principal_of(self, secret: str) -> Principal | None:
        """Whose secret this is, when it is valid now; None for a text that nobody was given.

        Raises Unauthenticated, with the reason, for a secret that was valid once: revoked, expired, workspace archived.
        """
        ...


class StoredKeys:
    """The keys in the database. Notes the use of a key once a minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of_workers = WorkerKeys(database)

    async def principal_of(self, secret: str) -> Principal | None:
        if self._of_workers.knows(secret):
            return await self._of_workers.principal_of(secret)

        def look(conn: Connection) -> tuple[KeyRow | None, bool]:
            now = self._database.now(conn)
            key = find_key(conn, now, secret)
            return key, key is not None and needs_touch(key, now)

        key, stale = await self._database.read(look)
        if key is None:
            return None
        if stale:
            await self._database.write(lambda conn: touch_key(conn, self._database.now(conn), key.id))
        return Principal("api_key", key.id, key.workspace_id, key.scopes)
