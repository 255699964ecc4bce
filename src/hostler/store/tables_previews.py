"""Which ports of sessions may be reached from outside, and by whom?"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Seconds, Words, metadata

previews = sa.Table(
    "previews",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("label", Words, nullable=False, unique=True),
    sa.Column("secret_hash", Words, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("expires_at", Seconds, nullable=False),
    sa.Column("revoked_at", Words),
    sa.Index("ix_previews_session", "session_id", "created_at", "id"),
    sa.Index("ix_previews_oldest", "workspace_id", "expires_at", "id"),
)
