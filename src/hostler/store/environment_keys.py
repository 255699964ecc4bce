"""Who may serve an environment's queue? Environment keys, of which only a digest is kept, like `store.keys`."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import NotFound, Unauthenticated
from hostler.domain.ids import new_id, new_secret
from hostler.store.keys import digest
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables import environments, workspaces
from hostler.store.tables_work_items import environment_keys

_TOUCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EnvironmentKeyRow:
    id: str
    workspace_id: str
    environment_id: str
    name: str
    hint: str
    """The last four characters of the secret, so that a person recognises it."""
    created_at: str
    last_used_at: str | None
    """To the minute."""
    revoked_at: str | None


_KEY = (
    environment_keys.c.id,
    environment_keys.c.workspace_id,
    environment_keys.c.environment_id,
    environment_keys.c.name,
    environment_keys.c.hint,
    environment_keys.c.created_at,
    environment_keys.c.last_used_at,
    environment_keys.c.revoked_at,
)


def create_environment_key(
    conn: Connection, now: float, workspace_id: str, environment_id: str, name: str
) -> tuple[EnvironmentKeyRow, str]:
    """Make a key of an environment that exists. Its secret (`hek-…`) is in the answer and nowhere else."""
    secret = new_secret("hek")
    row = EnvironmentKeyRow(new_id("envkey"), workspace_id, environment_id, name, secret[-4:], moment(now), None, None)
    conn.execute(
        environment_keys.insert().values(
            id=row.id,
            workspace_id=workspace_id,
            environment_id=environment_id,
            name=name,
            hint=row.hint,
            secret_hash=digest(secret),
            created_at=row.created_at,
        )
    )
    return row, secret


def find_environment_key(conn: Connection, secret: str) -> EnvironmentKeyRow | None:
    """The key of a secret; None when nobody ever had it. Any text is allowed.

    Raises Unauthenticated, with the reason, when it was revoked or its workspace was archived.
    """
    query = (
        sa.select(*_KEY, workspaces.c.archived_at)
        .select_from(environment_keys.join(workspaces, workspaces.c.id == environment_keys.c.workspace_id))
        .where(environment_keys.c.secret_hash == digest(secret))
    )
    row = conn.execute(query).first()
    if row is None:
        return None
    key, closed = EnvironmentKeyRow(*row[:-1]), row[-1]
    if key.revoked_at is not None:
        raise Unauthenticated(f"the environment key {key.id} was revoked at {key.revoked_at}; use another one")
    if closed is not None:
        raise Unauthenticated(f"the workspace of the environment key {key.id} was archived at {closed}")
    return key


def environment_key_is_stale(key: EnvironmentKeyRow, now: float) -> bool:
    """Whether its use has to be noted again: at most once a minute."""
    return key.last_used_at is None or parse_rfc3339(key.last_used_at).timestamp() <= now - _TOUCH_SECONDS


def touch_environment_key(conn: Connection, now: float, key_id: str) -> None:
    conn.execute(environment_keys.update().where(environment_keys.c.id == key_id).values(last_used_at=moment(now)))


def list_environment_keys(
    conn: Connection, workspace_id: str, environment_id: str, *, limit: int, after: Position | None = None
) -> Page[EnvironmentKeyRow]:
    """Keys of one environment, newest first, revoked ones included."""
    conditions = [
        environment_keys.c.workspace_id == workspace_id,
        environment_keys.c.environment_id == environment_id,
    ]
    return page(
        conn,
        environment_keys,
        _KEY,
        conditions,
        EnvironmentKeyRow,
        keys=(environment_keys.c.created_at, environment_keys.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def revoke_environment_key(
    conn: Connection, now: float, workspace_id: str, environment_id: str, key_id: str
) -> tuple[EnvironmentKeyRow, bool]:
    """Make a key useless from now on, and whether it was not before. Raises NotFound."""
    own = (
        environment_keys.c.id == key_id,
        environment_keys.c.workspace_id == workspace_id,
        environment_keys.c.environment_id == environment_id,
    )
    revoke = environment_keys.update().where(*own, environment_keys.c.revoked_at.is_(None))
    changed = conn.execute(revoke.values(revoked_at=moment(now))).rowcount == 1
    row = conn.execute(sa.select(*_KEY).where(*own)).first()
    if row is None:
        raise NotFound(f"key {key_id} does not exist in this environment")
    return EnvironmentKeyRow(*row), changed


def workspace_of(conn: Connection, environment_id: str) -> str:
    """For commands on this host, which see every workspace. Raises NotFound."""
    found: str | None = conn.execute(
        sa.select(environments.c.workspace_id).where(environments.c.id == environment_id)
    ).scalar()
    if found is None:
        raise NotFound(f"environment {environment_id} does not exist")
    return found
