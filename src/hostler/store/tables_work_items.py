"""Which tables does the work queue of self-hosted environments have, and the credentials of those who serve it?"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

environment_keys = sa.Table(
    "environment_keys",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("environment_id", Words, sa.ForeignKey("environments.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("secret_hash", Words, nullable=False, unique=True),
    sa.Column("hint", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("last_used_at", Words),
    sa.Column("revoked_at", Words),
    sa.Index("ix_environment_keys_environment", "environment_id", "created_at", "id"),
)

work_items = sa.Table(
    "work_items",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("environment_id", Words, sa.ForeignKey("environments.id"), nullable=False),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("state", Words, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("queued_at", Seconds, nullable=False),
    sa.Column("claimed_at", Seconds),
    sa.Column("token_id", Words),
    sa.Column("acknowledged_at", Words),
    sa.Column("acknowledged_by", Words),
    sa.Column("started_at", Words),
    sa.Column("latest_heartbeat_at", Words),
    sa.Column("previous_heartbeat_at", Words),
    sa.Column("heartbeat_by", Words),
    sa.Column("ttl_seconds", sa.Integer, nullable=False),
    sa.Column("lease_until", Seconds),
    sa.Column("idle_since", Seconds),
    sa.Column("barren", sa.Integer, nullable=False),
    sa.Column("stop_requested_at", Words),
    sa.Column("stopped_at", Words),
    sa.Index("ix_work_items_session", "session_id"),
    sa.Index("ix_work_items_newest", "environment_id", "created_at", "id"),
    sa.Index(
        "uq_work_items_live",
        "session_id",
        unique=True,
        sqlite_where=sa.text("state <> 'stopped'"),
        postgresql_where=sa.text("state <> 'stopped'"),
    ),
    sa.Index(
        "ix_work_items_queued",
        "environment_id",
        "queued_at",
        "id",
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    ),
    sa.Index(
        "ix_work_items_leased",
        "environment_id",
        "lease_until",
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    ),
    sa.Index(
        "ix_work_items_stopped",
        "workspace_id",
        "stopped_at",
        "id",
        sqlite_where=sa.text("state = 'stopped'"),
        postgresql_where=sa.text("state = 'stopped'"),
    ),
)

session_tokens = sa.Table(
    "session_tokens",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("secret_hash", Words, nullable=False, unique=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("environment_id", Words, nullable=False),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("work_id", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("expires_at", Seconds),
    sa.Index("ix_session_tokens_session", "session_id"),
)

work_pollers = sa.Table(
    "work_pollers",
    metadata,
    sa.Column("environment_id", Words, sa.ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("worker", Words, primary_key=True),
    sa.Column("polled_at", Seconds, nullable=False),
)
