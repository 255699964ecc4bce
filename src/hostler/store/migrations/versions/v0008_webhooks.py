"""Webhook endpoints, and what is still to be delivered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("url", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("description", WORDS, nullable=False),
        sa.Column("enabled_events", sa.Text, nullable=False),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("disabled_reason", WORDS, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("secret", WORDS, nullable=False),
        sa.Column("old_secret", WORDS),
        sa.Column("old_secret_until", sa.Double),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_webhook_endpoints_workspace_id"),
    )
    op.create_index("ix_webhook_endpoints_newest", "webhook_endpoints", ["workspace_id", "created_at", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("endpoint_id", WORDS, nullable=False),
        sa.Column("event_id", WORDS, nullable=False),
        sa.Column("event_type", WORDS, nullable=False),
        sa.Column("subject", WORDS, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("test", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("tries_left", sa.Integer, nullable=False),
        sa.Column("enqueued_at", sa.Double, nullable=False),
        sa.Column("tick", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("owner", WORDS),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.Double),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    pending = sa.text("state = 'pending'")
    for name, columns in (
        ("ix_webhook_deliveries_pending", ["due_at", "id"]),
        ("ix_webhook_deliveries_subject", ["endpoint_id", "subject", "enqueued_at"]),
    ):
        op.create_index(name, "webhook_deliveries", columns, sqlite_where=pending, postgresql_where=pending)
    op.create_index("ix_webhook_deliveries_newest", "webhook_deliveries", ["endpoint_id", "created_at", "id"])
    op.create_index("ix_webhook_deliveries_oldest", "webhook_deliveries", ["workspace_id", "created_at", "id"])
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", WORDS, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", WORDS, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", WORDS),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_attempts"),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name="fk_webhook_attempts_delivery_id",
            ondelete="CASCADE",
        ),
    )
