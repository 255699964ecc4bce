"""The work queue of self-hosted environments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "environment_keys",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("secret_hash", WORDS, nullable=False),
        sa.Column("hint", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("last_used_at", WORDS),
        sa.Column("revoked_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_environment_keys"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_environment_keys_workspace_id"),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name="fk_environment_keys_environment_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("secret_hash", name="uq_environment_keys_secret_hash"),
    )
    op.create_index("ix_environment_keys_environment", "environment_keys", ["environment_id", "created_at", "id"])
    op.create_table(
        "work_items",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("queued_at", sa.Double, nullable=False),
        sa.Column("claimed_at", sa.Double),
        sa.Column("token_id", WORDS),
        sa.Column("acknowledged_at", WORDS),
        sa.Column("acknowledged_by", WORDS),
        sa.Column("started_at", WORDS),
        sa.Column("latest_heartbeat_at", WORDS),
        sa.Column("previous_heartbeat_at", WORDS),
        sa.Column("heartbeat_by", WORDS),
        sa.Column("ttl_seconds", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Double),
        sa.Column("idle_since", sa.Double),
        sa.Column("barren", sa.Integer, nullable=False),
        sa.Column("stop_requested_at", WORDS),
        sa.Column("stopped_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_work_items"),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], name="fk_work_items_environment_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_work_items_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_work_items_session", "work_items", ["session_id"])
    op.create_index("ix_work_items_newest", "work_items", ["environment_id", "created_at", "id"])
    op.create_index(
        "uq_work_items_live",
        "work_items",
        ["session_id"],
        unique=True,
        sqlite_where=sa.text("state <> 'stopped'"),
        postgresql_where=sa.text("state <> 'stopped'"),
    )
    op.create_index(
        "ix_work_items_queued",
        "work_items",
        ["environment_id", "queued_at", "id"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_work_items_leased",
        "work_items",
        ["environment_id", "lease_until"],
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.create_index(
        "ix_work_items_stopped",
        "work_items",
        ["workspace_id", "stopped_at", "id"],
        sqlite_where=sa.text("state = 'stopped'"),
        postgresql_where=sa.text("state = 'stopped'"),
    )
    op.create_table(
        "session_tokens",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("secret_hash", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("work_id", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_session_tokens"),
        sa.UniqueConstraint("secret_hash", name="uq_session_tokens_secret_hash"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_tokens_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_tokens_session", "session_tokens", ["session_id"])
    op.create_table(
        "work_pollers",
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("worker", WORDS, nullable=False),
        sa.Column("polled_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "worker", name="pk_work_pollers"),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name="fk_work_pollers_environment_id", ondelete="CASCADE"
        ),
    )
