"""Who serves one claim of a work item? The token that was minted for it, of which only a digest is kept.

A token is valid while its claim is, and for `GRACE_SECONDS` after: a worker needs it to say goodbye.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id, new_secret
from hostler.store.keys import digest
from hostler.store.moments import moment
from hostler.store.tables import workspaces
from hostler.store.tables_work_items import session_tokens, work_items

GRACE_SECONDS = 120.0
"""The official worker takes up to 60 s for its last upload of memories, and is owed 90."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: str
    workspace_id: str
    environment_id: str
    session_id: str
    work_id: str


def mint_token(
    conn: Connection, now: float, *, workspace_id: str, environment_id: str, session_id: str, work_id: str
) -> tuple[str, str]:
    """Make a token for a claim: its id and its secret (`hst-…`). Forgets the session's tokens that have run out."""
    conn.execute(
        session_tokens.delete().where(session_tokens.c.session_id == session_id, session_tokens.c.expires_at <= now)
    )
    token_id, secret = new_id("stok"), new_secret("hst")
    conn.execute(
        session_tokens.insert().values(
            id=token_id,
            secret_hash=digest(secret),
            workspace_id=workspace_id,
            environment_id=environment_id,
            session_id=session_id,
            work_id=work_id,
            created_at=moment(now),
        )
    )
    return token_id, secret


def find_token(conn: Connection, now: float, secret: str) -> TokenRow | None:
    """The token of a secret; None when nobody has it or its time is over. Any text is allowed."""
    tokens = session_tokens.c
    query = (
        sa.select(
            tokens.id,
            tokens.workspace_id,
            tokens.environment_id,
            tokens.session_id,
            tokens.work_id,
            tokens.expires_at,
            work_items.c.lease_until,
        )
        .select_from(
            session_tokens.join(workspaces, workspaces.c.id == tokens.workspace_id).outerjoin(
                work_items, work_items.c.token_id == tokens.id
            )
        )
        .where(tokens.secret_hash == digest(secret), workspaces.c.archived_at.is_(None))
    )
    row = conn.execute(query).first()
    if row is None:
        return None
    expires_at, lease_until = row[5], row[6]
    if expires_at is None and lease_until is not None:  # nobody may have noticed yet that the lease ran out
        expires_at = lease_until + GRACE_SECONDS
    if expires_at is not None and expires_at <= now:
        return None
    return TokenRow(*row[:5])


def expire_token(conn: Connection, now: float, token_id: str) -> None:
    """The claim is over: the token is valid for `GRACE_SECONDS` more. A second time changes nothing."""
    ending = session_tokens.update().where(session_tokens.c.id == token_id, session_tokens.c.expires_at.is_(None))
    conn.execute(ending.values(expires_at=now + GRACE_SECONDS))
