"""Who may call? API keys and the workspaces that they open. Only a digest of a secret is kept.

A secret has 256 random bits, so a plain SHA-256 can't be searched, and looking one up by its digest tells an attacker
nothing through timing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import NotFound
from hostler.domain.ids import new_id, new_secret
from hostler.store.moments import moment
from hostler.store.tables import api_keys, workspaces

DEFAULT_WORKSPACE = "wrkspc_default"
"""The workspace that every installation has."""

_TOUCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: str
    workspace_id: str
    name: str
    hint: str
    """The last four characters of the secret, so that a person recognises it."""
    created_at: str
    last_used_at: str | None
    """To the minute."""
    revoked_at: str | None


@dataclass(frozen=True, slots=True)
class WorkspaceRow:
    id: str
    name: str
    created_at: str


_KEY = (
    api_keys.c.id,
    api_keys.c.workspace_id,
    api_keys.c.name,
    api_keys.c.hint,
    api_keys.c.created_at,
    api_keys.c.last_used_at,
    api_keys.c.revoked_at,
)


def create_key(conn: Connection, now: float, workspace_id: str, name: str) -> tuple[KeyRow, str]:
    """Make a key. Its secret (`hk-…`) is in the answer and nowhere else. Raises NotFound for an unknown workspace."""
    secret = new_secret("hk")
    row = KeyRow(new_id("apikey"), workspace_id, name, secret[-4:], moment(now), None, None)
    insert = api_keys.insert().values(
        id=row.id,
        workspace_id=workspace_id,
        name=name,
        hint=row.hint,
        secret_hash=digest(secret),
        created_at=row.created_at,
    )
    try:
        with conn.begin_nested():
            conn.execute(insert)
    except IntegrityError as error:
        raise NotFound(f"workspace {workspace_id} does not exist") from error
    return row, secret


def find_key(conn: Connection, secret: str) -> KeyRow | None:
    """The key of a secret; None when nobody has it or it was revoked. Any text is allowed."""
    query = sa.select(*_KEY).where(api_keys.c.secret_hash == digest(secret), api_keys.c.revoked_at.is_(None))
    row = conn.execute(query).first()
    return None if row is None else KeyRow(*row)


def needs_touch(key: KeyRow, now: float) -> bool:
    """Whether `touch_key` would write: at most once a minute for a key that is in use."""
    return key.last_used_at is None or parse_rfc3339(key.last_used_at).timestamp() <= now - _TOUCH_SECONDS


def touch_key(conn: Connection, now: float, key_id: str) -> bool:
    """Note that a key was used now. False, and no write, when that was noted less than a minute ago."""
    stale = sa.or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= moment(now - _TOUCH_SECONDS))
    return (
        conn.execute(api_keys.update().where(api_keys.c.id == key_id, stale).values(last_used_at=moment(now))).rowcount
        == 1
    )


def list_keys(conn: Connection, workspace_id: str | None = None) -> list[KeyRow]:
    """Keys of one workspace, or of all, oldest first, revoked ones included."""
    query = sa.select(*_KEY).order_by(api_keys.c.created_at, api_keys.c.id)
    if workspace_id is not None:
        query = query.where(api_keys.c.workspace_id == workspace_id)
    return [KeyRow(*row) for row in conn.execute(query)]


def revoke_key(conn: Connection, now: float, key_id: str) -> KeyRow:
    """Make a key useless from now on. A second time changes nothing. Raises NotFound."""
    revoke = api_keys.update().where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    conn.execute(revoke.values(revoked_at=moment(now)))
    row = conn.execute(sa.select(*_KEY).where(api_keys.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"key {key_id} does not exist")
    return KeyRow(*row)


def create_workspace(conn: Connection, now: float, name: str) -> WorkspaceRow:
    """Make a workspace. Names need not differ."""
    row = WorkspaceRow(new_id("wrkspc"), name, moment(now))
    conn.execute(workspaces.insert().values(id=row.id, name=name, created_at=row.created_at))
    return row


def list_workspaces(conn: Connection) -> list[WorkspaceRow]:
    """All workspaces, oldest first."""
    query = sa.select(workspaces.c.id, workspaces.c.name, workspaces.c.created_at)
    return [WorkspaceRow(*row) for row in conn.execute(query.order_by(workspaces.c.created_at, workspaces.c.id))]


def digest(secret: str) -> str:
    """What is kept of a secret: SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
