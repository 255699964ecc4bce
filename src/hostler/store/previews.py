"""Which previews does a session have? Of the secret in a link only a digest is kept, like `store.keys`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import NotFound, QuotaExceeded
from hostler.domain.ids import new_id, new_secret
from hostler.store.keys import digest
from hostler.store.moments import moment
from hostler.store.sessions import lock_session
from hostler.store.tables_previews import previews

MOST = 20
"""Open previews of one session."""
KEPT_SECONDS = 24 * 3600.0
"""How long one that has expired is listed; then it goes when the session's next one is made."""
_LABEL_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True, slots=True)
class PreviewRow:
    id: str
    workspace_id: str
    session_id: str
    label: str
    """The first word of the host name that leads to it: 26 letters and digits that nobody guesses."""
    secret_hash: str
    port: int
    created_at: str
    expires_at: float
    revoked_at: str | None

    def open_at(self, now: float) -> bool:
        return self.revoked_at is None and now < self.expires_at


def create_preview(
    conn: Connection, now: float, workspace_id: str, session_id: str, port: int, seconds: float
) -> tuple[PreviewRow, str]:
    """A preview and its secret, which is nowhere else. Raises NotFound, QuotaExceeded."""
    lock_session(conn, workspace_id, session_id)
    conn.execute(
        previews.delete().where(previews.c.session_id == session_id, previews.c.expires_at < now - KEPT_SECONDS)
    )
    if sum(row.open_at(now) for row in previews_of(conn, workspace_id, session_id)) >= MOST:
        raise QuotaExceeded(f"a session has at most {MOST} open previews; revoke one that is not needed")
    secret = new_secret("hpv")
    label = "".join(secrets.choice(_LABEL_LETTERS) for _ in range(26))
    row = PreviewRow(
        new_id("prvw"), workspace_id, session_id, label, digest(secret), port, moment(now), now + seconds, None
    )
    conn.execute(
        previews.insert().values(
            id=row.id,
            workspace_id=workspace_id,
            session_id=session_id,
            label=label,
            secret_hash=row.secret_hash,
            port=port,
            created_at=row.created_at,
            expires_at=row.expires_at,
        )
    )
    return row, secret


def previews_of(conn: Connection, workspace_id: str, session_id: str) -> Sequence[PreviewRow]:
    """Of one session, the newest first, those that are over as well."""
    found = conn.execute(
        sa.select(*previews.c)
        .where(previews.c.workspace_id == workspace_id, previews.c.session_id == session_id)
        .order_by(previews.c.created_at.desc(), previews.c.id.desc())
    )
    return [PreviewRow(*row) for row in found]


def preview_of_label(conn: Connection, label: str) -> PreviewRow | None:
    row = conn.execute(sa.select(*previews.c).where(previews.c.label == label)).one_or_none()
    return None if row is None else PreviewRow(*row)


def revoke_preview(conn: Connection, now: float, workspace_id: str, session_id: str, preview_id: str) -> PreviewRow:
    """A second time changes nothing. Raises NotFound."""
    mine = (
        previews.c.id == preview_id,
        previews.c.workspace_id == workspace_id,
        previews.c.session_id == session_id,
    )
    conn.execute(previews.update().where(*mine, previews.c.revoked_at.is_(None)).values(revoked_at=moment(now)))
    row = conn.execute(sa.select(*previews.c).where(*mine)).one_or_none()
    if row is None:
        raise NotFound(f"session {session_id} has no preview {preview_id}")
    return PreviewRow(*row)
