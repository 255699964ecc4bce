"""Whose secret is this, if not a workspace's? An environment key, or the token of one claimed work item."""

from __future__ import annotations

from sqlalchemy import Connection

from hostler.domain.principals import Principal
from hostler.store.database import Database
from hostler.store.environment_keys import (
    EnvironmentKeyRow,
    environment_key_is_stale,
    find_environment_key,
    touch_environment_key,
)
from hostler.store.session_tokens import find_token

ENVIRONMENT_KEY = "hek-"
SESSION_TOKEN = "hst-"


class WorkerKeys:
    """The credentials of those who execute tools elsewhere."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def knows(secret: str) -> bool:
        """Whether `principal_of` is the one to ask."""
        return secret.startswith((ENVIRONMENT_KEY, SESSION_TOKEN))

    async def principal_of(self, secret: str) -> Principal | None:
        """None for a secret that nobody has (any more)."""
        return await (self._key(secret) if secret.startswith(ENVIRONMENT_KEY) else self._token(secret))

    async def _key(self, secret: str) -> Principal | None:
        def look(conn: Connection) -> tuple[EnvironmentKeyRow | None, bool]:
            key = find_environment_key(conn, secret)
            return key, key is not None and environment_key_is_stale(key, self._database.now(conn))

        key, stale = await self._database.read(look)
        if key is None:
            return None
        if stale:
            await self._database.write(lambda conn: touch_environment_key(conn, self._database.now(conn), key.id))
        return Principal("environment_key", key.id, key.workspace_id, environment_id=key.environment_id)

    async def _token(self, secret: str) -> Principal | None:
        found = await self._database.read(lambda conn: find_token(conn, self._database.now(conn), secret))
        if found is None:
            return None
        return Principal(
            "session_token",
            found.session_id,
            found.workspace_id,
            environment_id=found.environment_id,
            session_id=found.session_id,
            token_id=found.id,
            work_id=found.work_id,
        )
