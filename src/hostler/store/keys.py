"""Who may call? API keys and the workspaces that they open. Only a digest of a secret is kept.

A secret has 256 random bits, so a plain SHA-256 can't be searched, and looking one up by its digest tells an attacker
nothing through timing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import InvalidRequest, NotFound, Unauthenticated
from hostler.domain.ids import new_id, new_secret
from hostler.domain.principals import ALL_SCOPES, Scope, with_implied
from hostler.domain.principals import DEFAULT_WORKSPACE as DEFAULT_WORKSPACE
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables import api_keys, workspaces

_TOUCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: str
    workspace_id: str
    name: str
    hint: str
    """The last four characters of the secret, so that a person recognises it."""
    scopes: frozenset[Scope]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    """To the minute."""
    revoked_at: str | None

    def valid(self, now: float) -> bool:
        """Whether it opens its workspace, if that is not archived."""
        return self.revoked_at is None and (self.expires_at is None or moment(now) < self.expires_at)


_KEY = tuple(api_keys.c[name] for name in KeyRow.__slots__)


def _key(*values: Any) -> KeyRow:
    fields: dict[str, Any] = dict(zip(KeyRow.__slots__, values, strict=True))
    return KeyRow(**{**fields, "scopes": frozenset(decode(fields["scopes"]))})


def create_key(
    conn: Connection,
    now: float,
    workspace_id: str,
    name: str,
    *,
    scopes: Collection[Scope] = ALL_SCOPES,
    expires_in: float | None = None,
) -> tuple[KeyRow, str]:
    """Make a key. Its secret (`hk-…`) is in the answer and nowhere else.

    scopes      those that they include are added.
    expires_in  seconds from now; None: never.

    Raises NotFound for an unknown workspace, InvalidRequest for an archived one.
    """
    get_workspace(conn, workspace_id, open_only=True)
    secret = new_secret("hk")
    row = KeyRow(
        id=new_id("apikey"),
        workspace_id=workspace_id,
        name=name,
        hint=secret[-4:],
        scopes=with_implied(scopes),
        created_at=moment(now),
        expires_at=None if expires_in is None else moment(now + expires_in),
        last_used_at=None,
        revoked_at=None,
    )
    values = {field: getattr(row, field) for field in KeyRow.__slots__}
    values["scopes"] = encode(sorted(row.scopes))
    try:
        with conn.begin_nested():
            conn.execute(api_keys.insert().values(**values, secret_hash=digest(secret)))
    except IntegrityError as error:
        raise NotFound(f"workspace {workspace_id} does not exist") from error
    return row, secret


def find_key(conn: Connection, now: float, secret: str) -> KeyRow | None:
    """The key of a secret; None when nobody has it. Any text is allowed.

    Raises Unauthenticated, with the reason, when it was revoked, has expired, or its workspace was archived.
    """
    query = sa.select(*_KEY, workspaces.c.archived_at)
    query = query.join(workspaces, workspaces.c.id == api_keys.c.workspace_id)
    row = conn.execute(query.where(api_keys.c.secret_hash == digest(secret))).first()
    if row is None:
        return None
    *values, closed = row
    key = _key(*values)
    if key.revoked_at is not None:
        raise Unauthenticated(f"the API key {key.id} was revoked at {key.revoked_at}; use another one")
    if not key.valid(now):
        raise Unauthenticated(f"the API key {key.id} expired at {key.expires_at}; make a new one")
    if closed is not None:
        raise Unauthenticated(f"the workspace of the API key {key.id} was archived at {closed}; use another one")
    return key


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


def get_key(conn: Connection, workspace_id: str | None, key_id: str) -> KeyRow:
    """Raises NotFound. `workspace_id=None`: of any workspace (for commands on the host, never for a request)."""
    query = sa.select(*_KEY).where(api_keys.c.id == key_id)
    if workspace_id is not None:
        query = query.where(api_keys.c.workspace_id == workspace_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"key {key_id} does not exist")
    return _key(*row)


def list_keys(conn: Connection, workspace_id: str | None = None) -> list[KeyRow]:
    """Keys of one workspace, or of all, oldest first, revoked ones included."""
    query = sa.select(*_KEY).order_by(api_keys.c.created_at, api_keys.c.id)
    if workspace_id is not None:
        query = query.where(api_keys.c.workspace_id == workspace_id)
    return [_key(*row) for row in conn.execute(query)]


def page_of_keys(conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None) -> Page[KeyRow]:
    """Keys of one workspace, newest first, revoked ones included."""
    return page(
        conn,
        api_keys,
        _KEY,
        [api_keys.c.workspace_id == workspace_id],
        _key,
        keys=(api_keys.c.created_at, api_keys.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def revoke_key(conn: Connection, now: float, key_id: str, *, workspace_id: str | None = None) -> KeyRow:
    """Make a key useless from now on. A second time changes nothing. Raises NotFound.

    `workspace_id=None`: a key of any workspace (for commands on the host, never for a request).
    """
    get_key(conn, workspace_id, key_id)
    revoke = api_keys.update().where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    conn.execute(revoke.values(revoked_at=moment(now)))
    return get_key(conn, workspace_id, key_id)


# ------------------------------------------------------------------------------------------------------ workspaces


@dataclass(frozen=True, slots=True)
class WorkspaceRow:
    id: str
    name: str
    created_at: str
    archived_at: str | None = None


_WORKSPACE = tuple(workspaces.c[name] for name in WorkspaceRow.__slots__)


def create_workspace(conn: Connection, now: float, name: str) -> WorkspaceRow:
    """Make a workspace. Names need not differ."""
    row = WorkspaceRow(new_id("wrkspc"), name, moment(now))
    conn.execute(workspaces.insert().values(id=row.id, name=name, created_at=row.created_at))
    return row


def get_workspace(conn: Connection, workspace_id: str, *, open_only: bool = False) -> WorkspaceRow:
    """Raises NotFound; with `open_only`, InvalidRequest when it is archived."""
    row = conn.execute(sa.select(*_WORKSPACE).where(workspaces.c.id == workspace_id)).first()
    if row is None:
        raise NotFound(f"workspace {workspace_id} does not exist")
    found = WorkspaceRow(*row)
    if open_only and found.archived_at is not None:
        raise InvalidRequest(f"workspace {workspace_id} is archived; use another one")
    return found


def list_workspaces(conn: Connection) -> list[WorkspaceRow]:
    """All workspaces, oldest first, archived ones included."""
    query = sa.select(*_WORKSPACE).order_by(workspaces.c.created_at, workspaces.c.id)
    return [WorkspaceRow(*row) for row in conn.execute(query)]


def page_of_workspaces(
    conn: Connection,
    only: str | None,
    *,
    limit: int,
    after: Position | None = None,
    include_archived: bool = False,
) -> Page[WorkspaceRow]:
    """Workspaces, newest first. `only`: no other than this one."""
    conditions = [] if only is None else [workspaces.c.id == only]
    if not include_archived:
        conditions.append(workspaces.c.archived_at.is_(None))
    return page(
        conn,
        workspaces,
        _WORKSPACE,
        conditions,
        WorkspaceRow,
        keys=(workspaces.c.created_at, workspaces.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def rename_workspace(conn: Connection, workspace_id: str, name: str) -> WorkspaceRow:
    """Raises NotFound, and InvalidRequest when it is archived."""
    get_workspace(conn, workspace_id, open_only=True)
    conn.execute(workspaces.update().where(workspaces.c.id == workspace_id).values(name=name))
    return get_workspace(conn, workspace_id)


def archive_workspace(conn: Connection, now: float, workspace_id: str) -> WorkspaceRow:
    """Close a workspace for good: its keys stop working. A second time changes nothing. Raises NotFound."""
    get_workspace(conn, workspace_id)
    update = workspaces.update().where(workspaces.c.id == workspace_id, workspaces.c.archived_at.is_(None))
    conn.execute(update.values(archived_at=moment(now)))
    return get_workspace(conn, workspace_id)


def digest(secret: str) -> str:
    """What is kept of a secret: SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
